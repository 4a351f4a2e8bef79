"""Stepping through a recorded execution, both ways.

A Python execution is run again on its own code, to the letter (`Replayer.follow`), with a guest that tells of each
step. The number of a step is the same in each run: "go back" is a run that is asked about an earlier number,
and "go back to where it changed" one that is asked for the last change before this. Whether the run did what is on
record is its verdict, and that is part of every answer: being followed changes how fast a function is, and how much
memory it uses, and a function that goes by such things would go another way.

Code in other languages is not run for this. Its record has each host call with what was asked and answered, and where,
and these are its steps.
"""

from collections.abc import Awaitable, Callable

import attrs

from flux.errors import OperatorError
from flux.execution import Execution, Killed, Raised, get_user_frame
from flux.expression import Expression
from flux.stepping import Search
from flux.supervisor.replay import Replay
from flux.travel import EVENTS_MAX, FRAMES_MAX, UNTOLD_MAX, Event, Shown, Tap, TracePlan, Value

AHEAD = EVENTS_MAX // 4
"""Of the events that are listed, those behind the one that is looked at."""
NAMES_TOLD = 20
Follow = Callable[[Execution, Tap], Awaitable[Replay]]


class NoSuchEventError(OperatorError):
    """The execution has fewer events."""

    code = "FLX671"
    exit_code = 2


class NotReachedError(OperatorError):
    """The line that was asked about did not run."""

    code = "FLX672"
    exit_code = 1


class NoSuchFrameError(OperatorError):
    """Fewer functions were running."""

    code = "FLX681"
    exit_code = 2


class HostCallsOnlyError(OperatorError):
    """What was asked needs the lines of an execution, and there are host calls alone."""

    code = "FLX673"


@attrs.frozen
class Question:
    """What is to be seen."""

    at: int | None = None
    """Event whose names are shown. None: the last that was found; else where it failed; else the last."""
    around: int = 0
    """Events before and after it whose names are shown too."""
    lists: bool = True
    """List the steps around it, far and wide; else only those whose names are shown."""
    up: int = 0
    """Whose names are shown: 0, those of the function that runs; 1, of who called it; and so on."""
    place: tuple[str, int] | None = None
    """File, or the end of its path, and line where ``expressions`` are looked up."""
    expressions: tuple[Expression, ...] = ()
    """Without a place, and unless they are watched: looked up at the event that is shown."""
    watches: bool = False
    """Follow how the one expression changes."""
    condition: Expression | None = None
    before: int | None = None
    """Find only what is before this event, and stand where the last of it is."""
    after: int | None = None
    """Find only what is after this event, and stand where the first of it is."""
    seek: Search | None = None
    """Find the event that a step leads to, from ``before`` or ``after``."""

    @property
    def finds(self) -> bool:
        """Whether it is about values."""
        return self.place is not None or self.watches or self.condition is not None or self.seek is not None


@attrs.frozen
class Debugged:
    """What was seen."""

    total: int
    """Events of the execution; where it is not ``ended``, those that are known of."""
    at: int | None
    """The one that is shown; None where it has none, or nothing was found before `Question.before`."""
    events: tuple[Event, ...]
    """Those around it."""
    shown: dict[int, Shown]
    """What names held, by event."""
    values: tuple[Value, ...]
    values_count: int
    """How many there were; of them the last are in ``values``."""
    replay: Replay | None
    """The run that showed it; None where the record itself did."""
    ended: bool
    """The last event that is known of was the last."""
    notes: tuple[str, ...] = ()


def is_followed(execution: Execution) -> bool:
    """Whether its lines can be seen, and not only its host calls."""
    return execution.level.kind == "process"


async def debug(original: Execution, question: Question, follow: Follow) -> Debugged:
    """Answer ``question`` about ``original``, which has all of its mutations; ``follow`` runs it."""
    if not is_followed(original):
        return _read_calls(original, question)
    finding = TracePlan(
        place=question.place,
        expressions=question.expressions,
        watches=question.watches,
        condition=question.condition,
        before=question.before,
        after=question.after,
        seek=question.seek,
    )
    found: Tap | None = None
    at = question.at
    if at is None:
        found, replay = await _run(original, finding, follow)
        at = _choose(original, found, question)
        if at is None:
            return _describe(found, found, replay, None)
    if at < 1:
        raise NoSuchEventError(f"event {at} does not exist", remedy="events count from 1")
    shows = TracePlan(expressions=() if question.finds else question.expressions)
    plan = shows if found is not None else finding
    is_last = found is not None and not (found.is_whole or found.values) and at == max(1, found.last)
    at, seen, replay = await _see(original, question, plan, at, follow, is_last=is_last)
    if at is None:
        return _describe(seen, seen, replay, None)
    stack = seen.shown[at].stack if at in seen.shown else []
    if question.up and question.up >= len(stack):
        raise NoSuchFrameError(
            f"at event {at:,} {len(stack)} functions of the project's were running",
            remedy=f'"up": 0 to {len(stack) - 1}',
        )
    found = found or seen
    if question.finds and question.before is None and question.after is None:
        _check_reached(question, found)
    return _describe(found, seen, replay, at)


async def _see(
    original: Execution, question: Question, plan: TracePlan, at: int, follow: Follow, *, is_last: bool
) -> tuple[int | None, Tap, Replay]:
    """Show what is around ``at``; return where one stands.

    ``is_last``: it is the last event that was known of when the function was killed, and the last one is meant. There
    may be a few more, and they are told at once. And where time ended it, this run may come less far: then what it came
    to is shown, or what is half way there; None is where it came to nothing of the project's.
    """
    around = min(question.around, FRAMES_MAX // 2 - 1)
    before, after = (EVENTS_MAX - AHEAD, AHEAD - 1) if question.lists else (around, around)
    behind = max(around, UNTOLD_MAX) if is_last else around
    while True:
        window = attrs.evolve(
            plan,
            up=question.up,
            events=(max(1, at - before), at + max(after, behind)),
            frames=(max(1, at - around), at + behind),
        )
        seen, replay = await _run(original, window, follow)
        if not is_last:
            break
        if seen.last >= at:
            # What comes behind it was told at once, up to the last whose names there was time to tell.
            at = max(seen.shown, default=at)
            break
        if seen.last == 0:
            return None, seen, replay
        at = max(1, seen.last // 2)
    if at > seen.last:
        message, remedy = _tell_end(original, at, seen)
        raise NoSuchEventError(message, remedy=remedy)
    if is_last:
        seen.shown = {number: shown for number, shown in seen.shown.items() if abs(number - at) <= around}
    return at, seen, replay


def _tell_end(original: Execution, at: int, seen: Tap) -> tuple[str, str]:
    """Return why there is no event ``at``, and what to do."""
    remedy = f"--at 1 to {seen.last}"
    if seen.is_whole:
        return f"event {at:,} does not exist: {original.name} has {seen.last:,}", remedy
    why = "it was ended from outside" if seen.end is None else "it took the tracer away"
    return f"event {at:,} of {original.name} is not known: {why}, and the last that is known is {seen.last:,}", remedy


async def _run(original: Execution, plan: TracePlan, follow: Follow) -> tuple[Tap, Replay]:
    tap = Tap(plan)
    return tap, await follow(original, tap)


def _choose(original: Execution, found: Tap, question: Question) -> int | None:
    """Return the event to stand at."""
    if question.before is not None:
        return found.values[-1].event if found.values else None
    if question.after is not None:
        return found.values[0].event if found.values else None
    if question.finds:
        _check_reached(question, found)
    if found.values:
        return found.values[-1].event
    outcome = original.outcome
    raised = {} if found.end is None else {(file, line): number for file, line, number in found.end.raised}
    if isinstance(outcome, Raised) and raised:
        inner = get_user_frame(outcome)
        place = None if inner is None else (inner.file, inner.line)
        return raised[place] if place in raised else max(raised.values())
    # Of the first few events of one that was killed nothing may have been told yet.
    return found.last or (None if found.is_whole else 1)


def _check_reached(question: Question, found: Tap) -> None:
    if found.values or found.end is None or question.place is None:
        return
    file, line = question.place
    files = [name for name in found.end.files if name == file or name.endswith(f"/{file}")]
    if not files:
        ran = ", ".join(found.end.files[:NAMES_TOLD])
        raise NotReachedError(f"nothing of {file} ran in it", remedy=f"of the project ran {ran or 'no file'}")
    nearest = sorted(found.end.lines, key=lambda each: abs(each - line))[:NAMES_TOLD]
    lines = ", ".join(map(str, sorted(nearest)))
    raise NotReachedError(f"line {line} of {files[0]} did not run in it", remedy=f"near it ran {lines or 'no line'}")


def _describe(found: Tap, seen: Tap, replay: Replay, at: int | None) -> Debugged:
    notes = list(replay.notes)
    if seen.end is None:
        notes.append(f"it was ended from outside: nothing is known of what it did behind event {seen.last:,}")
    elif seen.end.lost:
        notes.append(f"the function took the tracer away: nothing is known of what ran after event {seen.last:,}")
    if seen.dropped_bytes:
        notes.append(f"{seen.dropped_bytes:,} bytes of what names held are left out: ask for fewer events at once")
    if isinstance(replay.original.outcome, Killed):
        notes.append("it was killed by a limit, and a run that is followed has more time and memory than it had")
    return Debugged(
        seen.last,
        at,
        tuple(seen.events),
        seen.shown,
        tuple(found.values),
        found.values_count,
        replay,
        found.is_whole and seen.is_whole,
        tuple(notes),
    )


def _read_calls(original: Execution, question: Question) -> Debugged:
    """Return the steps of an execution that are its host calls."""
    if question.finds or question.expressions or question.up:
        raise HostCallsOnlyError(
            f"{original.name} ran as {original.level.kind}: its record has what was asked and answered at each host "
            "call, and nothing of what names held between them",
            remedy=f"flux trace debug {original.name} --at N shows call N",
        )
    events, heard = [], 0
    for number, call in enumerate(original.calls, 1):
        # One stands behind the call, with its answer.
        heard = max(heard, call.answered or 0)
        place = call.request.position
        file, line, function = ("", 0, "") if place is None else (place.file, place.line, place.function)
        name, seq = call.request.name, call.request.seq
        events.append(Event(number, "host call", file, line, function, 0, 0, seq, name, heard))
    at = question.at if question.at is not None else len(events) or None
    if at is not None and not 1 <= at <= len(events):
        raise NoSuchEventError(
            f"event {at} does not exist: {original.name} made {len(events):,} host calls", remedy="events count from 1"
        )
    note = f"it ran as {original.level.kind}: its steps are its host calls, read from the record"
    return Debugged(len(events), at, tuple(events), {}, (), 0, None, ended=True, notes=(note,))
