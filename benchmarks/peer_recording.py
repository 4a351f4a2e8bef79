"""What is bolted on to a FastAPI service so that it records: OpenTelemetry, and bodies and rows besides.

`observe` is OpenTelemetry's instrumentation of FastAPI, asyncpg and httpx as its documentation has it: every request
sampled, sent in batches over OTLP/HTTP. `RecordedBodies`, `RecordingConnection` and `record_exchange` add what comes
nearest to a whole record: the body of each request and answer in a table, written in batches; each statement's
parameters and rows and each outbound exchange as events of the request's span. The table and the spans are
written after the answer, so what a dying process had not written yet is gone.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import asyncpg
import httpx
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

WRITE_EVERY_S = 0.2

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def observe(app: FastAPI, stub_port: int) -> None:
    """Instrument the service."""
    provider = TracerProvider(resource=Resource.create({"service.name": "peer"}))
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{stub_port}/v1/traces")
    # The queue is larger than the default of 2048, which would drop spans at these rates.
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=65536, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]
    HTTPXClientInstrumentor().instrument()
    FastAPIInstrumentor.instrument_app(app)


class RecordedBodies:
    """ASGI middleware: keeps each request and its answer for `write_bodies`."""

    waiting: list[tuple[Any, ...]] = []  # noqa: RUF012 - one for the process: Starlette makes the middleware itself
    """Rows that are not written yet."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter_ns()
        request, response, status = bytearray(), bytearray(), 0

        async def receive_and_keep() -> Message:
            message = await receive()
            request.extend(message.get("body", b""))
            return message

        async def send_and_keep(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            response.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, receive_and_keep, send_and_keep)
        self.waiting.append((
            f"{trace.get_current_span().get_span_context().trace_id:032x}", scope["method"], scope["path"],
            bytes(request), status, bytes(response), (time.perf_counter_ns() - started) // 1000,
        ))  # fmt: skip


@contextlib.asynccontextmanager
async def write_bodies(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Write what waits, several times a second and once more at the end."""

    async def write() -> None:
        rows, RecordedBodies.waiting = RecordedBodies.waiting, []
        if rows:
            columns = ("trace_id", "method", "path", "request", "status", "response", "elapsed_us")
            await pool.copy_records_to_table("request_log", records=rows, columns=columns)

    async def write_often() -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await write()

    writing = asyncio.create_task(write_often())
    try:
        yield
    finally:
        writing.cancel()
        await write()


def _tell(query: str, args: tuple[Any, ...], rows: object) -> None:
    text = json.dumps({"args": args, "rows": rows}, default=str)
    trace.get_current_span().add_event("db.rows", {"db.query.text": query, "db.rows": text})


class RecordingConnection(asyncpg.Connection):
    """Tells the request's span what each statement was given and what it answered."""

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[asyncpg.Record]:
        """See `asyncpg.Connection`."""
        rows = await super().fetch(query, *args, **options)
        _tell(query, args, [dict(row) for row in rows])
        return rows

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> asyncpg.Record | None:
        """See `asyncpg.Connection`."""
        row = await super().fetchrow(query, *args, **options)
        _tell(query, args, [dict(row)] if row is not None else [])
        return row

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """See `asyncpg.Connection`."""
        value = await super().fetchval(query, *args, **options)
        _tell(query, args, [[value]])
        return value

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """See `asyncpg.Connection`."""
        status: str = await super().execute(query, *args, **options)
        _tell(query, args, status)
        return status


async def record_exchange(response: httpx.Response) -> None:
    """Tell the span both bodies of an outbound exchange: a hook of httpx."""
    bodies = {"request": response.request.content.decode(), "response": (await response.aread()).decode()}
    trace.get_current_span().add_event("http.bodies", bodies)
