"""What replays on new code amount to: pairs of executions, what a person would say of each, and whether to deploy."""

import datetime
import json
import uuid
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.accepted import Acceptance
from flux.execution import Execution, Killed, LogLine, Outcome, Raised, Returned
from flux.guard import Change, Finding, Judged, choose, decide, judge, undecided
from flux.trace_diff import Side, compare
from flux.verdict import Verdict
from tests.failing_executions import at, execute, execution, frame, http, query, row

LEAVING = frozenset({"http.request"})
TODAY = datetime.date(2026, 11, 26)
READ = query(1, "select plan from users where id = $1", [7], ["plan"], [["free"]], position=at(12))
WRITE = execute(2, "update users set plan = $1 where id = $2", ["pro", 7], position=at(14))
CHARGE = http(3, "POST", "https://api.stripe.com/v1/charges/12", 200, '{"amount":900}', position=at(16))
OK = Returned(201, (("content-type", "application/json"),), b'{"ok":true,"total":900}')
BUG = Raised("KeyError", "'amount'", (frame(21, "charge['amount']", "charge"),))
ROW = row("update", {"id": 7, "plan": "free"}, {"id": 7, "plan": "pro"}, call=2, committed=True)
GOOD = execution(OK, READ, WRITE, CHARGE, mutations=(ROW,))
FAILED = execution(BUG, READ, WRITE, CHARGE)


def answered(body: str, status: int = 201) -> Returned:
    return Returned(status, OK.headers, body.encode())


def changed(original: Execution = GOOD, **changes: object) -> Judged:
    """What is found of ``original`` when its replay differs from it in ``changes``."""
    stopped = changes.pop("stopped", None)
    verdict = changes.pop("verdict", Verdict.CHANGED)
    replay = attrs.evolve(original, **changes)
    diff = compare(Side.of(original), Side(replay, stopped))
    return judge(diff, verdict, LEAVING)


# --- judging ---------------------------------------------------------------------------------------

HARMLESS = {
    "nothing": {},
    "a log line more": {"logs": (LogLine(1, "info", "so far"),)},
    "another read": {
        "calls": (query(1, "select plan, id from users where id = $1", [7], ["plan"], [["free"]]), WRITE, CHARGE)
    },
    "a read more": {"calls": (READ, WRITE, CHARGE, query(4, "select 1", [], ["n"], [[1]]))},
    "a statement written otherwise that writes the same row": {
        "calls": (READ, execute(2, "update users u set plan = $1 where u.id = $2", ["pro", 7]), CHARGE)
    },
}  # fmt: skip
CHARGE_MORE = http(3, "POST", "https://api.stripe.com/v1/refunds/12", 200, '{"amount":900}')
MEANT = {
    "another total": ({"outcome": answered('{"ok":true,"total":90}')}, "answer body.total: another number"),
    "no total": ({"outcome": answered('{"ok":true}')}, "answer body.total: number → nothing"),
    "a total of null": ({"outcome": answered('{"ok":true,"total":null}')}, "answer body.total: number → null"),
    "another status": ({"outcome": answered('{"ok":true,"total":900}', 200)}, "answer status 201 → 200"),
    "a refusal": ({"outcome": Raised("HTTPError", "no", (), 403, "FORBIDDEN")}, "answer status 201 → 403"),
    "no charge": ({"calls": (READ, WRITE)}, "POST api.stripe.com is not asked any more"),
    "a charge more": (
        {"calls": (READ, WRITE, CHARGE, attrs.evolve(CHARGE_MORE, request=attrs.evolve(CHARGE_MORE.request, seq=4)))},
        "POST api.stripe.com is asked, and was not",
    ),
    "no row": ({"mutations": ()}, "row of users, update: is not written any more"),
    "another row": (
        {"mutations": (attrs.evolve(ROW, after='{"id": 7, "plan": "max"}'),)},
        "row of users, update: after.plan: another text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes", HARMLESS.values(), ids=HARMLESS)
def test_what_nobody_outside_can_see_is_the_same(changes: dict[str, object]) -> None:
    assert changed(**changes).finding is Finding.SAME


@pytest.mark.parametrize(("changes", "effect"), MEANT.values(), ids=MEANT)
def test_another_answer_and_another_effect_are_a_change_and_said(
    changes: dict[str, object], effect: str
) -> None:
    found = changed(**changes)
    assert (found.finding, found.change and found.change.effect) == (Finding.CHANGED, effect)


def test_a_statement_counts_as_an_effect_where_rows_are_not_known() -> None:
    other = execute(2, "update users set plan = $1 where id > $2", ["pro", 7])
    replay = attrs.evolve(GOOD, calls=(READ, other, CHARGE), mutations=())
    diff = compare(Side.of(GOOD), Side(replay, None, lacks_rows=True))
    found = judge(diff, Verdict.CHANGED, LEAVING)
    assert found.finding is Finding.CHANGED and found.change is not None
    assert found.change.effect == "db.execute update users set plan=$1 where id>$2 is asked, and was not"
    unread = attrs.evolve(GOOD, calls=(query(1, "select 2", [], ["n"], [[2]]), WRITE, CHARGE), mutations=())
    diff = compare(Side.of(GOOD), Side(unread, None, lacks_rows=True))
    assert judge(diff, Verdict.CHANGED, LEAVING).finding is Finding.SAME


def test_what_had_not_failed_and_fails_is_failing_and_what_stays_failed_is_the_same() -> None:
    found = changed(outcome=BUG)
    assert (found.finding, found.change and found.change.effect) == (
        Finding.FAILING,
        "KeyError functions/signup.py:charge <text>",
    )
    assert changed(outcome=answered("{}", 503)).finding is Finding.FAILING
    assert changed(FAILED, verdict=Verdict.SAME_FAILURE).finding is Finding.SAME
    moved = Raised("KeyError", "'amount'", (frame(99, "charge['amount']", "charge"),))
    assert changed(FAILED, outcome=moved, verdict=Verdict.SAME_FAILURE).finding is Finding.SAME


def test_a_repaired_failure_is_fixed_and_another_failure_is_a_change_if_the_client_sees_it() -> None:
    assert changed(FAILED, outcome=OK, verdict=Verdict.PASSED).finding is Finding.FIXED
    assert changed(FAILED, stopped="call 4 asks for more", verdict=Verdict.PAST_IT).finding is Finding.FIXED
    # In which function, and with what words, no client sees: a refactoring moves that.
    other = Raised("TypeError", "no number", (frame(21, "int(x)", "charge"),))
    assert changed(FAILED, outcome=other, verdict=Verdict.OTHER_FAILURE).finding is Finding.SAME
    late = Killed("timeout", "10s", "flux.toml:3")
    found = changed(FAILED, outcome=late, verdict=Verdict.OTHER_FAILURE)
    assert (found.finding, found.change and found.change.effect) == (
        Finding.CHANGED,
        "answer status 500 → 504",
    )
    # Whether the failure is gone can't be said where the replay heard something that was made up.
    assert changed(FAILED, outcome=OK, verdict=Verdict.DIVERGED).finding is Finding.UNDECIDED


def test_a_replay_that_was_stopped_decides_nothing_unless_it_did_something_else_before() -> None:
    assert changed(stopped="call 3 is not answered").finding is Finding.UNDECIDED
    asked = http(3, "POST", "https://api.stripe.com/v1/charges/13", None, open=True)
    found = changed(calls=(READ, WRITE, asked), stopped="call 3 asks for what the record does not answer")
    assert found.finding is Finding.CHANGED


def test_what_was_heard_of_stand_ins_is_never_called_a_change() -> None:
    diff = compare(Side.of(GOOD), Side(attrs.evolve(GOOD, outcome=BUG)))
    assert judge(diff, Verdict.CHANGED, LEAVING, heard_stand_ins=True).finding is Finding.UNDECIDED
    assert (
        judge(compare(Side.of(GOOD), Side.of(GOOD)), Verdict.IDENTICAL, LEAVING, heard_stand_ins=True).finding
        is Finding.SAME
    )


def test_rows_that_are_rolled_back_are_no_effect() -> None:
    undone = attrs.evolve(ROW, committed=False)
    original = attrs.evolve(GOOD, mutations=(undone,))
    assert changed(original, mutations=()).finding is Finding.SAME


# --- groups ----------------------------------------------------------------------------------------


def many(outcomes: Sequence[tuple[Outcome, Outcome]]) -> list[Judged]:
    """Executions that answered the first, replayed with the second."""
    found = []
    for number, (before, after) in enumerate(outcomes):
        original = attrs.evolve(GOOD, id=uuid.UUID(int=number << 80), outcome=before)
        diff = compare(Side.of(original), Side(attrs.evolve(original, outcome=after)))
        found.append(judge(diff, Verdict.CHANGED, LEAVING))
    return found


def test_three_hundred_changes_of_two_kinds_are_two_groups() -> None:
    def body(total: int, lines: Sequence[int]) -> Returned:
        return answered(json.dumps({"total": total, "lines": [{"cents": cents} for cents in lines]}))

    totals = [(body(n, [n]), body(n + 1, [n])) for n in range(180)]
    # Which of the lines differs is another one each time; that a line does is the kind of change.
    lines = [(body(9, [1] * 5), body(9, [1] * (n % 5) + [2 + n] + [1] * (4 - n % 5))) for n in range(120)]
    report = decide(many([*lines, *totals]), (), TODAY)
    assert [(len(group.members), group.change.effect) for group in report.groups] == [
        (180, "answer body.total: another number"),
        (120, "answer body.lines[#].cents: another number"),
    ]
    assert not report.passes and report.refusals == ("300 executions change in a way that no entry accepts",)
    assert len({group.change.signature for group in report.groups}) == 2


def test_the_smallest_example_comes_first_and_failing_groups_do() -> None:
    small = attrs.evolve(GOOD, calls=(READ,), id=uuid.UUID(int=1))
    change = Change("f", Finding.CHANGED, "x")
    judged = [Judged.of(one, Finding.CHANGED, "", change) for one in (GOOD, small, GOOD)]
    judged.append(Judged.of(GOOD, Finding.FAILING, "", Change("f", Finding.FAILING, "y")))
    report = decide(judged, (), TODAY)
    assert [group.change.effect for group in report.groups] == ["y", "x"]
    assert report.groups[1].example.id == small.id


# --- the decision ----------------------------------------------------------------------------------


def entry(judged: Judged, until: datetime.date = TODAY) -> Acceptance:
    assert judged.change is not None
    return Acceptance(judged.change.signature, "meant", until)


def test_an_entry_covers_its_group_and_no_other_up_to_its_last_day() -> None:
    one, other = changed(mutations=()), changed(outcome=answered("{}", 200))
    same = changed()
    assert decide([same, one], [entry(one)], TODAY).passes
    assert not decide([same, one, other], [entry(one)], TODAY).passes
    late = decide([same, one], [entry(one, TODAY - datetime.timedelta(days=1))], TODAY)
    assert not late.passes and late.groups[0].acceptance is not None
    report = decide([same], [entry(one)], TODAY)
    assert report.passes and [each.signature for each in report.unused] == [entry(one).signature]


def test_nobody_can_accept_that_an_execution_begins_to_fail() -> None:
    failing = changed(outcome=BUG)
    report = decide([failing], [entry(failing)], TODAY)
    assert report.refusals == ("1 execution that had not failed now fails",)


def test_what_could_not_be_judged_never_passes_for_the_same() -> None:
    same, unknown = changed(), undecided(GOOD, "its record is not whole")
    assert decide([], (), TODAY).refusals == (
        "no execution is on record that could be replayed, so nothing is known of this code",
    )
    assert decide([unknown], (), TODAY, 1.0).refusals == ("none of 1 execution could be judged",)
    assert decide([same] * 8 + [unknown] * 2, (), TODAY).passes
    assert decide([same] * 7 + [unknown] * 3, (), TODAY).refusals == (
        "3 of 10 executions could not be judged, and 20% may be so",
    )
    assert decide([same] * 7 + [unknown] * 3, (), TODAY, 0.3).passes
    assert decide([same, unknown], (), TODAY).undecided == {"its record is not whole": 1}


def test_a_repaired_failure_is_no_reason_to_refuse() -> None:
    fixed = changed(FAILED, outcome=OK, verdict=Verdict.PASSED)
    report = decide([fixed], (), TODAY)
    assert report.passes and report.counts == {
        "same": 0,
        "fixed": 1,
        "changed": 0,
        "failing": 0,
        "undecided": 0,
    }


# --- choosing --------------------------------------------------------------------------------------


def test_of_what_is_rare_all_is_taken_and_of_the_rest_the_latest() -> None:
    found = [("often", n) for n in range(100)] + [("rare", n) for n in range(3)]
    chosen = choose(found, lambda item: item[0], 10)
    assert chosen == tuple(found[:7] + found[100:])


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 45))
def test_a_choice_is_as_even_as_it_can_be_and_takes_the_latest(kinds: list[int], limit: int) -> None:
    found = list(enumerate(kinds))
    chosen = choose(found, lambda item: item[1], limit)
    assert list(chosen) == sorted(chosen) and len(chosen) == min(limit, len(found))
    for kind in set(kinds):
        own = [item for item in found if item[1] == kind]
        taken = [item for item in chosen if item[1] == kind]
        assert taken == own[: len(taken)]
        if len(taken) < len(own):  # Whoever has not got all has got as much as anybody, but for one.
            assert all(
                len([item for item in chosen if item[1] == other]) <= len(taken) + 1 for other in set(kinds)
            )
