"""What the peers ask their database, with asyncpg: the statements of `benchmarks.workloads`, one function a request.

A peer brings the transaction or the step that these run in, so that no peer asks for less than another.
"""

from collections.abc import Sequence
from typing import Any

import asyncpg
from pydantic import BaseModel

from benchmarks.workloads import (
    ADD_JOB,
    ADD_LINE,
    ADD_NEW_ORDER,
    ADD_ORDER,
    ADD_ORDER_LINE,
    ADD_USER,
    COMPUTE,
    FIND_CUSTOMER,
    FIND_PERSON,
    FIND_PRICE,
    FIND_PRODUCT,
    FIND_USER,
    SET_CUSTOMER,
    TAKE_FROM_STOCK,
    TAKE_NUMBER,
    TAKE_STOCK,
)

POOL_CONNECTIONS = 16
_computing: dict[str, Any] = {}
exec(COMPUTE, _computing)  # The text that guests have too.
compute = _computing["compute"]


class SignUp(BaseModel):
    """Body of ``POST /signup``."""

    email: str
    plan: str


class Order(BaseModel):
    """Body of ``POST /orders``."""

    product: int
    amount: int
    note: str


class Item(BaseModel):
    """A line of a `NewOrder`."""

    product: int
    amount: int


class NewOrder(BaseModel):
    """Body of ``POST /new-order``."""

    district: int
    customer: int
    items: Sequence[Item]


class Compute(BaseModel):
    """Body of ``POST /compute``."""

    rounds: int
    seed: int


async def find_person(connection: asyncpg.Connection, person: int) -> dict[str, Any]:
    """Return a row."""
    return dict(await connection.fetchrow(FIND_PERSON, person))


async def has_account(connection: asyncpg.Connection, email: str) -> bool:
    """Return whether somebody has signed up so."""
    return bool(await connection.fetch(FIND_USER, email))


async def add_account(connection: asyncpg.Connection, email: str, customer: str) -> dict[str, int]:
    """Do what a sign-up writes, within a transaction."""
    user = await connection.fetchval(ADD_USER, email)
    await connection.execute(SET_CUSTOMER, customer, user)
    await connection.execute(ADD_JOB, "welcome", email)
    return {"id": user}


async def place_order(connection: asyncpg.Connection, body: Order) -> dict[str, int]:
    """Do the five statements, within a transaction."""
    price = await connection.fetchval(FIND_PRODUCT, body.product)
    order = await connection.fetchval(ADD_ORDER, body.product, body.amount, price * body.amount)
    await connection.execute(ADD_LINE, order, body.note)
    await connection.execute(TAKE_STOCK, body.amount, body.product)
    await connection.execute(ADD_JOB, "ship", str(order))
    return {"id": order}


async def place_new_order(connection: asyncpg.Connection, body: NewOrder) -> dict[str, int]:
    """Do the eighteen statements, within a transaction."""
    number, tax_percent = await connection.fetchrow(TAKE_NUMBER, body.district)
    await connection.fetchrow(FIND_CUSTOMER, body.customer)
    await connection.execute(ADD_NEW_ORDER, body.district, number, body.customer)
    total = 0
    for line, item in enumerate(body.items):
        product = await connection.fetchrow(FIND_PRICE, item.product)
        await connection.fetchrow(TAKE_FROM_STOCK, item.amount, item.product)
        cents = product["cents"] * item.amount
        await connection.execute(ADD_ORDER_LINE, body.district, number, line, item.product, item.amount, cents)
        total += cents
    return {"number": number, "total_cents": total * (100 + tax_percent) // 100}
