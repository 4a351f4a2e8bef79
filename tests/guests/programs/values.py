"""Every type of value, there and back."""

import datetime
import math
import uuid
from decimal import Decimal

from flux_guest import Context, Interval, Range, function

UTC = datetime.UTC
VALUES = [
    ("int8", -(2**63)),
    ("numeric", Decimal("123456789012345678901234567890.10")),
    ("float8", -0.0),
    ("bool", True),
    ("text", "naïve \U0001f600 \u2028"),
    ("bytea", bytes(range(256))),
    ("timestamptz", datetime.datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
    ("timestamp", datetime.datetime(2026, 1, 2, 3, 4, 5, 6)),
    ("date", datetime.date(2026, 2, 3)),
    ("time", datetime.time(3, 4, 5, 6)),
    ("uuid", uuid.UUID(int=2**127 + 1)),
    ("interval", Interval(14, 3, 4_000_001)),
    ("int8range", Range(1, 5, "[)")),
    ("int8[]", [1, None, 3]),
    ("text[]", ["a", 'b"c', "{}"]),
]


# Expect: returned 200; db.query 17
@function()
async def round_trip(ctx: Context, input: dict) -> dict:
    for kind, value in VALUES:
        row = await ctx.db.query_one(f"select $1::{kind} as value", value)
        assert row.value == value and type(row.value) is type(value), (kind, value, row.value)
    row = await ctx.db.query_one("select 'nan'::float8 as nan, 'infinity'::float8 as inf, null as nothing")
    assert math.isnan(row.nan) and row.inf == math.inf and row.nothing is None
    row = await ctx.db.query_one("select $1::jsonb as document", {"$bytes": [1, {"a": None}], "b": 1.5})
    return {"document": row.document}


# Expect: returned 200; http.request 2
@function()
async def bodies(ctx: Context, input: dict) -> dict:
    url = f"http://127.0.0.1:{input['port']}/echo"
    binary = await ctx.http.post(url, body=bytes(range(256)))
    text = await ctx.http.post(url, json={"ü": [1, None]}, headers={"X-One": "1"})
    assert binary.body == bytes(range(256))
    return {"status": binary.status, "ok": text.ok, "text": text.text, "json": text.json()}


# Expect: returned 200; http.request 1
@function()
async def passes_an_answer_on(ctx: Context, input: dict):
    return await ctx.http.post(f"http://127.0.0.1:{input['port']}/echo", json={"passed": "on"})
