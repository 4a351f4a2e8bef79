"""A row through time: its changes on a line, the row at each, who wrote each of its columns, and two of them compared.

As of a time of one's own the API says what the row was; at a change the history does: see
`flux.supervisor.web.scrubber`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.execution import Cell, make_cells
from flux.supervisor.web.executions import quote_word
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.scrubber import (
    NOW,
    Column,
    get_version,
    is_row,
    label_of,
    list_columns,
    make_scrubber,
    word_of,
)
from flux.supervisor.web.table_diff import build_table_diff
from flux.supervisor.web.values import Shown, show_line
from flux.supervisor.web.writer import Writer, make_writer

VERSIONS_SHOWN = 200
JUST_BEFORE = timedelta(microseconds=1)


@attrs.frozen
class Version:
    """A change of the row."""

    label: str
    op: str
    committed: bool
    cells: Sequence[Cell]
    writer: Writer


@attrs.frozen
class Blamed:
    """A column as it is, and who wrote it."""

    column: str
    value: Shown
    writer: Writer


@attrs.frozen
class Then:
    """The row as it was."""

    title: str
    columns: Sequence[Column]
    absent: str
    """Why there are no columns."""
    notes: Sequence[str]
    writer: Writer | None
    version: Version | None
    """The change that left it so, where one stands at one."""


@attrs.frozen
class Between:
    """Two stops compared, the earlier one first."""

    older: str
    newer: str
    cells: Sequence[Cell]
    href: str
    """What became of the whole table in that time."""


def build_state(documents: Mapping[str, Any], asked: Asked) -> Page:
    """A row; what became of a table where that was asked; without either, how to ask."""
    if "diff" in documents:
        return build_table_diff(documents, asked)
    table, key = asked.query.get("table", ""), asked.query.get("key", "")
    time = asked.query.get("time", "")
    history, blame = documents.get("history"), documents.get("blame")
    versions = [] if history is None else history["versions"]
    return Page(
        title=words.cut(f"{table}[{key}]") if history is not None else "State",
        template="state.html",
        area="state",
        context={
            "table": words.cut(table),
            "key": words.cut(key),
            "time": words.cut(time, 80),
            "is_asked": history is not None,
            "exists": blame is not None and blame["exists"],
            "columns": [] if blame is None else [
                _make_blamed(column, each, asked.now) for column, each in blame["columns"].items()
            ],
            "scrubber": make_scrubber(versions, asked.query, asked.now) if history is not None else None,
            "then": _make_then(documents, asked) if history is not None else None,
            "between": _make_between(documents, asked) if history is not None else None,
            "versions": [_make_version(each, asked.now) for each in versions[:VERSIONS_SHOWN]],
            "version_count": len(versions),
            "notes": [] if history is None else [words.cut(note, 500) for note in history["notes"]],
        },
        command=_make_command(table, key, time) if history is not None else "",
        scripts=("state.js", "steps.js"),
    )


def _make_command(table: str, key: str, time: str) -> str:
    row = f"{quote_word(table)} {quote_word(key)}"
    return f"flux state at {row} --time {quote_word(time)}" if time else f"flux state history {row}"


def _make_then(documents: Mapping[str, Any], asked: Asked) -> Then | None:
    """Return the row at the time or the change that is asked for; None: as it is now."""
    if "at" in documents:
        return _make_row_at(documents["at"], asked.now)
    if not (change := asked.query.get("change")):
        return None
    version = get_version(documents["history"]["versions"], change, f"{asked.query['table']}[{asked.query['key']}]")
    committed, after = version["committed"], version["after"]
    notes = [] if committed else ["This change was rolled back: the row never was so."]
    notes += ["Something had changed the row past the capture before this change."] if version["gap"] else []
    return Then(
        title=f"As {name_stop(version)} left it",
        columns=list_columns(after),
        absent="" if is_row(after) else "The change took the row out." if committed else "It would have taken it out.",
        notes=notes,
        writer=None,
        version=_make_version(version, asked.now),
    )


def _make_row_at(at: Mapping[str, Any], now: datetime) -> Then:
    rows = at["rows"]
    notes = [words.cut(str(note), 500) for note in at["notes"]]
    notes += [words.cut(f"column {column} is not known: {reason}", 500) for column, reason in at["lost"].items()]
    if at["gaps"]:
        notes.append("It is not as the last recorded change had left it: something changed it past the capture.")
    return Then(
        title=f"As of {words.clock(at['as_of']['time'], now)}",
        columns=list_columns(rows[0]) if rows else [],
        absent="" if rows else "There was no such row then.",
        notes=notes,
        writer=None if at["written"] is None or not rows else make_writer(at["written"], now),
        version=None,
    )


def _make_between(documents: Mapping[str, Any], asked: Asked) -> Between | None:
    """Compare the marked stop with the one that is shown."""
    mark, here = asked.query.get("mark"), asked.query.get("change") or NOW
    if not mark or asked.query.get("time") or mark == here:
        return None
    table, key = asked.query["table"], asked.query["key"]
    versions = documents["history"]["versions"]
    places = [_find_place(versions, at, f"{table}[{key}]") for at in (mark, here)]
    older, newer = sorted(places, reverse=True)  # The newest comes first in the history.
    images = [_get_image(documents, place) for place in (older, newer)]
    return Between(
        older=_name_place(versions, older),
        newer=_name_place(versions, newer),
        cells=make_cells(*images) if any(map(is_row, images)) else [],
        href=words.link(
            "state", table=table, from_=_last_moment(versions, older, asked.now),
            to=_last_moment(versions, newer, asked.now),
        ),
    )  # fmt: skip


def _find_place(versions: Sequence[Mapping[str, Any]], at: str, row: str) -> int:
    """Return a stop's place among ``versions``; -1 is now."""
    return -1 if at == NOW else versions.index(get_version(versions, at, row))


def _name_place(versions: Sequence[Mapping[str, Any]], place: int) -> str:
    return NOW if place < 0 else name_stop(versions[place])


def name_stop(version: Mapping[str, Any]) -> str:
    """``v4``; of a change that has no number, what it is."""
    label = label_of(version)
    return {"·": "the change that was rolled back", "?": "a change outside Flux"}.get(label, label)


def _get_image(documents: Mapping[str, Any], place: int) -> Any:
    if place >= 0:
        return documents["history"]["versions"][place]["after"]
    blame = documents["blame"]
    return {column: each["value"] for column, each in blame["columns"].items()} if blame["exists"] else None


def _last_moment(versions: Sequence[Mapping[str, Any]], place: int, now: datetime) -> str:
    """Return a time at which the row was as a stop has it: just before the next change was logged, or now.

    A change is committed after it was logged. Of the very time at which it was, a server that notes no times of commits
    can't tell.
    """
    later = [version["at"] for version in versions[: max(place, 0)] if version["committed"]]
    moment = words.read_moment(later[-1]) - JUST_BEFORE if later else now
    return moment.isoformat().replace("+00:00", "Z")


def _make_blamed(column: str, blamed: Mapping[str, Any], now: datetime) -> Blamed:
    return Blamed(words.cut(column), show_line(blamed["value"]), make_writer(blamed, now))


def _make_version(version: Mapping[str, Any], now: datetime) -> Version:
    return Version(
        label=label_of(version),
        op=word_of(version),
        committed=bool(version["committed"]),
        cells=make_cells(version["before"], version["after"]),
        writer=make_writer(version, now),
    )
