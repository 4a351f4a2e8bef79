"""Which set of flips changes how an execution ended: the search behind ``flux why --prove``.

An experiment needs a control. So the execution is first run twice with nothing flipped: if it does not fail as it did,
both times, nothing that follows would mean anything, and the search ends there. Then each flip is tried alone. Those
that make it pass are tried once more, and taken apart: of a peer's whole answer, which value was it? Where no flip is
enough alone, they are tried together; a set that passes is made smaller, one flip at a time, until each that is left
is needed, and then smaller sets are looked for.

`search` is a generator: it yields flips that are to be in force in one run and hears the run's `Effect`, so whoever
drives it does the waiting. It never asks for more than ``runs_max`` runs, and never twice for the same but to confirm.

What counts as passing is strict. An answer from 400 to 499 is a refusal: whoever takes a field away is refused, and
that proves nothing. Neither does another failure.
"""

import enum
from collections.abc import Generator, Iterable, Sequence
from itertools import combinations

import attrs

from flux.evidence import Fact
from flux.prove_flips import Code, Field, Flip
from flux.verdict import Verdict

REPLAYED = "↻"
"""Mark of a fact that replays have shown."""
RULE = "proof"
RUNS_MAX = 60
"""Runs of one experiment, all told."""
CONTROLS = 2
SETS_SHOWN = 8


class Effect(enum.StrEnum):
    """What a run shows."""

    SAME = "same failure"
    PASSED = "passed"
    PAST_IT = "past it"
    """Beyond the point where it failed, and then it asked what nobody can answer."""
    OTHER = "other failure"
    REFUSED = "refused"
    """The function answered 400 to 499."""
    UNDECIDED = "undecided"

    @property
    def is_passing(self) -> bool:
        """Whether the failure is gone, with nothing else in its place."""
        return self in (Effect.PASSED, Effect.PAST_IT)


def read_effect(verdict: Verdict, status: int) -> Effect:
    """Return what a replay with this verdict shows, whose function answered ``status``."""
    match verdict:
        case Verdict.PASSED:
            return Effect.PASSED if status < 400 else Effect.REFUSED
        case Verdict.PAST_IT:
            return Effect.PAST_IT
        case Verdict.SAME_FAILURE | Verdict.OUTSIDE:
            return Effect.SAME
        case Verdict.OTHER_FAILURE:
            return Effect.OTHER
    return Effect.UNDECIDED


@attrs.frozen
class Run:
    """One run of the experiment."""

    flips: tuple[Flip, ...]
    """In force; none in a control."""
    effect: Effect


@attrs.frozen
class Cause:
    """A set of flips that makes the execution pass, twice."""

    flips: tuple[Flip, ...]
    runs: tuple[int, ...]
    """Places in `Finding.runs` of the runs that show it."""


@attrs.frozen
class Finding:
    """How a search ended."""

    has_control: bool
    """With nothing flipped it failed as it did, each time. If not, nothing was searched."""
    causes: tuple[Cause, ...]
    """Of one size, what happened first at the front; empty: nothing that was tried makes it pass."""
    runs: tuple[Run, ...]
    untried: tuple[Flip, ...] = ()
    """Flips that were never alone in force, for want of runs."""
    is_smallest: bool = True
    """Every smaller set was tried, and it was decided that it does not pass."""
    is_needed: bool = True
    """Of a set, each flip was left out once, and then it did not pass."""


Trial = tuple[Flip, ...]
_Runs = Generator[Trial, Effect, bool]


def search(flips: Sequence[Flip], runs_max: int = RUNS_MAX) -> Generator[Trial, Effect, Finding]:
    """Look for the smallest sets of ``flips`` that make an execution pass. See the module."""
    lab = _Lab(runs_max)
    for _ in range(CONTROLS):
        if (yield from lab.run(())) is not Effect.SAME:
            return Finding(False, (), tuple(lab.runs))
    alone = yield from _try_alone(lab, flips)
    found: list[Trial] = [(flip,) for flip in alone]
    is_smallest = True
    if found:
        found = yield from _take_apart(lab, found)
    else:
        together, is_smallest = yield from _try_together(lab, flips)
        found = [together] if together else []
    causes = [Cause(trial, lab.find_passing(trial)) for trial in found]
    untried = tuple(flip for flip in flips if (flip,) not in lab.tried and flip.site not in {one.site for one in alone})
    is_smallest = is_smallest and not (untried and any(len(cause.flips) > 1 for cause in causes))
    # What decided nothing may have been enough.
    is_smallest = is_smallest and not any(len(less) < len(trial) for less in lab.undecided for trial in found)
    is_needed = all(lab.has_tried_without(flip, trial) for trial in found if len(trial) > 1 for flip in trial)
    causes.sort(key=lambda cause: min(_when(flip) for flip in cause.flips))
    return Finding(True, tuple(causes), tuple(lab.runs), untried, is_smallest, is_needed)


class _Lab:
    """What was run, and how many runs are left."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        self.runs: list[Run] = []
        self.tried: dict[Trial, bool] = {}
        """Sets that were run, and whether they make it pass, twice."""
        self.undecided: set[Trial] = set()
        """Of them, those of which a run did not tell."""

    @property
    def is_over(self) -> bool:
        """Whether no set can be tried any more: one that passes takes two runs."""
        return len(self.runs) + 2 > self._runs_max

    def run(self, trial: Trial) -> Generator[Trial, Effect, Effect]:
        effect = yield trial
        self.runs.append(Run(trial, effect))
        return effect

    def passes(self, trial: Iterable[Flip]) -> _Runs:
        """Return whether it passes with these in force, twice; False also where no run is left to find out."""
        flips = tuple(trial)
        if flips not in self.tried and not self.is_over:
            self.tried[flips] = False
            effect = yield from self.run(flips)
            if effect.is_passing:
                effect = yield from self.run(flips)
                self.tried[flips] = effect.is_passing
            if effect is Effect.UNDECIDED:
                self.undecided.add(flips)
        return self.tried.get(flips, False)

    def has_tried_without(self, flip: Flip, trial: Trial) -> bool:
        """Whether a set was tried with ``flip`` left out of it, and it was decided that this does not pass."""
        rest = tuple(one for one in trial if one is not flip)
        return rest in self.tried and rest not in self.undecided

    def find_passing(self, trial: Trial) -> tuple[int, ...]:
        """Return which runs had exactly these in force."""
        return tuple(number for number, run in enumerate(self.runs) if run.flips == trial)


def _try_alone(lab: _Lab, flips: Sequence[Flip]) -> Generator[Trial, Effect, list[Flip]]:
    """Return the flips that are enough alone, the first of each site."""
    found: dict[str, Flip] = {}
    for flip in flips:
        if flip.site not in found and (yield from lab.passes((flip,))):
            found[flip.site] = flip
    return list(found.values())


def _take_apart(lab: _Lab, found: Sequence[Trial]) -> Generator[Trial, Effect, list[Trial]]:
    """Return the sets with each flip replaced by those of its parts that are enough alone, if any are."""
    result: list[Trial] = []
    for (flip,) in found:
        parts = yield from _try_alone(lab, flip.parts)
        result += [(part,) for part in parts] or [(flip,)]
    return result


def _try_together(lab: _Lab, flips: Sequence[Flip]) -> Generator[Trial, Effect, tuple[Trial, bool]]:
    """Return a small set that is enough and whether none is smaller; an empty one when no set was found."""
    firsts = _list_firsts(flips)
    peers = {flip.peer.id: flip.peer for flip in flips if flip.peer is not None}
    sets = [_list_firsts([flip for flip in flips if flip.peer is peer]) for peer in list(peers.values())[:2]]
    for candidate in [*sets, firsts]:
        if len(candidate) > 1 and (yield from lab.passes(candidate)):
            smaller = yield from _shrink(lab, candidate)
            better = yield from _find_of_size(lab, firsts, range(2, len(smaller)))
            found = better or smaller
            # Sets with another than the first flip of a site were not tried, but for those of one.
            has_tried_all = len(firsts) == len(flips) and (bool(better) or not lab.is_over)
            return found, len(found) == 2 or has_tried_all
    return (yield from _find_of_size(lab, firsts, range(2, 3))), True


def _shrink(lab: _Lab, trial: Trial) -> Generator[Trial, Effect, Trial]:
    """Leave out what is not needed, until each that is left is."""
    for flip in trial:
        rest = tuple(one for one in trial if one is not flip)
        if len(rest) > 1 and (yield from lab.passes(rest)):
            return (yield from _shrink(lab, rest))
    return trial


def _find_of_size(lab: _Lab, flips: Sequence[Flip], sizes: Iterable[int]) -> Generator[Trial, Effect, Trial]:
    for size in sizes:
        for trial in combinations(flips, size):
            if (yield from lab.passes(trial)):
                return trial
    return ()


def _list_firsts(flips: Sequence[Flip]) -> Trial:
    """Return the first flip of each site."""
    firsts: dict[str, Flip] = {}
    for flip in flips:
        firsts.setdefault(flip.site, flip)
    return tuple(firsts.values())


def _when(flip: Flip) -> int:
    """When it has its effect: an input comes before every call; the code has been there all along."""
    match flip.change:
        case Field():
            return 0
        case Code():
            return 1 << 62
    return flip.change.call


# --- in words --------------------------------------------------------------------------------------


def tell_effect(effect: Effect, status: int) -> str:
    """Return what a run that passes does, as half a sentence."""
    return f"it answers {status}" if effect is Effect.PASSED else "it gets past the point where it failed"


def list_facts(
    finding: Finding, names: Sequence[str | None], statuses: Sequence[int], left_out: Sequence[str]
) -> list[Fact]:
    """Return what an experiment shows, a line each; ``names`` and ``statuses`` are of the runs' executions."""
    facts = []
    for cause in finding.causes[:SETS_SHOWN]:
        first = cause.runs[0]
        effect = tell_effect(finding.runs[first].effect, statuses[first])
        when = " and ".join(flip.text for flip in cause.flips)
        shown = ", ".join(name for run in cause.runs if (name := names[run]) is not None)
        seq = next((flip.call for flip in cause.flips if flip.call is not None), None)
        facts.append(Fact(REPLAYED, RULE, f"{effect} when {when}: {shown}", seq))
        if len(cause.flips) > 1:
            facts.append(Fact(REPLAYED, RULE, _tell_size(finding, len(cause.flips))))
    if len(finding.causes) > SETS_SHOWN:
        facts.append(Fact(REPLAYED, RULE, f"{len(finding.causes) - SETS_SHOWN} other flips make it pass too: --json"))
    if not finding.causes:
        facts.append(Fact(REPLAYED, RULE, _tell_nothing(finding)))
    controls = ", ".join(name for name in names[:CONTROLS] if name is not None)
    facts.append(Fact(REPLAYED, RULE, f"with nothing flipped it fails as it did: {controls}"))
    facts += [Fact(REPLAYED, RULE, sentence) for sentence in _count_vain(finding)]
    if finding.untried:
        count = len(finding.untried)
        made = f"{len(finding.runs)} runs were made, and there are no more"
        facts.append(Fact(REPLAYED, RULE, f"{_plural(count, 'flip')} not tried: {made}"))
    facts += [Fact(REPLAYED, RULE, sentence) for sentence in left_out]
    return facts


def _tell_nothing(finding: Finding) -> str:
    if len(finding.runs) == CONTROLS:
        return "no cause in the record: it heard nothing that could be flipped"
    return "no cause in the record: it never passed, whatever of what it heard was flipped"


def _tell_size(finding: Finding, size: int) -> str:
    them = "both" if size == 2 else f"all {size}"
    if not finding.is_needed:
        return f"whether {them} are needed is not known: not every smaller set was decided"
    alone = "no smaller set is enough" if finding.is_smallest else "whether another, smaller set is enough is not known"
    return f"{them} are needed: {alone}"


def _count_vain(finding: Finding) -> list[str]:
    """``12 flips and 3 sets did not make it pass``, and how many were not decided."""
    needed = {cause.flips for cause in finding.causes}
    effects = {run.flips: run.effect for run in finding.runs if run.flips and run.flips not in needed}
    undecided = [flips for flips, effect in effects.items() if effect is Effect.UNDECIDED]
    vain = [flips for flips, effect in effects.items() if not effect.is_passing and flips not in undecided]
    told = [f"{_count(vain)} did not make it pass: -v lists them"] if vain else []
    return [*told, f"{_count(undecided)} decided nothing: -v has the reasons"] if undecided else told


def _count(trials: Sequence[Trial]) -> str:
    alone = sum(len(flips) == 1 for flips in trials)
    counts = [_plural(alone, "flip")] * bool(alone)
    return " and ".join([*counts, *[_plural(len(trials) - alone, "set")] * (len(trials) > alone)])


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
