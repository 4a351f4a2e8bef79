"""How a value that was seen looks on one line: much as Python writes it, with ``…`` where it was cut.

The values come from a guest, as `flux_guest._look` renders them. What is malformed is shown as it came.
"""

import json
from collections.abc import Mapping
from typing import Any


def show(value: Any) -> str:
    """Return ``value`` on one line. It is not sanitised yet."""
    match value:
        case None | bool() | int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(map(show, value))}]"
        case {"$type": str(kind), **rest}:
            return _show_tagged(kind, {str(key): item for key, item in rest.items()})
        case dict():
            return "{" + ", ".join(f"{show(str(key))}: {show(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _show_tagged(kind: str, said: Mapping[str, Any]) -> str:
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
            return f"{kind}({show(inner)})"
        case {"items": list(items)}:
            more = f", … {length:,} in all" if isinstance(length, int) else ""
            inside = ", ".join(map(show, items)) + more
            bare = {"list": f"[{inside}]", "tuple": f"({inside})", "set": f"{{{inside}}}"}
            return bare.get(kind, f"{kind}([{inside}])")
        case {"pairs": list(pairs)}:
            shown = [f"{show(pair[0])}: {show(pair[1])}" for pair in pairs if isinstance(pair, list) and len(pair) == 2]
            more = f", … {length:,} in all" if isinstance(length, int) else ""
            return ("" if kind == "dict" else kind) + "{" + ", ".join(shown) + more + "}"
        case {"fields": dict(fields)}:
            more = f", … {length:,} in all" if isinstance(length, int) else ""
            arguments = f"{show(said['args'])}, " if "args" in said else ""
            return f"{kind}({arguments}" + ", ".join(f"{key}={show(item)}" for key, item in fields.items()) + more + ")"
        case {"args": list(arguments)}:
            return f"{kind}({', '.join(map(show, arguments))})"
    return f"<{kind}>" + ("…" if said.get("cut") else "")
