"""An asyncio event loop whose only source of events is the host.

Ordinary loops wait for sockets and timers, and their order is the kernel's. This
one blocks in a single place, `_HostSelector.select`: there it reads one answer
from the host, and only when nothing is left to run. Timers are host calls as
well (``clock.sleep``). So the order of everything a function sees is written in
its record, and running it again with the same answers runs it the same way.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from flux_guest._channel import Channel
from flux_guest._errors import DeadlockError, make_host_call_error
from flux_guest._values import from_json


class _HostSelector:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sleeping_until_ns: int | None = None

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is not None and timeout_s <= 0:
            return []  # Something can run: the host is heard when nothing can.
        channel = self._channel
        if timeout_s is None:
            if not channel.waiting:
                raise DeadlockError("every task waits, and no host call is in flight to wake one")
        else:
            until_ns = channel.now_ns + math.ceil(timeout_s * 1e9)
            if self._sleeping_until_ns is None or self._sleeping_until_ns > until_ns:
                self._sleep(until_ns)
        channel.receive()
        return []

    def _sleep(self, until_ns: int) -> None:
        self._sleeping_until_ns = until_ns
        channel = self._channel
        seq = channel.send("clock.sleep", [(until_ns - channel.now_ns) / 1e9])

        def woken(_value: Any, _error: dict[str, Any] | None) -> None:
            if self._sleeping_until_ns == until_ns:
                self._sleeping_until_ns = None

        channel.waiting[seq] = woken

    def get_map(self) -> dict[Any, Any]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


class HostLoop(asyncio.BaseEventLoop):
    """The loop; one an execution."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._selector = _HostSelector(channel)
        self._clock_resolution = 1e-9
        self._task_count = 0
        self.set_task_factory(self._make_task)
        channel.task_of = self._current_task

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **kwargs)
        task.flux_number = self._task_count  # type: ignore[attr-defined]
        self._task_count += 1
        return task

    def _current_task(self) -> int:
        try:
            task = asyncio.current_task(self)
        except RuntimeError:
            return 0
        return getattr(task, "flux_number", 0)

    def time(self) -> float:
        return (self._channel.now_ns - self._channel.started_ns) / 1e9

    def _process_events(self, event_list: list[Any]) -> None:
        """Answers are delivered as they are read."""

    def _write_to_self(self) -> None:
        """Nothing outside the loop's own thread may wake it."""

    def run_in_executor(  # type: ignore[override]  # typeshed's uses a TypeVarTuple for args
        self,
        executor: Any,  # noqa: ARG002 - asyncio's signature
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        # Threads would bring back an order that is nobody's; run it here and now.
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call_host(
        self, name: str, arguments: list[Any], convert: Callable[[Any], Any]
    ) -> asyncio.Future[Any]:
        """Ask the host; the future has the answer, and cancelling it tells the host."""
        future = self.create_future()
        channel = self._channel
        seq = channel.send(name, arguments)

        def deliver(value: Any, error: dict[str, Any] | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(make_host_call_error(error, seq))
                return
            try:
                future.set_result(convert(from_json(value)))
            except Exception as problem:
                future.set_exception(problem)

        def done(finished: asyncio.Future[Any]) -> None:
            if finished.cancelled() and seq in channel.waiting:
                channel.cancel(seq)

        channel.waiting[seq] = deliver
        future.add_done_callback(done)
        return future
