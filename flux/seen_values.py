"""How a value that was seen looks on one line: much as Python writes it, with ``…`` where it was cut.

The values come from a guest, as `flux_guest._look` renders them. What is malformed is shown as it came, up to a depth:
a guest that is somebody's enemy nests further than any of Python's calls may.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

DEPTH_MAX = 50
"""What lies deeper is ``…``. `flux_guest._look` goes five values deep, each of them a few levels of JSON."""


def is_deep(value: Any) -> bool:
    """Whether ``value`` is nested deeper than `DEPTH_MAX`, which none is that `flux_guest._look` has rendered."""
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        level = [
            inner for each in level if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]  # fmt: skip
        if not level:
            return False
    return True


def show(value: Any, depth: int = 0) -> str:
    """Return ``value``, which lies so deep in another, on one line. It is not sanitised yet."""
    if depth > DEPTH_MAX:
        return "…"

    def inside(item: Any) -> str:
        return show(item, depth + 1)

    match value:
        case None | bool() | int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(map(inside, value))}]"
        case {"$type": str(kind), **rest}:
            return _show_tagged(kind, {str(key): item for key, item in rest.items()}, inside)
        case dict():
            return "{" + ", ".join(f"{inside(str(key))}: {inside(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _show_tagged(kind: str, said: Mapping[str, Any], inside: Callable[[Any], str]) -> str:
    length = said.get("length")
    match said:
        case {"text": str(text)} if kind == "unseen":
            return f"({text})"
        case {"text": str(text)} if kind == "str":
            return f"{json.dumps(text, ensure_ascii=False)}… {length:,} characters" if isinstance(length, int) else text
        case {"text": str(text)} if kind in ("bytes", "bytearray"):
            cut = f"… {length:,} bytes" if isinstance(length, int) and length > len(text) else ""
            return f"b'{text}'{cut}"
        case {"text": str(text)}:
            return text if kind in ("int", "float") else f"{kind}({text})"
        case {"name": str(name)}:
            return f"<{kind} {name}>"
        case {"value": inner}:
            return f"{kind}({inside(inner)})"
        case {"items": list(items)}:
            more = f", … {length:,} in all" if isinstance(length, int) else ""
            shown = ", ".join(map(inside, items)) + more
            bare = {"list": f"[{shown}]", "tuple": f"({shown})", "set": f"{{{shown}}}"}
            return bare.get(kind, f"{kind}([{shown}])")
        case {"pairs": list(pairs)}:
            twos = [pair for pair in pairs if isinstance(pair, list) and len(pair) == 2]
            told = ", ".join(f"{inside(key)}: {inside(item)}" for key, item in twos)
            more = f", … {length:,} in all" if isinstance(length, int) else ""
            return ("" if kind == "dict" else kind) + "{" + told + more + "}"
        case {"fields": dict(fields)}:
            more = f", … {length:,} in all" if isinstance(length, int) else ""
            arguments = f"{inside(said['args'])}, " if "args" in said else ""
            told = ", ".join(f"{key}={inside(item)}" for key, item in fields.items())
            return f"{kind}({arguments}{told}{more})"
        case {"args": list(arguments)}:
            return f"{kind}({', '.join(map(inside, arguments))})"
    return f"<{kind}>" + ("…" if said.get("cut") else "")
