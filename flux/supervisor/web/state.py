"""A row through time: which versions it had and who wrote each of its columns."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.execution import Cell, make_cells
from flux.supervisor.web.executions import quote_word
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.values import Shown, show_line

VERSIONS_SHOWN = 200


@attrs.frozen
class Writer:
    """Who wrote something, as far as it is known."""

    name: str
    """Of the execution; empty where it was none, or is not known."""
    text: str
    at: str
    code: str


@attrs.frozen
class Version:
    """A change of the row."""

    label: str
    """``v4``; ``?`` of one that nobody saw, ``·`` of one that was rolled back."""
    op: str
    committed: bool
    cells: list[Cell]
    writer: Writer


@attrs.frozen
class Blamed:
    """A column as it is, and who wrote it."""

    column: str
    value: Shown
    writer: Writer


def build_state(documents: Mapping[str, Any], asked: Asked) -> Page:
    """A row's versions and their writers; without a row, how to ask for one."""
    table, key = asked.query.get("table", ""), asked.query.get("key", "")
    history, blame = documents.get("history"), documents.get("blame")
    versions = [] if history is None else history["versions"]
    return Page(
        title=words.cut(f"{table}[{key}]") if history is not None else "State",
        template="state.html",
        area="state",
        context={
            "table": words.cut(table),
            "key": words.cut(key),
            "is_asked": history is not None,
            "exists": blame is not None and blame["exists"],
            "columns": [] if blame is None else [
                _make_blamed(column, each, asked.now) for column, each in blame["columns"].items()
            ],
            "versions": [_make_version(each, asked.now) for each in versions[:VERSIONS_SHOWN]],
            "version_count": len(versions),
            "notes": [] if history is None else [words.cut(note, 500) for note in history["notes"]],
        },
        command=f"flux state history {quote_word(table)} {quote_word(key)}" if history is not None else "",
        scripts=("state.js",),
    )


def _make_blamed(column: str, blamed: Mapping[str, Any], now: datetime) -> Blamed:
    return Blamed(words.cut(column), show_line(blamed["value"]), _make_writer(blamed, now))


def _make_version(version: Mapping[str, Any], now: datetime) -> Version:
    number = version["version"]
    label = "·" if not version["committed"] else "?" if version["outside"] or number is None else f"v{number}"
    return Version(
        label=label,
        op=words.cut(str(version["op"]), 20),
        committed=bool(version["committed"]),
        cells=make_cells(version["before"], version["after"]),
        writer=_make_writer(version, now),
    )


def _make_writer(said: Mapping[str, Any], now: datetime) -> Writer:
    """Say who wrote something. What Flux did not see is never given to an execution."""
    if said.get("migration") is not None:
        text = words.cut(f"the migration {said['migration']}")
    elif said.get("outside"):
        text = "outside Flux"
    elif said.get("reason"):
        text = words.cut(str(said["reason"]), words.ERROR_ROOM)
    else:
        text = words.cut(str(said.get("function") or "not known"))
    return Writer(
        name=words.cut(str(said["execution"]), 40) if said.get("execution") else "",
        text=text,
        at=words.clock(said.get("at"), now),
        code=words.code_of(said) if said.get("sha") else "",
    )
