"""The peer: what people use today for the same service.

    python benchmarks/peer_fastapi.py --database HOST PORT USER NAME --stub PORT [--observed | --recorded]

FastAPI on uvicorn with uvloop and httptools, asyncpg's pool, httpx for outbound HTTP. Plain, it records
nothing. ``--observed`` is what is usually bolted on, ``--recorded`` what comes nearest to a whole record
(`benchmarks.peer_recording`); with either, the database has row-audit triggers, which `benchmarks.peers` puts there.
It prints its port once it serves.
"""

import argparse
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from benchmarks import peer_statements
from benchmarks.peer_statements import POOL_CONNECTIONS, Compute, NewOrder, Order, SignUp


def make_app(database: dict[str, Any], stub_port: int, *, recorded: bool) -> FastAPI:
    """Return the service."""
    connection_class, hooks = asyncpg.Connection, {}
    if recorded:
        from benchmarks.peer_recording import (
            RecordedBodies,
            RecordingConnection,
            record_exchange,
            write_bodies,
        )

        connection_class, hooks = RecordingConnection, {"response": [record_exchange]}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            pool = await stack.enter_async_context(
                asyncpg.create_pool(
                    **database, min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS, connection_class=connection_class
                )
            )
            client = await stack.enter_async_context(httpx.AsyncClient(event_hooks=hooks))
            if recorded:
                await stack.enter_async_context(write_bodies(pool))
            app.state.pool, app.state.client = pool, client
            yield

    app = FastAPI(lifespan=lifespan)
    if recorded:
        app.add_middleware(RecordedBodies)

    @app.post("/noop")
    async def noop(request: Request) -> dict[str, bool]:
        await request.json()
        return {"ok": True}

    @app.get("/people/{person}")
    async def get_person(person: int) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            return await peer_statements.find_person(connection, person)

    @app.post("/signup")
    async def sign_up(body: SignUp) -> dict[str, int]:
        async with app.state.pool.acquire() as connection:
            if await peer_statements.has_account(connection, body.email):
                raise HTTPException(409, "this address has an account")
            url = f"http://127.0.0.1:{stub_port}/v1/customers"
            answer = await app.state.client.post(url, json={"email": body.email})
            async with connection.transaction():
                return await peer_statements.add_account(connection, body.email, answer.json()["id"])

    @app.post("/orders")
    async def place_order(body: Order) -> dict[str, int]:
        async with app.state.pool.acquire() as connection, connection.transaction():
            return await peer_statements.place_order(connection, body)

    @app.post("/new-order")
    async def place_new_order(body: NewOrder) -> dict[str, int]:
        async with app.state.pool.acquire() as connection, connection.transaction():
            return await peer_statements.place_new_order(connection, body)

    @app.post("/compute")
    async def answer_compute(body: Compute) -> dict[str, int]:
        return {"value": peer_statements.compute(body.rounds, body.seed)}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", nargs=4, required=True, metavar=("HOST", "PORT", "USER", "NAME"))
    parser.add_argument("--stub", type=int, required=True, metavar="PORT")
    recording = parser.add_mutually_exclusive_group()
    recording.add_argument("--observed", action="store_true", help="OpenTelemetry")
    recording.add_argument("--recorded", action="store_true", help="OpenTelemetry, bodies and rows")
    options = parser.parse_args()
    host, port, user, name = options.database
    database = {"host": host, "port": int(port), "user": user, "database": name}
    app = make_app(database, options.stub, recorded=options.recorded)
    if options.observed or options.recorded:
        from benchmarks.peer_recording import observe

        observe(app, options.stub)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    print(listener.getsockname()[1], flush=True)  # Connections wait in the backlog until it accepts them.
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
