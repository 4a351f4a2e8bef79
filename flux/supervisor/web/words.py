"""How an execution and its parts are put into words on a page. The command line says the same in the same words.

What these functions return may still be hostile text; it is made safe where it is put into a page
(`flux.supervisor.web.html`). Cutting is done here, as the template does not know what may be missed.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import attrs

from flux.supervisor.web.values import show_line

BASE = "/_flux/"
ERROR_ROOM = 300
"""Characters of an error's message in a list."""
WORD_ROOM = 200
"""Characters of a path, a function's name, a table."""

_CUT_OFF = frozenset({"killed", "exited", "interrupted"})
_WORDS = {"raised": "failed", "exited": "crashed", "interrupted": "cut", "killed": "killed"}


@attrs.frozen
class Status:
    """How an execution ended, in a word."""

    word: str
    """``201``, or ``ok`` and the like where nobody asked over HTTP."""
    tone: str
    """``good``, ``warn`` or ``bad``: a class of the style sheet. The word says the same to who sees no colours."""


def has_failed(summary: Mapping[str, Any]) -> bool:
    """Say whether an execution went wrong: stopped, answered 5xx, or raised with nobody to answer."""
    if summary["outcome"] in _CUT_OFF:
        return True
    if (status := summary.get("status")) is not None:
        return bool(status >= 500)
    return summary["outcome"] == "raised" or summary.get("error") is not None


def status_of(summary: Mapping[str, Any]) -> Status:
    """Return how an execution ended."""
    status, outcome = summary.get("status"), str(summary["outcome"])
    bad = has_failed(summary)
    if status is not None:
        return Status(str(status), "bad" if bad else "warn" if status >= 400 else "good")
    if outcome == "returned":
        return Status("failed", "bad") if bad else Status("ok", "good")
    return Status(_WORDS.get(outcome, outcome), "bad")


def route_of(summary: Mapping[str, Any]) -> str:
    """``POST /signup``, or the trigger and the function: ``cron nightly``."""
    if summary.get("path"):
        return cut(f"{summary.get('method') or '?'} {summary['path']}")
    return cut(f"{summary['trigger']} {summary.get('function') or '?'}")


def code_of(summary: Mapping[str, Any]) -> str:
    """``3f9c1e2``, with ``+`` when the tree had changes."""
    sha = cut(str(summary.get("sha") or "no code"), 60)
    return sha.removeprefix("nogit-")[:7] + ("+" if summary.get("dirty") else "")


def error_of(summary: Mapping[str, Any]) -> str:
    """``KeyError: 'plan'``; how it was cut off, where nothing was raised; empty where nothing went wrong."""
    error = summary.get("error")
    if error is None:
        outcome = str(summary["outcome"])
        return f"{outcome}: the execution did not end by itself" if outcome in _CUT_OFF else ""
    message = error.get("message")
    return cut(f"{error['type']}: {message}" if message not in (None, "") else str(error["type"]), ERROR_ROOM)


def place_of(location: Mapping[str, Any] | None) -> str:
    """``functions/signup.py:16``."""
    if not location or not location.get("file"):
        return ""
    return cut(f"{location['file']}:{location['line']}" if location.get("line") else str(location["file"]))


def cut(text: str, room: int = WORD_ROOM) -> str:
    """Return the beginning of a text, with a sign where some is left out."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def count(number: int | float, one: str, many: str = "") -> str:
    """``1 call``, ``1,200 calls``."""
    return f"{number:,.0f} {one if number == 1 else many or one + 's'}"


def size(size_bytes: float) -> str:
    """``412 MiB``, ``1.5 GiB``."""
    return f"{size_bytes / 2**30:.3g} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.3g} MiB"


# --- times -----------------------------------------------------------------------------------------


def duration(elapsed_ms: float | None) -> str:
    """``0.4 ms``, ``14 ms``, ``1.42 s``, ``3 min 20 s``; ``?`` where it is not known."""
    if elapsed_ms is None:
        return "?"
    if elapsed_ms < 0.95:
        return f"{elapsed_ms:.1f} ms" if elapsed_ms > 0 else "0 ms"
    if elapsed_ms < 999.5:
        return f"{elapsed_ms:.0f} ms"
    if elapsed_ms < 59_995:
        return f"{elapsed_ms / 1000:.2f} s"
    minutes, rest = divmod(round(elapsed_ms / 1000), 60)
    return f"{minutes} min {rest} s"


def read_moment(text: str) -> datetime:
    """Return a time of a document."""
    return datetime.fromisoformat(text).astimezone(UTC)


def write_moment(moment: datetime) -> str:
    """Return a time as it stands in an address and a command: RFC 3339, no more digits than it takes."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def clock(text: str | None, now: datetime) -> str:
    """Return a time of a document as time of day, in UTC, with the date when it is not today's."""
    if text is None:
        return ""
    moment = read_moment(text)
    shown = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
    if moment.date() == now.date():
        return shown
    return f"{moment:%m-%d} {shown}" if moment.year == now.year else f"{moment:%Y-%m-%d} {shown}"


# --- calls and rows --------------------------------------------------------------------------------


def call_title(kind: str, arguments: Any) -> str:
    """A host call in a few words: ``db UPDATE users``, ``http POST api.stripe.com/v1/charges``."""
    interface = kind.partition(".")[0]
    if isinstance(arguments, dict):
        sql, url, function = (arguments.get(key) for key in ("sql", "url", "function"))
        if isinstance(sql, str):
            return cut(f"db {statement(sql)}")
        if isinstance(url, str):
            short = re.sub(r"^[a-z]+://", "", url[:1000]).partition("?")[0]
            return cut(f"http {arguments.get('method', 'GET')} {short}")
        if isinstance(function, str):
            return cut(f"{interface} {function}")
    if interface == "db":
        return cut(f"db {kind.partition('.')[2].upper()}")
    return cut(kind)


def statement(sql: str) -> str:
    """The verb and the table of a statement; its first words when it is of another make."""
    flat = " ".join(sql[:1000].split())
    found = re.match(
        r'(?i)(insert)\s+into\s+([\w."]+)|(update)\s+(?:only\s+)?([\w."]+)|(delete)\s+from\s+(?:only\s+)?([\w."]+)'
        r'|(select)\b.*?\bfrom\s+([\w."]+)',
        flat,
    )
    if found is None:
        return flat
    verb, table = (group for group in found.groups() if group is not None)
    return f"{verb.upper()} {table}"


def went_wrong(call: Mapping[str, Any]) -> bool:
    """Say whether the host refused a call or failed, or the execution ended before its answer."""
    return call.get("error") is not None or call.get("answered", 1) is None


def key_text(key: Any) -> str:
    """A row's key as it is typed: ``42``, or ``a=1,b=2``."""
    if not isinstance(key, dict):
        return _bare(key)
    if len(key) == 1:
        return _bare(next(iter(key.values())))
    return ",".join(f"{name}={_bare(value)}" for name, value in key.items())


def _bare(value: Any) -> str:
    return cut(value) if isinstance(value, str) else show_line(value).text


# --- links -----------------------------------------------------------------------------------------


def link(*path: str, **query: str | int | None) -> str:
    """Return the address of a page; parameters without a value are left out."""
    said = {name.rstrip("_"): value for name, value in query.items() if value not in (None, "")}
    address = BASE + "/".join(quote(part, safe="@.:", errors="replace") for part in path)
    return address + (f"?{urlencode(said, errors='replace')}" if said else "")


def link_execution(name: str) -> str:
    """Return the address of an execution's page."""
    return link("e", cut(name, 40))
