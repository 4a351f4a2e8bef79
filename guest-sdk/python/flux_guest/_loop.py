"""An asyncio event loop whose only source of events is the host.

Ordinary loops wait for sockets and timers, and their order is the kernel's. This
one blocks in a single place, `_HostSelector.select`: there it reads one answer
from the host, and only when nothing is left to run. Timers are host calls as
well (``clock.sleep``). So the order of everything a function sees is written in
its record, and running it again with the same answers runs it the same way.

Python leaves some order to the addresses of objects: a set of tasks is iterated by
their hashes. Tasks and futures of this loop are numbered, and hash by number.
"""

import asyncio
import inspect
import math
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from flux_guest import _values
from flux_guest._channel import Channel
from flux_guest._errors import DeadlockError, make_host_call_error
from flux_guest._sockets_loop import SocketLoop

SPINS_MAX = 1000
"""Rounds in which something could always run. Then the host is heard all the same, or a function
that yields in a loop until an answer has come (``asyncio.sleep(0)``) would never see it come. It is a
count and not a time, so that a replay hears the host at the same point."""


class HostTask(asyncio.Task[Any]):
    """A task with a number: its place in the order of creation, which the record gives for each call."""

    def __init__(self, coroutine: Any, *, number: int, **options: Any) -> None:
        self.number = number  # First: asyncio puts the task into a set on the way.
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number

    def set_name(self, value: object) -> None:
        if value is not None:  # Python 3.13.0 sets the name that was not given.
            super().set_name(value)


class HostFuture(asyncio.Future[Any]):
    """A future with a number."""

    def __init__(self, *, number: int, **options: Any) -> None:
        self.number = number
        self.call = ""
        """The host call whose answer it is."""
        super().__init__(**options)

    def __hash__(self) -> int:
        return self.number

    # Python's own words for what follows would name this class, of which the author of a function has never heard.

    def __getitem__(self, _key: object) -> Any:
        raise TypeError(self._find_words())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Libraries look for these, to see what something is.
            raise AttributeError(name)
        raise AttributeError(f"{self._find_words()}; it has no {name} itself")

    def _find_words(self) -> str:
        return f"{self.call or 'a future'} was not awaited: write await before it"


class _HostSelector:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sleeping_until_ns: int | None = None
        self._spins = 0
        self.unawaited: set[int] = set()
        """Calls in flight for which nobody waits at the end: timers, and what is read ahead from connections."""
        self.waken: Callable[[], bool] = lambda: False
        """Fails what waits for nothing, so that something can run; False when there is no such thing."""

    def select(self, timeout_s: float | None) -> list[Any]:
        channel = self._channel
        if timeout_s is not None and timeout_s <= 0:
            self._spins += 1
            if self._spins < SPINS_MAX:
                return []  # Something can run: the host is heard when nothing can.
            if not channel.waiting:
                channel.waiting[channel.send("clock.now", [])] = lambda _value, _error: None
        elif timeout_s is not None:
            until_ns = channel.now_ns + math.ceil(timeout_s * 1e9)
            if self._sleeping_until_ns is None or self._sleeping_until_ns > until_ns:
                self._sleep(until_ns)
        elif not channel.waiting:
            if self.waken():
                return []
            raise DeadlockError("every task waits, and no host call is in flight to wake one")
        self._spins = 0
        channel.receive()
        return []

    def _sleep(self, until_ns: int) -> None:
        self._sleeping_until_ns = until_ns
        channel = self._channel
        seq = channel.send("clock.sleep", [(until_ns - channel.now_ns) / 1e9])

        def woken(_value: Any, error: dict[str, Any] | None) -> None:
            self.unawaited.discard(seq)
            if error is None:
                # The host measures a sleep by another clock than the one it tells; the timer is due.
                channel.move_clock(until_ns)
            if self._sleeping_until_ns == until_ns:
                self._sleeping_until_ns = None

        self.unawaited.add(seq)
        channel.waiting[seq] = woken

    def get_map(self) -> dict[Any, Any]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


class HostLoop(SocketLoop):
    """The loop; one an execution."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = self.channel = channel
        self._selector = _HostSelector(channel)
        self.unawaited = self._selector.unawaited
        self._selector.waken = self._fail_deadlocked
        self._clock_resolution = 1e-9
        self._number = 0
        self._task_count = 0
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._log_exception)
        channel.task_of = self._current_task
        channel.loops.append(weakref.ref(self))

    def close(self) -> None:
        channel, unawaited = self._channel, self.unawaited
        for seq in sorted(unawaited):
            channel.cancel(seq)
        while unawaited:
            channel.receive()
        channel.task_of = lambda: 0
        super().close()

    # Tasks and futures

    def _make_task(self, loop: asyncio.AbstractEventLoop, awaitable: Any, **options: Any) -> HostTask:
        # What ctx returns is a future already; people make tasks of it as of any other library's coroutine.
        coroutine = _wait_for(awaitable) if not inspect.iscoroutine(awaitable) else awaitable
        number = self._task_count
        self._task_count += 1
        # Python counts tasks in a process, of which this execution's need not be the first.
        options["name"] = options.get("name") or f"Task-{number + 1}"
        return HostTask(coroutine, number=number, loop=loop, **options)

    def create_future(self) -> HostFuture:
        self._number += 1
        return HostFuture(number=self._number, loop=self)

    def _current_task(self) -> int:
        task = asyncio.current_task(self)
        return task.number if isinstance(task, HostTask) else 0

    def list_tasks(self) -> list[HostTask]:
        """Return the tasks that are not done, in the order of their creation."""
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, HostTask)]
        return sorted(tasks, key=lambda task: task.number)

    # What the loop runs on

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
        except StopIteration as error:  # A future can't hold this one: it would end a generator.
            future.set_exception(RuntimeError(f"the function raised StopIteration: {error}"))
        except Exception as error:
            future.set_exception(error)
        return future

    # What goes wrong outside of any task

    def _fail_deadlocked(self) -> bool:
        """Raise `DeadlockError` in the first task that waits for something which nothing will ever do.

        There, and not out of the loop: so it has the line of the function's own code that waits, and
        the function can clean up.
        """
        for task in self.list_tasks():
            waited: Any = task
            for _ in range(self._task_count):  # As long as a chain can be that does not bite its tail.
                if isinstance(waited, asyncio.Task):
                    waited = waited._fut_waiter  # type: ignore[attr-defined]
            if isinstance(waited, asyncio.Future) and not isinstance(waited, asyncio.Task) and not waited.done():
                error = DeadlockError("this waits for something that nothing is left to do: no task can run")
                waited.set_exception(error)
                return True
        return False

    def _log_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what asyncio can tell nobody else. Its own message has addresses in it, never the same twice."""
        error = context.get("exception")
        future = context.get("future")
        text = str(context.get("message", "an exception nobody took"))
        if isinstance(future, HostFuture) and future.call:
            text = f"nobody awaited {future.call}, and it failed"
        if isinstance(error, BaseException):
            text = f"{text}: {type(error).__qualname__}: {error}"
            place = self._channel.find_place(error)
            text += f" ({place})" if place else ""
        self._channel.tell("log.write", ["error", _values.printable(text), {}])

    # Asking the host

    def call_host(
        self, name: str, arguments: list[Any], convert: Callable[[Any], Any]
    ) -> HostFuture:
        """Ask the host; the future has the answer, and cancelling it tells the host."""
        future = self.create_future()
        channel = self._channel
        seq = channel.send(name, arguments)
        future.call = f"{name} (call {seq})"

        def deliver(value: Any, error: dict[str, Any] | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(make_host_call_error(error, seq))
                return
            try:
                future.set_result(convert(_values.from_json(value)))
            except Exception as problem:
                future.set_exception(problem)

        def done(finished: asyncio.Future[Any]) -> None:
            if finished.cancelled() and seq in channel.waiting:
                channel.cancel(seq)

        channel.waiting[seq] = deliver
        future.add_done_callback(done)
        return future

    # The end

    def finish(self, *, well: bool) -> None:
        """End what the function left running, so that nothing is in flight when it answers.

        Tasks are cancelled, as `asyncio.run` does. A call that was made and never awaited is waited for
        if the function ended well (it was meant to happen), and cancelled otherwise.
        """
        # As a rule there was one task, and it has ended. Looking for others would cost each worker pages of memory.
        left = self.list_tasks() if self._task_count > 1 or not well else []
        if left and well:
            names = ", ".join(_describe_task(task) for task in left[:5])
            text = f"the function returned while {len(left)} of its tasks ran; they are cancelled: {names}"
            self._channel.tell("log.write", ["warning", text, {}])
        for task in left:
            task.cancel()
        if left or self._asyncgens:  # type: ignore[attr-defined]
            self.run_until_complete(self._end(left))
        channel, unawaited = self._channel, self.unawaited
        if not well:
            for seq in sorted(channel.waiting.keys() - unawaited):
                channel.waiting[seq] = lambda _value, _error: None
                channel.cancel(seq)
        if channel.waiting.keys() - unawaited:
            while channel.waiting.keys() - unawaited:
                channel.receive()
            self.run_until_complete(_nothing())  # What the last answers woke.
        self.close()

    async def _end(self, left: list[HostTask]) -> None:
        for outcome in await asyncio.gather(*left, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.call_exception_handler({"message": "a cancelled task failed", "exception": outcome})
        await self.shutdown_asyncgens()


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _nothing() -> None:
    """One round of the loop."""


def _describe_task(task: HostTask) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    if code is None:
        return "a task"
    return f"{_values.printable(code.co_qualname)} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
