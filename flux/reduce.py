"""Making a document smaller for as long as it still shows the same.

`reduce` is a dialogue: it proposes a smaller document, is told whether that one still does, and goes on from what
it knows. It removes members of objects and items of lists, many at a time first and then single ones (delta
debugging: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002), from the outside to the
inside. It ends
when nothing can be left out, or sooner, when whoever tries runs out of patience: what was kept by then is a smaller
document all the same.
"""

import copy
from collections.abc import Generator, Sequence
from typing import Any

Path = tuple[str | int, ...]


def reduce(document: Any, roots: Sequence[Path]) -> Generator[Any, bool, Any]:
    """Yield smaller documents, and return the smallest of which it was told (by `send`) that it still does.

    ``roots`` are the containers that may be made smaller, with all that is inside them.
    """
    current = document
    waiting = list(roots)
    while waiting:
        path = waiting.pop(0)
        current = yield from _shrink(current, path)
        inner = _get(current, path)
        waiting += [(*path, key) for key in _list_keys(inner) if _list_keys(inner[key])]
    return current


def _shrink(document: Any, path: Path) -> Generator[Any, bool, Any]:
    size = len(_list_keys(_get(document, path)))
    while size >= 1:
        start = 0
        while start < len(keys := _list_keys(_get(document, path))):
            candidate = _without(document, path, keys[start : start + size])
            if (yield candidate):
                document = candidate
            else:
                start += size
        size = min(size, len(keys)) // 2
    return document


def _get(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _list_keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _without(document: Any, path: Path, keys: Sequence[Any]) -> Any:
    candidate = copy.deepcopy(document)
    container = _get(candidate, path)
    for key in reversed(keys):
        del container[key]
    return candidate
