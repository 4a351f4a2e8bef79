"""What is to be done with a project's migrations, and which of their steps take something away for good.

Two questions are decided here, from texts alone.

*Which are to be applied?* The database says which it has had, by name and digest; the folder says which there are.
Where the two cannot belong to one history, that is `Drift`: a file that was changed after it was applied, one
that is gone, one that comes before others that were applied.

*What would be lost?* Each statement is read for what it takes away: tables, columns, rows, digits. What is
not in the database yet cannot be lost, so a history that makes a table and drops it again loses nothing on a
new database. For that the names of tables and columns are carried along, renames included.

A statement can hide what it does: in a function that it calls, in text that is put together. Text that
is put together in a ``DO`` block is named as such; what functions do when they are called is not seen.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import attrs

from flux.sql_script import get_line, split_script, tokens

Tables = Mapping[str, Mapping[str, str]]
"""The tables of a schema: the type of each of their columns, as ``format_type`` says it."""

_CONTROL = frozenset({"begin", "then", "else", "loop", "declare"})
"""Words of PL/pgSQL behind which a statement begins."""
_NO_UPDATE = frozenset({"do", "for", "key", "on", "or", "before", "after"})
"""Before these the word UPDATE is no statement: ON CONFLICT DO, FOR UPDATE, ON UPDATE, of a trigger."""
_ROUTINES = frozenset({"function", "procedure", "rule", "trigger"})
_TEXT_TYPE = re.compile(r"(character varying|varchar|character|char|bpchar)(?:\((\d+)\))?")
_NUMERIC = re.compile(r"(?:numeric|decimal)(?:\((\d+)(?:,\s*(-?\d+))?\))?")
_INTEGERS = {"smallint": 1, "int2": 1, "integer": 2, "int": 2, "int4": 2, "bigint": 3, "int8": 3}
_INTEGER_DIGITS = {1: 5, 2: 10, 3: 19}
_FLOATS = {"real": 1, "float4": 1, "double precision": 2, "float8": 2}


class MigrationFile(Protocol):
    """A migration of a project; `flux.project.Migration` is one."""

    @property
    def number(self) -> int:
        """Place in the order."""

    @property
    def path(self) -> str:
        """The file, relative to the project: also the name by which it is known as applied."""

    @property
    def sql(self) -> str:
        """What it does."""


_File = TypeVar("_File", bound=MigrationFile)


@attrs.frozen
class Drift:
    """A place where the folder and the database cannot be of one history."""

    kind: Literal["changed", "missing", "out of order"]
    path: str
    """The file's name."""
    detail: str
    """What is the matter, in a sentence that begins with the file."""


@attrs.frozen
class Loss:
    """A step that takes something away which the database has."""

    path: str
    line: int
    what: str
    """``drops column users.plan``."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.what}"


def digest_migration(sql: str) -> str:
    """By what an applied migration is known again."""
    # A checkout on another system may end its lines otherwise; that changes nothing.
    return hashlib.sha256(sql.replace("\r\n", "\n").encode()).hexdigest()


def list_pending(files: Sequence[_File], applied: Mapping[str, str]) -> tuple[_File, ...]:
    """Return what is to be applied, in order; ``applied`` has the digests of what was, by name."""
    return tuple(sorted((file for file in files if file.path not in applied), key=lambda file: file.number))


def find_drift(files: Sequence[MigrationFile], applied: Mapping[str, str]) -> tuple[Drift, ...]:
    """Return where ``files`` and what was ``applied`` cannot be of one history."""
    known = {file.path: file for file in files}
    found = [
        Drift("missing", name, f"{name} was applied to this database, and there is no such file")
        for name in applied
        if name not in known
    ]
    found += [
        Drift("changed", file.path, f"{file.path} was changed after it had been applied")
        for file in files
        if file.path in applied and applied[file.path] != digest_migration(file.sql)
    ]
    latest = max((file for file in files if file.path in applied), key=lambda file: file.number, default=None)
    if latest is not None:
        found += [
            Drift(
                "out of order",
                file.path,
                f"{file.path} comes before {latest.path}, which was applied already",
            )
            for file in list_pending(files, applied)
            if file.number < latest.number
        ]
    return tuple(found)


def find_losses(files: Sequence[MigrationFile], tables: Tables, schema: str) -> tuple[Loss, ...]:
    """Return the steps of ``files``, which are applied one after the other, that take away what ``tables`` have."""
    reader = _Reader(tables, schema)
    losses = []
    for file in files:
        script = file.sql.removeprefix("\ufeff")
        for statement in split_script(script):
            for offset, what in reader.read(statement.sql):
                losses.append(Loss(file.path, get_line(script, statement.offset + offset), what))
    return tuple(losses)


def loses_by_type(old: str, new: str) -> bool:
    """Whether values of type ``old`` may lose something as ``new``, as far as is known: what is not, may."""
    old, new = _plain(old), _plain(new)
    if old == new or new == "text":
        return False
    if old in _INTEGERS and new in _INTEGERS:
        return _INTEGERS[new] < _INTEGERS[old]
    if old in _FLOATS and new in _FLOATS:
        return _FLOATS[new] < _FLOATS[old]
    if (to := _TEXT_TYPE.fullmatch(new)) is not None:
        room = None if to[2] is None else int(to[2])
        if to[1] not in ("character varying", "varchar"):
            return True
        if room is None:
            return False
        had = _TEXT_TYPE.fullmatch(old)
        return had is None or had[2] is None or int(had[2]) > room
    if (to := _NUMERIC.fullmatch(new)) is not None:
        had = _NUMERIC.fullmatch(old)
        digits, scale = (_INTEGER_DIGITS[_INTEGERS[old]], 0) if old in _INTEGERS else _size(had)
        new_digits, new_scale = _size(to)
        if had is None and old not in _INTEGERS:
            return True
        if new_digits is None:
            return False
        return digits is None or new_scale < scale or new_digits - new_scale < digits - scale
    return True


def _plain(text: str) -> str:
    words = " ".join(text.lower().split())
    return re.sub(r"\s*([(),])\s*", r"\1", words)


def _size(found: re.Match[str] | None) -> tuple[int | None, int]:
    if found is None or found[1] is None:
        return None, 0
    return int(found[1]), int(found[2] or 0)


@attrs.frozen
class _Token:
    """A token as it counts: words in lower case, quoted names without their quotes."""

    text: str
    offset: int
    is_word: bool
    """A word without quotes, so perhaps a key word."""
    is_name: bool
    """A word, or a name in double quotes."""
    depth: int
    """Parentheses around it."""


def _read_tokens(sql: str) -> list[_Token]:
    found, depth = [], 0
    for kind, begin, end in tokens(sql):
        text = sql[begin:end]
        if text == ")":
            depth = max(0, depth - 1)
        if kind == "quoted" and text.startswith('"'):
            found.append(_Token(text.strip('"').replace('""', '"'), begin, False, True, depth))
        elif kind == "word":
            found.append(_Token(text.lower(), begin, True, True, depth))
        else:
            found.append(_Token(text, begin, False, False, depth))
        if text == "(":
            depth += 1
    return found


class _Reader:
    """Reads statement after statement, and knows what the tables are called by then."""

    def __init__(self, tables: Tables, schema: str) -> None:
        self._tables = {name: dict(columns) for name, columns in tables.items()}
        self._schema = schema

    def read(self, sql: str) -> Iterator[tuple[int, str]]:
        """Yield where, in characters, and what is taken away."""
        all_tokens = _read_tokens(sql)
        words = [token.text for token in all_tokens[:4] if token.is_word]
        if words[:1] == ["do"]:
            yield from self._read_block(all_tokens)
        elif not (words[:1] == ["create"] and _ROUTINES & set(words)):  # What these hold is not run now.
            yield from self._read_statement(sql, all_tokens)

    def _read_block(self, all_tokens: list[_Token]) -> Iterator[tuple[int, str]]:
        for token in all_tokens:
            if token.text.startswith("$"):
                head = token.text.index("$", 1) + 1
                body = token.text[head:].removesuffix(token.text[:head])
            elif not token.is_name and "'" in token.text[:2]:
                # Quotes within are doubled, and stay so here: one character for another, so that places are right.
                head = token.text.index("'") + 1
                body = token.text[head:].removesuffix("'").replace("''", " '")
            else:
                continue
            segment: list[_Token] = []
            for inner in [*_read_tokens(body), _Token(";", len(body), False, False, 0)]:
                if inner.text == ";" or (inner.is_word and inner.text in _CONTROL):
                    shift = token.offset + head
                    for offset, what in self._read_statement(body, segment):
                        yield shift + offset, what
                    if segment and segment[0].is_word and segment[0].text == "execute":
                        yield (
                            shift + segment[0].offset,
                            "runs SQL that is put together when it runs, so it is not known",
                        )
                    segment = []
                else:
                    segment.append(inner)

    def _read_statement(self, sql: str, found: list[_Token]) -> Iterator[tuple[int, str]]:
        words = [token.text if token.is_word else "" for token in found]
        match words:
            case ["drop", "owned", *_]:
                yield found[0].offset, "drops all that a role owns"
            case ["drop", *_]:
                yield from self._read_drop(found, words)
            case ["truncate", *_]:
                start = 2 if words[1:2] == ["table"] else 1
                for name, offset in _names(found, start):
                    if self._find(name) is not None:
                        yield offset, f"empties table {name}"
            case ["alter", "table", *_] | ["alter", "foreign", "table", *_]:
                yield from self._read_alter(sql, found, words)
            case ["alter", "type", *_] if "attribute" in words and "drop" in words:
                yield found[0].offset, "drops an attribute of a type"
            case ["merge", *_] if "delete" in words:
                yield found[words.index("delete")].offset, "deletes rows by MERGE"
            case _:
                yield from self._read_rows(found, words)

    def _read_drop(self, found: list[_Token], words: list[str]) -> Iterator[tuple[int, str]]:
        start = 3 if words[1:3] == ["materialized", "view"] else 2
        kind = " ".join(words[1:start])
        if words[start : start + 2] == ["if", "exists"]:
            start += 2
        names = list(_names(found, start))
        for name, offset in names:
            if kind == "table":
                if self._find(name) is not None:
                    yield offset, f"drops table {name}"
                self._tables.pop(self._bare(name), None)
            elif kind in ("schema", "sequence", "foreign table", "database"):
                yield offset, f"drops {kind} {name}"
        if kind not in ("table", "schema", "sequence") and words[-1:] == ["cascade"]:
            yield found[0].offset, f"drops {kind} {names[0][0] if names else ''} and all that depends on it"

    def _read_alter(self, sql: str, found: list[_Token], words: list[str]) -> Iterator[tuple[int, str]]:
        start = words.index("table") + 1
        while words[start : start + 2] == ["if", "exists"] or words[start : start + 1] == ["only"]:
            start += 2 if words[start] == "if" else 1
        table, begin = _name_at(found, start)
        begin += begin < len(found) and found[begin].text == "*"  # With its partitions, which is the default.
        columns = self._find(table)
        for action in _actions(found, begin):
            said = [token.text if token.is_word else "" for token in action]
            match said:
                case ["rename", "to", *_] if len(action) > 2 and columns is not None:
                    self._tables[action[2].text] = self._tables.pop(self._bare(table), columns)
                case ["rename", *_] if "to" in said and columns is not None:
                    old, new = action[said.index("to") - 1], action[-1]
                    if old.text in columns and said[1:2] != ["constraint"]:
                        columns[new.text] = columns.pop(old.text)
                case ["drop", *rest] if rest[:1] != ["constraint"]:
                    place = 1 + (rest[:1] == ["column"])
                    place += 2 if said[place : place + 2] == ["if", "exists"] else 0
                    if (
                        columns is not None
                        and place < len(action)
                        and (not columns or action[place].text in columns)
                    ):
                        yield action[place].offset, f"drops column {table}.{action[place].text}"
                        columns.pop(action[place].text, None)
                case ["alter", *_] if "type" in said and columns is not None:
                    yield from _read_type(sql, table, columns, action, said)
                case _:
                    pass  # It adds something, or changes a rule for rows to come.

    def _read_rows(self, found: list[_Token], words: list[str]) -> Iterator[tuple[int, str]]:
        for index, word in enumerate(words):
            if word == "delete" and words[index + 1 : index + 2] == ["from"]:
                name, behind = _name_at(found, index + 2 + (words[index + 2 : index + 3] == ["only"]))
                if self._find(name) is not None and not _has_where(found, behind, found[index].depth):
                    yield found[index].offset, f"deletes all rows of {name}"
            elif word == "update" and (index == 0 or words[index - 1] not in _NO_UPDATE):
                name, behind = _name_at(found, index + 1 + (words[index + 1 : index + 2] == ["only"]))
                columns = self._find(name)
                if columns is None or _has_where(found, behind, found[index].depth):
                    continue
                for column in _assigned(found, behind, found[index].depth):
                    if not columns or column in columns:
                        yield found[index].offset, f"overwrites {name}.{column} in all rows"

    def _bare(self, name: str) -> str:
        schema, _, bare = name.rpartition(".")
        return bare if schema in ("", self._schema) else name

    def _find(self, name: str) -> dict[str, str] | None:
        """The columns of a table that the database has; None of one that it has not. Of a table of another schema
        nothing is known, so it has all: no columns."""
        bare = self._bare(name)
        return {} if "." in bare else self._tables.get(bare)


def _read_type(
    sql: str, table: str, columns: dict[str, str], action: list[_Token], said: list[str]
) -> Iterator[tuple[int, str]]:
    column = action[1 + (said[1:2] == ["column"])]
    place = said.index("type")
    if (columns and column.text not in columns) or place + 1 >= len(action):
        return
    ends = [index for index in range(place + 1, len(action)) if said[index] in ("using", "collate")]
    last = action[ends[0] - 1] if ends else action[-1]
    new = sql[action[place + 1].offset : last.offset + len(last.text)]
    old = columns.get(column.text, "what it was")
    if "using" in said:
        yield column.offset, f"computes {table}.{column.text} anew as {new}, by USING"
    elif loses_by_type(old, new):
        yield column.offset, f"narrows {table}.{column.text} from {old} to {new}"
    columns[column.text] = new


def _name_at(found: list[_Token], start: int) -> tuple[str, int]:
    """The name that begins at ``start``, with its schema, and where it ends."""
    parts = []
    while start < len(found) and found[start].is_name:
        parts.append(found[start].text)
        start += 1
        if start >= len(found) or found[start].text != ".":
            break
        start += 1
    return ".".join(parts), start


def _names(found: list[_Token], start: int) -> Iterator[tuple[str, int]]:
    """The names of a list, each with its place."""
    while start < len(found) and found[start].is_name:
        if found[start].is_word and found[start].text == "only":
            start += 1
            continue
        offset = found[start].offset
        name, start = _name_at(found, start)
        yield name, offset
        if start >= len(found) or found[start].text != ",":
            return
        start += 1


def _actions(found: list[_Token], begin: int) -> Iterator[list[_Token]]:
    """The actions of an ALTER TABLE, which commas part."""
    action: list[_Token] = []
    for token in found[begin:]:
        if token.text == "," and token.depth == 0:
            yield action
            action = []
        else:
            action.append(token)
    if action:
        yield action


def _has_where(found: list[_Token], begin: int, depth: int) -> bool:
    for token in found[begin:]:
        if token.depth < depth:
            return False
        if token.depth == depth and token.is_word and token.text == "where":
            return True
    return False


def _assigned(found: list[_Token], begin: int, depth: int) -> list[str]:
    """The columns that a SET assigns to."""
    columns: list[str] = []
    is_target = False
    for index in range(begin, len(found)):
        token = found[index]
        if token.depth < depth or (
            token.depth == depth and token.is_word and token.text in ("from", "returning")
        ):
            break
        if (token.depth == depth and token.is_word and token.text == "set") or (
            token.depth == depth and token.text == ","
        ):
            is_target = True
        elif token.text == "=":
            is_target = False
        elif is_target and token.is_name:
            columns.append(token.text)
    return columns
