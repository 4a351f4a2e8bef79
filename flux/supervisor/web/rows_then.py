"""Rows as an execution had them at each of its calls, put together of its changes.

Each change has the row before and after, so what is known is what one call left, or what the first one to touch the row
found; the page says which of the two it shows. Rows that the execution only read are not among them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.scrubber import Column, is_row, list_columns

CHANGES_MAX = 1000
"""The first so many of an execution's are gone through."""
STOPS_SHOWN = 200
ROWS_SHOWN = 50


@attrs.frozen
class CallStop:
    """A call that has changed rows; or what was there before all of them."""

    label: str
    href: str
    is_here: bool


@attrs.frozen
class RowThen:
    """A row at a call."""

    name: str
    href: str
    """Its history."""
    columns: Sequence[Column]
    said: str
    """Which image this is, and whether it was to last."""


@attrs.frozen
class RowsThen:
    """The line of calls, and the rows at the one that is shown."""

    stops: Sequence[CallStop]
    earlier: str
    later: str
    title: str
    """Empty: no call was chosen."""
    rows: Sequence[RowThen]
    row_count: int
    is_cut: bool
    """There are later changes than those that were gone through."""


def make_rows_then(name: str, mutations: Sequence[Mapping[str, Any]], chosen: str, first: int) -> RowsThen | None:
    """Return the rows at the call ``chosen``; None where no row was changed in a call. ``first`` is the page's."""
    known = [each for each in mutations[:CHANGES_MAX] if each["call"] is not None]
    if not known:
        return None
    every = [0, *sorted({int(each["call"]) for each in known})]
    calls = every[:STOPS_SHOWN]
    seq = int(chosen) if chosen.isascii() and chosen.isdigit() and len(chosen) < 9 else None
    place = calls.index(seq) if seq in calls else None

    def link(call: int) -> str:
        return words.link("e", name, from_=first or None, rows=call) + "#rows-then"

    rows = [] if place is None else _list_rows(known, calls[place])
    after = 0 if place is None else place + 1
    return RowsThen(
        stops=[CallStop(_name_stop(call), link(call), number == place) for number, call in enumerate(calls)],
        earlier=link(calls[place - 1]) if place else "",
        later=link(calls[after]) if after < len(calls) else "",
        title="" if place is None else f"Rows {_name_stop(calls[place])}",
        rows=rows[:ROWS_SHOWN],
        row_count=len(rows),
        is_cut=len(mutations) > CHANGES_MAX or len(every) > len(calls),
    )


def _name_stop(call: int) -> str:
    return f"at call {call}" if call else "as found"


def _list_rows(known: Sequence[Mapping[str, Any]], seq: int) -> list[RowThen]:
    """Return each row that was changed at all, as it was once call ``seq`` was answered."""
    rows: dict[tuple[str, str], RowThen] = {}
    for change in known:
        table, is_over = str(change["table"]), change["call"] <= seq
        if change["key"] is None:
            if is_over and change["op"] == "truncate":
                for place in [place for place in rows if place[0] == table]:
                    said = f"went when call {change['call']} emptied the table"
                    rows[place] = attrs.evolve(rows[place], columns=[], said=said)
            continue
        key = words.key_text(change["key"])
        if is_over:
            rows[table, key] = _make_row(change, key, "after", f"as call {change['call']} left it")
        elif (table, key) not in rows:
            rows[table, key] = _make_row(change, key, "before", f"as call {change['call']} was to find it")
    return list(rows.values())


def _make_row(change: Mapping[str, Any], key: str, side: str, said: str) -> RowThen:
    image = change[side]
    said = said if is_row(image) else f"no such row, {said}"
    return RowThen(
        name=f"{words.cut(str(change['table']))}[{key}]",
        href=words.link("state", table=str(change["table"]), key=key),
        columns=list_columns(image),
        said=f"{said}; rolled back afterwards" if side == "after" and not change["committed"] else said,
    )
