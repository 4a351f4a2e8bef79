"""Rows of a query, for people and as JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from flux.cli.screen import Line, Piece, cells, pad


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[Line]:
    """The rows under their columns' names, and how many there are; ``rows`` hold what JSON has."""
    shown = [[_shown(value) for value in row] for row in rows]
    widths = [
        max([cells(Piece(name).text), *(cells(row[index].text) for row in shown)])
        for index, name in enumerate(columns)
    ]
    if columns:
        yield [
            Piece("  ".join(pad(name, width) for name, width in zip(columns, widths, strict=True)), "bold")
        ]
    for row in shown:
        line: list[Piece | str] = []
        for piece, width in zip(row, widths, strict=True):
            line += ["  "] if line else []
            line += [piece, " " * (width - cells(piece.text))]
        yield line


def _shown(value: Any) -> Piece:
    match value:
        case None:
            return Piece("null", "dim")
        case str():
            return Piece(value)
        case {"$bytes": _} | {"$object": _} | {"$interval": _} | {"$range": _} | {"$duration": _}:
            return Piece(json.dumps(value, ensure_ascii=False))
        case dict() if len(value) == 1 and next(iter(value)).startswith("$"):
            return Piece(str(next(iter(value.values()))))
        case _:
            return Piece(json.dumps(value, ensure_ascii=False))
