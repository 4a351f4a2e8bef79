"""Running the experiment behind ``flux why --prove``: each run is a replay, with nothing leaving.

What is tried, in which order, and when it is enough is `flux.prove`'s business; what can be flipped is
`flux.prove_flips`'s. Here their choices are run. The code is the execution's own, and it runs in the database as
the execution saw it, as changed code would: a function that hears something else asks something else. The runs that
show something (the controls, and those that pass) are kept as executions, so that each claim can be looked at.
"""

import uuid
from collections.abc import Awaitable, Callable

import attrs
import trio

from flux.errors import FluxError, OperatorError
from flux.execution import Execution
from flux.failure import find_failure
from flux.prove import CONTROLS, RUNS_MAX, Effect, Finding, Run, read_effect, search
from flux.prove_flips import Code, Flips, alter, list_flips
from flux.store.passing import find_passing_on_earlier_code, list_passing
from flux.supervisor.artifacts import CodeGoneError
from flux.supervisor.bisect import NOT_BUILT
from flux.supervisor.execute import Backing
from flux.supervisor.replay import Replay, Replayer, UnreplayableError, check_whole, read_value
from flux.supervisor.replay_record import keep_replay, to_replay

LOOKED_AT = 1000
"""Executions of the function that are looked through for such as passed, on each side."""
PEERS_MAX = 10
"""Of them, so many are compared with, on each side."""


class NothingToProveError(OperatorError):
    """The execution did not fail."""

    code = "FLX690"


class NoControlError(OperatorError):
    """Run again with nothing flipped, the execution does not fail as it did."""

    code = "FLX691"
    exit_code = 6


@attrs.frozen
class Subject:
    """What is to be experimented on."""

    original: Execution
    """With its committed mutations too."""
    erasures: int
    """From before anything was read: see `flux.supervisor.replay_record`."""
    flips: Flips


@attrs.frozen
class Shown:
    """One run, for whoever watches."""

    number: int
    """From 1."""
    run: Run
    status: int
    """What the function answered; of a run that was stopped it means nothing."""
    name: str | None
    """Of its execution; None when it was not kept."""
    reason: str
    notes: tuple[str, ...] = ()
    """What of the database was not as it was."""


@attrs.frozen
class Proof:
    """A finding and the runs behind it."""

    finding: Finding
    shown: tuple[Shown, ...]
    """In the order of `Finding.runs`."""


Watch = Callable[[Shown], Awaitable[None]]


class Prover:
    """Makes experiments on executions of one tenant."""

    def __init__(self, replayer: Replayer, backing: Backing) -> None:
        self._replayer = replayer
        self._backing = backing

    async def prepare(self, id: uuid.UUID) -> Subject:
        """Return what there is to try; raise what keeps that execution from being experimented on."""
        now = await to_replay(self._backing, self._replayer, id)
        original = now.execution
        failure = find_failure(original)
        if failure is None or failure.is_answer:
            raise NothingToProveError(
                f"{original.name} did not fail: it answered {original.status}",
                remedy=f"flux why {original.name} says what is on record",
            )
        check_whole(original, needs_rows=False)
        read_value(original.trigger)
        peers = await list_passing(self._backing.owner, original, LOOKED_AT, PEERS_MAX)
        earlier = await find_passing_on_earlier_code(self._backing.owner, original, LOOKED_AT)
        self._replayer.expect([original])
        # Long lists of calls are compared with those of each peer.
        flips = await trio.to_thread.run_sync(list_flips, original, failure, peers, earlier)
        return Subject(original, now.erasures, flips)

    async def prove(self, subject: Subject, watch: Watch, runs_max: int = RUNS_MAX) -> Proof:
        """Run the experiment; raise `NoControlError` where it can't be made."""
        shown: list[Shown] = []
        steps = search(subject.flips.flips, runs_max)
        trial = next(steps)
        while True:
            one = await self._run(subject, Run(trial, Effect.UNDECIDED), len(shown) + 1)
            shown.append(one)
            await watch(one)
            try:
                trial = steps.send(one.run.effect)
            except StopIteration as end:
                finding: Finding = end.value
                break
        if not finding.has_control:
            raise _explain_control(subject.original, shown)
        return Proof(finding, tuple(shown))

    async def _run(self, subject: Subject, run: Run, number: int) -> Shown:
        altered = alter(subject.original, run.flips)
        try:
            replay = await self._replayer.replay(
                altered.execution, None, {}, rehearses=True, given=altered.given, lends=altered.lends
            )
        except FluxError as error:
            if not any(isinstance(flip.change, Code) for flip in run.flips) or not _is_of_code(error):
                raise
            # The earlier code can't be run, which says nothing of any other flip.
            return Shown(number, run, 0, None, f"{error.code} {error.message}")
        status = replay.replayed.execution.status
        effect = read_effect(replay.judgement.verdict, status)
        name = None
        if not run.flips or effect.is_passing:
            replay = await keep_replay(self._backing, _describe(replay, len(run.flips)), subject.erasures)
            assert replay.recorded_as is not None, "it was kept"
            name = replay.recorded_as.name
        return Shown(number, attrs.evolve(run, effect=effect), status, name, replay.judgement.reason, replay.notes)


def _is_of_code(error: FluxError) -> bool:
    return isinstance(error, (*NOT_BUILT, CodeGoneError, UnreplayableError))


def _describe(replay: Replay, flips: int) -> Replay:
    """Have the replay's own record say that it heard something else than was recorded."""
    if not flips:
        return replay
    what = "one thing" if flips == 1 else f"{flips} things"
    reason = f"{replay.judgement.reason}, with {what} flipped that the execution heard (flux why --prove)"
    return attrs.evolve(replay, judgement=attrs.evolve(replay.judgement, reason=reason))


def _explain_control(original: Execution, shown: list[Shown]) -> NoControlError:
    effects = [one.run.effect for one in shown[:CONTROLS]]
    last = shown[-1]
    if len(effects) > 1:
        why = f"once it fails as it did, and once: {effects[-1]} ({last.reason})"
    else:
        why = f"{effects[-1]} ({last.reason})"
    return NoControlError(
        f"run again with nothing flipped, {original.name} does not fail as it did: {why}",
        remedy=f"flux replay {original.name} shows where it parts from its record; without a control nothing is proved",
    )
