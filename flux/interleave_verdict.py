"""What a replay of executions at once shows about what was wrong.

Two orders that were both accepted may be right or wrong: nobody but the user knows, who says so with a
query of what must not be. So *fixed* and *clean* are said of a check alone, and only when every one of the
executions came to an end of its own and none fails. Without a check there is what can be seen: the same answers and
rows as then, or others.
"""

import enum

import attrs


class TogetherVerdict(enum.StrEnum):
    """In the words of the command line and its JSON."""

    FIXED = "fixed"
    """The check found rows then and finds none now."""
    CLEAN = "clean"
    """The check finds nothing, neither then nor now."""
    STILL_WRONG = "still wrong"
    """The check finds rows now."""
    FAILS = "fails"
    """The check finds nothing, and executions fail."""
    REPRODUCED = "reproduced"
    """There is no check. The answers and the rows are those of then."""
    CHANGED = "changed"
    """There is no check. Some answers or rows are others."""
    UNDECIDED = "undecided"
    """An execution asked for what nothing can answer, so it did not do all that it would do."""
    UNFAITHFUL = "unfaithful"
    """On the code that made the record, something else comes out: what it shows of other code is worth nothing."""


FINE_TOGETHER = frozenset({TogetherVerdict.FIXED, TogetherVerdict.CLEAN})
"""Verdicts that say that nothing is wrong."""


@attrs.frozen
class Seen:
    """What a verdict rests on."""

    is_recorded_code: bool
    stopped: int
    """Executions that did not come to an end of their own."""
    failing: int
    """Executions whose function failed, in the replay."""
    other_answers: int
    """Executions that answered with another status than then."""
    other_tables: tuple[str, ...]
    """Tables whose final rows are not those of then."""
    unequal: int
    """Statements that were asked as then and answered otherwise."""
    found_then: int | None
    """Rows of the check in what was recorded; None without a check."""
    found_now: int | None
    relaxed: int
    """Gates that were opened although something was missing."""


def judge_together(seen: Seen) -> tuple[TogetherVerdict, str]:
    """Return the verdict and its reason, a sentence with nothing recorded in it."""
    verdict, reason = _judge(seen)
    if seen.relaxed:
        reason += (
            f"; {count(seen.relaxed, 'gate')} had to be opened, as this code does not come in that order"
        )
    return verdict, reason


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _judge(seen: Seen) -> tuple[TogetherVerdict, str]:
    differences = []
    if seen.other_answers:
        differences.append(f"{count(seen.other_answers, 'execution')} answered otherwise")
    if seen.unequal:
        differences.append(f"{count(seen.unequal, 'statement')} had another answer")
    if seen.other_tables:
        differences.append(f"the rows of {count(len(seen.other_tables), 'table')} are others")
    if seen.is_recorded_code and (differences or seen.stopped):
        stopped = [f"{count(seen.stopped, 'execution')} left the record"] * bool(seen.stopped)
        return (
            TogetherVerdict.UNFAITHFUL,
            f"this is the code of then, and {', '.join([*stopped, *differences])}",
        )
    if seen.stopped:
        return (
            TogetherVerdict.UNDECIDED,
            f"{count(seen.stopped, 'execution')} asked for what was never recorded and went no further",
        )
    if seen.found_now:
        then = "found as many then" if seen.found_now == seen.found_then else f"found {seen.found_then} then"
        return TogetherVerdict.STILL_WRONG, f"the check finds {count(seen.found_now, 'row')}, and {then}"
    if seen.failing:
        return TogetherVerdict.FAILS, f"{count(seen.failing, 'execution')} failed"
    if seen.found_now is not None:
        if seen.found_then:
            return (
                TogetherVerdict.FIXED,
                f"the check found {count(seen.found_then, 'row')} then and finds none now",
            )
        return TogetherVerdict.CLEAN, "the check finds nothing, neither then nor now"
    if differences:
        return TogetherVerdict.CHANGED, f"{', '.join(differences)}; whether that is right, a check can tell"
    return TogetherVerdict.REPRODUCED, "the answers and the rows are those of then"
