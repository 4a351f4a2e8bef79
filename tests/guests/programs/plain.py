"""Answers of every kind."""

import dataclasses
import datetime
import enum
import uuid
from decimal import Decimal

from flux_guest import Context, Response, function


class Plan(enum.Enum):
    FREE = "free"


@dataclasses.dataclass
class Order:
    id: int
    plan: Plan
    at: datetime.datetime


# Expect: returned 200
@function()
async def answer_json(ctx: Context, input: dict) -> dict:
    return {"ünï": ["\U0001f600", None, True, 1.5, 2**70], "order": Order(1, Plan.FREE, ctx.clock.now()), **input}


# Expect: returned 204
@function()
async def answer_nothing(ctx: Context, input: dict) -> None:
    return None


# Expect: returned 200
@function()
async def answer_bytes(ctx: Context, input: dict) -> bytes:
    return bytes(range(256))


# Expect: returned 200
@function()
def answer_text(ctx: Context, input: dict) -> str:
    return "naïve\n\u2028\x00"


# Expect: returned 201
@function()
async def answer_response(ctx: Context, input: dict) -> Response:
    headers = {"X-Thing": "1", "Set-Cookie": ["a=1", "b=2"]}
    return ctx.response({"id": uuid.UUID(int=7), "price": Decimal("1.10")}, status=201, headers=headers)
