"""The peer: what people use today for the same service.

    python benchmarks/peer_fastapi.py --database HOST PORT USER NAME --stub PORT [--observed]

FastAPI on uvicorn with uvloop and httptools, asyncpg's pool, httpx for outbound HTTP. Plain, it records
nothing. ``--observed`` is what is usually bolted on: OpenTelemetry's instrumentation of FastAPI, asyncpg and
httpx, every request sampled, sent in batches over OTLP/HTTP; the database has row-audit triggers then
(`AUDIT`, put there by `benchmarks.beside_fastapi`). It prints its port once it serves.
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
from pydantic import BaseModel

from benchmarks.workloads import (
    ADD_JOB,
    ADD_LINE,
    ADD_ORDER,
    ADD_USER,
    FIND_PERSON,
    FIND_PRODUCT,
    FIND_USER,
    SET_CUSTOMER,
    TAKE_STOCK,
)

POOL_CONNECTIONS = 16


class SignUp(BaseModel):
    """Body of ``POST /signup``."""

    email: str
    plan: str


class Order(BaseModel):
    """Body of ``POST /orders``."""

    product: int
    amount: int
    note: str


def make_app(database: dict[str, Any], stub_port: int) -> FastAPI:
    """Return the service."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        connections = asyncpg.create_pool(**database, min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS)
        async with connections as pool, httpx.AsyncClient() as client:
            app.state.pool, app.state.client = pool, client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/noop")
    async def noop(request: Request) -> dict[str, bool]:
        await request.json()
        return {"ok": True}

    @app.get("/people/{person}")
    async def get_person(person: int) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            return dict(await connection.fetchrow(FIND_PERSON, person))

    @app.post("/signup")
    async def sign_up(body: SignUp) -> dict[str, int]:
        async with app.state.pool.acquire() as connection:
            if await connection.fetchrow(FIND_USER, body.email):
                raise HTTPException(409, "this address has an account")
            answer = await app.state.client.post(
                f"http://127.0.0.1:{stub_port}/v1/customers", json={"email": body.email}
            )
            async with connection.transaction():
                user = await connection.fetchval(ADD_USER, body.email)
                await connection.execute(SET_CUSTOMER, answer.json()["id"], user)
                await connection.execute(ADD_JOB, "welcome", body.email)
        return {"id": user}

    @app.post("/orders")
    async def place_order(body: Order) -> dict[str, int]:
        async with app.state.pool.acquire() as connection, connection.transaction():
            price = await connection.fetchval(FIND_PRODUCT, body.product)
            order = await connection.fetchval(ADD_ORDER, body.product, body.amount, price * body.amount)
            await connection.execute(ADD_LINE, order, body.note)
            await connection.execute(TAKE_STOCK, body.amount, body.product)
            await connection.execute(ADD_JOB, "ship", str(order))
        return {"id": order}

    return app


def observe(app: FastAPI, stub_port: int) -> None:
    """Instrument the service as OpenTelemetry's documentation has it."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "peer"}))
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{stub_port}/v1/traces")
    # The queue is larger than the default of 2048, which would drop spans at these rates.
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=65536, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]
    HTTPXClientInstrumentor().instrument()
    FastAPIInstrumentor.instrument_app(app)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", nargs=4, required=True, metavar=("HOST", "PORT", "USER", "NAME"))
    parser.add_argument("--stub", type=int, required=True, metavar="PORT")
    parser.add_argument("--observed", action="store_true", help="OpenTelemetry")
    options = parser.parse_args()
    host, port, user, name = options.database
    database = {"host": host, "port": int(port), "user": user, "database": name}
    app = make_app(database, options.stub)
    if options.observed:
        observe(app, options.stub)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    print(listener.getsockname()[1], flush=True)  # Connections wait in the backlog until it accepts them.
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
