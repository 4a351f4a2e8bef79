"""Concurrent calls: which is whose counterpart, and whether their order says anything.

Tasks that run at once are answered as it comes, so two runs of one code have their calls in
different orders. Two calls that ask the same (but for ids that each run made for itself) are
told apart by the task that asks: tasks are numbered in the order of their creation, which is the
code's. And an order is a difference only where one call was asked because the other was answered.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from flux.hostcall import HostCall
from flux.matching import Aligned, Key

_Value = tuple[object, ...]


def add_tasks(
    one: Sequence[tuple[Key, int]], other: Sequence[tuple[Key, int]]
) -> tuple[list[Key], list[Key]]:
    """Return the keys, with the task in those that each task has as often on both sides."""
    exact = _find_alike(((key.exact, task) for key, task in one), ((key.exact, task) for key, task in other))
    shape = _find_alike(((key.shape, task) for key, task in one), ((key.shape, task) for key, task in other))

    def narrow(key: Key, task: int) -> Key:
        return Key(_add_task(key.exact, task, exact), _add_task(key.shape, task, shape))

    return [narrow(*each) for each in one], [narrow(*each) for each in other]


def _add_task(value: _Value, task: int, alike: AbstractSet[_Value]) -> _Value:
    return (*value, ("task", task)) if value in alike else value


def _find_alike(one: Iterable[tuple[_Value, int]], other: Iterable[tuple[_Value, int]]) -> set[_Value]:
    sides: list[dict[_Value, Counter[int]]] = []
    for pairs in (one, other):
        tasks: dict[_Value, Counter[int]] = defaultdict(Counter)
        for value, task in pairs:
            tasks[value][task] += 1
        sides.append(tasks)
    return {value for value, counts in sides[0].items() if sides[1].get(value) == counts}


class CallOrder:
    """Whether calls that came in another order might as well have come in the first."""

    def __init__(
        self, one: Sequence[HostCall], other: Sequence[HostCall], aligned: Sequence[Aligned]
    ) -> None:
        self._sides = (one, other)
        self._lives = (_find_lives(one), _find_lives(other))
        self._pairs = [
            (each.left, each.right) for each in aligned if each.left is not None and each.right is not None
        ]

    def is_open(self, each: Aligned) -> bool:
        """Whether each call that it changed places with was asked at the same time, or by a task that lived then."""
        assert each.left is not None and each.right is not None
        for left, right in self._pairs:
            if (left < each.left) is (right < each.right) or left == each.left:
                continue
            if not any(
                self._are_concurrent(side, *places)
                for side, places in enumerate(((left, each.left), (right, each.right)))
            ):
                return False
        return True

    def _are_concurrent(self, side: int, first: int, second: int) -> bool:
        one, other = self._sides[side][first], self._sides[side][second]
        if one.started_ns < _find_end(other) and other.started_ns < _find_end(one):
            return True  # Both were asked before either was answered: not every runtime tells tasks apart.
        tasks = (one.request.task, other.request.task)
        (began, ended), (other_began, other_ended) = (self._lives[side][task] for task in tasks)
        return tasks[0] != tasks[1] and began <= other_ended and other_began <= ended


def _find_end(call: HostCall) -> float:
    """When a call was answered; never, when it was not."""
    return float("inf") if call.result is None else call.started_ns + call.result.elapsed_ns


def _find_lives(calls: Sequence[HostCall]) -> dict[int, tuple[float, float]]:
    """When each task asked first and heard last."""
    lives: dict[int, tuple[float, float]] = {}
    for call in calls:
        ended = _find_end(call)
        began, last = lives.get(call.request.task, (call.started_ns, ended))
        lives[call.request.task] = (min(began, call.started_ns), max(last, ended))
    return lives
