"""A bisect over drawn histories: what it names is true, and it takes no more runs than it may.

A history is drawn as a list in which each commit has one or two parents among those before it. A commit is bad where
it comes from the culprit, unless the history is drawn to be none that splits in two, or the execution to fail by
chance.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.bisect import (
    DOUBTED_RUNS,
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
    WantCause,
    WantGraph,
    Why,
    mark_all,
    mark_verdict,
)
from flux.bisect_graph import FEW, Graph
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


def list_between(parents: Parents, good: str, bad: str, likelier: frozenset[str] = frozenset()) -> Graph:
    """As git does."""
    kept = find_ancestors(parents, bad) - find_ancestors(parents, good)
    return Graph({commit: parents[commit] for commit in parents if commit in kept}, likelier & kept)


def search(
    parents: Parents,
    goods: Sequence[str],
    truth: Truth,
    *,
    is_given: bool = True,
    is_recorded: bool = True,
    has_cause: bool = True,
    likelier: frozenset[str] = frozenset(),
) -> tuple[Step, list[Probe]]:
    """Drive a bisect to its end; return that and what was run."""
    bisection = Bisection(list(parents)[-1], goods, is_given=is_given, is_recorded=is_recorded)
    asked: list[Probe] = []
    while True:
        match bisection.next_step():
            case Probe() as probe:
                assert Counter(one.commit for one in asked)[probe.commit] == probe.run - 1
                asked.append(probe)
                bisection.tell(truth(probe.commit), "as it is")
            case WantGraph() as ends:
                bisection.take_graph(list_between(parents, ends.good, ends.bad, likelier))
            case WantCause():
                bisection.take_cause(has_cause)
            case end:
                return end, asked


@settings(max_examples=40)
@given(parents=st.one_of(histories(), lines), data=st.data(), is_recorded=st.booleans(), has_cause=st.booleans())
def test_it_names_the_commit_behind_which_all_are_bad(
    parents: Parents, data: st.DataObject, is_recorded: bool, has_cause: bool
) -> None:
    first, last = name(0), list(parents)[-1]
    culprit = data.draw(st.sampled_from([commit for commit in parents if commit != first]))
    if culprit not in find_ancestors(parents, last):
        culprit = last
    end, asked = search(
        parents,
        [first],
        lambda commit: Mark.BAD if culprit in find_ancestors(parents, commit) else Mark.GOOD,
        is_recorded=is_recorded,
        has_cause=has_cause,
        likelier=frozenset(data.draw(st.sets(st.sampled_from(list(parents)), max_size=4))),
    )
    assert isinstance(end, Found)
    assert (end.commit, set(end.parents), end.unproved) == (culprit, set(parents[culprit]), ())
    runs = Counter(probe.commit for probe in asked)
    assert runs[first] >= END_RUNS and runs[last] >= END_RUNS - is_recorded
    wanted = PROOF_RUNS if has_cause else DOUBTED_RUNS
    assert all(runs[parent] == wanted for parent in parents[culprit])
    # A commit that wrote the line at which it failed may do with one, where more would be over the bound.
    assert wanted - has_cause <= runs[culprit] <= wanted


@settings(max_examples=100)
@given(
    count=st.integers(3, 1000),
    at=st.floats(0, 1),
    holes=st.sets(st.floats(0, 1), max_size=4),
    others=st.sets(st.floats(0, 1), max_size=60),
)
def test_it_takes_no_more_runs_than_halvings_skips_and_four(
    count: int, at: float, holes: set[float], others: set[float]
) -> None:
    """Of a line of commits, both ends proved, and the commit that is named one that wrote the failing line."""
    parents = {name(number): (name(number - 1),) if number else () for number in range(count)}
    culprit = 1 + round(at * (count - 2))
    broken = {1 + round(hole * (count - 3)) for hole in holes} - {culprit, culprit - 1}
    # One that wrote a line on record changed a file on record.
    likelier = frozenset(name(1 + round(other * (count - 2))) for other in others) | {name(culprit)}

    def truth(commit: str) -> Mark:
        number = int(commit, 16)
        return Mark.SKIP if number in broken else Mark.BAD if number >= culprit else Mark.GOOD

    end, asked = search(parents, [name(0)], truth, likelier=likelier)
    assert isinstance(end, Found) and end.commit == name(culprit)
    skipped = sum(truth(probe.commit) is Mark.SKIP for probe in asked)
    # One that is skipped may leave the next one off the middle.
    assert len(asked) <= (count - 2).bit_length() + skipped + 4 + (skipped > 0)


@settings(max_examples=40)
@given(parents=histories(), data=st.data())
def test_skips_are_never_guessed(parents: Parents, data: st.DataObject) -> None:
    first, last = name(0), list(parents)[-1]
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
    is_steady, has_cause = chance.random() < 0.7, chance.random() < 0.5
    drawn = {commit: chance.choice(marks) for commit in parents}
    said: dict[str, list[Mark]] = {}

    def truth(commit: str) -> Mark:
        mark = drawn[commit] if is_steady or chance.random() < 0.7 else chance.choice(marks)
        said.setdefault(commit, []).append(mark)
        return mark

    end, _ = search(parents, [name(0)], truth, has_cause=has_cause)
    runs = PROOF_RUNS if has_cause else DOUBTED_RUNS
    match end:
        case Found(commit, passed):
            assert set(said[commit]) == {Mark.BAD} and runs - has_cause <= len(said[commit]) <= runs
            assert passed and all(said[parent] == [Mark.GOOD] * runs for parent in passed)
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
    graph = list_between(parents, name(0), list(parents)[-1])
    bad = data.draw(st.sampled_from(list(graph.parents)))
    suspects = graph.find_suspects(bad, [])
    assert suspects == find_ancestors(parents, bad) & set(graph.parents)
    behind = {one: find_ancestors(parents, one) & suspects for one in graph.parents if one in suspects}
    counts = {one: len(commits) for one, commits in behind.items()}
    assert graph.weigh_behind(suspects) == counts
    # Few that are likelier weigh as much as all together.
    few = frozenset(list(suspects)[: len(graph.parents) // FEW])
    weights = attrs.evolve(graph, likelier=few).weigh_behind(suspects)
    assert weights == {
        one: max(1, len(few)) * counts[one] + len(graph.parents) * len(behind[one] & few) for one in counts
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
