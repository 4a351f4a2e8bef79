"""The doors of handlers: how a call on ``ctx`` gets to the host and back.

In a ``def`` handler asking blocks until the answer is there, in an ``async def`` one it returns something to await.
Nothing else about ``ctx`` depends on which it is.
"""

from collections.abc import Callable
from typing import Any

from flux_guest._channel import Channel
from flux_guest._loop import HostLoop


class SyncDoor:
    """The door of ``def`` handlers."""

    is_async = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __call__(self, name: str, arguments: list[Any], convert: Callable[[Any], Any]) -> Any:
        return convert(self._channel.call(name, arguments))


class AsyncDoor:
    """The door of ``async def`` handlers."""

    def __init__(self, loop: HostLoop, channel: Channel) -> None:
        self.is_async = True
        """False while ``def`` code runs: nothing else does meanwhile, so the door is the other kind's for so long."""
        self._loop = loop
        self._channel = channel

    def __call__(self, name: str, arguments: list[Any], convert: Callable[[Any], Any]) -> Any:
        if not self.is_async:
            return convert(self._channel.call(name, arguments))
        return self._loop.call_host(name, arguments, convert)

    async def run_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function``, which is ``def`` throughout: its calls on ``ctx`` answer it directly."""
        self.is_async = False
        try:
            return function(*arguments)
        finally:
            self.is_async = True
