"""What a replay shows about the failure that was recorded.

A verdict is about one question: would this code have failed this request the same way?
It never flatters. ``passed`` takes an answer that is no failure, with a database that
agreed with the record as long as it could. A replay that had to stop says where it was:
*past it* when everything that the failed execution asked had been asked and answered
alike, and then something more was asked (a failing run stops early, so what a repaired
one asks next was never recorded); *diverged* when it left before that, which decides
nothing. And where the recorded answer of somebody else is the failure itself (a time-out,
a 5xx), the code has had no say: *outside*.

Where the replay heard stand-ins for values that are not on record (`flux.synthetic`), its verdict says so. A request
that is refused then was perhaps refused for the stand-in: that decides nothing.
"""

import enum
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import attrs

from flux.calls import find_error, read_statement
from flux.execution import Execution, Killed
from flux.failure import Failure, Kind, find_failure
from flux.hostcall import HostCall, HostCallRequest
from flux.matching import Grade, Pair, align
from flux.matching_session import Fidelity
from flux.session import Divergence
from flux.sql_rules import get_first_word
from flux.sql_world import find_names
from flux.streamed import UNHEARD


class Verdict(enum.StrEnum):
    """In the words of the command line and its JSON."""

    SAME_FAILURE = "same failure"
    PASSED = "passed"
    PAST_IT = "past it"
    OTHER_FAILURE = "other failure"
    DIVERGED = "diverged"
    OUTSIDE = "outside"
    UNFAITHFUL = "unfaithful"
    UNREPLAYABLE = "unreplayable"
    IDENTICAL = "identical"
    """Of an execution that had not failed: it asked, said and answered the same."""
    CHANGED = "changed"
    """Of an execution that had not failed: it did not."""


@attrs.frozen
class Replayed:
    """What a replay did."""

    execution: Execution
    """As it would have been recorded. Of one that was stopped, the outcome means nothing."""
    divergence: Divergence | None = None
    """The question that nothing could answer, at which it was stopped."""
    waited_for: HostCallRequest | None = None
    """The question whose answer does not come within the time limit, or was never recorded."""
    fidelity: Fidelity = attrs.Factory(Fidelity)
    brought: frozenset[int] = frozenset()
    """Numbers of its calls whose answer the caller brought."""
    synthetic: tuple[str, ...] = ()
    """Parts of what it heard that are stand-ins for values not on record; see `flux.synthetic`."""


@attrs.frozen
class Judgement:
    """A verdict and what it rests on."""

    verdict: Verdict
    reason: str
    """A sentence, with nothing recorded in it."""
    pairs: tuple[Pair, ...]
    """The calls of both sides."""

    @property
    def grades(self) -> dict[str, int]:
        """How many calls there are of each grade, all grades named."""
        counts = Counter(pair.grade for pair in self.pairs)
        return {grade.value: counts[grade] for grade in Grade}


_UNDECIDED = frozenset(
    {Verdict.DIVERGED, Verdict.CHANGED, Verdict.OTHER_FAILURE, Verdict.PAST_IT, Verdict.UNFAITHFUL}
)
"""Where the replay did something else than was recorded."""
_OUTSIDE_KINDS = frozenset(
    {Kind.OUTBOUND_TIMEOUT, Kind.OUTBOUND_ERROR, Kind.OUTBOUND_STATUS, Kind.INVOKE_FAILED}
)


def judge(original: Execution, replayed: Replayed) -> Judgement:
    """Return what ``replayed`` shows about ``original``."""
    pairs = tuple(align(original.calls, replayed.execution.calls))
    verdict, reason = _judge(original, replayed, pairs)
    if replayed.synthetic:
        verdict, reason = _qualify(verdict, reason, original, replayed)
    return Judgement(verdict, reason, pairs)


def _qualify(verdict: Verdict, reason: str, original: Execution, replayed: Replayed) -> tuple[Verdict, str]:
    """Say what the stand-ins that the replay heard leave of its verdict."""
    again = find_failure(replayed.execution)
    if verdict is Verdict.PASSED and again is not None and original.outcome != replayed.execution.outcome:
        return (
            Verdict.DIVERGED,
            f"{reason}, but it heard stand-ins for values that are not on record, and may have refused those; "
            "nothing is decided",
        )
    if verdict in _UNDECIDED:
        return verdict, f"{reason}. It heard stand-ins for values that are not on record, which may be why"
    return verdict, f"{reason}. It heard stand-ins for values that are not on record"


def _judge(original: Execution, replayed: Replayed, pairs: Sequence[Pair]) -> tuple[Verdict, str]:
    if replayed.fidelity.first_unequal is not None:
        call, _ = replayed.fidelity.first_unequal
        return (
            Verdict.UNFAITHFUL,
            f"the rebuilt database answers call {call.request.seq} otherwise than it was answered then",
        )
    if (divergence := replayed.divergence) is not None and divergence.kind == UNHEARD:
        return (
            Verdict.OUTSIDE,
            f"call {divergence.seq} reads the request's body, of which the SHA-256 is on record and not the bytes",
        )
    failure = find_failure(original)
    if failure is None or failure.is_answer:
        return _judge_healthy(original, replayed, pairs)
    verdict, reason = _judge_failed(original, failure, replayed, pairs)
    if failure.kind is Kind.EVICTED and _came_to_its_end(verdict, replayed):
        return Verdict.OUTSIDE, "it was ended for the memory that its neighbours held too, and a replay has none"
    return verdict, reason


def _came_to_its_end(verdict: Verdict, replayed: Replayed) -> bool:
    """Whether the replay did all that is on record, whatever it did then."""
    divergence = replayed.divergence
    is_over = divergence is not None and divergence.kind in ("outcome", "fuel")
    return is_over or verdict in (Verdict.SAME_FAILURE, Verdict.PASSED, Verdict.PAST_IT, Verdict.OUTSIDE)


def _judge_failed(
    original: Execution, failure: Failure, replayed: Replayed, pairs: Sequence[Pair]
) -> tuple[Verdict, str]:
    if replayed.divergence is not None:
        return _judge_stopped(failure, replayed.divergence, pairs)
    if replayed.waited_for is not None:
        return _judge_waiting(original, failure, replayed.waited_for, pairs)
    again = find_failure(replayed.execution)
    if again is None:
        return Verdict.PASSED, f"it answered {replayed.execution.status}"
    if again.is_answer:
        return Verdict.PASSED, f"it answered {replayed.execution.status}, which is no failure of the function"
    if again.signature != failure.signature:
        return Verdict.OTHER_FAILURE, "it fails, and not as it did"
    if failure.kind in _OUTSIDE_KINDS and _was_heard_alike(failure.call, pairs, replayed.brought):
        return Verdict.OUTSIDE, f"what fails it is the answer of call {failure.call}, which is in the record"
    return Verdict.SAME_FAILURE, "the same exception from the same function"


def _judge_healthy(original: Execution, replayed: Replayed, pairs: Sequence[Pair]) -> tuple[Verdict, str]:
    if replayed.divergence is not None:
        return Verdict.DIVERGED, f"{_tell(replayed.divergence)}; what follows is undecided"
    if replayed.waited_for is not None:
        return Verdict.DIVERGED, f"call {replayed.waited_for.seq} is not answered within the time limit"
    differences = []
    if any(pair.grade is not Grade.EXACT for pair in pairs):
        differences.append("what it asks")
    if original.outcome != replayed.execution.outcome:
        differences.append("what it answers")
    if differences:
        return Verdict.CHANGED, f"it differs in {' and '.join(differences)}"
    return Verdict.IDENTICAL, "it asks and answers the same"


def _judge_stopped(failure: Failure, divergence: Divergence, pairs: Sequence[Pair]) -> tuple[Verdict, str]:
    seq = divergence.seq
    # Without the question that stopped it, everything must be there that was there. What else was asked must have come
    # behind all of that, and been answered: code that goes on writes its rows before it sends its mail.
    stopped_at = [pair for pair in pairs if pair.right is not None and pair.right.request.seq == seq]
    others = [pair for pair in pairs if pair not in stopped_at]
    others, replaced = _leave_out_replaced(failure, others)
    recorded = [pair for pair in others if pair.left is not None]
    last = max((pair.right.request.seq for pair in recorded if pair.right is not None), default=0)
    is_new = [pair.grade for pair in stopped_at] == [Grade.NEW]
    went_on = all(pair.right is not None and pair.right.request.seq > last for pair in others if pair.left is None)
    are_alike = all(pair.grade in (Grade.EXACT, Grade.REORDERED) for pair in recorded)
    if is_new and went_on and are_alike and _all_heard(others):
        asked = "everything that the failed execution asked was asked and answered alike"
        if replaced:
            asked += ", but for the statement that failed: another one in its place was answered"
        return Verdict.PAST_IT, f"{asked}; then it asked for call {seq}, which was never recorded"
    return Verdict.DIVERGED, f"{_tell(divergence)}, before the point where it failed; nothing is decided"


def _leave_out_replaced(failure: Failure, pairs: Sequence[Pair]) -> tuple[list[Pair], bool]:
    """Return the pairs without the recorded statement that failed, where the replay has mended it; and whether it has.

    That is so only of the last thing that was recorded, and where the next statement of the replay is much the same,
    from the same function, and had no error.
    """
    failing = next((pair for pair in pairs if pair.left is not None and pair.left.request.seq == failure.call), None)
    if failing is None or failing.left is None or failing.grade not in (Grade.MISSING, Grade.CHANGED):
        return list(pairs), False
    others = [pair for pair in pairs if pair is not failing]
    recorded = [pair for pair in others if pair.left is not None]
    if any(pair.left is not None and pair.left.request.seq > failing.left.request.seq for pair in recorded):
        return list(pairs), False
    last = max((pair.right.request.seq for pair in recorded if pair.right is not None), default=0)
    candidates = [failing.right] if failing.right is not None else [pair.right for pair in others]
    later = [call for call in candidates if call is not None and call.request.seq > last]
    instead = min(later, key=lambda call: call.request.seq, default=None)
    if instead is None or not _is_mended(failing.left, instead):
        return list(pairs), False
    return [*others, *([] if failing.right is None else [Pair(Grade.NEW, None, failing.right)])], True


def _is_mended(failed: HostCall, instead: HostCall) -> bool:
    """Whether a statement does what one that failed was to do, and has no error."""
    one, other = read_statement(failed), read_statement(instead)
    if one is None or other is None or find_error(failed) is None:
        return False
    if instead.result is None or find_error(instead) is not None:
        return False
    places = [call.request.position for call in (failed, instead)]
    if any(place is None for place in places) or len({(p.file, p.function) for p in places if p is not None}) > 1:
        return False
    names = [find_names(statement.sql) for statement in (one, other)]
    if get_first_word(one.sql) != get_first_word(other.sql):
        return False
    return 2 * len(names[0] & names[1]) >= len(names[0] | names[1])


def _tell(divergence: Divergence) -> str:
    """What a replay did that was not recorded, with nothing recorded in it."""
    seq = divergence.seq
    match divergence.kind:
        case "outcome":
            return "it ends otherwise than it was recorded"
        case "missing":
            return f"call {seq} is never asked"
        case "log":
            return f"log line {seq} is another one"
        case "fuel":
            return f"it comes to call {seq} by another way" if seq else "it comes to its end by another way"
    return f"call {seq} asks " + (
        "otherwise" if divergence.expected is not None else "for what was never recorded"
    )


def _judge_waiting(
    original: Execution, failure: Failure, waited_for: HostCallRequest, pairs: Sequence[Pair]
) -> tuple[Verdict, str]:
    counterpart = next(
        (pair.left for pair in pairs if pair.right is not None and pair.right.request.seq == waited_for.seq),
        None,
    )
    if counterpart is None or counterpart.result is not None:
        return Verdict.OTHER_FAILURE, f"it waits for call {waited_for.seq} until its time limit"
    if isinstance(original.outcome, Killed) and failure.call == counterpart.request.seq:
        return Verdict.OUTSIDE, f"call {failure.call} was never answered, and waiting for it is what fails"
    return Verdict.DIVERGED, f"it waits for call {waited_for.seq}, whose answer was never recorded"


def _was_heard_alike(seq: int | None, pairs: Sequence[Pair], brought: AbstractSet[int]) -> bool:
    """Whether the replay asked the question behind the failure as it was asked then, and heard the answer of then."""
    return any(
        pair.left is not None
        and pair.left.request.seq == seq
        and pair.right is not None
        and pair.right.request.seq not in brought
        and pair.grade in (Grade.EXACT, Grade.REORDERED)
        for pair in pairs
    )


def _all_heard(pairs: Sequence[Pair]) -> bool:
    return all(pair.right is not None and pair.right.result is not None for pair in pairs)
