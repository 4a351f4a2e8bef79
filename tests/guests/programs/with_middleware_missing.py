"""A function behind a middleware that nothing declares: servers do not load it, and a guest refuses it too."""

from flux_guest import Context, function


# Expect: raised LookupError
@function(middleware=["no_such"])
async def behind_nothing(ctx: Context, input: dict) -> dict:
    return {}
