"""What names held, as an editor unfolds it.

A value came as JSON with bounds (`flux_guest._look`): so many items, so deep. Within them a value unfolds without
asking anybody. Beyond, it is asked for by the expression that leads to it, ``order.lines[20]``, at the same event, in
the small language in which nothing runs. What has no such expression, an element of a set, stays cut, and says so.

A *reference* is the number by which an editor asks for what is inside of a value. All of them end when one moves on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from flux.sanitize import sanitize
from flux.seen_values import show

TEXT_CHARACTERS_MAX = 1_000
PAGE_MAX = 100
"""Items that one answer has at most."""
ASKED_TOGETHER = 20
"""Expressions of one question, as long as they have room in it."""
EXPRESSION_CHARACTERS_MAX = 500
_MAPPINGS = frozenset({"dict", "defaultdict", "OrderedDict", "Counter"})
"""Types that are told by their fields, and whose fields are keys. Of others they are attributes."""
_UNORDERED = frozenset({"set", "frozenset"})

LookUp = Callable[[Sequence[str], int], list[Any]]
"""Returns what each expression was, in the function that is so many callers up."""


@attrs.frozen
class Held:
    """A value, and how one comes to it."""

    name: str
    value: Any
    expression: str | None
    """None where the language has none."""
    up: int


class Values:
    """The values that an editor may unfold while one stands at an event."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._held: dict[int, Held | list[Held]] = {}
        self._last = 0
        """Reference that was given last. None is given twice, so that an old one means nothing, and no other value."""

    def clear(self) -> None:
        """Forget them: one has moved."""
        self._held.clear()

    def hold(self, held: Held | list[Held]) -> int:
        """Return the reference of a value, or of several."""
        self._last += 1
        self._held[self._last] = held
        return self._last

    def find(self, reference: int, name: str) -> Held | None:
        """Return what is called so inside of a reference."""
        return next((each for each in self._open(reference, 0, PAGE_MAX) or () if each.name == name), None)

    def unfold(self, reference: int, start: int, count: int) -> list[dict[str, Any]] | None:
        """Return what is inside as the protocol has it; None where there is no such reference."""
        inside = self._open(reference, start, min(count or PAGE_MAX, PAGE_MAX))
        return None if inside is None else [self.describe(each) for each in inside]

    def describe(self, held: Held) -> dict[str, Any]:
        """Return a ``Variable``."""
        found = {"name": sanitize(held.name)} | self.describe_value(held)
        if held.expression is not None:
            found["evaluateName"] = held.expression
        return found

    def describe_value(self, held: Held) -> dict[str, Any]:
        """Return what a ``Variable`` and the answer of ``evaluate`` have in common, under a variable's names."""
        text = sanitize(show(held.value))
        if len(text) > TEXT_CHARACTERS_MAX:
            text = text[:TEXT_CHARACTERS_MAX] + "…"
        found: dict[str, Any] = {"value": text, "type": sanitize(_name_type(held.value)), "variablesReference": 0}
        if _is_cut(held.value) and held.expression is None:
            return found
        if _is_cut(held.value) or _list_inside(held):
            found["variablesReference"] = self.hold(held)
            if (length := _find_length(held)) is not None:
                found["indexedVariables"] = length
        return found

    def _open(self, reference: int, start: int, count: int) -> list[Held] | None:
        held = self._held.get(reference)
        if held is None:
            return None
        if isinstance(held, list):
            return held[start : start + count]
        if _is_cut(held.value) and held.expression is not None:
            held = attrs.evolve(held, value=self._look_up([held.expression], held.up)[0])
            self._held[reference] = held
        inside = _list_inside(held)
        length = _find_length(held)
        found = inside[start : start + count]
        if length is None:
            if (hidden := _count_hidden(held.value, len(inside))) and start + count > len(inside):
                found.append(Held("…", {"$type": "unseen", "text": f"{hidden:,} more"}, None, held.up))
            return found
        missing = range(start + len(found), min(start + count, length))
        return found + self._ask(held, missing)

    def _ask(self, held: Held, indexes: range) -> list[Held]:
        """Return items of a list that were not told with it."""
        found: list[Held] = []
        texts = [f"{held.expression}[{index}]" for index in indexes]
        while texts:
            together = ASKED_TOGETHER
            while together > 1 and len(", ".join(texts[:together])) > EXPRESSION_CHARACTERS_MAX:
                together -= 1
            for text, value in zip(texts[:together], self._look_up(texts[:together], held.up), strict=True):
                found.append(Held(text[len(held.expression or "") :], value, text, held.up))
            texts = texts[together:]
        return found


def _is_cut(value: Any) -> bool:
    return isinstance(value, dict) and value.get("cut") is True and "text" not in value


def _name_type(value: Any) -> str:
    if isinstance(value, dict) and "$type" in value:
        return str(value["$type"])
    return "None" if value is None else type(value).__name__


def _find_length(held: Held) -> int | None:
    """Return the length of a list that can be asked for item by item, and was not told whole."""
    value = held.value
    if not isinstance(value, dict) or held.expression is None or value.get("$type") in _UNORDERED:
        return None
    length = value.get("length")
    return length if isinstance(value.get("items"), list) and isinstance(length, int) else None


def _count_hidden(value: Any, shown: int) -> int:
    length = value.get("length") if isinstance(value, dict) and "text" not in value else None
    return max(0, length - shown) if isinstance(length, int) else 0


def _list_inside(held: Held) -> list[Held]:
    """Return what was told of the inside of a value."""
    match held.value:
        case list(items):
            return _list_items(held, items)
        case {"$type": str(kind), "items": list(items)}:
            return _list_items(held, items, has_order=kind not in _UNORDERED)
        case {"$type": str(_), "pairs": list(pairs)}:
            return [_key_pair(held, *pair) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
        case {"$type": str(kind)}:
            return _list_fields(held, kind, held.value)
        case dict(fields):
            return [_key_pair(held, key, item) for key, item in fields.items()]
    return []


def _list_fields(held: Held, kind: str, value: Mapping[str, Any]) -> list[Held]:
    arguments = [Held("args", value["args"], None, held.up)] if "args" in value else []
    if not isinstance(fields := value.get("fields"), dict):
        return arguments
    if kind in _MAPPINGS:
        return arguments + [_key_pair(held, key, item) for key, item in fields.items()]
    named = [
        Held(name, item, _extend(held, f".{name}") if name.isidentifier() else None, held.up)
        for name, item in fields.items()
    ]
    return arguments + named


def _list_items(held: Held, items: list[Any], *, has_order: bool = True) -> list[Held]:
    return [
        Held(f"[{index}]", item, _extend(held, f"[{index}]") if has_order else None, held.up)
        for index, item in enumerate(items)
    ]


def _key_pair(held: Held, key: Any, item: Any) -> Held:
    is_plain = key is None or isinstance(key, bool | int | str)
    return Held(f"[{show(key)}]", item, _extend(held, f"[{key!r}]") if is_plain else None, held.up)


def _extend(held: Held, by: str) -> str | None:
    """Return the expression of what is inside, as long as one may be so long."""
    if held.expression is None or len(held.expression) + len(by) > EXPRESSION_CHARACTERS_MAX - 10:
        return None
    return held.expression + by
