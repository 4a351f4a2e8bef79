"""The peer whose handlers are durable workflows: DBOS.

    python benchmarks/peer_dbos.py --database HOST PORT USER NAME --stub PORT

FastAPI as in `benchmarks.peer_fastapi`, but each handler is a workflow of DBOS and what it asks of the world is a step:
the point SELECT, the outbound POST, each transaction. DBOS keeps inputs, outputs and steps in a schema of its own in
the same database. It prints its port once it serves.
"""

import argparse
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import uvicorn
from dbos import DBOS
from fastapi import FastAPI, HTTPException, Request

from benchmarks import peer_statements
from benchmarks.peer_statements import POOL_CONNECTIONS, Compute, NewOrder, Order, SignUp


class World:
    """What steps ask."""

    pool: asyncpg.Pool
    client: httpx.AsyncClient
    customers_url: str


@DBOS.step()
async def find_person(person: int) -> dict[str, Any]:
    async with World.pool.acquire() as connection:
        return await peer_statements.find_person(connection, person)


@DBOS.step()
async def has_account(email: str) -> bool:
    async with World.pool.acquire() as connection:
        return await peer_statements.has_account(connection, email)


@DBOS.step()
async def add_customer(email: str) -> str:
    answer = await World.client.post(World.customers_url, json={"email": email})
    customer: str = answer.json()["id"]
    return customer


@DBOS.step()
async def add_account(email: str, customer: str) -> dict[str, int]:
    async with World.pool.acquire() as connection, connection.transaction():
        return await peer_statements.add_account(connection, email, customer)


@DBOS.step()
async def place_order(order: dict[str, Any]) -> dict[str, int]:
    async with World.pool.acquire() as connection, connection.transaction():
        return await peer_statements.place_order(connection, Order(**order))


@DBOS.step()
async def place_new_order(order: dict[str, Any]) -> dict[str, int]:
    async with World.pool.acquire() as connection, connection.transaction():
        return await peer_statements.place_new_order(connection, NewOrder(**order))


@DBOS.workflow()
async def answer_noop(_body: Any) -> dict[str, bool]:
    return {"ok": True}


@DBOS.workflow()
async def answer_person(person: int) -> dict[str, Any]:
    return await find_person(person)


@DBOS.workflow()
async def answer_sign_up(email: str) -> dict[str, int] | None:
    if await has_account(email):
        return None
    return await add_account(email, await add_customer(email))


@DBOS.workflow()
async def answer_order(order: dict[str, Any]) -> dict[str, int]:
    return await place_order(order)


@DBOS.workflow()
async def answer_new_order(order: dict[str, Any]) -> dict[str, int]:
    return await place_new_order(order)


@DBOS.workflow()
async def answer_compute(rounds: int, seed: int) -> dict[str, int]:
    return {"value": peer_statements.compute(rounds, seed)}


def make_app(database: dict[str, Any], stub_port: int) -> FastAPI:
    """Return the service."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        connections = asyncpg.create_pool(**database, min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS)
        async with connections as World.pool, httpx.AsyncClient() as World.client:
            World.customers_url = f"http://127.0.0.1:{stub_port}/v1/customers"
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/noop")
    async def noop(request: Request) -> dict[str, bool]:
        return await answer_noop(await request.json())

    @app.get("/people/{person}")
    async def get_person(person: int) -> dict[str, Any]:
        return await answer_person(person)

    @app.post("/signup")
    async def sign_up(body: SignUp) -> dict[str, int]:
        user = await answer_sign_up(body.email)
        if user is None:
            raise HTTPException(409, "this address has an account")
        return user

    @app.post("/orders")
    async def orders(body: Order) -> dict[str, int]:
        return await answer_order(body.model_dump())

    @app.post("/new-order")
    async def new_order(body: NewOrder) -> dict[str, int]:
        return await answer_new_order(body.model_dump())

    @app.post("/compute")
    async def compute(body: Compute) -> dict[str, int]:
        return await answer_compute(body.rounds, body.seed)

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", nargs=4, required=True, metavar=("HOST", "PORT", "USER", "NAME"))
    parser.add_argument("--stub", type=int, required=True, metavar="PORT")
    options = parser.parse_args()
    host, port, user, name = options.database
    url = f"postgresql://{user}@/{name}?host={quote(host, safe='')}&port={port}"
    DBOS(
        config={
            "name": "peer",
            "system_database_url": url,
            "sys_db_pool_size": POOL_CONNECTIONS,
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    app = make_app({"host": host, "port": int(port), "user": user, "database": name}, options.stub)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    print(listener.getsockname()[1], flush=True)  # Connections wait in the backlog until it accepts them.
    uvicorn.Server(config).run(sockets=[listener])
    DBOS.destroy()


if __name__ == "__main__":
    main()
