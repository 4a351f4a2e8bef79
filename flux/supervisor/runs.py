"""What is started on a page and goes on without it: replays of an incident, a bisect.

A stream of work (`flux.supervisor.work_stream`) ends when nobody reads it, which is right for a command that somebody
may interrupt. A page is reloaded, and a laptop's lid closed; so a *run* belongs to the server. It is begun under a key
that says what it is about, asked by that key how far it is, and cancelled by it. It is held in memory: it ends with the
server, and whoever asks then hears that there is none. What it found is on record as far as replays are.

What it shows was made of records. So it has the number of erasures from before these were read
(`flux.store.erasures.count_erasures`): a run from before the last one is given up at once by the server that took the
row out, and by others when anybody looks.

There is one run of a key at a time, and few at once, since each computes.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Protocol

import attrs
import trio

from flux.errors import FluxError, OperatorError
from flux.supervisor.present import Document, show_moment
from flux.supervisor.work_stream import Start, describe_problem

AT_ONCE_MAX = 2
"""Runs that go on at the same time."""
KEPT_MAX = 32
"""Runs that are remembered, with those that go on."""


class AlreadyRunningError(OperatorError):
    """The same is being done already."""

    code = "FLX655"


class TooManyRunsError(OperatorError):
    """As many runs go on as may."""

    code = "FLX656"


class RunWork(Protocol):
    """What is to be done. Cancelled at any moment, it leaves nothing behind."""

    async def do(self) -> None:
        """Do it. A `FluxError` is kept and told."""

    def show(self) -> Document:
        """Return what is known by now: also before it has begun, and after it has ended in whatever way."""


@attrs.define(eq=False)
class _Run:
    work: RunWork
    began_at: datetime
    erasures: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    state: str = "running"
    ended_at: datetime | None = None
    problem: FluxError | None = None
    crash: Exception | None = None
    is_over: bool = False
    """Nothing of it goes on. One that is cancelled may still be cleaning up."""
    is_forgotten: bool = False
    """Nobody is shown it: it is there for as long as it cleans up."""


class Runs:
    """Those of one server."""

    def __init__(self, start: Start, now: Callable[[], datetime]) -> None:
        """``start`` runs something beside whoever asks for it."""
        self._start = start
        self._now = now
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def begin(self, key: str, work: RunWork, erasures: int) -> Document:
        """Begin a run in the place of an earlier one of its key; raise where one goes on, or too many do.

        ``erasures`` is from before anything was read that it shows.
        """
        going_on = [other for other, run in self._runs.items() if not run.is_over]
        if key in going_on:
            raise AlreadyRunningError(f"this goes on already: {key}", remedy="wait for it, or cancel it first")
        if len(going_on) >= AT_ONCE_MAX:
            raise TooManyRunsError(
                f"{len(going_on)} runs go on, and no more do at a time: {', '.join(going_on)}",
                remedy="wait for one of them, or cancel one",
            )
        self._runs.pop(key, None)
        self._runs[key] = run = _Run(work, self._now(), erasures)
        while len(self._runs) > KEPT_MAX:
            del self._runs[next(old for old, each in self._runs.items() if each.is_over)]
        self._start(partial(self._do, key, run))
        return _show(run)

    def find(self, key: str) -> Document | None:
        """Return how far a run is, or how it ended; None when there is none."""
        run = self._runs.get(key)
        if run is None or run.is_forgotten:
            return None
        if run.crash is not None:
            del self._runs[key]
            raise run.crash  # Whoever asks tells of it, as of any failure of ours.
        return _show(run)

    def list(self, kind: str) -> list[Document]:
        """Return those whose key begins so, the latest first."""
        return [
            _show(run) for key, run in reversed(self._runs.items())
            if key.startswith(kind) and run.crash is None and not run.is_forgotten
        ]  # fmt: skip

    def cancel(self, key: str) -> Document | None:
        """Stop a run, if it goes on; return what it has found by then."""
        run = self._runs.get(key)
        if run is not None and run.state == "running":
            run.state, run.ended_at = "cancelled", self._now()
            run.scope.cancel()
        return self.find(key)

    def forget(self, erasures: int | None = None) -> None:
        """Give up all, and what they have found; with ``erasures`` those from before."""
        for key, run in list(self._runs.items()):
            if erasures is None or run.erasures < erasures:
                run.is_forgotten = True
                run.scope.cancel()
                if run.is_over:
                    del self._runs[key]

    def close(self) -> None:
        """Stop all: the server ends."""
        for run in self._runs.values():
            run.scope.cancel()

    async def _do(self, key: str, run: _Run) -> None:
        with run.scope:
            try:
                await run.work.do()
            except FluxError as error:
                run.problem = error
            except Exception as crash:  # A run must not take the server with it. `find` raises it.
                run.crash = crash
        if run.state == "running":
            failed = run.problem is not None or run.crash is not None
            run.state = "failed" if failed else "cancelled" if run.scope.cancelled_caught else "done"
            run.ended_at = self._now()
        run.is_over = True
        if run.is_forgotten:
            del self._runs[key]


def _show(run: _Run) -> Document:
    return {
        **run.work.show(),
        "state": run.state,
        "began_at": show_moment(run.began_at),
        "ended_at": None if run.ended_at is None else show_moment(run.ended_at),
        "problem": describe_problem(run.problem),
    }
