"""Executions as they end, in the form of server-sent events: a row of the list each.

The lines are those of ``GET tail``. A browser comes back by itself when the connection is lost, and says which event
was its last; so an event's id is a time, and a little before it the stream goes on. What comes twice the page knows by
its name.
"""

import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import trio

from flux.supervisor.web.executions import make_row, write_row
from flux.supervisor.web.values import read
from flux.supervisor.web.words import read_moment

OVERLAP = timedelta(seconds=30)
"""An execution is told when it ends, so one that began this much before the last may be still to come."""
ASKED_EVERY_S = 5.0
"""A stream lasts for as long as a page is open: what its session may see is asked again this often."""


class EventStream:
    """The body of an answer. A class and not a generator: one that was never begun is closed all the same."""

    def __init__(
        self, lines: AsyncIterator[bytes], now: Callable[[], datetime], may_go_on: Callable[[], Awaitable[bool]]
    ) -> None:
        """``may_go_on``: whether who follows may still see them. Asked first, then from time to time."""
        self._lines = lines
        self._now = now
        self._may_go_on = may_go_on
        self._asked_at_s = -math.inf
        self._rest = b""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await anext(self._lines)
        if trio.current_time() - self._asked_at_s >= ASKED_EVERY_S:
            if not await self._may_go_on():
                raise StopAsyncIteration
            self._asked_at_s = trio.current_time()
        *whole, self._rest = (self._rest + data).split(b"\n")
        return b"".join(write_event(read(line), self._now()) for line in whole if line)

    async def aclose(self) -> None:
        """Let go of the lines."""
        with contextlib.suppress(AttributeError):
            await self._lines.aclose()  # type: ignore[attr-defined]


def write_event(line: dict[str, Any], now: datetime) -> bytes:
    """Return a line of the stream as an event."""
    if "heartbeat" in line:
        return b": here\n\n"
    if "gap" in line:
        return b"event: gap\ndata: %s\n\n" % json.dumps(line["gap"]).encode()
    since = (read_moment(line["started_at"]) - OVERLAP).isoformat().replace("+00:00", "Z")
    return b"id: %s\ndata: %s\n\n" % (since.encode(), write_row(make_row(line, now)))
