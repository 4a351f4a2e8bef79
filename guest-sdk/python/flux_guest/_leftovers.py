"""What one execution leaves to the next one on the same worker (``warm``), beyond what modules keep.

Two kinds of things are not the project's own state. What Python keeps for itself, so that
its words would be others the second time: a warning that was shown is not shown again, a
line of source is not read again, or can't be. `clear` puts that back to how it was after the
import. And what could still run: tasks of a loop that was left open, finalizers of garbage,
hooks. Garbage is collected, and for the rest the worker has to end: whoever comes next does
not meet it.

All of this is done when the host asks whether the worker can serve again, so an execution
whose worker is fresh pays for none of it.
"""

import gc
import linecache
import os
import resource
import sys
import tracemalloc  # noqa: F401 - a warning's words need it, and a worker without descriptors can't import it
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from flux_guest._channel import Channel

TOOLS = range(6)
"""Numbers that `sys.monitoring` has for those who watch (Python 3.12)."""


class Leftovers:
    """Looks after one worker. `attach` once the project's modules are imported."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lines: dict[str, Any] = {}
        self._hooks: tuple[Any, ...] = ()

    def attach(self) -> None:
        """Keep the lines of the project's files ready, and what is there now as what may be there."""
        for module in tuple(sys.modules.values()):
            name = getattr(module, "__file__", None)
            if isinstance(name, str) and name.endswith(".py") and self._channel.is_user_file(name):
                linecache.getlines(name)
        self._lines = dict(linecache.cache)
        self._hooks = _list_hooks()
        _forget_warnings()

    def clear(self) -> str:
        """Put back what can be, and return what else there is; empty: the worker can serve again."""
        left = self._find()
        if not left:
            linecache.cache.clear()
            linecache.cache.update(self._lines)
            _forget_warnings()
        return left

    def _find(self) -> str:
        gc.collect()  # Finalizers run now, or they would at the beginning of the next.
        if any(_is_alive(loop) for loop in _get_alive(self._channel.loops)):
            return "an event loop that has something to run"
        if _list_hooks() != self._hooks:
            return "hooks that are called when code runs or garbage is collected"
        return "" if _has_room() else "so many open descriptors that the next may not have enough"


def _forget_warnings() -> None:
    # Each module has a registry of what it has warned of, which counts as long as the filters are those that it knew;
    # to catch warnings changes them.
    with warnings.catch_warnings():
        pass
    warnings.onceregistry.clear()  # type: ignore[attr-defined]


def _get_alive(references: list[Callable[[], Any]]) -> Iterable[Any]:
    references[:] = [one for one in references if one() is not None]
    return [loop for one in references if (loop := one()) is not None]


def _is_alive(loop: Any) -> bool:
    return bool(not loop.is_closed() and (loop._ready or loop._scheduled or loop.list_tasks()))


def _list_hooks() -> tuple[Any, ...]:
    monitoring = getattr(sys, "monitoring", None)
    tools = [] if monitoring is None else [monitoring.get_tool(number) for number in TOOLS]
    return (sys.gettrace(), sys.getprofile(), *tools, *gc.callbacks)


def _has_room() -> bool:
    """Whether half of the descriptors that a worker may have are free, as far as the lowest free number tells."""
    try:
        lowest = os.dup(0)
    except OSError:
        return False
    os.close(lowest)
    return lowest < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
