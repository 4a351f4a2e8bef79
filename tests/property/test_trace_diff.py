"""What holds for any two executions: nothing differs from itself, and to look from the other side changes no fact."""

import uuid

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.execution import Execution, Raised, Returned
from flux.hostcall import HostCall
from flux.trace_diff import Diff, Mark, Side, Verdict, compare
from tests import strategies
from tests.failing_executions import call, execution, frame

TURNED = {Verdict.FIXED: Verdict.REGRESSED, Verdict.REGRESSED: Verdict.FIXED}
TURNED_MARKS = {Mark.ONLY_A: Mark.ONLY_B, Mark.ONLY_B: Mark.ONLY_A}

ids = st.integers(0, 3).map(lambda n: str(uuid.UUID(int=0xABC0 << 112 | n)))
words = st.sampled_from(["free", "pro", "42", "57", "a@b.com"]) | ids
bodies = st.builds(lambda word, number: f'{{"id":{number},"plan":"{word}"}}', words, st.integers(1, 3))
questions = st.one_of(
    st.builds(lambda word: ("db.query", ["select id from users where email = $1", [word]]), words),
    st.builds(
        lambda word: ("db.query", ["insert into users (plan) values ($1) returning id", [word]]), words
    ),
    st.builds(
        lambda word, body: ("http.request", ["POST", f"http://h/{word}", {"body": body}]), words, bodies
    ),
)
answers = st.one_of(
    st.integers(1, 3).map(lambda number: {"columns": ["id"], "types": ["int8"], "rows": [[number]], "tag": "T 1"}),
    st.builds(lambda body, status: {"status": status, "body": body}, bodies, st.sampled_from([200, 503])),
)  # fmt: skip


@st.composite
def calls(draw: st.DrawFn, seq: int) -> HostCall:
    """A call such as another execution may well have made too, in one of three tasks."""
    name, arguments = draw(questions)
    made = call(
        seq, name, arguments, draw(answers), started_ms=draw(st.integers(0, 9)), elapsed_ms=draw(st.integers(0, 3))
    )  # fmt: skip
    return attrs.evolve(made, request=attrs.evolve(made.request, task=draw(st.integers(0, 2))))


outcomes = st.one_of(
    st.builds(
        lambda body, status: Returned(status, (), body.encode()), bodies, st.sampled_from([200, 404, 500])
    ),
    st.builds(lambda word, line: Raised("KeyError", word, (frame(line),)), words, st.integers(1, 3)),
)


@st.composite
def small_executions(draw: st.DrawFn) -> Execution:
    """Executions of one function that have much in common."""
    count = draw(st.integers(0, 5))
    made = execution(draw(outcomes), *[draw(calls(seq)) for seq in range(1, count + 1)])
    mutations = draw(st.lists(strategies.mutations, max_size=2))
    logs = draw(st.lists(strategies.log_lines, max_size=2))
    return attrs.evolve(made, id=draw(st.uuids()), logs=tuple(logs), mutations=tuple(mutations))


def diff(a: Execution, b: Execution) -> Diff:
    return compare(Side.of(a), Side.of(b))


@settings(deadline=None, max_examples=15)
@given(strategies.executions)
def test_nothing_differs_from_itself_whatever_is_in_it(execution: Execution) -> None:
    found = diff(execution, execution)
    assert (found.verdict, found.first, found.masked) == (Verdict.IDENTICAL, None, ())
    assert {pair.mark for pair in found.calls} <= {Mark.SAME}
    assert (found.only_a, found.only_b) == ((), ())


@settings(deadline=None, max_examples=30)
@given(small_executions(), small_executions())
def test_seen_from_the_other_side_the_verdict_is_the_same_with_fixed_and_regressed_exchanged(
    a: Execution, b: Execution
) -> None:
    one, other = diff(a, b), diff(b, a)
    assert one.verdict is not None and other.verdict is TURNED.get(one.verdict, one.verdict)
    assert (one.first is None) is (other.first is None)
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a)
    singles = (Mark.ONLY_A, Mark.ONLY_B)
    assert sorted(pair.mark for pair in one.calls if pair.mark in singles) == sorted(
        TURNED_MARKS[pair.mark] for pair in other.calls if pair.mark in singles
    )


@settings(deadline=None, max_examples=30)
@given(small_executions(), small_executions())
def test_every_call_is_shown_once_and_identical_means_that_all_say_the_same(
    a: Execution, b: Execution
) -> None:
    found = diff(a, b)
    assert sorted(pair.a.request.seq for pair in found.calls if pair.a is not None) == [
        each.request.seq for each in a.calls
    ]
    assert sorted(pair.b.request.seq for pair in found.calls if pair.b is not None) == [
        each.request.seq for each in b.calls
    ]
    if found.verdict is Verdict.IDENTICAL:
        assert (a.status, len(a.calls), len(a.mutations)) == (b.status, len(b.calls), len(b.mutations))
        assert all(pair.a is not None and pair.b is not None for pair in found.calls)


@settings(deadline=None, max_examples=15)
@given(strategies.executions, strategies.executions)
def test_any_two_records_can_be_compared(a: Execution, b: Execution) -> None:
    found = diff(a, b)
    assert (found.verdict is Verdict.IDENTICAL) <= (found.first is None)
    assert all(count >= 0 for count in found.left_out.values())
