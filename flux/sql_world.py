"""SQL of a guest's, read and rewritten for a replay's world.

In a world, copies and views of tables stand in ``pg_temp`` under the tables' own names, and
time is what it was. Names of tables without a schema find them by themselves. What would go past
them is rewritten: names with the schema in front; functions, which PostgreSQL never looks for
among what is temporary; names of sequences in text; and the key words of the clock, which no
function can stand in for. Only tokens are looked at; other text in quotes is left alone.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import pairwise

import attrs

from flux.sql_script import tokens

KEPT_CHARACTERS_MAX = 4_000
"""Statements of so many characters are remembered when they have been read; longer ones would take much room."""
_TIMES = {
    "current_timestamp": "timestamptz",
    "current_date": "date",
    "current_time": "timetz",
    "localtimestamp": "timestamp",
    "localtime": "time",
}
"""Key words that tell the time, and the type of what they tell."""
WORLD_FUNCTIONS = frozenset(
    {
        "now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "timeofday",
        "random", "gen_random_uuid", "uuid_generate_v4", "gen_random_bytes", "uuidv4", "uuidv7",
    }
)  # fmt: skip
"""Functions that a world has its own of. Without a schema, names find them by themselves."""
CHANCE_FUNCTIONS = frozenset(
    {"random", "gen_random_uuid", "uuid_generate_v4", "gen_random_bytes", "uuidv4", "uuidv7"}
)
"""Those of them that draw: what they give follows from a seed."""
_CHANCE_OF_EXTENSIONS = frozenset({"gen_random_uuid", "uuid_generate_v4", "gen_random_bytes"})
_SYSTEM = "pg_catalog"
_TEMPORARY = "pg_temp"
WORLD_SCHEMA = "flux_world"
"""Where the functions are that tell a world's time."""
_TARGET_WORDS = {("insert", "into"), ("merge", "into"), ("delete", "from")}
_SEQUENCE_FUNCTIONS = frozenset({"nextval", "currval", "setval", "pg_get_serial_sequence"})
_NO_CALL_AFTER = frozenset({"into", "as", "with", "recursive", "references", "on", "table", "update", "function",
                            "procedure"})  # fmt: skip
"""Words after which a name with a parenthesis is no call."""
_ONLY_OF_TABLES = frozenset({"merge", "truncate", "ctid", "tableoid"})
_LOCK_WORDS = frozenset({"update", "no", "key", "share", "of", "nowait", "skip", "locked"})


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


def has_upsert(sql: str) -> bool:
    """Whether ``sql`` has an ON CONFLICT."""
    words = [token.name if token.kind == "word" else "" for token in _read(sql)]
    return ("on", "conflict") in pairwise(words)


def needs_table(sql: str, names: AbstractSet[str]) -> bool:
    """Whether ``sql`` asks of one of ``names`` what only a table can do, and a view of one can't.

    That is ON CONFLICT, MERGE and TRUNCATE, and where a row is on the disk.
    """
    read = _read(sql)
    found = {token.name for token in read}
    if not found & names:
        return False
    return bool(found & _ONLY_OF_TABLES) or has_upsert(sql)


def find_names(sql: str) -> frozenset[str]:
    """Return every name in ``sql``: tables, columns, functions and key words alike."""
    return frozenset(token.name for token in _read(sql) if token.name)


def quote(name: str) -> str:
    """Return ``name`` as SQL writes any name."""
    return '"' + name.replace('"', '""') + '"'


def find_calls(sql: str) -> frozenset[str]:
    """Return every name in ``sql`` that a parenthesis follows: functions, and more."""
    read = _read(sql)
    return frozenset(
        token.name for token, following in pairwise(read) if token.name and sql[following.begin] == "("
    )


def find_drawn(sql: str, schema: str) -> tuple[str, ...]:
    """Return the sequences of ``schema`` that ``sql`` asks for a number by name."""
    read = _read(sql)
    found = []
    for word, mark, text in zip(read, read[1:], read[2:], strict=False):
        if word.name != "nextval" or sql[mark.begin] != "(" or not sql[text.begin : text.end].startswith("'"):
            continue
        named = [
            token.name for token in _read(sql[text.begin + 1 : text.end - 1].replace("''", "'")) if token.name
        ]
        if len(named) == 1 or named[:1] == [schema]:
            found.append(named[-1])
    return tuple(found)


def drop_locks(sql: str) -> str:
    """Return ``sql`` without its FOR UPDATE and the like, which nobody else could wait for in a world."""
    read = _read(sql)
    parts: list[str] = []
    position = index = 0
    while index + 1 < len(read):
        words = [token.name if token.kind == "word" else "" for token in read[index : index + 2]]
        if words[0] != "for" or words[1] not in ("update", "no", "share", "key"):
            index += 1
            continue
        parts.append(sql[position : read[index].begin])
        end = index + 1
        while end < len(read) and (
            read[end].name in _LOCK_WORDS
            or sql[read[end].begin] == ","
            or read[end - 1].name == "of"
            or sql[read[end - 1].begin] == ","
        ):
            end += 1
        position = read[end].begin if end < len(read) else len(sql)
        index = end
    return "".join(parts) + sql[position:]


def rewrite(
    sql: str, schema: str, shadowed: AbstractSet[str], functions: AbstractSet[str] = frozenset()
) -> str:
    """Return ``sql`` as it is to run in a world.

    ``shadowed`` are the tables, views and sequences of ``schema`` that stand in ``pg_temp``, and ``functions`` its
    functions that do.
    """
    read = _read(sql)
    parts: list[str] = []
    position = 0
    for index, token in enumerate(read):
        replacement = _replace(sql, read, index, schema, shadowed, functions)
        if replacement is None or token.begin < position:
            continue
        text, end = replacement
        parts += [sql[position : token.begin], text]
        position = end
    return "".join(parts) + sql[position:]


def _replace(
    sql: str,
    read: Sequence[_Token],
    index: int,
    schema: str,
    shadowed: AbstractSet[str],
    functions: AbstractSet[str],
) -> tuple[str, int] | None:
    """Return what stands in the place of a token, and where it ends."""
    token = read[index]
    follows = [sql[other.begin : other.end] for other in read[index + 1 : index + 4]]
    before = read[index - 1] if index else None
    if token.kind == "quoted" and not token.name:
        return _replace_text(sql, read, index, schema, shadowed)
    if not token.name or (before is not None and sql[before.begin] == "."):
        return None
    if follows[:1] == ["."] and len(follows) >= 2:
        name = read[index + 2].name
        is_call = follows[2:] == ["("]
        if is_call and name in (WORLD_FUNCTIONS if token.name == _SYSTEM else _CHANCE_OF_EXTENSIONS):
            return WORLD_SCHEMA, token.end
        if token.name == schema and (name in shadowed or (is_call and name in functions)):
            return _TEMPORARY, token.end
        return None
    if token.name in functions and follows[:1] == ["("]:
        is_call = before is None or before.kind != "word" or before.name not in _NO_CALL_AFTER
        return (f"{_TEMPORARY}.{sql[token.begin : token.end]}", token.end) if is_call else None
    is_alias = before is not None and before.name == "as" and before.kind == "word"
    if token.kind != "word" or token.name not in _TIMES or is_alias:
        return None
    kind = _TIMES[token.name]
    digits = sql[read[index + 2].begin] if len(read) > index + 3 and follows[:1] == ["("] else ""
    if digits.isdigit() and sql[read[index + 3].begin] == ")":
        return f"{WORLD_SCHEMA}.now()::{kind}({digits})", read[index + 3].end
    return f"{WORLD_SCHEMA}.now()::{kind}", token.end


def _replace_text(
    sql: str, read: Sequence[_Token], index: int, schema: str, shadowed: AbstractSet[str]
) -> tuple[str, int] | None:
    """Return what stands in the place of text that names something of ``schema``: a sequence's name, or a regclass."""
    token = read[index]
    text = sql[token.begin : token.end]
    is_argument = (
        index >= 2 and sql[read[index - 1].begin] == "(" and read[index - 2].name in _SEQUENCE_FUNCTIONS
    )
    is_cast = [other.name or sql[other.begin] for other in read[index + 1 : index + 4]] == [
        ":",
        ":",
        "regclass",
    ]
    if not text.startswith("'") or not (is_argument or is_cast):
        return None
    inner = text[1:-1].replace("''", "'")
    named = _read(inner)
    if len(named) != 3 or named[0].name != schema or named[2].name not in shadowed:
        return None
    rest = inner[named[0].end :].replace("'", "''")
    return f"'{_TEMPORARY}{rest}'", token.end


def _read(sql: str) -> Sequence[_Token]:
    # One statement is asked about ten times over.
    return _read_again(sql) if len(sql) <= KEPT_CHARACTERS_MAX else _read_anew(sql)


def _read_anew(sql: str) -> Sequence[_Token]:
    return tuple(_Token(kind, begin, end, _name(kind, sql[begin:end])) for kind, begin, end in tokens(sql))


_read_again = lru_cache(64)(_read_anew)


def _name(kind: str, text: str) -> str:
    if kind == "word":
        return "".join(letter.lower() if letter.isascii() else letter for letter in text)
    if kind == "quoted" and text.startswith('"'):
        return text[1:].removesuffix('"').replace('""', '"')
    return ""


def _read_name(sql: str, read: Sequence[_Token], start: int) -> TableName | None:
    first = read[start]
    if not first.name:
        return None
    if start + 2 < len(read) and sql[read[start + 1].begin] == "." and read[start + 2].name:
        return TableName(first.name, read[start + 2].name)
    return TableName(None, first.name)
