"""What articles are about."""

from flux_guest import Context, function


@function("GET /api/tags")
async def list_tags(ctx: Context, input: dict) -> dict:
    """All tags, those that most articles have first."""
    rows = await ctx.db.query("select tag from tagging group by tag order by count(*) desc, tag")
    return {"tags": [row.tag for row in rows]}
