"""Flux's own checks: now and then an execution is replayed on the code that made it, and must do the same.

That a record can be replayed is what everything else here rests on, so it is not taken on trust. A sample of
what has just run is replayed while no request is: strictly, with nothing leaving. What comes out stands in
``flux.replay`` beside the execution. One that does not do the same again has taken something from its machine
that no record holds (or Flux has a fault): that is told with the line, and is on record as an execution that can be
compared. What it depends on is found out by experiment (`flux.supervisor.escape_experiment`), once for each line.
"""

import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import trio

from flux.errors import FluxError
from flux.escapes import Escape, find_position, judge
from flux.execution import Execution
from flux.session import Divergence
from flux.store.replays import list_unchecked
from flux.supervisor.deployments import Deployments
from flux.supervisor.escape_experiment import KIND, experiment
from flux.supervisor.execute import Backing
from flux.supervisor.replay import Replayer
from flux.supervisor.replay_record import keep_check, to_replay

LOOKS_BACK = timedelta(hours=1)
"""Only what has just run is checked: its code is the code that is served."""
PLACES_MAX = 256
"""Lines of code of which it is remembered what they depend on."""
NOT_AGAIN = "run again in several orders of objects it did as recorded each time: what it was has not come again"


class SelfCheck:
    """Checks one execution after the other, for as long as it runs."""

    def __init__(
        self,
        backing: Backing,
        replayer: Replayer,
        deployments: Deployments,
        tell: Callable[[str], None],
        report: Callable[[BaseException], None],
        *,
        every_s: float,
    ) -> None:
        """``tell`` is told of each execution that did not do the same again, ``report`` of a fault of Flux's own."""
        self._backing = backing
        self._replayer = replayer
        self._deployments = deployments
        self._tell = tell
        self._report = report
        self._every_s = every_s
        self._refused: set[uuid.UUID] = set()
        """Those that could not be replayed, which are not tried again."""
        self._checked = self._escaped = 0
        self._last_escape = self._last_error = ""
        self._causes: OrderedDict[tuple[str, str], str] = OrderedDict()
        """What experiments have shown, by the deployment and the place in its code."""

    async def run(self) -> None:
        """Check, and wait, and check."""
        while True:
            await trio.sleep(self._every_s)
            try:
                await self.check_one()
            except FluxError as error:  # A database that is away, a machine that is busy: the next time.
                self._last_error = f"{error.code} {error.message}"
            except Exception as crash:  # Requests are served all the same.
                self._last_error = f"{type(crash).__name__}: {crash}"
                self._report(crash)

    @property
    def counts(self) -> Mapping[str, float]:
        """Executions checked since the start, by whether they did the same again."""
        return {"same": self._checked - self._escaped, "other": self._escaped}

    async def check_one(self) -> bool:
        """Check one execution that is to be checked; False when there is none, or when requests are running."""
        current = self._deployments.current
        if current is None or current.in_use:
            return False
        since = datetime.now(UTC) - LOOKS_BACK
        found = await list_unchecked(
            self._backing.owner, since, current.deployment.id, 1 + len(self._refused)
        )
        wanted = next((one for one in found if one not in self._refused), None)
        if wanted is None:
            return False
        now = await to_replay(self._backing, self._replayer, wanted)
        original = now.execution
        try:
            replay = await self._replayer.replay(original, None, {})
        except FluxError as error:
            self._refused.add(wanted)
            self._last_error = f"{original.name}: {error.code} {error.message}"
            return False
        self._checked += 1
        again = await keep_check(self._backing, replay, now.erasures)
        if again is not None:
            assert replay.replayed.divergence is not None, "what did not do the same left its record somewhere"
            self._escaped += 1
            self._last_escape = describe_escape(original, replay.replayed.divergence)
            cause = await self._find_cause(original, replay.replayed.divergence)
            if cause is not None:
                self._last_escape += f". {cause}"
            self._tell(f"{self._last_escape}. Compare: flux trace {original.name}, flux trace {again.name}")
        return True

    async def _find_cause(self, original: Execution, divergence: Divergence) -> str | None:
        """Return what an escape depends on, a sentence; None where no experiment can show that, or just now."""
        if original.level.kind != KIND:
            return None
        key = original.deployment, find_place(divergence)
        if key not in self._causes:
            try:
                seen = await experiment(original, self._replayer, self._deployments, self._is_idle)
            except FluxError as error:
                self._last_error = f"{original.name}: {error.code} {error.message}"
                return None
            if seen is None:  # A request has come in: the next one that escapes there is looked into.
                return None
            self._causes[key] = describe_cause(judge(seen))
            while len(self._causes) > PLACES_MAX:
                self._causes.popitem(last=False)
        return self._causes[key] + describe_warmth(original)

    def _is_idle(self) -> bool:
        current = self._deployments.current
        return current is not None and not current.in_use

    def describe(self) -> Mapping[str, Any]:
        """Return what ``flux doctor`` says of it."""
        remedy = ""
        if not self._every_s:
            detail = "off: self_check_s is 0 under [recording]"
        else:
            same = self._checked - self._escaped
            detail = f"since the start {same} of {self._checked} sampled executions did the same again"
            if self._last_error:
                detail += f"; the last that could not be checked: {self._last_error}"
        if self._last_escape:
            detail += f"; the last that did not: {self._last_escape}"
            remedy = "docs/guest-api.md says what repeats itself; flux trace of both shows where they part"
        return {"name": "self-check", "ok": not self._escaped, "detail": detail, "remedy": remedy}


def describe_escape(original: Execution, divergence: Divergence) -> str:
    """Return which execution does not repeat itself, and at which line of its code."""
    place = find_place(divergence)
    return f"{original.name} ({original.function}) does not repeat itself: {place} it left its record"


def find_place(divergence: Divergence) -> str:
    """Return where in its code, or else in its record, an execution left it."""
    position = find_position(divergence)
    if position is not None:
        return f"at {position.file}:{position.line} in {position.function}"
    return f"at call {divergence.seq}" if divergence.seq else f"in its {divergence.kind}"


def describe_cause(escape: Escape | None) -> str:
    """Return what an experiment has shown, a sentence."""
    return NOT_AGAIN if escape is None else f"What is done there {escape.explain()}"


def describe_warmth(original: Execution) -> str:
    """Return what else no record holds, where the recorded worker had served others; empty where it had not."""
    if not original.served_before:
        return ""
    others = "an execution" if original.served_before == 1 else f"{original.served_before:,} executions"
    return f"; its worker had served {others} before, and what they left in module state is in no record"
