"""The search for a cause, against oracles whose causes are known."""

import itertools
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.prove import CONTROLS, Effect, Finding, Trial, list_facts, search
from flux.prove_flips import Field, Flip

ENOUGH = 10_000
"""More runs than any search here needs."""
NAMES = "abcde"

Oracle = Callable[[Trial], Effect]


def make_flips(names: str, alternatives: int = 1) -> tuple[Flip, ...]:
    """Flips of as many sites, each with so many alternatives."""
    return tuple(
        Flip(name, Field((name,), number), f"{name} is {number}") for name in names for number in range(alternatives)
    )


def run(flips: Sequence[Flip], oracle: Oracle, runs_max: int = ENOUGH) -> Finding:
    """Drive a search to its end."""
    steps = search(flips, runs_max)
    trial = next(steps)
    while True:
        assert len({flip.site for flip in trial}) == len(trial), "two flips of a site exclude each other"
        try:
            trial = steps.send(oracle(trial))
        except StopIteration as end:
            finding: Finding = end.value
            assert len(finding.runs) <= runs_max
            return finding


def passes_with(causes: Sequence[frozenset[str]]) -> Oracle:
    """Passes when all flips of a cause are in force, whatever else is."""

    def oracle(trial: Trial) -> Effect:
        sites = {flip.site for flip in trial}
        return Effect.PASSED if any(cause <= sites for cause in causes) else Effect.SAME

    return oracle


def sites_of(finding: Finding) -> set[frozenset[str]]:
    return {frozenset(flip.site for flip in cause.flips) for cause in finding.causes}


known_causes = st.lists(st.frozensets(st.sampled_from(NAMES), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=40)
@given(known_causes)
def test_what_is_found_is_a_cause_and_none_is_smaller(causes: list[frozenset[str]]) -> None:
    finding = run(make_flips(NAMES), passes_with(causes))
    smallest = min(map(len, causes))
    assert finding.has_control and finding.is_smallest
    assert sites_of(finding) <= set(causes)
    assert {len(found) for found in sites_of(finding)} == {smallest}


@settings(max_examples=40)
@given(known_causes)
def test_every_flip_that_is_enough_alone_is_found(causes: list[frozenset[str]]) -> None:
    alone = {cause for cause in causes if len(cause) == 1}
    finding = run(make_flips(NAMES), passes_with(causes))
    if alone:
        assert sites_of(finding) == alone


@settings(max_examples=40)
@given(known_causes, st.integers(CONTROLS, 40))
def test_with_few_runs_nothing_is_claimed_that_was_not_seen(causes: list[frozenset[str]], runs_max: int) -> None:
    finding = run(make_flips(NAMES), passes_with(causes), runs_max)
    for found in sites_of(finding):
        assert any(cause <= found for cause in causes), "it passes"
        if finding.is_smallest:
            assert len(found) == min(map(len, causes))
    for cause in finding.causes:
        assert len(cause.runs) == 2 and all(finding.runs[number].effect.is_passing for number in cause.runs)
    tried_alone = {one.flips[0] for one in finding.runs if len(one.flips) == 1}
    assert not tried_alone & set(finding.untried)
    if not finding.causes:
        assert tried_alone | set(finding.untried) == set(make_flips(NAMES))


@given(st.integers(0, 5))
def test_what_nothing_changes_has_no_cause(count: int) -> None:
    finding = run(make_flips(NAMES[:count], 2), lambda _trial: Effect.SAME)
    assert finding.has_control and not finding.causes and not finding.untried
    trials = [one.flips for one in finding.runs[CONTROLS:]]
    assert len(set(trials)) == len(trials), "nothing is run twice but to confirm"
    assert {flips for flips in trials if len(flips) == 1} == {(flip,) for flip in make_flips(NAMES[:count], 2)}


@given(st.lists(st.sampled_from(Effect), min_size=2, max_size=2))
def test_without_a_control_that_fails_alike_nothing_is_searched(effects: list[Effect]) -> None:
    answers = itertools.chain(effects, itertools.repeat(Effect.PASSED))
    finding = run(make_flips(NAMES), lambda _trial: next(answers))
    is_same = effects == [Effect.SAME, Effect.SAME]
    assert finding.has_control is is_same
    if not is_same:
        assert not finding.causes and len(finding.runs) <= CONTROLS


@given(st.sampled_from([Effect.SAME, Effect.OTHER, Effect.REFUSED, Effect.UNDECIDED]))
def test_what_passes_once_and_not_again_is_no_cause(second: Effect) -> None:
    seen: set[Trial] = set()

    def oracle(trial: Trial) -> Effect:
        if not trial:
            return Effect.SAME
        if trial in seen:
            return second
        seen.add(trial)
        return Effect.PASSED

    assert not run(make_flips("abc"), oracle).causes


@given(st.sampled_from([Effect.OTHER, Effect.REFUSED, Effect.UNDECIDED]))
def test_another_failure_a_refusal_and_what_is_undecided_are_no_causes(effect: Effect) -> None:
    assert not run(make_flips("abc"), lambda trial: effect if trial else Effect.SAME).causes


@given(st.sets(st.sampled_from("xyz"), max_size=3))
def test_a_whole_answer_is_taken_apart_into_the_values_that_are_enough(enough: set[str]) -> None:
    whole = Flip("a", Field(("a",), 0), "a", parts=make_flips("xyz"))

    def oracle(trial: Trial) -> Effect:
        sites = {flip.site for flip in trial}
        return Effect.PASSED if "a" in sites or sites & enough else Effect.SAME

    finding = run([*make_flips("b"), whole], oracle)
    assert sites_of(finding) == {frozenset({name}) for name in enough or {"a"}}


def test_of_a_site_the_first_flip_that_is_enough_is_taken_and_the_others_are_left() -> None:
    flips = make_flips("ab", 3)
    finding = run(flips, lambda trial: Effect.PASSED if set(trial) & set(flips[1:3]) else Effect.SAME)
    assert [cause.flips for cause in finding.causes] == [(flips[1],)]
    assert (flips[2],) not in [one.flips for one in finding.runs]


def test_what_a_run_did_not_decide_is_not_said_to_be_not_enough() -> None:
    finding = run(
        make_flips("ab"), lambda trial: [Effect.SAME, Effect.UNDECIDED, Effect.PASSED][len(trial)]
    )
    assert sites_of(finding) == {frozenset("ab")}
    assert not finding.is_needed and not finding.is_smallest
    told = [fact.text for fact in list_facts(finding, ["n"] * 9, [200] * 9, [])]
    assert "whether both are needed is not known: not every smaller set was decided" in told
