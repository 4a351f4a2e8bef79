"""What all of Conduit's functions share: errors as its clients know them, who asks, and how times are written."""

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

from flux_guest import Context, DatabaseError, HTTPError, ValidationError, middleware

PROBLEMS = {
    "account_username_key": "username has already been taken",
    "account_email_key": "email has already been taken",
    "password_hash": "password is too short (minimum is 8 characters)",
}
"""What the database refuses, by the constraint or the column that it names."""


@middleware
async def errors(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> Any:
    """Answer with errors as the RealWorld API has them, and with nothing done."""
    if ctx.request.method == "GET":
        return await _answer(ctx, call_next)
    try:
        # The answer below is one like any other, and its transaction is committed: what was begun is undone here.
        async with ctx.db.transaction():
            return await call_next()
    except (HTTPError, DatabaseError) as error:
        return describe(ctx, error)


async def _answer(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call_next()
    except HTTPError as error:
        return describe(ctx, error)


def describe(ctx: Context, error: HTTPError | DatabaseError) -> Any:
    """The answer for what went wrong; raise what is no fault of the client's."""
    if isinstance(error, ValidationError):
        lines = [f"{item['path'].removeprefix('input.')} {item['message']}" for item in error.violations]
        return ctx.response({"errors": {"body": lines}}, status=422)
    if isinstance(error, HTTPError):
        return ctx.response({"errors": {"body": [error.message or error.code]}}, status=error.status)
    problem = PROBLEMS.get(error.details.get("constraint") or error.details.get("column", ""))
    if problem is None:
        raise error
    return ctx.response({"errors": {"body": [problem]}}, status=422)


def viewer_id(ctx: Context) -> int | None:
    """Who asks, None for somebody that is not signed in."""
    return None if ctx.request.auth is None else int(ctx.request.auth["subject"])


def signed_in(ctx: Context) -> int:
    """Who asks, of a route that is for those who are signed in."""
    account = viewer_id(ctx)
    if account is None:
        raise HTTPError(401, message="sign in first")
    return account


def write_time(moment: datetime.datetime) -> str:
    """As JavaScript writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
