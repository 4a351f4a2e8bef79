"""Input that is checked against a class."""

import dataclasses
import datetime
from typing import Literal

import attrs
from flux_guest import Context, function


@dataclasses.dataclass
class Item:
    sku: str
    count: int = 1


@dataclasses.dataclass
class Order:
    items: list[Item]
    port: int
    due: datetime.date | None = None
    plan: Literal["free", "pro"] = "free"


@attrs.define
class Transfer:
    port: int
    amount: int = attrs.field()

    @amount.validator
    def _positive(self, _attribute: object, value: int) -> None:
        if value <= 0:
            raise ValueError("amount must be above zero")


# Expect: returned 200; db.query 1
# Input: {"items": [{"sku": "a"}, {"sku": "b", "count": 2}], "due": "2026-01-02", "plan": "pro"}
@function(input=Order)
async def fits(ctx: Context, input: Order) -> dict:
    row = await ctx.db.query_one("select $1::date as due", input.due)
    return {"count": sum(item.count for item in input.items), "due": row.due, "class": type(input.items[0]).__name__}


# Expect: raised ValidationError
# Input: {"items": [{"sku": 5}], "plan": "gold"}
@function(input=Order)
async def does_not_fit(ctx: Context, input: Order) -> dict:
    raise AssertionError("it is refused before")


# Expect: raised ValidationError
# Input: {"amount": -5}
@function(input=Transfer)
def refused_by_its_own_validator(ctx: Context, input: Transfer) -> dict:
    raise AssertionError("it is refused before")


# Expect: raised ValidationError
# Input: {"amount": "5"}
@function(input=Transfer)
def text_in_json_is_no_number(ctx: Context, input: Transfer) -> dict:
    raise AssertionError("it is refused before")
