"""A bisect over drawn histories: what it names is true, and it takes no more runs than it may.

A history is drawn as a list in which each commit has one or two parents among those before it. A commit is bad where
it comes from the culprit, unless the history is drawn to be none that splits in two, or the execution to fail by
chance.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.bisect import (
    END_RUNS,
    FAILING_VERDICTS,
    GOOD_VERDICTS,
    PROOF_RUNS,
    Bisection,
    Found,
    Mark,
    Probe,
    Purpose,
    Range,
    Refusal,
    Step,
    WantGraph,
    Why,
    mark_all,
    mark_verdict,
)
from flux.bisect_graph import Graph
from flux.verdict import Verdict

Parents = Mapping[str, tuple[str, ...]]
Truth = Callable[[str], Mark]


def name(number: int) -> str:
    return f"{number:040x}"


@st.composite
def histories(draw: st.DrawFn, most: int = 40) -> Parents:
    """Commits with one root, the last of which comes from all others."""
    count = draw(st.integers(2, most))
    parents: dict[str, tuple[str, ...]] = {name(0): ()}
    childless = {0}
    for number in range(1, count):
        earlier = draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=2, unique=True))
        parents[name(number)] = tuple(name(one) for one in earlier)
        childless = childless - set(earlier) | {number}
    ends = sorted(childless)
    if len(ends) > 1:
        parents[name(count)] = tuple(name(end) for end in ends)
    return parents


lines = st.integers(2, 200).map(
    lambda count: {name(number): (name(number - 1),) if number else () for number in range(count)}
)


def find_ancestors(parents: Parents, commit: str) -> set[str]:
    """The commit and all that it comes from, the plain way."""
    found, waiting = set(), [commit]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += parents[one]
    return found


def list_between(parents: Parents, good: str, bad: str) -> Graph:
    """As git does."""
    kept = find_ancestors(parents, bad) - find_ancestors(parents, good)
    return Graph({commit: parents[commit] for commit in parents if commit in kept})


def search(
    parents: Parents, goods: Sequence[str], truth: Truth, *, is_given: bool = True
) -> tuple[Step, list[Probe]]:
    """Drive a bisect to its end; return that and what was run."""
    bisection = Bisection(next(reversed(parents)), goods, is_given=is_given)
    asked: list[Probe] = []
    while True:
        match bisection.next_step():
            case Probe() as probe:
                assert Counter(one.commit for one in asked)[probe.commit] == probe.run - 1
                asked.append(probe)
                bisection.tell(truth(probe.commit), "as it is")
            case WantGraph() as ends:
                bisection.take_graph(list_between(parents, ends.good, ends.bad))
            case end:
                return end, asked


@settings(max_examples=40)
@given(parents=st.one_of(histories(), lines), data=st.data())
def test_it_names_the_commit_behind_which_all_are_bad(parents: Parents, data: st.DataObject) -> None:
    first, last = name(0), next(reversed(parents))
    culprit = data.draw(st.sampled_from([commit for commit in parents if commit != first]))
    if culprit not in find_ancestors(parents, last):
        culprit = last
    end, asked = search(
        parents, [first], lambda commit: Mark.BAD if culprit in find_ancestors(parents, commit) else Mark.GOOD
    )
    assert isinstance(end, Found)
    assert (end.commit, set(end.parents), end.unproved) == (culprit, set(parents[culprit]), ())
    runs = Counter(probe.commit for probe in asked)
    assert min(runs[first], runs[last]) >= END_RUNS
    assert all(runs[commit] == PROOF_RUNS for commit in (culprit, *parents[culprit]))


@settings(max_examples=40)
@given(parents=lines, data=st.data())
def test_it_runs_no_more_commits_than_the_line_can_be_halved_and_skips_ask_for(
    parents: Parents, data: st.DataObject
) -> None:
    count = len(parents)
    culprit = data.draw(st.integers(1, count - 1))
    broken = data.draw(st.sets(st.integers(1, max(1, count - 2)), max_size=4)) - {culprit, culprit - 1}

    def truth(commit: str) -> Mark:
        number = int(commit, 16)
        return Mark.SKIP if number in broken else Mark.BAD if number >= culprit else Mark.GOOD

    end, asked = search(parents, [name(0)], truth)
    assert isinstance(end, Found) and end.commit == name(culprit)
    commits = {probe.commit for probe in asked}
    skipped = sum(truth(commit) is Mark.SKIP for commit in commits)
    # Both ends are among them, and so are the culprit and its parent, whatever else was asked.
    assert len(commits) <= math.log2(count) + skipped + 4


@settings(max_examples=40)
@given(parents=histories(), data=st.data())
def test_skips_are_never_guessed(parents: Parents, data: st.DataObject) -> None:
    first, last = name(0), next(reversed(parents))
    culprit = data.draw(st.sampled_from([commit for commit in parents if commit != first]))
    if culprit not in find_ancestors(parents, last):
        culprit = last
    broken = data.draw(st.sets(st.sampled_from(list(parents)))) - {first, last}

    def truth(commit: str) -> Mark:
        if commit in broken:
            return Mark.SKIP
        return Mark.BAD if culprit in find_ancestors(parents, commit) else Mark.GOOD

    end, asked = search(parents, [first], truth)
    assert (
        max(Counter(probe.commit for probe in asked if probe.purpose is Purpose.SEARCH).values(), default=1)
        == 1
    )
    match end:
        case Found(commit, passed, unproved):
            assert commit == culprit and passed
            assert set(unproved) <= broken and not set(passed) & broken
        case Range(candidates):
            assert culprit in candidates
            # All but the last were skipped, or one parent that could be run was not to be had.
            undecided = set(candidates) - {candidates[-1]}
            assert undecided <= broken
        case _:
            raise AssertionError(end)


@settings(max_examples=40)
@given(
    parents=histories(), marks=st.lists(st.sampled_from(Mark), min_size=1, max_size=12), seed=st.integers()
)
def test_it_names_nothing_that_its_own_runs_refute(parents: Parents, marks: list[Mark], seed: int) -> None:
    """Marks fall as they like, and an execution may even answer otherwise each time."""
    chance = random.Random(seed)
    is_steady = chance.random() < 0.7
    drawn = {commit: chance.choice(marks) for commit in parents}
    said: dict[str, list[Mark]] = {}

    def truth(commit: str) -> Mark:
        mark = drawn[commit] if is_steady or chance.random() < 0.7 else chance.choice(marks)
        said.setdefault(commit, []).append(mark)
        return mark

    end, _ = search(parents, [name(0)], truth)
    match end:
        case Found(commit, passed):
            assert said[commit] == [Mark.BAD] * PROOF_RUNS
            assert passed and all(said[parent] == [Mark.GOOD] * PROOF_RUNS for parent in passed)
            assert set(passed) <= set(parents[commit])
        case Range(candidates):
            assert candidates
        case Refusal(Why.FLAKY, commit):
            assert len(set(said[commit])) > 1
        case Refusal(why, commit):
            wanted = Mark.BAD if why is Why.BAD_IS_NOT else Mark.GOOD
            assert said[commit][0] is not wanted


@settings(max_examples=40)
@given(parents=histories(), data=st.data())
def test_what_it_asks_halves_best(parents: Parents, data: st.DataObject) -> None:
    graph = list_between(parents, name(0), next(reversed(parents)))
    bad = data.draw(st.sampled_from(list(graph.parents)))
    suspects = graph.find_suspects(bad, [])
    assert suspects == find_ancestors(parents, bad) & set(graph.parents)
    counts = graph.count_behind(suspects)
    assert counts == {
        one: len(find_ancestors(parents, one) & suspects) for one in graph.parents if one in suspects
    }
    chosen = graph.choose(suspects, ())
    halves = {one: min(count, len(suspects) - count) for one, count in counts.items()}
    assert (chosen is None) is (len(suspects) == 1)
    assert chosen is None or halves[chosen] == max(halves.values())


@settings(max_examples=40)
@given(
    parents=lines, tried=st.lists(st.integers(1, 199), max_size=4, unique=True), culprit=st.integers(1, 199)
)
def test_a_good_end_that_was_none_is_not_run_again(parents: Parents, tried: list[int], culprit: int) -> None:
    count = len(parents)
    culprit = min(culprit, count - 1)
    goods = [name(number) for number in sorted(tried, reverse=True) if number < count - 1] + [name(0)]
    end, asked = search(
        parents, goods, lambda commit: Mark.BAD if int(commit, 16) >= culprit else Mark.GOOD, is_given=False
    )
    assert isinstance(end, Found) and end.commit == name(culprit)
    searched = {probe.commit for probe in asked if probe.purpose is Purpose.SEARCH}
    assert not searched & {probe.commit for probe in asked if probe.purpose is Purpose.GOOD_END}


def test_a_hole_in_the_history_costs_its_logarithm() -> None:
    """300 of 1,000 commits in a row can't be built, and the middle is among them."""
    parents = {name(number): (name(number - 1),) if number else () for number in range(1000)}

    def truth(commit: str) -> Mark:
        number = int(commit, 16)
        return Mark.SKIP if 400 <= number < 700 else Mark.BAD if number >= 250 else Mark.GOOD

    end, asked = search(parents, [name(0)], truth)
    assert isinstance(end, Found) and end.commit == name(250)
    assert sum(truth(probe.commit) is Mark.SKIP for probe in asked) <= 10


def test_verdicts_that_decide_nothing_are_skips() -> None:
    assert set(map(str, Verdict)) > GOOD_VERDICTS | FAILING_VERDICTS
    marks = {verdict: mark_verdict(verdict.value) for verdict in Verdict}
    assert [verdict for verdict, mark in marks.items() if mark is Mark.BAD] == [Verdict.SAME_FAILURE]
    assert {verdict for verdict, mark in marks.items() if mark is Mark.GOOD} == {Verdict.PASSED, Verdict.PAST_IT}
    assert mark_verdict("other failure", any_failure=True) is Mark.BAD
    assert mark_verdict("diverged", any_failure=True) is Mark.SKIP


def test_of_several_executions_one_that_fails_makes_a_commit_bad() -> None:
    good, bad, skip = Mark.GOOD, Mark.BAD, Mark.SKIP
    assert [mark_all(marks) for marks in ([good], [good, bad], [skip, bad], [good, skip], [skip], [])] == [
        good, bad, bad, skip, skip, skip,
    ]  # fmt: skip
