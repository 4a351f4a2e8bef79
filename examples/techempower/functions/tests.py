"""json, plaintext, db, queries, updates, fortunes."""

import html
import random

from flux_guest import Context, Response, function

PAGE = "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>%s</table></body></html>"
ROW = "<tr><td>%s</td><td>%s</td></tr>"
NAMED = {"server": "flux"}
"""The rules want each answer to say what made it. The gateway says ``date`` and ``content-length`` by itself."""


@function("GET /json")
async def json(ctx: Context, input: dict) -> Response:
    """A JSON document."""
    return ctx.response({"message": "Hello, World!"}, headers=NAMED)


@function("GET /plaintext")
async def plaintext(ctx: Context, input: dict) -> Response:
    """A line of text."""
    return ctx.response("Hello, World!", headers={**NAMED, "content-type": "text/plain"})


@function("GET /db")
async def db(ctx: Context, input: dict) -> Response:
    """One row."""
    return ctx.response(await draw(ctx), headers=NAMED)


@function("GET /queries")
async def queries(ctx: Context, input: dict) -> Response:
    """So many rows, a query each."""
    return ctx.response([await draw(ctx) for _ in range(count(input))], headers=NAMED)


@function("GET /updates")
async def updates(ctx: Context, input: dict) -> Response:
    """So many rows, each read and written; in order, so that two requests can't wait for each other."""
    worlds = []
    for id in sorted(random.sample(range(1, 10_001), count(input))):
        await ctx.db.query_one("select id, random_number from world where id = $1", id)
        number = random.randint(1, 10_000)
        await ctx.db.execute("update world set random_number = $2 where id = $1", id, number)
        worlds.append({"id": id, "randomNumber": number})
    return ctx.response(worlds, headers=NAMED)


@function("GET /fortunes")
async def fortunes(ctx: Context, input: dict) -> Response:
    """All rows and one more, sorted and escaped in a page."""
    rows = [(row.id, row.message) for row in await ctx.db.query("select id, message from fortune")]
    rows.append((0, "Additional fortune added at request time."))
    rows.sort(key=lambda row: row[1])
    lines = "".join(ROW % (id, html.escape(message)) for id, message in rows)
    page = PAGE % ("<tr><th>id</th><th>message</th></tr>" + lines)
    return ctx.response(page, headers={**NAMED, "content-type": "text/html; charset=utf-8"})


async def draw(ctx: Context) -> dict:
    """A row of those that there are, at random."""
    row = await ctx.db.query_one("select id, random_number from world where id = $1", random.randint(1, 10_000))
    return {"id": row.id, "randomNumber": row.random_number}


def count(input: dict) -> int:
    """From 1 to 500, whatever the query says."""
    said = input.get("queries", "1")
    return min(max(int(said), 1), 500) if said.isascii() and said.isdigit() and len(said) < 10 else 1
