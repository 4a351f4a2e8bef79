"""``@function`` and ``@middleware``: how a module says what in it can run."""

import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

Handler = TypeVar("Handler", bound=Callable[..., Any])

_ROUTE = re.compile(r"[A-Z][A-Z0-9_-]* /\S*\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}\Z")
_ISOLATION = ("read committed", "repeatable read", "serializable")


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


def find_place(handler: Any, decorator: str = "@function") -> tuple[str, int]:
    """Return the file and the line of a function; raise `RegistrationError` for what is none."""
    code = getattr(inspect.unwrap(handler), "__code__", None) if callable(handler) else None
    if code is None:
        raise RegistrationError(f"{decorator} stands above a def or an async def, not above {handler!r}")
    return code.co_filename, code.co_firstlineno


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether it is ``async def``. A decorator in between that says what it wraps speaks for that."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    return any(is_kind(one) for is_kind in kinds for one in (handler, inspect.unwrap(handler)))


def _find_mistake(registered: Any) -> str:
    """Return what is wrong with a `Registered` whose fields hold whatever the decorator was given, or nothing."""
    timeout, retries = registered.timeout, registered.retries
    if not isinstance(registered.name, str) or not _NAME.match(registered.name):
        return f"a function's name has letters, digits and _.- in it, not {registered.name!r}"
    if registered.route is not None and not (isinstance(registered.route, str) and _ROUTE.match(registered.route)):
        return f"a route is METHOD /path, e.g. 'POST /orders', not {registered.route!r}"
    if registered.isolation not in (None, *_ISOLATION):
        return f"there is no isolation level {registered.isolation!r}; there is {', '.join(_ISOLATION)}"
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | str | None):
        return f"timeout is seconds or text such as '10s', not {timeout!r}"
    if isinstance(timeout, int | float) and not 0 < timeout < math.inf:
        return f"timeout is above zero, not {timeout!r}"
    if type(retries) is not int or retries < 0:
        return f"retries is a number from 0 on, not {retries!r}"
    if not isinstance(registered.cron, str | None):
        return f"cron is text such as '0 3 * * *', not {registered.cron!r}"
    if not all(isinstance(name, str) for name in registered.middleware or ()):
        return f"middleware is a list of names, not {registered.middleware!r}"
    kind = registered.input
    if kind is not None and not (
        isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "__attrs_attrs__"))
    ):
        return f"input= takes a dataclass or an attrs class, not {kind!r}"
    return ""


@overload
def function(route: Handler, /) -> Handler: ...


@overload
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
) -> Callable[[Handler], Handler]: ...


def function(
    route: Any = None,
    *,
    name: str | None = None,
    atomic: bool = True,
    isolation: str | None = None,
    timeout: float | str | None = None,
    retries: int = 0,
    cron: str | None = None,
    middleware: list[str] | None = None,
    input: Any = None,
) -> Any:
    """Make ``handler(ctx, input)`` a function of this project. Without anything to say, ``@function`` alone will do.

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
        file, line = find_place(handler)
        if isinstance(middleware, str):
            raise RegistrationError(f"{os.path.basename(file)}:{line}: middleware is a list of names, not text")
        registered = Registered(
            name=handler.__name__ if name is None else name,
            handler=handler,
            route=route,
            atomic=bool(atomic),
            isolation=isolation,
            timeout=timeout,
            retries=retries,
            cron=cron,
            middleware=None if middleware is None else tuple(middleware),
            input=input,
            file=file,
            line=line,
            is_async=is_async(handler),
        )
        mistake = _find_mistake(registered)
        other = FUNCTIONS.get(registered.name) if not mistake else None
        # The same place again: its module failed the first time, and is imported again by another.
        if other is not None and (other.file, other.line) != (file, line):
            mistake = (
                f"a function named {registered.name!r} exists already at "
                f"{os.path.basename(other.file)}:{other.line}; give one of them name=..."
            )
        if mistake:
            raise RegistrationError(f"{os.path.basename(file)}:{line}: {mistake}")
        FUNCTIONS[registered.name] = registered
        return handler

    if callable(route):
        handler, route = route, None
        return register(handler)

    return register


def middleware(handler: Handler) -> Handler:
    """Make ``handler(ctx, call_next)`` a middleware, named as the function is.

    It may set ``ctx.user``, raise `HTTPError`, and must return what ``call_next()`` returns
    (``await call_next()`` in ``async def``) or an answer of its own.
    """
    file, line = find_place(handler, "@middleware")
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError as error:
        place = f"{os.path.basename(file)}:{line}"
        raise RegistrationError(f"{place}: a middleware takes ctx and call_next: {handler.__name__}: {error}") from None
    other = MIDDLEWARE.get(handler.__name__)
    if other is not None and find_place(other) != (file, line):
        raise RegistrationError(
            f"{os.path.basename(file)}:{line}: a middleware named {handler.__name__!r} exists already at "
            f"{os.path.basename(find_place(other)[0])}:{find_place(other)[1]}; rename one of them"
        )
    MIDDLEWARE[handler.__name__] = handler
    return handler
