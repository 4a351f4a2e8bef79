"""Who lives next door, and minds its own business."""

from flux_guest import Context, function


@function()
async def neighbour(ctx: Context, input: dict) -> dict:
    row = await ctx.db.query_one("select $1::int * 2 as doubled", input["number"])
    ctx.log.info("doubled", number=input["number"])
    return {"doubled": row["doubled"]}
