"""Whether new code does what the code before it did, judged by executions that were replayed on it.

`flux.supervisor.guard` replays the last executions on a deployment that is to be served and hands over what it saw.
Here is decided what that amounts to, in four steps::

    choose     which executions: the last of each kind, so that what is rare is seen too
    judge      each: the same, fixed, changed, failing, or undecided, with its reason
    group      those that changed in the same way, with the smallest example of each
    decide     whether the new code may be served

*Worse* is an execution that had not failed and now does, and one whose answer or effects changed without an
entry of `flux.accepted`. Effects are what leaves Flux and the rows that are kept. What a function only reads or logs
may change: a refactoring does that.

What could not be judged is counted and never passes for "the same": where it is more than a share that is
said beforehand, or where nothing at all was judged, the answer is no.
"""

import datetime
import enum
import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import TypeVar

import attrs

from flux import calls
from flux.accepted import Acceptance
from flux.execution import Execution
from flux.failure import find_failure
from flux.hostcall import HostCall
from flux.matching_session import READING_WORDS
from flux.mutation import Mutation
from flux.sanitize import sanitize
from flux.sql_rules import get_first_word
from flux.sql_shape import normalise
from flux.trace_diff import Diff, Found, Mark, Pair, Part
from flux.trace_values import ABSENT, Difference
from flux.verdict import Verdict

UNDECIDED_SHARE_MAX = 0.2
"""Of the executions that were replayed, so many may be undecided unless another share is asked for."""
SIGNATURE_DIGITS = 12
TOLD_CHARACTERS_MAX = 300
"""A change is told in no more than this: statements and keys may be of any length."""
NOT_THE_ANSWER = frozenset({"type", "cause", "stack", "outcome", "error"})
"""Where two ends differ without the client's seeing it."""
ALIKE = (Mark.SAME, Mark.NOT_SEEN)

T = TypeVar("T")


class Finding(enum.StrEnum):
    """What became of an execution, in the words of the command line and its JSON."""

    SAME = "same"
    FIXED = "fixed"
    """It had failed, and gets past that."""
    CHANGED = "changed"
    """Its answer or its effects are others."""
    FAILING = "failing"
    """It had not failed, and now does."""
    UNDECIDED = "undecided"


WORSE = frozenset({Finding.CHANGED, Finding.FAILING})


@attrs.frozen
class Change:
    """How an execution changed: what those of one group have in common."""

    function: str
    finding: Finding
    effect: str
    """What is another one: ``answer body.total: number, another``; or the failure."""
    root: str = ""
    """The call where the two part, when it is not the effect itself."""

    @property
    def signature(self) -> str:
        """The name of the group, the same in another run."""
        text = "\0".join((self.function, self.finding, self.effect, self.root))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:SIGNATURE_DIGITS]

    @property
    def text(self) -> str:
        """In a line; recorded text is in it."""
        return f"{self.function}: {self.effect}" + (f", from {self.root} on" if self.root else "")


@attrs.frozen
class Judged:
    """One execution and what was found of it."""

    id: uuid.UUID
    name: str
    """What people call it."""
    finding: Finding
    reason: str
    """A sentence, with nothing recorded in it."""
    change: Change | None = None
    """How, if it is in `WORSE`."""
    diff: Diff | None = None
    """Both sides, if it is in `WORSE` and has both."""
    size: tuple[int, int] = (0, 0)
    """How much there is to read of it, calls and then bytes: smaller ones are the better examples."""

    @property
    def rank(self) -> tuple[tuple[int, int], str]:
        """The place among the examples of a group."""
        return self.size, self.name

    @classmethod
    def of(
        cls,
        original: Execution,
        finding: Finding,
        reason: str,
        change: Change | None = None,
        diff: Diff | None = None,
    ) -> "Judged":
        """Judge ``original``."""
        size = len(original.calls), len(original.trigger.body)
        return cls(original.id, original.name, finding, reason, change, diff, size)


@attrs.frozen
class Group:
    """Executions that changed in the same way."""

    change: Change
    members: tuple[Judged, ...]
    """The smallest example first."""
    acceptance: Acceptance | None = None
    """The entry for it, whether it still holds or not."""
    is_accepted: bool = False

    @property
    def example(self) -> Judged:
        """The smallest."""
        return self.members[0]


@attrs.frozen
class Report:
    """What the executions show, and whether the code may be served."""

    judged: tuple[Judged, ...]
    groups: tuple[Group, ...]
    """Failing ones first, then the largest."""
    undecided_share_max: float
    refusals: tuple[str, ...]
    """Why the code is not to be served, a sentence each; none: it may."""
    unused: tuple[Acceptance, ...]
    """Entries that cover nothing of this."""

    @property
    def passes(self) -> bool:
        """Whether the code may be served."""
        return not self.refusals

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of each finding, all named."""
        counts = Counter(one.finding for one in self.judged)
        return {finding.value: counts[finding] for finding in Finding}

    @property
    def undecided(self) -> Mapping[str, int]:
        """The reasons of what is undecided, the most frequent first."""
        reasons = Counter(one.reason for one in self.judged if one.finding is Finding.UNDECIDED)
        return dict(reasons.most_common())


# --- choosing --------------------------------------------------------------------------------------


def choose(found: Sequence[T], stratum: Callable[[T], Hashable], limit: int) -> tuple[T, ...]:
    """Return the ``limit`` of ``found``, the latest first as it is, that show the most.

    Each stratum gives its latest, then each its second, and so on: of a route that is asked for once an hour all are
    taken, of the others the rest.
    """
    rounds: Counter[Hashable] = Counter()
    ranked: list[tuple[int, int]] = []
    for place, item in enumerate(found):
        kind = stratum(item)
        ranked.append((rounds[kind], place))
        rounds[kind] += 1
    return tuple(found[place] for place in sorted(place for _, place in sorted(ranked)[:limit]))


# --- judging ---------------------------------------------------------------------------------------


def judge(
    diff: Diff, verdict: Verdict, leaving: AbstractSet[str], *, heard_stand_ins: bool = False
) -> Judged:
    """Return what a replay shows: ``diff`` has the original beside it, ``verdict`` is `flux.verdict`'s.

    ``leaving`` are the kinds of host calls that do something for others to see, statements aside.
    ``heard_stand_ins``: of something that the replay heard, the value is not on record.
    """
    found = _judge(diff, verdict, leaving)
    if heard_stand_ins and found.finding in WORSE:
        return undecided(
            diff.a.execution, "it heard stand-ins for values that are not on record, which may be why"
        )
    return found


def undecided(original: Execution, reason: str) -> Judged:
    """Return that nothing is known, and why; ``reason`` has nothing recorded in it."""
    return Judged.of(original, Finding.UNDECIDED, reason)


def gone(original: Execution) -> Judged:
    """Return that the code has nothing any more that would answer."""
    change = Change(original.function, Finding.CHANGED, "nothing answers it any more")
    return Judged.of(original, Finding.CHANGED, "the code has no function for it", change)


def _judge(diff: Diff, verdict: Verdict, leaving: AbstractSet[str]) -> Judged:
    original = diff.a.execution
    before, after = find_failure(original), find_failure(diff.b.execution)
    had_failed = before is not None and not before.is_answer
    has_ended = diff.b.stopped is None
    fails = has_ended and after is not None and not after.is_answer
    if had_failed and not fails:
        if verdict in (Verdict.PASSED, Verdict.PAST_IT):
            return Judged.of(original, Finding.FIXED, "it had failed, and gets past that")
        if has_ended:
            return undecided(
                original, f"it had failed, and whether it still would is not known: {verdict.value}"
            )
    if fails and not had_failed:
        assert after is not None and after.signature is not None, "what is no answer has a signature"
        change = Change(original.function, Finding.FAILING, after.signature)
        return Judged.of(original, Finding.FAILING, "it had not failed, and now does", change, diff)
    effect = next(_list_effects(diff, leaving, had_failed=had_failed), None)
    if effect is not None:
        change = Change(original.function, Finding.CHANGED, effect, _find_root(diff, effect))
        return Judged.of(original, Finding.CHANGED, "its answer or its effects are others", change, diff)
    if not has_ended:
        # Where exactly is another place in each.
        reason = re.sub(r"\bcall [0-9]+", "a call", diff.b.stopped or "")
        return undecided(original, f"the replay was stopped: {reason}")
    return Judged.of(original, Finding.SAME, "it answers and does the same")


def _list_effects(diff: Diff, leaving: AbstractSet[str], *, had_failed: bool) -> Iterator[str]:
    """Yield what is another one for somebody outside: what was sent, what is answered, what is kept.

    Of a failure that is still one, the client sees its status and its code. In which function it was raised, and with
    what words, is not the client's to know, and is another one after each refactoring.
    """
    for pair in diff.calls:
        if pair.mark not in ALIKE and _is_effect(pair, leaving, has_rows=diff.state is not None):
            yield _tell_call(pair)
    for found in diff.outcome or ():
        place = found.difference.where.partition("[")[0]
        if place in ("status", "code") or not (had_failed or place in NOT_THE_ANSWER):
            yield f"answer {_tell_difference(found)}"
    for row in diff.state or ():
        if row.mark not in ALIKE and _is_kept(row, was_stopped=diff.b.stopped is not None):
            yield _tell_row(row)


def _is_effect(pair: Pair[HostCall], leaving: AbstractSet[str], *, has_rows: bool) -> bool:
    if pair.a is not None and pair.b is not None and pair.mark is not Mark.REORDERED:
        asks = [
            found for found in pair.differences if found.difference.where.startswith(("arguments", "kind"))
        ]
        if not asks:
            return False  # It hears something else: what follows from that is another pair's.
    return any(
        call is not None and (call.request.name in leaving or (not has_rows and _writes(call)))
        for call in (pair.a, pair.b)
    )


def _writes(call: HostCall) -> bool:
    statement = calls.read_statement(call)
    return statement is not None and get_first_word(statement.sql) not in READING_WORDS


def _is_kept(row: Pair[Mutation], *, was_stopped: bool) -> bool:
    """Whether either side's row stays. What was stopped had not come to its commit, and might have."""
    return any(side is not None and (side.committed or was_stopped) for side in (row.a, row.b))


def _find_root(diff: Diff, effect: str) -> str:
    """The first call that differs, unless it is the effect."""
    if diff.first is None or diff.first.part is not Part.CALL:
        return ""
    told = _tell_call(diff.calls[diff.first.index])
    return "" if told == effect else told


# --- telling ---------------------------------------------------------------------------------------


def _shorten(text: str) -> str:
    """Cut what is too long, so that two of one beginning are told apart all the same."""
    if len(text) <= TOLD_CHARACTERS_MAX:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{text[:TOLD_CHARACTERS_MAX]}… ({digest[:SIGNATURE_DIGITS]})"


def _tell_call(pair: Pair[HostCall]) -> str:
    """What a call is and how it differs, without its place and its values: the same for all that differ so."""
    call = pair.b if pair.b is not None else pair.a
    assert call is not None
    title = _name_call(call)
    match pair.mark:
        case Mark.ONLY_A:
            return f"{title} is not asked any more"
        case Mark.ONLY_B:
            return f"{title} is asked, and was not"
        case Mark.REORDERED:
            return f"{title} comes in another order"
    return f"{title}: {_tell_difference(pair.differences[0])}" if pair.differences else title


def _name_call(call: HostCall) -> str:
    statement = calls.read_statement(call)
    if statement is not None:
        return _shorten(f"{call.request.name} {normalise(statement.sql)}")
    request = calls.read_outbound(call)
    if request is None:
        return call.request.name
    # Of a path, ids are a part: the host says whose it is.
    return _shorten(f"{request.method} {calls.find_host(request.url) or request.url}")


def _tell_row(row: Pair[Mutation]) -> str:
    side = row.b if row.b is not None else row.a
    assert side is not None
    title = f"row of {side.table}, {side.op.value}"
    match row.mark:
        case Mark.ONLY_A:
            return f"{title}: is not written any more"
        case Mark.ONLY_B:
            return f"{title}: is written, and was not"
    return f"{title}: {_tell_difference(row.differences[0])}" if row.differences else title


_NUMBER = re.compile(r"[0-9]+")


def _tell_difference(found: Found) -> str:
    """Where, and between what kinds of values. Numbers in a path say which of many, and all are the same change."""
    difference = found.difference
    where = _shorten(_NUMBER.sub("#", sanitize(difference.where)))
    if difference.where == "status":
        return f"status {difference.a} → {difference.b}"
    return f"{where}: {_tell_kinds(difference)}"


def _tell_kinds(difference: Difference) -> str:
    before, after = _name_kind(difference.a), _name_kind(difference.b)
    return f"another {before}" if before == after else f"{before} → {after}"


def _name_kind(value: object) -> str:
    match value:
        case _ if value is ABSENT:
            return "nothing"
        case None:
            return "null"
        case bool():
            return "truth value"
        case int() | float() | Decimal():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
    return "object"


# --- grouping and deciding -------------------------------------------------------------------------


def group(judged: Sequence[Judged]) -> tuple[Group, ...]:
    """Return what changed, by how it changed: failing ones first, then the largest."""
    members: dict[Change, list[Judged]] = {}
    for one in judged:
        if one.finding in WORSE:
            assert one.change is not None, "what changed says how"
            members.setdefault(one.change, []).append(one)
    groups = [
        Group(change, tuple(sorted(ones, key=lambda one: one.rank))) for change, ones in members.items()
    ]
    groups.sort(
        key=lambda one: (one.change.finding is not Finding.FAILING, -len(one.members), one.change.signature)
    )
    return tuple(groups)


def decide(
    judged: Sequence[Judged], acceptances: Sequence[Acceptance], today: datetime.date,
    undecided_share_max: float = UNDECIDED_SHARE_MAX,
) -> Report:  # fmt: skip
    """Return whether the code may be served that these executions were replayed on."""
    entries = {one.signature: one for one in acceptances}
    groups = []
    for each in group(judged):
        entry = entries.get(each.change.signature)
        is_accepted = entry is not None and entry.holds(today) and each.change.finding is Finding.CHANGED
        groups.append(attrs.evolve(each, acceptance=entry, is_accepted=is_accepted))
    used = {each.change.signature for each in groups}
    return Report(
        tuple(judged), tuple(groups), undecided_share_max,
        tuple(_refuse(judged, groups, undecided_share_max)),
        tuple(one for one in acceptances if one.signature not in used),
    )  # fmt: skip


def _refuse(judged: Sequence[Judged], groups: Sequence[Group], share_max: float) -> Iterator[str]:
    if not judged:
        yield "no execution is on record that could be replayed, so nothing is known of this code"
        return
    failing = sum(len(each.members) for each in groups if each.change.finding is Finding.FAILING)
    changed = sum(
        len(each.members)
        for each in groups
        if each.change.finding is Finding.CHANGED and not each.is_accepted
    )
    if failing:
        yield f"{_count(failing)} that had not failed now fail{'s' * (failing == 1)}"
    if changed:
        yield f"{_count(changed)} change{'s' * (changed == 1)} in a way that no entry accepts"
    undecided = sum(one.finding is Finding.UNDECIDED for one in judged)
    if undecided == len(judged):
        yield f"none of {_count(undecided)} could be judged"
    elif undecided > share_max * len(judged):
        yield f"{undecided} of {_count(len(judged))} could not be judged, and {share_max:.0%} may be so"


def _count(number: int) -> str:
    return f"{number:,} execution{'s' * (number != 1)}"
