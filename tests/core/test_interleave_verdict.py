"""What is said of executions that ran again at once: nothing is called fixed that no check has seen."""

import attrs
import pytest

from flux.interleave_verdict import FINE_TOGETHER, Seen, TogetherVerdict, judge_together
from flux.store.ephemeral_ddl import find_needed_tables

ALIKE = Seen(
    is_recorded_code=False,
    stopped=0,
    failing=0,
    other_answers=0,
    other_tables=(),
    unequal=0,
    found_then=None,
    found_now=None,
    relaxed=0,
)
CHECKED = attrs.evolve(ALIKE, found_then=2, found_now=0)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (ALIKE, "reproduced"),
        (attrs.evolve(ALIKE, other_tables=("t",)), "changed"),
        (attrs.evolve(ALIKE, other_answers=1), "changed"),
        (CHECKED, "fixed"),
        (attrs.evolve(CHECKED, other_tables=("t",), other_answers=1, unequal=3), "fixed"),
        (attrs.evolve(CHECKED, found_then=0), "clean"),
        (attrs.evolve(CHECKED, found_now=1), "still wrong"),
        (attrs.evolve(CHECKED, found_then=0, found_now=1), "still wrong"),
        (attrs.evolve(CHECKED, failing=1), "fails"),
        (attrs.evolve(CHECKED, failing=1, found_now=1), "still wrong"),
        (attrs.evolve(CHECKED, stopped=1), "undecided"),
        (attrs.evolve(CHECKED, stopped=1, found_now=1), "undecided"),
        (attrs.evolve(ALIKE, is_recorded_code=True), "reproduced"),
        (attrs.evolve(CHECKED, is_recorded_code=True, unequal=1), "unfaithful"),
        (attrs.evolve(CHECKED, is_recorded_code=True, other_tables=("t",)), "unfaithful"),
        (attrs.evolve(CHECKED, is_recorded_code=True, stopped=1), "unfaithful"),
    ],
)
def test_a_verdict_says_no_more_than_was_seen(seen: Seen, verdict: str) -> None:
    found, reason = judge_together(seen)
    assert found.value == verdict
    assert reason
    assert (found in FINE_TOGETHER) == (verdict in ("fixed", "clean"))


def test_gates_that_had_to_be_opened_are_told_beside_any_verdict() -> None:
    verdict, reason = judge_together(attrs.evolve(CHECKED, relaxed=2))
    assert verdict is TogetherVerdict.FIXED
    assert "2 gates had to be opened" in reason


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ({"c"}, {"a", "b", "c"}),
        ({"alone"}, {"alone"}),
        ({"seen"}, {"alone"}),
        ({"made"}, {"a", "b", "c"}),
        ({"nothing", "email"}, set()),
    ],
)
def test_tables_are_needed_with_what_keys_triggers_views_and_functions_lead_to(
    names: set[str], needed: set[str]
) -> None:
    tables = {"a", "b", "c", "alone", "other"}
    neighbours = [
        ("a", "b", None),
        ("b", None, "begin insert into public.c values (1); end"),
        ("c", "a", None),
    ]
    texts = [("seen", "select * from alone"), ("made", "select 1 from seen_not, b")]
    assert find_needed_tables(names, tables, neighbours, texts) == needed
