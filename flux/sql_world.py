"""SQL of a guest's, read and rewritten for a replay's world.

In a world, copies and views of tables stand in ``pg_temp`` under the tables' own names, and
time is what it was. Names without a schema find them by themselves. What would go past them
is rewritten: names with the schema in front, and the key words of the clock, which no
function can stand in for. Only tokens are looked at; what is quoted as text is left alone.
"""

from collections.abc import Set as AbstractSet
from itertools import pairwise

import attrs

from flux.sql_script import tokens

_TIMES = {
    "current_timestamp": "timestamptz",
    "current_date": "date",
    "current_time": "timetz",
    "localtimestamp": "timestamp",
    "localtime": "time",
}
"""Key words that tell the time, and the type of what they tell."""
_TIME_FUNCTIONS = frozenset({"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"})
_SYSTEM = "pg_catalog"
_TEMPORARY = "pg_temp"
WORLD_SCHEMA = "flux_world"
"""Where the functions are that tell a world's time."""
_TARGET_WORDS = {("insert", "into"), ("merge", "into"), ("delete", "from")}


@attrs.frozen
class TableName:
    """A table as a statement names it."""

    schema: str | None
    """None when the statement leaves it out."""
    name: str


@attrs.frozen
class _Token:
    kind: str
    begin: int
    end: int
    name: str
    """What it is as a name: folded, or without its quotes. Empty when it is none."""


def find_targets(sql: str) -> tuple[TableName, ...]:
    """Return the tables that ``sql`` says it writes to, also in a WITH; what functions write is not seen."""
    read = _read(sql)
    found = []
    for index, token in enumerate(read):
        if token.kind != "word":
            continue
        before = read[index - 1].name if index and read[index - 1].kind == "word" else ""
        if token.name == "update":
            # Not "for update", nor "do update", nor "on update".
            start = None if before in ("for", "do", "on", "then") else index + 1
        else:
            follows = read[index + 1].name if index + 1 < len(read) else ""
            start = index + 2 if (token.name, follows) in _TARGET_WORDS else None
        if start is not None and start < len(read):
            if read[start].name == "only" and read[start].kind == "word":
                start += 1
            target = _read_name(sql, read, start)
            if target is not None:
                found.append(target)
    return tuple(dict.fromkeys(found))


def locks_rows(sql: str) -> bool:
    """Whether ``sql`` has a FOR UPDATE, FOR SHARE or the like, which a READ ONLY transaction refuses on real tables."""
    words = [token.name if token.kind == "word" else "" for token in _read(sql)]
    return any(
        pair in (("for", "update"), ("for", "no"), ("for", "share"), ("for", "key"))
        for pair in pairwise(words)
    )


def find_names(sql: str) -> frozenset[str]:
    """Return every name in ``sql``: tables, columns, functions and key words alike."""
    return frozenset(token.name for token in _read(sql) if token.name)


def rewrite(sql: str, schema: str, shadowed: AbstractSet[str]) -> str:
    """Return ``sql`` as it is to run in a world whose tables ``shadowed`` of ``schema`` stand in ``pg_temp``."""
    read = _read(sql)
    parts: list[str] = []
    position = 0
    for index, token in enumerate(read):
        replacement = _replace(sql, read, index, schema, shadowed)
        if replacement is None or token.begin < position:
            continue
        text, end = replacement
        parts += [sql[position : token.begin], text]
        position = end
    return "".join(parts) + sql[position:]


def _replace(
    sql: str, read: list[_Token], index: int, schema: str, shadowed: AbstractSet[str]
) -> tuple[str, int] | None:
    """Return what stands in the place of a token, and where it ends."""
    token = read[index]
    if not token.name or (index and sql[read[index - 1].begin] == "."):
        return None
    follows = [sql[other.begin : other.end] for other in read[index + 1 : index + 3]]
    is_qualified = follows[:1] == ["."] and len(follows) == 2
    if is_qualified and token.name == schema and read[index + 2].name in shadowed:
        return _TEMPORARY, token.end
    if is_qualified and token.name == _SYSTEM and read[index + 2].name in _TIME_FUNCTIONS:
        return WORLD_SCHEMA, token.end
    is_alias = index > 0 and read[index - 1].name == "as" and read[index - 1].kind == "word"
    if token.kind != "word" or token.name not in _TIMES or is_alias:
        return None
    kind = _TIMES[token.name]
    digits = sql[read[index + 2].begin] if len(read) > index + 3 and follows[:1] == ["("] else ""
    if digits.isdigit() and sql[read[index + 3].begin] == ")":
        return f"{WORLD_SCHEMA}.now()::{kind}({digits})", read[index + 3].end
    return f"{WORLD_SCHEMA}.now()::{kind}", token.end


def _read(sql: str) -> list[_Token]:
    return [_Token(kind, begin, end, _name(kind, sql[begin:end])) for kind, begin, end in tokens(sql)]


def _name(kind: str, text: str) -> str:
    if kind == "word":
        return "".join(letter.lower() if letter.isascii() else letter for letter in text)
    if kind == "quoted" and text.startswith('"'):
        return text[1:].removesuffix('"').replace('""', '"')
    return ""


def _read_name(sql: str, read: list[_Token], start: int) -> TableName | None:
    first = read[start]
    if not first.name:
        return None
    if start + 2 < len(read) and sql[read[start + 1].begin] == "." and read[start + 2].name:
        return TableName(first.name, read[start + 2].name)
    return TableName(None, first.name)
