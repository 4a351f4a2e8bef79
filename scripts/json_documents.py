"""Write the reference of docs/json-documents.md from flux.documents: ``python scripts/json_documents.py``.

What stands above the mark is written by hand and stays.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flux.documents import AREAS, Kind, render

PAGE = Path(__file__).parents[1] / "docs" / "json-documents.md"
MARK = "<!-- What follows is made by scripts/json_documents.py. -->\n"

Schema = dict[str, Any]


def make_page(text: str) -> str:
    """Return the page with its reference as it is to be."""
    by_hand, mark, _ = text.partition(MARK)
    assert mark, f"{PAGE} has no mark"
    shared: dict[str, Schema] = {}
    parts = [by_hand, MARK]
    for area, kinds in AREAS.items():
        parts += [f"\n## {area}\n", *(_describe_kind(kind, shared) for kind in kinds)]
    parts += ["\n## Shapes that recur\n"]
    own = {name: schema for name, schema in shared.items() if "schema" not in schema.get("properties", {})}
    parts += [f"\n### {name}\n\n{_describe(schema)}" for name, schema in sorted(own.items())]
    text = "".join(parts)
    for name, schema in shared.items():
        if name not in own:  # A whole document, of which the page tells already.
            tag = schema["properties"]["schema"]["const"]
            text = text.replace(f"[{name}](#{name})", f"[{tag}](#{tag.replace('.', '').replace('/', '')})")
    return text


def _describe_kind(kind: Kind, shared: dict[str, Schema]) -> str:
    schema = render(kind, is_strict=True)
    found: dict[str, Schema] = schema.get("$defs", {})
    line = found.pop("line", None)
    for name, each in found.items():
        assert shared.setdefault(name, each) == each, f"two shapes are called {name}"
    commands = [f"`{source} --json`" if source.startswith("flux ") and kind.is_tagged else f"`{source}`"
                for source in kind.sources if source.startswith(("flux ", "GET ", "POST "))]  # fmt: skip
    others = [source for source in kind.sources if not source.startswith(("flux ", "GET ", "POST "))]
    told = f"\n### {kind.tag}\n\n{_describe(schema, ', '.join([*commands, *others]))}"
    if line is not None:
        told += "\nOther lines of the stream, without `schema`:\n\n"
        told += "".join(f"- {_show_line(each)}\n" for each in line["anyOf"])
    return told


def _show_line(schema: Schema) -> str:
    if "$ref" in schema:
        return _show_type(schema)
    rows = ", ".join(f"`{path}` {kind}" for path, kind, _ in _rows(schema, ""))
    return f"{schema['description']} {rows}"


def _describe(schema: Schema, sources: str = "") -> str:
    lines = [schema["description"] + (f" From {sources}." if sources else ""), ""]
    lines += _table(schema)
    if "anyOf" in schema:
        lines += ["One of these:", ""]
    for each in schema.get("anyOf", ()):
        lines += [each["description"], "", *_table(each)]
    return "\n".join(lines)


def _table(schema: Schema) -> list[str]:
    rows = [f"| `{path}` | {kind} | {_cell(what)} |" for path, kind, what in _rows(schema, "") if path != "schema"]
    return ["| member | type | what |", "|---|---|---|", *rows, ""] if rows else []


def _rows(schema: Schema, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Each member, and those below it: path, type, meaning."""
    needed = set(schema.get("required", ()))
    conditional = schema.get("then", {}).get("properties", {})
    for name, member in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        kind = _show_type(member) + ("" if name in needed else ", may be missing")
        if name in conditional:
            kind = f"{_show_type(conditional[name])} or {kind}"
        yield path, kind, member.get("description", "")
        yield from _below(member, path)


def _below(member: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    if "properties" in member:
        yield from _rows(member, f"{path}.")
    elif "items" in member:
        yield from _below(member["items"], f"{path}[]")
    elif isinstance(member.get("additionalProperties"), dict):
        yield from _below(member["additionalProperties"], f"{path}.*")
    for each in member.get("anyOf", ()):
        yield from _below(each, path)


def _show_type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_show_type, schema["anyOf"])))
    if "const" in schema:
        return f"`{schema['const']}`".replace("True", "true")
    if "enum" in schema:
        return ", ".join("null" if word is None else f"`{word}`" for word in schema["enum"])
    kinds = schema.get("type")
    if kinds is None:
        return "any"
    named = [_show_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " or ".join(named)


def _show_kind(kind: str, schema: Schema) -> str:
    match kind:
        case "array":
            return f"list of {_show_type(schema['items'])}"
        case "string":
            return "time" if schema.get("format") == "date-time" else "text"
        case "boolean":
            return "true or false"
        case "integer":
            return "whole number"
    return kind


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
