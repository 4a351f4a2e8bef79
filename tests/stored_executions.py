"""Executions as a test wants them, and a guest's connection that really makes them.

`make_execution` gives one with plausible everything; a test changes what it is about. Its time and
its id agree, as they do in life.
"""

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from flux import ids
from flux.execution import Execution, Frame, Level, LimitInForce, LogLine, Outcome, Raised, Returned, Trigger
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.store.migrate import ensure_guest
from flux.store.postgres import Connection, connect
from flux.store.queries import QUERIES
from tests.conftest import Database

SHA = "3f9c1e2d1b4a5c6d7e8f90123456789012345678"
LINE = Position("functions/orders.py", 12, "create_order")
TOKEN = b"a token of thirty-two bytes ...."


def make_id(started_at_ns: int) -> uuid.UUID:
    """A fresh id of that time."""
    return ids.make_execution_id(started_at_ns // 1_000_000, os.urandom(ids.ENTROPY_BYTES))


def make_execution(outcome: Outcome | None = None, /, **changes: Any) -> Execution:
    """An execution of ``create_order`` that passed, unless told otherwise."""
    started_at_ns = changes.pop("started_at_ns", time.time_ns())
    execution = Execution(
        id=make_id(started_at_ns),
        tenant="default",
        function="create_order",
        deployment="d-1",
        sha=SHA,
        dirty=False,
        trigger=Trigger("http", "POST", "/orders/7", "/orders/{id}", body=b'{"amount":1}'),
        started_at_ns=started_at_ns,
        seed=os.urandom(32),
        level=Level("process", "process", "python"),
        limits=(LimitInForce("timeout", "30s", "Flux's default"),),
        outcome=outcome or Returned(201, (("content-type", "application/json"),), b'{"id":7}'),
        elapsed_ns=14_000_000,
        calls=(
            HostCall(
                HostCallRequest(1, "db.query", b'["select 1",[]]', 0, LINE),
                HostCallResult(b'{"columns":["a"],"types":["int4"],"rows":[[1]],"tag":"SELECT 1"}', None, 900, 1),
                1_000_000,
                1,
            ),
        ),
        logs=(LogLine(2_000_000, "info", "creating"),),
    )
    return attrs.evolve(execution, **changes)


def raised(type_: str = "KeyError", message: str = "'plan'", **changes: Any) -> Raised:
    """The end of a function that raised."""
    return attrs.evolve(
        Raised(type_, message, (Frame("functions/orders.py", 12, "create_order", True),)), **changes
    )


def lost_host(url: str, seq: int = 2) -> HostCall:
    """A call to a host that did not answer."""
    return HostCall(
        HostCallRequest(seq, "http.request", b'["POST","%s",{}]' % url.encode(), 0, LINE),
        HostCallResult(b"null", HostCallError("HttpTimeout", "no answer in 10s", "FLX411"), 10, 1),
        2_000_000,
        seq,
    )


@asynccontextmanager
async def guest_connection(database: Database, tenant: str = "default") -> AsyncIterator[Connection]:
    """A guest's own connection; `TOKEN` is a supervisor's there."""
    owner = await connect(database.options())
    role = await ensure_guest(owner, tenant, "shop", "secret")
    await owner.execute(
        "insert into flux.supervisor (token_sha256, description) values (sha256($1), 'a test') on conflict do nothing",
        TOKEN,
    )
    await owner.aclose()
    connection = await connect(database.options(role))
    try:
        yield connection
    finally:
        await connection.aclose()


async def commit_record(connection: Connection, parameters: tuple[object, ...]) -> int | None:
    """Write a record in the guest's transaction, as the supervisor does; return the transaction's id."""
    xid: int | None = await connection.fetch_value(QUERIES.commit_record, *parameters)
    return xid
