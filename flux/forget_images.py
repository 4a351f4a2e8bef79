"""Taking the values of one row out of the log of changes, whose images have to stay rows.

Tables of then are put together from these images, for replays of others and for ``flux state``: a value that its column
can't hold would spoil them for everybody. So a text becomes a token, and what is no text becomes null; where the
column must not be null, the least of its kind (0, the first of January 1970).

Of the row itself all goes that it does not have any more: what it has now stands in the table, where everybody sees
it, and an image without it would say that the row was changed past the log. What its key is, and what refers to other
rows, stays where it is a number or a UUID, as that says nothing by itself. Of other rows, what holds a value of this
one's own.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping

import attrs
import msgspec

from flux.forget import PREFIX, RowValue, make_token
from flux.hidden import HIDDEN_CHARACTERS_MIN, HiddenValues
from flux.mutation import Mutation
from flux.row_shapes import Image, read_image, write_image

NUMBERS_MAX = 50
"""A column that had more different numbers than so many is a measure: they are looked for under its name only."""

_TEXTS = frozenset({"text", "character varying", "character", "citext", "name"})
_DOCUMENTS = frozenset({"json", "jsonb"})
_NUMBERS = frozenset({"smallint", "integer", "bigint", "numeric", "real", "double precision", "money"})
_SAYS_NOTHING = frozenset({"smallint", "integer", "bigint", "numeric", "uuid"})
"""Types of keys that are made up."""
_LEAST = {
    "date": '"1970-01-01"',
    "timestamp without time zone": '"1970-01-01T00:00:00"',
    "timestamp with time zone": '"1970-01-01T00:00:00+00:00"',
    "uuid": '"00000000-0000-0000-0000-000000000000"',
    "bytea": '"\\\\x"',
    "inet": '"0.0.0.0"',
    "cidr": '"0.0.0.0/32"',
    "interval": '"00:00:00"',
    "time without time zone": '"00:00:00"',
    "time with time zone": '"00:00:00+00"',
} | dict.fromkeys(_NUMBERS - {"money"}, "0")
_TYPE = re.compile(r"(?P<base>[^(\[]+?)(?:\((?P<size>[0-9]+)[^)]*\)(?P<rest> [^\[]+)?)?(?:\[\])?")


@attrs.frozen
class Column:
    """A column of a table, under one of the names that it had."""

    number: int
    name: str
    type: str
    """As PostgreSQL writes it."""
    is_required: bool = False
    """It must not be null now."""
    is_enum: bool = False
    is_key: bool = False
    is_reference: bool = False
    """A foreign key has it."""

    @property
    def base(self) -> str:
        """The type without size, of an array that of its items."""
        found = _TYPE.fullmatch(self.type)
        return self.type if found is None else found["base"] + (found["rest"] or "")

    @property
    def size(self) -> int | None:
        """How many characters it can hold; None: any number."""
        found = _TYPE.fullmatch(self.type)
        return int(found["size"]) if found is not None and found["size"] and self.base in _TEXTS else None

    @property
    def is_array(self) -> bool:
        return self.type.endswith("[]")

    @property
    def stays(self) -> bool:
        """Its values say nothing of anybody: one of a few words, true or false, or a number that others know it by."""
        is_name = (self.is_key or self.is_reference) and self.base in _SAYS_NOTHING
        return self.is_enum or self.base == "boolean" or is_name


Tables = Mapping[tuple[str, str], Mapping[str, Column]]
"""The columns of tables by (schema, table), under all names that they had."""


@attrs.frozen
class Row:
    """The row that is to be forgotten."""

    tables: Tables
    """Its own table, and all others."""
    places: frozenset[tuple[str, str, str]]
    """Under what it is in the log: (schema, table, key)."""
    names_now: Mapping[int, str]
    """What its columns are called now, by number."""
    live: Image
    """As it is now; empty when it is gone."""

    def find_column(self, schema: str, table: str, name: str) -> Column | None:
        """Return a column of any table under a name that it had; None where nobody noted it."""
        return self.tables.get((schema, table), {}).get(name)

    def name_now(self, column: Column | None, name: str) -> str:
        """Return what a column of the row is called now; of one that is gone, what it was."""
        return name if column is None else self.names_now.get(column.number, name)

    def has_now(self, column: Column | None, name: str, raw: str) -> bool:
        """Whether the row has this value now, or it is none."""
        return raw == "null" or self.live.get(self.name_now(column, name)) == raw


class Images:
    """Takes values out of images of rows."""

    def __init__(self, row: "Row", own: HiddenValues, secret: bytes) -> None:
        """``own`` has the values that are looked for in other rows; ``secret`` makes the tokens."""
        self._row = row
        self._own = own
        self._secret = secret

    def mutation(self, mutation: Mutation) -> Mutation:
        """Return a change of any row as it may stay."""
        is_row = (mutation.schema, mutation.table, mutation.key) in self._row.places
        return self.erased(mutation) if is_row else self.hidden(mutation)

    def erased(self, mutation: Mutation) -> Mutation:
        """Return a change of the row."""
        return _rewrite(mutation, self.erase)

    def hidden(self, mutation: Mutation) -> Mutation:
        """Return a change of another row."""
        return _rewrite(mutation, self.hide)

    def erase(self, schema: str, table: str, text: str) -> str:
        """Return an image of the row without what it does not have any more."""
        image = read_image(text)
        changed = {
            name: self._erase(self._row.find_column(schema, table, name), name, raw) for name, raw in image.items()
        }
        return text if changed == image else write_image(changed)

    def _erase(self, column: Column | None, name: str, raw: str) -> str:
        if self._row.has_now(column, name, raw) or is_token(raw):
            return raw
        if column is None:
            return self._token(raw) if raw[:1] == '"' else "null"
        return raw if column.stays else self._stand_in(column, self._token(raw))

    def _token(self, raw: str) -> str:
        value = msgspec.json.decode(raw) if raw[:1] == '"' else raw
        return json.dumps(make_token(self._secret, value))

    def _stand_in(self, column: Column, token: str) -> str:
        """Return what the column can hold in the place of a value."""
        if column.base in _TEXTS:
            if column.size is not None:
                token = json.dumps(json.loads(token)[: column.size])
            return f"[{token}]" if column.is_array else token
        if column.base in _DOCUMENTS and not column.is_array:
            return token
        return "null" if not column.is_required else "[]" if column.is_array else _LEAST.get(column.base, "null")

    def hide(self, schema: str, table: str, text: str) -> str:
        """Return an image of another row without values that are the row's own."""
        data = text.encode("utf-8", "surrogatepass")
        if self._own.hide_json(data) is data:
            return text
        image = read_image(text)
        changed = {name: self._hide(self._row.find_column(schema, table, name), raw) for name, raw in image.items()}
        return text if changed == image else write_image(changed)

    def _hide(self, column: Column | None, raw: str) -> str:
        data = raw.encode("utf-8", "surrogatepass")
        hidden = self._own.hide_json(data)
        if hidden is data or (column is not None and column.stays):
            return raw
        if column is None or column.base in _DOCUMENTS or (column.base in _TEXTS and column.size is None):
            return hidden.decode("utf-8", "surrogatepass")
        if column.base in _TEXTS and not column.is_array:
            said = msgspec.json.decode(hidden, type=str)
            return json.dumps(said[: column.size], ensure_ascii=False)
        return self._stand_in(column, self._token(raw))


def _rewrite(mutation: Mutation, write: Callable[[str, str, str], str]) -> Mutation:
    key, before, after = (
        None if image is None else write(mutation.schema, mutation.table, image)
        for image in (mutation.key, mutation.before, mutation.after)
    )
    return attrs.evolve(mutation, key=key, before=before, after=after)


def list_values(row: Row, images: Iterable[tuple[str, str, Image]]) -> list[RowValue]:
    """Return what the row had and has not any more, each once; ``images`` are (schema, table, row) of the log.

    Whether other rows have a value too, is not looked at here.
    """
    names: dict[int | str, dict[str, None]] = {}
    texts: dict[int | str, dict[str, None]] = {}
    measures: set[int | str] = set()
    for schema, table, image in images:
        for name, raw in image.items():
            column = row.find_column(schema, table, name)
            if row.has_now(column, name, raw) or (column is not None and not _is_searched(column, raw)):
                continue
            which = name if column is None else column.number
            names.setdefault(which, {}).update({row.name_now(column, name): None, name: None})
            texts.setdefault(which, {}).update(dict.fromkeys(list_texts(raw)))
            if column is not None and column.base in _NUMBERS and len(texts[which]) > NUMBERS_MAX:
                measures.add(which)
    return [
        RowValue(tuple(names[which]), text, is_measure=which in measures)
        for which, found in texts.items()
        for text in found
    ]


def _is_searched(column: Column, raw: str) -> bool:
    """Whether a value of it is looked for elsewhere: the time at which a row was written is nobody's name."""
    return not (column.stays or column.base.startswith("timestamp") or raw == _LEAST.get(column.base))


def is_token(raw: str) -> bool:
    """Whether a value was forgotten before: it is a token, as much of one as its column can hold, or a list of them."""
    texts = _list_texts(raw)
    return bool(texts) and raw[:1] in '"[' and all(map(_is_token, texts))


def _is_token(text: str) -> bool:
    return text.startswith(PREFIX) or (len(text) >= HIDDEN_CHARACTERS_MIN and PREFIX.startswith(text))


def list_texts(raw: str) -> list[str]:
    """Return the texts and numbers in a JSON value, as they are written, but what was forgotten before."""
    return [text for text in _list_texts(raw) if text and not _is_token(text)]


def _list_texts(raw: str) -> list[str]:
    pending, texts = [raw.encode("utf-8", "surrogatepass")], []
    while pending:
        data = pending.pop()
        match data[:1]:
            case b'"':
                texts.append(msgspec.json.decode(data, type=str))
            case b"{":
                pending += map(bytes, msgspec.json.decode(data, type=dict[str, msgspec.Raw]).values())
            case b"[":
                pending += map(bytes, msgspec.json.decode(data, type=list[msgspec.Raw]))
            case b"t" | b"f" | b"n":
                pass
            case _:
                texts.append(data.decode())
    return texts
