"""Write backend functions for Flux.

    from flux_guest import Context, function

    @function("POST /signup")
    async def create_user(ctx: Context, input: dict) -> dict:
        user = await ctx.db.query_one(
            "insert into users (email) values ($1) returning id", input["email"]
        )
        return {"id": user["id"]}

A function has no door but ``ctx``. Whatever it asks there, Flux performs and
writes down, which is why ``flux why`` can explain it and ``flux replay`` can run
it again. Handlers may be ``async def`` or ``def``; in a ``def`` handler the same
calls answer directly, without ``await``.
"""

from flux_guest._context import Context, Request, Response, Row
from flux_guest._errors import (
    DatabaseError,
    DeadlockError,
    GrantRefusedError,
    HostCallError,
    HttpCallError,
    HTTPError,
    HttpTimeoutError,
    InvokeError,
    ValidationError,
)
from flux_guest._registry import function, middleware
from flux_guest._values import Interval, Range

__all__ = [
    "Context",
    "DatabaseError",
    "DeadlockError",
    "GrantRefusedError",
    "HTTPError",
    "HostCallError",
    "HttpCallError",
    "HttpTimeoutError",
    "Interval",
    "InvokeError",
    "Range",
    "Request",
    "Response",
    "Row",
    "ValidationError",
    "function",
    "middleware",
]
