"""How rows through time look in JSON: the documents of ``state/blame``, ``state/at`` and ``state/diff``."""

from collections.abc import Mapping
from typing import Any

from flux.blame import Blamed
from flux.store.row_blame import BlameFound
from flux.store.row_diff import DiffFound, RowChange, Writer
from flux.store.row_history import RowVersion
from flux.store.row_states import StateFound
from flux.supervisor.present import Document, show_json, show_moment, version_json


def blame_json(found: BlameFound) -> Document:
    """Return the writer of each column of a row."""
    return {
        "schema": "flux.state-blame/1",
        "table": str(found.table),
        "key": _show(found.key),
        "exists": found.is_there,
        "columns": {name: _blamed_json(each, found.versions) for name, each in found.columns.items()},
        "deleted": None if found.gone is None else _writer_of(found.gone),
        "rolled_back": [version_json(version) for version in found.rolled_back],
    }


def _blamed_json(blamed: Blamed, versions: Mapping[int, RowVersion]) -> Document:
    version = None if blamed.seq is None else versions.get(blamed.seq)
    after, before = (None if seq is None else versions.get(seq) for seq in blamed.between)
    return {
        "value": _show(blamed.value),
        **(_writer_of(version) if version is not None else _NOBODY),
        "reason": blamed.reason or None,
        "after": None if after is None else show_moment(after.at),
        "before": None if before is None else show_moment(before.at),
    }


_NOBODY = dict.fromkeys(("execution", "function", "method", "path", "at", "sha", "migration")) | {
    "outside": False
}


def _writer_of(version: RowVersion) -> Document:
    return {
        "execution": version.name,
        "function": version.function,
        "method": version.method,
        "path": version.path,
        "at": show_moment(version.at),
        "sha": version.sha,
        "migration": version.migration,
        "outside": version.outside,
    }


def state_json(found: StateFound, as_of: Document) -> Document:
    """Return rows as they were. ``as_of`` says when, as it was asked."""
    return {
        "schema": "flux.state-at/1",
        "table": str(found.table),
        "as_of": as_of | {"snapshot": found.snapshot},
        "rows": [_row(row.values) for row in found.rows],
        "keys": [None if row.key is None else _show(row.key) for row in found.rows],
        "gaps": [number for number, row in enumerate(found.rows) if row.is_gap],
        "lost": dict(found.lost),
        "notes": list(found.notes),
        "more": found.more,
        "written": None if found.writer is None else _writer_of(found.writer),
    }


def diff_json(found: DiffFound, since: Document, until: Document) -> Document:
    """Return what became of rows."""
    return {
        "schema": "flux.state-diff/1",
        "table": str(found.table),
        "from": since | {"snapshot": found.since},
        "to": until | {"snapshot": found.until},
        "changes": [_change_json(change) for change in found.changes],
        "undone": found.undone,
        "notes": list(found.notes),
        "more": found.more,
    }


def _change_json(change: RowChange) -> Document:
    op = "insert" if change.before is None else "delete" if change.after is None else "update"
    return {
        "key": None if change.key is None else _show(change.key),
        "op": op,
        "before": None if change.before is None else _row(change.before),
        "after": None if change.after is None else _row(change.after),
        "count": change.count,
        "gap": change.is_gap,
        "writers": [_diff_writer(writer) for writer in change.writers],
    }


def _diff_writer(writer: Writer) -> Document:
    return {
        "execution": writer.execution,
        "function": writer.function,
        "at": show_moment(writer.at),
        "sha": writer.sha,
        "migration": writer.migration,
        "outside": writer.outside,
    }


def _row(values: Mapping[str, str]) -> Document:
    return {name: _show(value) for name, value in values.items()}


def _show(text: str) -> Any:
    return show_json(text.encode("utf-8", "surrogatepass"))
