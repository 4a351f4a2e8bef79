"""Git histories of a project that are known to the last commit: what a search through them must find.

A history is made of *states*. A state is what the project does: which faults it has, whether it can be imported,
how many migrations, which version of its dependency. `tests.histories.shop` writes the files of a state. Each commit
changes its parent's state in one way; a merge merges its parents' states, field by field, as git merges files. So
nobody has to run a commit to know whether the request that is looked for fails on it: its state says so, and that is
the oracle (`History.culprits`, `History.check`).

Nothing here knows a process or a file, and a seed gives the same history anywhere.
"""

import enum
import random
from collections.abc import Mapping, Sequence

import attrs

PEOPLE = ("Ana Ruiz", "Ben Okafor", "Mei Lindqvist", "Tom Sato")
BEGAN_AT = 1_700_000_000
"""When the first commit was made, seconds since the Unix epoch; the others follow each other by the hour."""
HOUR_S = 3600
FILLERS = 6
"""Modules that no request runs, which most commits change."""
STYLES = 3
"""Ways to write the same code."""
HALVES = frozenset({"half:table", "half:case"})
"""Two changes that are harmless alone: together they are the fault of the merge that brings them together."""
FAULTS = ("key", "none", "zero", "parse", "column", "status", "flaky", "dependency", "merge")
"""What can break the request, see `tests.histories.shop`. A ``merge`` is the fault of two changes together."""
OTHER = "other"
"""A fault that fails the request in another way, before the one that is looked for is reached."""


class Truth(enum.Enum):
    """What a commit does with the request that is looked for."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It can't be said by running it: it can't be imported, or fails otherwise."""


@attrs.frozen
class State:
    """What the project is like on a commit."""

    faults: frozenset[str] = frozenset()
    broken: str = ""
    """How it fails to be imported: ``syntax`` or ``import``; empty if it does not."""
    migrations: int = 1
    dependency: str = "1.0"
    """Version of the package of rates; 2.0 is the one with the fault."""
    style: int = 0
    """One of `STYLES`."""
    fillers: tuple[int, ...] = (0,) * FILLERS
    """How often each filler was changed."""

    @property
    def has_fault(self) -> bool:
        """Whether it has the fault that is looked for, be it importable or not."""
        active = self.faults - HALVES - {OTHER}
        return bool(active) or self.faults >= HALVES or self.dependency == "2.0"

    @property
    def truth(self) -> Truth:
        """See `Truth`."""
        if self.broken or OTHER in self.faults:
            return Truth.SKIP
        return Truth.BAD if self.has_fault else Truth.GOOD


def merge_states(base: State, ours: State, theirs: State) -> State:
    """Return what a merge of two states with a common ancestor is: where one side changed something, that."""

    def pick(name: str) -> object:
        before, one, other = (getattr(state, name) for state in (base, ours, theirs))
        return one if other == before else other

    both = base.faults & ours.faults & theirs.faults
    fillers = zip(base.fillers, ours.fillers, theirs.fillers, strict=True)
    return State(
        faults=both | (ours.faults - base.faults) | (theirs.faults - base.faults),
        broken=str(pick("broken")),
        migrations=max(ours.migrations, theirs.migrations),
        dependency=str(pick("dependency")),
        style=ours.style if theirs.style == base.style else theirs.style,
        fillers=tuple(one if other == before else other for before, one, other in fillers),
    )


@attrs.frozen
class Commit:
    """One commit of a history."""

    number: int
    """Its place; parents have lower ones."""
    parents: tuple[int, ...]
    subject: str
    author: str
    state: State


@attrs.frozen
class History:
    """Commits, oldest first; the last one is the head, on which the request fails."""

    fault: str
    """One of `FAULTS`."""
    commits: tuple[Commit, ...]
    shas: tuple[str, ...] = ()
    """By number, once it is written; see `tests.histories.write`."""

    @property
    def good(self) -> str:
        """The first commit, which has no fault."""
        return self.shas[0]

    @property
    def bad(self) -> str:
        """The head."""
        return self.shas[-1]

    @property
    def culprits(self) -> tuple[int, ...]:
        """Commits with the fault that no parent of theirs has. Several, where it was reverted and came back."""
        states = [commit.state for commit in self.commits]
        return tuple(
            commit.number
            for commit in self.commits
            if commit.state.has_fault and not any(states[parent].has_fault for parent in commit.parents)
        )

    @property
    def skips(self) -> tuple[int, ...]:
        """Commits on which the request can't be judged."""
        return tuple(commit.number for commit in self.commits if commit.state.truth is Truth.SKIP)

    def check(self, first_bad: str | None, candidates: Sequence[str]) -> str:
        """Return what an answer is worth: ``right``, ``wrong``, or ``undecided`` if it does not say more than it knows.

        ``candidates`` are those among which it is, where it can't be told.
        """
        culprits = {self.shas[number] for number in self.culprits}
        if first_bad is not None:
            return "right" if first_bad in culprits else "wrong"
        return "undecided" if not candidates or culprits & set(candidates) else "wrong"


@attrs.frozen
class Plan:
    """What a history is to have. The same plan and seed are the same history."""

    commits: int = 60
    fault: str = "key"
    """One of `FAULTS`."""
    at: float | None = None
    """Where about the culprit is: 0 next to the first commit, 1 next to the head; None: anywhere."""
    on_branch: bool = False
    """The culprit is on a branch that was merged, instead of on the main line."""
    merges: bool = True
    """There are branches; a fault of a ``merge`` needs one."""
    broken: int = 2
    """Commits that can't be imported. None of them is the culprit, its parent or the head."""
    hides_culprit: bool = False
    """One more is: the culprit itself. What is to be found then is a range."""
    migration: bool = True
    """One commit adds a migration."""
    bump: bool = True
    """One commit brings another version of the dependency, which does no harm unless it is the fault."""
    reverts: bool = False
    """The fault is reverted and comes back later; there are two culprits then."""
    other: bool = False
    """For a while the request fails in another way."""


def make_history(seed: int, plan: Plan) -> History:
    """Return the history that ``plan`` asks for, not written yet."""
    return _Maker(random.Random(seed), plan).make()


@attrs.define
class _Place:
    """A commit without its content yet."""

    number: int
    parents: tuple[int, ...]
    base: int | None = None
    """Of a merge: where its branch began."""
    on_branch: bool = False
    changes: list[str] = attrs.field(factory=list)


class _Maker:
    def __init__(self, chance: random.Random, plan: Plan) -> None:
        assert plan.commits >= 12, "a history of fewer has no room for what it is to have"
        self._chance = chance
        self._plan = plan
        self._places: list[_Place] = []
        self._guilty: set[int] = set()
        """Commits that a search must be able to judge, but for what `Plan.hides_culprit` says."""

    def make(self) -> History:
        self._lay_out()
        self._put_fault()
        self._put_rest()
        return History(self._plan.fault, tuple(self._settle()))

    def _lay_out(self) -> None:
        """Decide on the graph."""
        chance, tip = self._chance, self._add(())
        tip = self._add((tip,))
        while (left := self._plan.commits - 1 - len(self._places)) > 0:
            size, beside = chance.randint(1, 5), chance.randint(1, 4)
            wants = self._plan.merges and (chance.random() < 0.15 or len(self._places) == 4)
            if not wants or size + beside + 1 > left:
                tip = self._add((tip,))
                continue
            base = branch = tip
            order = [True] * size + [False] * beside
            chance.shuffle(order)
            for on_branch in order:
                if on_branch:
                    branch = self._add((branch,), on_branch=True)
                else:
                    tip = self._add((tip,))
            tip = self._add((tip, branch), base=base)
        self._add((tip,))

    def _add(self, parents: tuple[int, ...], *, base: int | None = None, on_branch: bool = False) -> int:
        self._places.append(_Place(len(self._places), parents, base, on_branch))
        return len(self._places) - 1

    def _put_fault(self) -> None:
        plan, chance = self._plan, self._chance
        if plan.fault == "merge":
            merges = [place for place in self._places if place.base is not None]
            merge = self._choose(merges)
            assert merge.base is not None
            self._guilty.add(merge.number)
            for name, tip in zip(sorted(HALVES), merge.parents, strict=True):
                side = [place for place in self._walk(tip, merge.base) if place.base is None]
                chance.choice(side).changes.append(f"fault {name}")
            return
        fits = [
            place
            for place in self._places[2:-1]
            if place.base is None
            and place.on_branch is plan.on_branch
            # Behind a revert the main line goes on, and the fault comes back there.
            and not (plan.reverts and place.number > len(self._places) * 2 // 3)
        ]
        culprit = self._choose(fits)
        self._guilty.add(culprit.number)
        culprit.changes.append(f"fault {plan.fault}")
        if plan.hides_culprit:
            culprit.changes.append("breaks")
        if plan.reverts:
            # Branches that began with the fault bring nothing back: what did not change since is not merged.
            later = [
                place
                for place in self._places[:-1]
                if place.number > culprit.number
                and place.base is None
                and not place.on_branch
                and self._is_ancestor(culprit.number, place.number)
            ]
            first, second = sorted(chance.sample(range(len(later)), 2))
            later[first].changes.append(f"reverts {plan.fault}")
            later[second].changes.append(f"fault {plan.fault}")
            self._guilty.add(later[second].number)

    def _choose(self, places: Sequence[_Place]) -> _Place:
        assert places, f"there is no place for the fault of {self._plan}"
        if self._plan.at is None:
            return self._chance.choice(places)
        wanted = self._plan.at * (len(self._places) - 1)
        return min(places, key=lambda place: abs(place.number - wanted))

    def _walk(self, tip: int, base: int) -> list[_Place]:
        """The commits from ``tip`` back to ``base``, by first parents, without the latter."""
        found = []
        while tip != base:
            found.append(self._places[tip])
            tip = self._places[tip].parents[0]
        return found

    def _is_ancestor(self, ancestor: int, number: int) -> bool:
        waiting = [number]
        while waiting:
            number = waiting.pop()
            if number == ancestor:
                return True
            waiting += [parent for parent in self._places[number].parents if parent >= ancestor]
        return False

    def _put_rest(self) -> None:
        plan, chance = self._plan, self._chance
        near = self._guilty | {parent for number in self._guilty for parent in self._places[number].parents}
        free = [
            place
            for place in self._places[1:-2]
            if place.base is None and place.number not in near and not place.on_branch and not place.changes
        ]
        chance.shuffle(free)
        for _ in range(plan.broken):
            # It is mended by the commit behind it: on the main line, so that it comes into no branch.
            free.pop().changes.append("breaks")
        if plan.migration:
            free.pop().changes.append("migrates")
        if plan.bump and plan.fault != "dependency":
            free.pop().changes.append("bumps")
        if plan.other:
            begin, end = sorted((free.pop().number, free.pop().number))
            self._places[begin].changes.append(f"fault {OTHER}")
            self._places[end].changes.append(f"reverts {OTHER}")
        for place in self._places[1:]:
            if place.base is None and not place.changes:
                place.changes.append("restyles" if chance.random() < 0.1 else "fills")

    def _settle(self) -> list[Commit]:
        """Follow the states through the graph."""
        commits: list[Commit] = []
        for place in self._places:
            state, subject = State(), "start the shop"
            if place.base is not None:
                ours, theirs = (commits[parent].state for parent in place.parents)
                state = merge_states(commits[place.base].state, ours, theirs)
                subject = f"merge branch 'topic-{place.parents[1]}'"
            elif place.parents:
                state = attrs.evolve(commits[place.parents[0]].state, broken="")
                for change in place.changes:
                    state, subject = self._change(state, change, place.number)
            commits.append(Commit(place.number, place.parents, subject, self._chance.choice(PEOPLE), state))
        return commits

    def _change(self, state: State, change: str, number: int) -> tuple[State, str]:
        word, _, fault = change.partition(" ")
        match word:
            case "fault" if fault == "dependency":
                return attrs.evolve(state, dependency="2.0"), "use the new rates"
            case "fault":
                return attrs.evolve(state, faults=state.faults | {fault}), SUBJECTS[fault]
            case "reverts" if fault == "dependency":
                return attrs.evolve(state, dependency="1.0"), 'Revert "use the new rates"'
            case "reverts":
                return attrs.evolve(state, faults=state.faults - {fault}), f'Revert "{SUBJECTS[fault]}"'
            case "breaks":
                broken = self._chance.choice(("syntax", "import"))
                return attrs.evolve(state, broken=broken), "work in progress"
            case "migrates":
                return attrs.evolve(state, migrations=state.migrations + 1), "note what orders are for"
            case "bumps":
                return attrs.evolve(state, dependency="1.1"), "use rates 1.1"
            case "restyles":
                style = (state.style + 1) % STYLES
                return attrs.evolve(state, style=style), "tidy up prices"
        assert word == "fills"
        fillers = list(state.fillers)
        chosen = self._chance.randrange(FILLERS)
        fillers[chosen] = number
        return attrs.evolve(state, fillers=tuple(fillers)), f"change module {chosen}"


SUBJECTS: Mapping[str, str] = {
    "key": "take each country from the table",
    "none": "read coupons without a detour",
    "zero": "share by the number of people",
    "parse": "read quantities as they come",
    "column": "name the price in cents",
    "status": "refuse orders of many",
    "flaky": "look at the descriptor",
    "half:table": "list zones in small letters",
    "half:case": "look zones up in capitals",
    OTHER: "ask for a warehouse",
}
"""What the author of each fault says of it."""
