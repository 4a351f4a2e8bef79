"""A window of time, as people write it: ``14:00..14:05``, dates, RFC 3339, or ``last:15m``.

Command line and console read windows here, each in the zone of its reader, which comes with ``now``. The name of a
pinned incident is a window too; whoever can ask for it looks it up first (`may_be_name`).
"""

import re
from datetime import UTC, datetime, timedelta

import attrs

from flux.errors import OperatorError
from flux.filter import parse

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?", re.ASCII)
REMEDY = "14:00..14:05, or last:15m"


class WindowError(OperatorError):
    """The text is no window of time."""

    code = "FLX657"


@attrs.frozen
class Window:
    """From when to when."""

    since: datetime
    until: datetime | None
    """None: there is no end, as of ``last:15m``."""

    def __str__(self) -> str:
        """Return the terms of a filter that mean it."""
        return f"since:{_utc(self.since)}" + (f" until:{_utc(self.until)}" if self.until is not None else "")


def may_be_name(text: str) -> bool:
    """Say whether a text is one that an incident may be called, which no window is."""
    return _NAME.fullmatch(text) is not None


def read_window(text: str, now: datetime) -> Window:
    """Return the window that a text means; ``now`` is aware, and its zone the reader's."""
    first, dots, last = text.partition("..")
    if text.startswith("last:"):
        terms = f"since:{text.removeprefix('last:')}"
    elif dots and first and last:
        terms = f"since:{first} until:{last}"
    else:
        raise WindowError(f"{text[:200]} is no window", remedy=REMEDY)
    found = parse(terms, now).terms
    times = [term.value for term in found if isinstance(term.value, datetime) and not term.negated]
    if [term.key for term in found] != ["since", "until"][: len(times)]:
        raise WindowError(f"{text[:200]} is no window", remedy=f"{REMEDY}; -q takes a filter")
    if len(times) == 1:
        return Window(times[0], None)
    since, until = times
    if since <= until:
        return Window(since, until)
    if _CLOCK.fullmatch(last) is None:
        raise WindowError(f"{text[:200]} ends before it begins", remedy=REMEDY)
    # A time of day alone is the last one of that name. Here it is the first that comes after the beginning.
    return Window(since, until + timedelta(days=1))


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
