"""A function and the middleware around it, called one inside the other.

Each of them is ``async def`` or ``def``, in any mixture. Where all are ``def`` there is no event loop. Otherwise what
stands innermost and is ``def`` throughout is called as it would be without a loop: its calls on ``ctx`` answer
directly, which they can, as nothing else runs until it returns. A ``def`` outside of an ``async def`` hands on what
``call_next()`` returned, and that is awaited for it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flux_guest import _validation
from flux_guest._context import Context
from flux_guest._registry import MIDDLEWARE, Registered, is_async


class Door(Protocol):
    """What makes the calls on ``ctx`` answer directly, or by something to await."""

    async def run_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what is ``def`` throughout, with calls that answer directly."""


@dataclass(frozen=True)
class Chain:
    """What is called, outermost first."""

    registered: Registered
    middleware: tuple[tuple[str, Callable[..., Any]], ...]
    """With their names."""
    blocking_from: int
    """Index of the first behind which all are ``def``, itself included; one more than there are where the handler
    is ``async def``."""


def make_chain(registered: Registered, names: list[str]) -> Chain:
    """Return ``registered`` behind the middleware of these names; raise LookupError for one that there is not."""
    unknown = [name for name in names if name not in MIDDLEWARE]
    if unknown:
        known = ", ".join(MIDDLEWARE) or "none"
        raise LookupError(f"no middleware is named {unknown[0]!r}; there is {known}")
    middleware = tuple((name, MIDDLEWARE[name]) for name in names)
    blocking_from = len(names) + registered.is_async
    while 0 < blocking_from <= len(names) and not is_async(middleware[blocking_from - 1][1]):
        blocking_from -= 1
    return Chain(registered, middleware, blocking_from)


def call_blocking(chain: Chain, context: Context, value: Any, index: int = 0) -> Any:
    """Call what stands at ``index`` and behind it, which is ``def`` throughout."""
    if index == len(chain.middleware):
        what = "the handler"
        result = chain.registered.handler(context, _accept(chain.registered, context, value))
    else:
        name, handler = chain.middleware[index]
        what, result = f"middleware {name!r}", handler(context, lambda: call_blocking(chain, context, value, index + 1))
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        owner = chain.registered.name
        raise TypeError(f"{what} of {owner!r} is def and returned something to await: make it async def")
    return result


async def call_async(chain: Chain, context: Context, value: Any, door: Door, index: int = 0) -> Any:
    """Call what stands at ``index`` and behind it."""
    if index == chain.blocking_from:
        return await door.run_blocking(call_blocking, chain, context, value, index)
    if index == len(chain.middleware):
        result = chain.registered.handler(context, _accept(chain.registered, context, value))
    else:
        result = chain.middleware[index][1](context, lambda: call_async(chain, context, value, door, index + 1))
    # A plain def among them may well hand on what the next one returns.
    return await result if inspect.isawaitable(result) else result


def _accept(registered: Registered, context: Context, value: Any) -> Any:
    return value if registered.input is None else _validation.make_input(registered.input, value, context.request)
