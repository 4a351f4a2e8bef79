"""Rows across the changes of their table: what a column was called then, and what of it can still be said.

The log has a row as it was written then, under the names of then. A column keeps its number when it is renamed, so
each image is read by the shape that its table had, and shown by the shape of the time that is asked for. A value
that was lost on the way (the column was dropped, or its type was changed) is not made up: `Shown.lost` names it.

Images are JSON objects as the database wrote them, and values stay its text: floats would take two different
numbers for the same.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs
import msgspec

NOT_THERE = "the table has the column no more, or had it not yet, where this row is known"
"""Why a value is lost: the image has no such column."""

_WIDER = {
    "smallint": {"integer", "bigint", "numeric"},
    "integer": {"bigint", "numeric"},
    "bigint": {"numeric"},
}
_TEXTS = frozenset({"text", "character varying"})


@attrs.frozen
class ShapeColumn:
    """A column of a table, at a time."""

    number: int
    """Stays the same for the column's life."""
    name: str
    type: str
    is_key: bool


@attrs.frozen
class Shape:
    """What a table was called and what columns it had, from a transaction on."""

    xid: int
    schema: str
    table: str
    columns: tuple[ShapeColumn, ...]
    at: datetime | None = None
    """When it got this shape; None where that is not known."""
    is_first: bool = False
    """The table was made by that transaction."""

    @property
    def names(self) -> frozenset[str]:
        """What its columns were called."""
        return frozenset(column.name for column in self.columns)

    @property
    def key(self) -> tuple[ShapeColumn, ...]:
        """The columns of its primary key, by number."""
        return tuple(column for column in self.columns if column.is_key)


Image = Mapping[str, str]
"""A row: each column's value, as JSON text."""


@attrs.frozen
class Shown:
    """A row in the names of another time."""

    values: Image
    lost: Mapping[str, str]
    """Columns of that time whose value is not known from this image, and why."""


def read_image(text: str) -> Image:
    """Return a row of the log or the database."""
    return {
        name: bytes(value).decode()
        for name, value in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()
    }


def write_image(image: Image) -> str:
    """Return a row as a JSON object."""
    return (
        "{" + ",".join(f"{msgspec.json.encode(name).decode()}:{value}" for name, value in image.items()) + "}"
    )


def find_shape(shapes: Sequence[Shape], image: Image, at: datetime) -> Shape | None:
    """Return the shape in which ``image`` was written, or None when none has its columns.

    Several may, where a name was given away and taken back: then it is the last of those that were there by ``at``.
    """
    fitting = [shape for shape in shapes if shape.names == image.keys()]
    by_then = [shape for shape in fitting if shape.at is None or shape.at <= at]
    return next(reversed(by_then or fitting), None)


def show(image: Image, written: Shape | None, wanted: Shape) -> Shown:
    """Return ``image``, which was written in one shape, in the names of another."""
    if written is None:
        # Nothing is known of its columns but their names.
        same = {column.name: image[column.name] for column in wanted.columns if column.name in image}
        return Shown(same, dict.fromkeys(wanted.names - same.keys(), NOT_THERE))
    known = {column.number: column for column in written.columns}
    values: dict[str, str] = {}
    lost: dict[str, str] = {}
    for column in wanted.columns:
        source = known.get(column.number)
        if source is None:
            lost[column.name] = NOT_THERE
        elif not keeps_values(source.type, column.type):
            lost[column.name] = f"the column was {column.type} and became {source.type}"
        else:
            values[column.name] = image[source.name]
    return Shown(values, lost)


def keeps_values(old: str, new: str) -> bool:
    """Return whether a value is written alike in two types, of which one was made the other."""
    if old == new or new in _WIDER.get(old, ()) or old in _WIDER.get(new, ()):
        return True
    return old.partition("(")[0] in _TEXTS and new.partition("(")[0] in _TEXTS


def is_same(one: Shown, other: Shown) -> bool:
    """Return whether two rows agree, as far as both are known."""
    return all(one.values[name] == other.values[name] for name in one.values.keys() & other.values.keys())
