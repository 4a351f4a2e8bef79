"""What others see of an account, and following it."""

from typing import Any

from flux_guest import Context, HTTPError, function
from functions.common import signed_in, viewer_id

PROFILE = """
select account.id, username, bio, image,
    exists (select from follow where follower_id = $2 and followed_id = account.id) as following
from account where username = $1
"""


@function("GET /api/profiles/{username}")
async def show_profile(ctx: Context, input: dict) -> dict:
    """Somebody's profile."""
    return write(await find(ctx, input["username"], viewer_id(ctx)))


@function("POST /api/profiles/{username}/follow")
async def follow(ctx: Context, input: dict) -> dict:
    """Have somebody's articles in one's feed."""
    viewer = signed_in(ctx)
    profile = await find(ctx, input["username"], viewer)
    if profile.id == viewer:
        raise HTTPError(422, message="nobody follows themselves")
    await ctx.db.execute("insert into follow values ($1, $2) on conflict do nothing", viewer, profile.id)
    return write(await find(ctx, input["username"], viewer))


@function("DELETE /api/profiles/{username}/follow")
async def unfollow(ctx: Context, input: dict) -> dict:
    """Have them there no more."""
    viewer = signed_in(ctx)
    profile = await find(ctx, input["username"], viewer)
    await ctx.db.execute("delete from follow where follower_id = $1 and followed_id = $2", viewer, profile.id)
    return write(await find(ctx, input["username"], viewer))


async def find(ctx: Context, username: str, viewer: int | None) -> Any:
    """The row of `PROFILE`; 404 when there is nobody of that name."""
    profile = await ctx.db.query_one(PROFILE, username, viewer)
    if profile is None:
        raise HTTPError(404, message="there is no such profile")
    return profile


def write(profile: Any) -> dict:
    """A profile as the API has it."""
    return {"profile": {name: profile[name] for name in ("username", "bio", "image", "following")}}
