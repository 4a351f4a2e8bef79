"""How the calls of two runs find each other, by what they ask and not by where they stand.

A replay of changed code asks more, less or in another order than its recording, and a
diff puts two executions side by side. Matched by position, one call too many would give
every later one the answer of another. So a call is known here by its *key*: what it
asks, without how that is written. The n-th call of a key is the counterpart of the n-th
call of that key on the other side, whatever stands between; a call without a counterpart
is put beside one that asks the same kind of thing (its *shape*) with other arguments.

Clock and randomness are no part of it: they are streams, and reading one more often
shifts nothing. Neither are log lines.

Grades are about one direction, from the recording (left) to the replay (right).
"""

import enum
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import attrs

from flux import calls, values
from flux.hostcall import HostCall, HostCallRequest
from flux.sql_shape import normalise

STREAMS = ("clock.", "entropy.", "log.")
"""Interfaces whose calls are no questions that another run would ask alike."""
PATIENCE = frozenset({"timeout_s"})
"""Options of an outbound request that say how long to wait for the answer, and nothing to who answers."""


class Grade(enum.StrEnum):
    """How a call of the replay compares with the recording."""

    EXACT = "exact"
    """The same question, in its turn."""
    REORDERED = "reordered"
    """The same question, before or after another one that was on its other side."""
    CHANGED = "changed"
    """The same kind of question with other arguments."""
    NEW = "new"
    """Only the replay asks it."""
    MISSING = "missing"
    """Only the recording asks it."""


@attrs.frozen
class Key:
    """What a call asks."""

    exact: tuple[object, ...]
    """Equal for calls that ask the same."""
    shape: tuple[object, ...]
    """Equal for calls that ask the same kind of thing."""


@attrs.frozen
class Pair:
    """A call of each side, or of one."""

    grade: Grade
    left: HostCall | None
    right: HostCall | None


def is_stream(name: str) -> bool:
    """Whether calls of this name are read like a stream, and not matched."""
    return name.startswith(STREAMS)


def make_key(request: HostCallRequest) -> Key:
    """Return what ``request`` asks. Never raises: arguments that can't be read are compared as bytes."""
    name, arguments = request.name, calls.read_json(request.arguments)
    match name, arguments:
        case (("db.query" | "db.execute"), [str(sql), *rest]):
            statement = normalise(sql)
            return Key((name, statement, _canonical(rest)), (name, statement))
        case "http.request", [str(method), str(url), *rest]:
            options = rest[0] if rest and isinstance(rest[0], dict) else {}
            asked = {option: value for option, value in options.items() if option not in PATIENCE}
            return Key((name, method.upper(), url, _canonical(asked)), (name, method.upper(), *_place(url)))
        case _, [str(first), *_]:
            return Key((name, request.arguments), (name, first))
        case _:
            return Key((name, request.arguments), (name,))


def _canonical(value: object) -> bytes:
    return values.encode_json_canonical(value)


def _place(url: str) -> tuple[str, ...]:
    """Host and path of ``url``, with whatever looks like an id left out of the path."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return (url,)
    segments = [
        "*" if any(letter.isdigit() for letter in segment) else segment for segment in path.split("/")
    ]
    return (calls.find_host(url), "/".join(segments))


class Counterparts:
    """The recorded calls that a replay has not asked yet, by what they ask."""

    def __init__(self, recorded: Iterable[HostCall]) -> None:
        self._by_key: defaultdict[tuple[object, ...], deque[HostCall]] = defaultdict(deque)
        self._by_shape: defaultdict[tuple[object, ...], list[HostCall]] = defaultdict(list)
        self._taken: set[int] = set()
        for call in sorted(recorded, key=lambda call: call.request.seq):
            if not is_stream(call.request.name):
                key = make_key(call.request)
                self._by_key[key.exact].append(call)
                self._by_shape[key.shape].append(call)

    def take(self, request: HostCallRequest) -> HostCall | None:
        """Return the first call left that asks the same, which is then taken; None when none is left."""
        waiting = self._by_key.get(make_key(request).exact)
        if not waiting:
            return None
        call = _choose(waiting, request)
        self.take_out(call)
        return call

    def find(self, request: HostCallRequest) -> HostCall | None:
        """Return what `take` would, or `find_similar` where that is nothing; it stays."""
        waiting = self._by_key.get(make_key(request).exact)
        if not waiting:
            return self.find_similar(request)
        return _choose(waiting, request)

    def take_out(self, call: HostCall) -> None:
        """Take a call that `find` has returned."""
        self._by_key[make_key(call.request).exact].remove(call)
        self._taken.add(call.request.seq)

    def find_similar(self, request: HostCallRequest) -> HostCall | None:
        """Return the first call left that asks the same kind of thing; it stays."""
        similar = self._by_shape.get(make_key(request).shape, ())
        return next((call for call in similar if call.request.seq not in self._taken), None)


def _choose(waiting: Sequence[HostCall], request: HostCallRequest) -> HostCall:
    # Two tasks that ask the same may swap their turns; each is to hear its own answer all the same.
    return next((call for call in waiting if call.request.task == request.task), waiting[0])


@attrs.frozen
class Aligned:
    """Indices of a pair, one on each side or on one."""

    grade: Grade
    left: int | None
    right: int | None


def align(left: Sequence[HostCall], right: Sequence[HostCall]) -> list[Pair]:
    """Return every call of both sides once, each beside its counterpart, as `align_keys` does. Streams are left out."""
    left = [call for call in left if not is_stream(call.request.name)]
    right = [call for call in right if not is_stream(call.request.name)]
    aligned = align_keys([make_key(call.request) for call in left], [make_key(call.request) for call in right])
    return [
        Pair(
            one.grade,
            None if one.left is None else left[one.left],
            None if one.right is None else right[one.right],
        )
        for one in aligned
    ]


def align_keys(left: Sequence[Key], right: Sequence[Key]) -> list[Aligned]:
    """Return every index of both sides once, each beside its counterpart's, in an order that reads well.

    The order is that of ``right``; what only ``left`` has stands where it stood among its neighbours that have
    a counterpart.
    """
    partner = _pair_in_order([key.exact for key in left], [key.exact for key in right])
    in_turn = _find_longest_increasing(partner)
    grades = {
        index: Grade.EXACT if index in in_turn else Grade.REORDERED for index in partner
    }  # by index on the right
    changed = _pair_rest_in_order(left, right, taken_left=set(partner.values()), taken_right=set(partner))
    grades.update(dict.fromkeys(changed, Grade.CHANGED))
    partner.update(changed)
    return _weave(len(left), len(right), partner, grades)


def _pair_in_order(left: Sequence[object], right: Sequence[object]) -> dict[int, int]:
    """Return for indices on the right the index on the left: the n-th of a value with the n-th."""
    waiting: defaultdict[object, deque[int]] = defaultdict(deque)
    for index, value in enumerate(left):
        waiting[value].append(index)
    return {index: waiting[value].popleft() for index, value in enumerate(right) if waiting.get(value)}


def _pair_rest_in_order(
    left: Sequence[Key], right: Sequence[Key], *, taken_left: set[int], taken_right: set[int]
) -> dict[int, int]:
    rest_left = [index for index in range(len(left)) if index not in taken_left]
    rest_right = [index for index in range(len(right)) if index not in taken_right]
    found = _pair_in_order(
        [left[index].shape for index in rest_left], [right[index].shape for index in rest_right]
    )
    return {rest_right[there]: rest_left[here] for there, here in found.items()}


def _find_longest_increasing(partner: dict[int, int]) -> set[int]:
    """Return the indices on the right of the longest run of pairs that both sides have in the same order."""
    ends: list[int] = []
    holders: list[int] = []
    previous: dict[int, int | None] = {}
    for index in sorted(partner):
        place = bisect_left(ends, partner[index])
        previous[index] = holders[place - 1] if place else None
        if place == len(ends):
            ends.append(partner[index])
            holders.append(index)
        else:
            ends[place], holders[place] = partner[index], index
    found: set[int] = set()
    last = holders[-1] if holders else None
    while last is not None:
        found.add(last)
        last = previous[last]
    return found


def _weave(left: int, right: int, partner: dict[int, int], grades: dict[int, Grade]) -> list[Aligned]:
    aligned: list[Aligned] = []
    paired = set(partner.values())
    next_left = 0
    for index in range(right):
        grade = grades.get(index, Grade.NEW)
        if grade is Grade.EXACT:
            # What only the left has between this pair and the one before it stood here.
            for other in range(next_left, partner[index]):
                if other not in paired:
                    aligned.append(Aligned(Grade.MISSING, other, None))
            next_left = partner[index] + 1
        aligned.append(Aligned(grade, partner.get(index), index))
    aligned += [
        Aligned(Grade.MISSING, other, None) for other in range(next_left, left) if other not in paired
    ]
    return aligned
