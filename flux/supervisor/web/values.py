"""Recorded values on a page: read with all their digits, and shown up to a length that people read.

A page has room for the beginning of a value and says how much there is of it; whole it stands in the page's
``.json``. What is cut off is never walked through: a body of 10 MB costs a page no more than one of 10 kB.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

ROOM = 2000
"""Characters of a value that a page shows."""
ROOM_IN_LINE = 160
"""Characters of a value that stands in a line with others."""
WIDE = 100
"""A value with fewer characters stands on one line."""
DIGITS_MAX = 4000
"""Python reads no longer integers (``sys.int_info.default_max_str_digits``); they are shown as they were written."""


class Written(float):
    """A number that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> "Written":
        self = super().__new__(cls, text)
        self.text = text
        return self


@attrs.frozen
class Shown:
    """The beginning of a value, as text."""

    text: str
    whole: int = 0
    """How many characters it has in all, where ``text`` is not all of them; else 0."""


def read(data: bytes) -> Any:
    """Return a document of the API; numbers in it are `Written` where Python would change them."""
    return json.loads(data, parse_float=Written, parse_int=_read_integer)


def _read_integer(text: str) -> int | Written:
    return int(text) if len(text) < DIGITS_MAX else Written(text)


def show(value: Any, room: int = ROOM) -> Shown:
    """Return a value as indented JSON, cut to ``room`` characters."""
    line = show_line(value, WIDE)
    if not line.whole:
        return line
    return _cut(_pieces(value, "\n"), value, room)


def show_line(value: Any, room: int = ROOM_IN_LINE) -> Shown:
    """Return a value as JSON on one line, cut to ``room`` characters."""
    return _cut(_pieces(value, ""), value, room)


def show_text(text: str, room: int = ROOM) -> Shown:
    """Return text as it is, cut to ``room`` characters."""
    return Shown(text) if len(text) <= room else Shown(text[:room], len(text))


def _cut(pieces: Iterator[str], value: Any, room: int) -> Shown:
    """Put ``pieces`` together until there is no more room."""
    text = ""
    for piece in pieces:
        text += piece[: room + 1]
        if len(text) > room:
            return Shown(text[:room], len(json.dumps(value, ensure_ascii=False)))
    return Shown(text)


def _pieces(value: Any, line: str) -> Iterator[str]:
    """Give a value's JSON in pieces; ``line`` begins each line, with its indentation, and is empty for one line."""
    inner = line + "  " if line else ""
    match value:
        case Mapping() if value:
            yield "{"
            for number, (key, item) in enumerate(value.items()):
                yield ("," if number else "") + (inner or (" " if number else "")) + _scalar(key) + ": "
                yield from _pieces(item, inner)
            yield line + "}"
        case list() if value:
            yield "["
            for number, item in enumerate(value):
                yield ("," if number else "") + (inner or (" " if number else ""))
                yield from _pieces(item, inner)
            yield line + "]"
        case _:
            yield _scalar(value)


def _scalar(value: Any) -> str:
    return value.text if isinstance(value, Written) else json.dumps(value, ensure_ascii=False)
