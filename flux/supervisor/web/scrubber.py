"""A row's changes as stops on a line, the oldest first, and the row as a stop has it.

A stop is a change, and is named by its time in the history (``change=`` in a page's address); the last one is now. The
row at a stop is the image that the change left, which the log has: no question of "as of when" is open there, as it
would be with a time (``time=``), at which the change was logged and not yet committed. What a change left that was
rolled back never was the row. It is shown as what it is, and counts nowhere as a version.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.console_query import BadQueryError
from flux.supervisor.web import words
from flux.supervisor.web.values import Shown, show_line

STOPS_SHOWN = 200
"""The latest, or those around the one that is shown."""
NOW = "now"
"""What stands for the last stop where a change's time would stand."""


@attrs.frozen
class Stop:
    """A place on the line."""

    label: str
    """``v4``; ``?`` of a change that nobody saw, ``·`` of one that was rolled back."""
    word: str
    """What the change did, in words: colours and dashes only say it again."""
    at: str
    href: str
    tone: str
    """A class of the style sheet: ``undone``, ``gone`` or none."""
    is_here: bool
    is_marked: bool


@attrs.frozen
class Scrubber:
    """The line, where one stands on it, and what is next to that."""

    stops: Sequence[Stop]
    earlier: str
    """Address of the stop before; empty at the first."""
    later: str
    mark: str
    """Address that marks this stop, or takes the mark away; empty where no stop is shown."""
    is_marked: bool
    """This stop is the marked one."""
    is_cut: bool
    """There are changes that are not on it."""


@attrs.frozen
class Column:
    """A column of a row."""

    name: str
    value: Shown


def get_version(versions: Sequence[Mapping[str, Any]], at: str, row: str) -> Mapping[str, Any]:
    """Return the change of a time; raise when none is on record. ``versions`` are the newest first."""
    for version in versions:
        if version["at"] == at:
            return version
    raise BadQueryError(
        f'no change of {words.cut(row)} is on record at "{words.cut(at, 80)}"',
        remedy="leave out change and mark: the page shows all changes. For the row at any time write time=14:00",
    )


def make_scrubber(versions: Sequence[Mapping[str, Any]], query: Mapping[str, str], now: datetime) -> Scrubber:
    """Return the line of a row's ``versions``, the newest first; ``query`` is the page's."""
    table, key, mark = query["table"], query["key"], query.get("mark")
    ats = [*(str(version["at"]) for version in reversed(versions)), NOW]

    def link(at: str, marked: str | None) -> str:
        return words.link("state", table=table, key=key, change="" if at == NOW else at, mark=marked)

    # At a time of its own one stands between two stops, and on none.
    here = None if query.get("time") else query.get("change") or NOW
    place = ats.index(here) if here in ats else _find_place(ats[:-1], query.get("time", ""))
    begin = max(0, min(place - STOPS_SHOWN // 2, len(versions) - STOPS_SHOWN))
    shown = list(reversed(versions))[begin : begin + STOPS_SHOWN]
    stops = [
        Stop(
            label=label_of(version),
            word=word_of(version),
            at=words.clock(version["at"], now),
            href=link(str(version["at"]), mark),
            tone="undone" if not version["committed"] else "gone" if version["after"] is None else "",
            is_here=version["at"] == here,
            is_marked=version["at"] == mark,
        )
        for version in shown
    ]
    stops.append(Stop(NOW, "", "", link(NOW, mark), "", here == NOW, mark == NOW))
    before = place - 1
    after = place + 1 if here is not None else place
    return Scrubber(
        stops=stops,
        earlier=link(ats[before], mark) if before >= 0 else "",
        later=link(ats[after], mark) if after < len(ats) else "",
        mark="" if here is None else link(here, None if mark == here else here),
        is_marked=here is not None and mark == here,
        is_cut=len(versions) > len(shown),
    )


def _find_place(ats: Sequence[str], time: str) -> int:
    """Return the place of the first change after a time; of a time that can't be read here, the place after all."""
    try:
        moment = words.read_moment(time)
    except ValueError:  # Such as "15m": the API reads it, and this page has what it answered.
        return len(ats)
    return next((number for number, at in enumerate(ats) if words.read_moment(at) > moment), len(ats))


def label_of(version: Mapping[str, Any]) -> str:
    """``v4``; ``·`` of a change that was rolled back, ``?`` of one that was made outside Flux."""
    if not version["committed"]:
        return "·"
    number = version["version"]
    return "?" if version["outside"] or number is None else f"v{number}"


def word_of(version: Mapping[str, Any]) -> str:
    """Say what a change did to the row."""
    did = "deleted" if version["after"] is None else {"insert": "created", "update": "changed"}.get(version["op"])
    done = did or words.cut(str(version["op"]), 20)
    return done if version["committed"] else f"{done}, rolled back"


def list_columns(image: Any) -> list[Column]:
    """Return a row's columns. An image that is no row has none."""
    return [Column(words.cut(str(name)), show_line(value)) for name, value in image.items()] if is_row(image) else []


def is_row(image: Any) -> bool:
    """Say whether an image is a row's; null stands for none."""
    return isinstance(image, Mapping)
