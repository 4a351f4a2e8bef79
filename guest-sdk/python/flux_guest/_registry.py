"""``@function`` and ``@middleware``: how a module says what in it can run."""

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Handler = TypeVar("Handler", bound=Callable[..., Any])

_ROUTE = re.compile(r"[A-Z]+ /\S*\Z")


@dataclass(frozen=True)
class Registered:
    """A function as its decorator describes it."""

    name: str
    handler: Callable[..., Any]
    route: str | None
    atomic: bool
    isolation: str | None
    timeout: float | str | None
    retries: int
    cron: str | None
    middleware: tuple[str, ...] | None
    input: Any
    file: str
    line: int
    is_async: bool


FUNCTIONS: dict[str, Registered] = {}
MIDDLEWARE: dict[str, Callable[..., Any]] = {}


class RegistrationError(Exception):
    """A decorator was given something that can't be; the message names file and line."""


def _place(handler: Callable[..., Any]) -> tuple[str, int]:
    code = inspect.unwrap(handler).__code__
    return code.co_filename, code.co_firstlineno


def function(
    route: str | None = None,
    *,
    name: str | None = None,
    atomic: bool = True,
    isolation: str | None = None,
    timeout: float | str | None = None,
    retries: int = 0,
    cron: str | None = None,
    middleware: list[str] | None = None,
    input: Any = None,
) -> Callable[[Handler], Handler]:
    """Make ``handler(ctx, input)`` a function of this project.

    ``route``
        ``"POST /orders/{id}"``; without one it is reached by queue, cron or invoke.
    ``atomic``
        True: its database work is one transaction, committed when it returns and
        rolled back when it raises. False: each statement is its own, unless it
        stands in ``async with ctx.db.transaction()``.
    ``isolation``
        ``"read committed"``, ``"repeatable read"`` or ``"serializable"``; the project's by default.
    ``timeout``
        Seconds, or text such as ``"10s"``.
    ``input``
        A dataclass or attrs class; the handler then gets an instance, and a request
        that does not fit is answered with 400 and what is wrong with it.
    """

    def register(handler: Handler) -> Handler:
        file, line = _place(handler)
        where = f"{os.path.basename(file)}:{line}"
        label = name or handler.__name__
        if route is not None and not _ROUTE.match(route):
            raise RegistrationError(f"{where}: a route is METHOD /path, e.g. 'POST /orders', not {route!r}")
        if isolation not in (None, "read committed", "repeatable read", "serializable"):
            raise RegistrationError(f"{where}: there is no isolation level {isolation!r}")
        if not isinstance(timeout, int | float | str | None) or isinstance(timeout, bool):
            raise RegistrationError(f"{where}: timeout is seconds or text such as '10s', not {timeout!r}")
        if label in FUNCTIONS:
            other = FUNCTIONS[label]
            raise RegistrationError(
                f"{where}: a function named {label!r} exists already at "
                f"{os.path.basename(other.file)}:{other.line}; give one of them name=..."
            )
        FUNCTIONS[label] = Registered(
            name=label,
            handler=handler,
            route=route,
            atomic=atomic,
            isolation=isolation,
            timeout=timeout,
            retries=retries,
            cron=cron,
            middleware=None if middleware is None else tuple(middleware),
            input=input,
            file=file,
            line=line,
            is_async=inspect.iscoroutinefunction(handler),
        )
        return handler

    return register


def middleware(handler: Handler) -> Handler:
    """Make ``handler(ctx, call_next)`` a middleware, named as the function is.

    It may set ``ctx.user``, raise `HTTPError`, and must return what ``call_next()`` returns
    (``await call_next()`` in ``async def``) or an answer of its own.
    """
    MIDDLEWARE[handler.__name__] = handler
    return handler
