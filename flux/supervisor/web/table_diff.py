"""What became of a table's rows between two times, and who changed them: ``flux state diff`` as a page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.execution import Cell, make_cells
from flux.supervisor.web.executions import quote_word
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.writer import Writer, make_writer

WRITERS_SHOWN = 10
"""Of one row."""
WORDS = {"insert": "came", "update": "changed", "delete": "went"}


@attrs.frozen
class RowDiff:
    """A row that is another than before."""

    name: str
    href: str
    """The row's history; empty where it has no key to be asked for by."""
    word: str
    cells: Sequence[Cell]
    writers: Sequence[Writer]
    more: int
    """Changes of it that are not among ``writers``."""
    is_gap: bool
    """Something changed it past the capture before."""


def build_table_diff(documents: Mapping[str, Any], asked: Asked) -> Page:
    """All rows that are others."""
    diff, table = documents["diff"], asked.query["table"]
    since, until = asked.query["from"], asked.query["to"]
    changes = diff["changes"]
    counts = {op: sum(change["op"] == op for change in changes) for op in WORDS}
    return Page(
        title=f"{words.cut(table)} between two times",
        template="table_diff.html",
        area="state",
        context={
            "table": words.cut(table),
            "since": words.cut(since, 80),
            "until": words.cut(until, 80),
            "ends": [words.clock(diff[end]["time"], asked.now) for end in ("from", "to")],
            "told": [f"{count:,} {WORDS[op]}" for op, count in counts.items() if count],
            "rows": [_make_row(change, table, asked.now) for change in changes],
            "undone": diff["undone"],
            "more": diff["more"],
            "notes": [words.cut(note, 500) for note in diff["notes"]],
        },
        command=f"flux state diff {quote_word(table)} --from {quote_word(since)} --to {quote_word(until)}",
        scripts=("state.js",),
    )


def _make_row(change: Mapping[str, Any], table: str, now: datetime) -> RowDiff:
    key, count, writers = change["key"], change["count"], change["writers"]
    shown_key = "" if key is None else words.key_text(key)
    op = str(change["op"])
    return RowDiff(
        name=f"{words.cut(table)}[{shown_key}]" if shown_key else words.count(count, "row"),
        href=words.link("state", table=table, key=shown_key) if shown_key else "",
        word=WORDS.get(op, words.cut(op, 20)),
        cells=make_cells(change["before"], change["after"]),
        writers=[make_writer(writer, now) for writer in writers[:WRITERS_SHOWN]],
        more=max(0, count - min(len(writers), WRITERS_SHOWN)) if shown_key else 0,
        is_gap=bool(change["gap"]),
    )
