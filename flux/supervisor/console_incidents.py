"""The console's questions about windows of time: those that have a name, and what became of all in one.

``WINDOW`` in a path is the name of a pinned incident or a window (`flux.window`), read in UTC. To replay a window here
begins a run (`flux.supervisor.runs`): it goes on when whoever asked for it has gone. ``POST replays`` is the same for a
command that waits.
"""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from flux.errors import OperatorError
from flux.filter import parse
from flux.store import incidents
from flux.store.erasures import count_erasures
from flux.store.postgres import Pool
from flux.supervisor.console_query import BadQueryError, Query, Question
from flux.supervisor.console_replays import Asked, ReplaysDesk
from flux.supervisor.incident_run import IncidentRun
from flux.supervisor.present import Document, show_moment
from flux.supervisor.runs import Runs
from flux.window import Window, may_be_name, read_window

FAILED = "status:>=500 -trigger:replay"
"""What is replayed of a window, as by ``flux incident replay``: no replay is itself a request of then."""
REF_ROOM = 200
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
"""Of an incident: never a time, nor anything with a colon or two dots."""


class NoSuchIncidentError(OperatorError):
    """No incident has this name."""

    code = "FLX527"
    exit_code = 3


class IncidentExistsError(OperatorError):
    """An incident of this name is there already."""

    code = "FLX528"


class IncidentDesk:
    """Answers them, for one tenant."""

    def __init__(
        self,
        pool: Pool,
        replays: ReplaysDesk,
        runs: Runs,
        tenant: str,
        settle: Callable[[], Awaitable[int]],
        now: Callable[[], datetime],
    ) -> None:
        """``settle`` waits for what has just ended to be stored, and counts what is not."""
        self._pool = pool
        self._replays = replays
        self._runs = runs
        self._tenant = tenant
        self._settle = settle
        self._now = now

    def find(self, method: str, path: list[str], body: bytes) -> Question | None:
        """Return what is asked below ``incidents``, or None when nothing is there."""
        match path:
            case [] if method == "POST":
                return Question("POST", partial(self._pin, body))
            case []:
                return Question("GET", self._list)
            case [window]:
                return Question("GET", partial(self._describe, window))
            case [window, "replay"] if method == "POST":
                return Question("POST", partial(self._begin, window, body))
            case [window, "replay"]:
                return Question("GET", partial(self._show_run, window))
            case [window, "replay", "cancel"]:
                return Question("POST", partial(self._cancel, window))
        return None

    # --- windows -----------------------------------------------------------------------------------

    async def _list(self, _query: Query) -> Document:
        """List the windows that have a name."""
        found = await incidents.list_incidents(self._pool, self._tenant)
        return {
            "schema": "flux.incidents/1",
            "incidents": [
                {
                    "name": one.name,
                    "since": show_moment(one.since),
                    "until": show_moment(one.until),
                    "pinned_at": show_moment(one.pinned_at),
                    "executions": one.count,
                    "failed": one.failed,
                }
                for one in found
            ],
        }

    async def _describe(self, text: str, _query: Query) -> Document:
        """Say which window a text stands for, and what began in it."""
        since, until = await self._read(text)
        count = await incidents.count_window(self._pool, self._tenant, since, until)
        return {
            **_window_json(text if may_be_name(text) else None, since, until),
            "executions": count.executions,
            "failed": count.failed,
        }

    async def _read(self, text: str) -> tuple[datetime, datetime]:
        if not may_be_name(text):
            window = read_window(text, self._now())
            return window.since, window.until or self._now()
        found = await incidents.find_incident(self._pool, self._tenant, text)
        if found is None:
            raise NoSuchIncidentError(
                f'no incident is called "{text[:200]}"',
                remedy="flux incident list shows them; a window is also 14:00..14:05 or last:15m",
            )
        return found

    async def _pin(self, body: bytes, _query: Query) -> Document:
        """Give a window a name: ``{"name": ..., "window": "since:... until:..."}``."""
        said = _read_texts(body, {"name", "window"}, '{"name": "...", "window": "since:..."}')
        if said.keys() != {"name", "window"}:
            raise BadQueryError("the body has a name and a window, and nothing else", remedy="")
        name, now = said["name"], self._now()
        if NAME.fullmatch(name) is None:
            raise BadQueryError(
                f'"{name[:80]}" is no name for an incident', remedy="letters a to z, digits, - and _, a letter first"
            )
        times = {"until": now}
        for term in parse(said["window"], now).terms:
            if term.key not in ("since", "until") or term.negated or not isinstance(term.value, datetime):
                raise BadQueryError("a window has a since: and an until:", remedy="14:00..14:05, or last:15m")
            times[term.key] = term.value
        if "since" not in times or times["since"] >= times["until"]:
            raise BadQueryError("the window ends before it begins", remedy="14:00..14:05, or last:15m")
        pinned = await incidents.pin_incident(
            self._pool, self._tenant, name, times["since"], times["until"]
        )
        if pinned is None:
            raise IncidentExistsError(
                f'there is an incident "{name}" already', remedy="choose another name: flux incident list"
            )
        log_since = None if pinned.log_since is None else show_moment(pinned.log_since)
        return {**_window_json(name, times["since"], times["until"]), "log_since": log_since}

    # --- replays -----------------------------------------------------------------------------------

    async def _begin(self, text: str, body: bytes, _query: Query) -> Document:
        """Begin to replay what failed in a window: ``{"on": "."}``."""
        said = _read_texts(body, {"on"}, '{"on": "."}')
        on = said.get("on", ".")
        if not on or len(on) > REF_ROOM:
            raise BadQueryError(
                f'"{on[:80]}" is no code to replay on', remedy=". for the project's folder, or a commit"
            )
        since, until = await self._read(text)
        erasures = await count_erasures(self._pool, self._tenant)
        self._runs.forget(erasures)
        window = Window(since, until)
        asked = Asked(q=f"{window} {FAILED}", calls=False)
        work = await self._replays.prepare(asked, await self._settle(), on)
        return self._runs.begin(_key(since, until), IncidentRun(work, _text(since, until), on), erasures)

    async def _show_run(self, text: str, _query: Query) -> Document:
        since, until = await self._read(text)
        self._runs.forget(await count_erasures(self._pool, self._tenant))
        return self._runs.find(_key(since, until)) or _no_run(since, until)

    async def _cancel(self, text: str, _query: Query) -> Document:
        since, until = await self._read(text)
        self._runs.forget(await count_erasures(self._pool, self._tenant))
        return self._runs.cancel(_key(since, until)) or _no_run(since, until)


def _window_json(name: str | None, since: datetime, until: datetime) -> Document:
    return {
        "schema": "flux.incident/1",
        "name": name,
        "since": show_moment(since),
        "until": show_moment(until),
    }


def _text(since: datetime, until: datetime) -> str:
    return f"{show_moment(since)}..{show_moment(until)}"


def _key(since: datetime, until: datetime) -> str:
    return f"the replays of {_text(since, until)}"


def _no_run(since: datetime, until: datetime) -> Document:
    return {"schema": "flux.incident-run/1", "window": _text(since, until), "state": "none"}


def _read_texts(body: bytes, allowed: set[str], example: str) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(body, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(f"the body can't be read: {error}", remedy=example) from error
    if unknown := sorted(said.keys() - allowed):
        raise BadQueryError(f'the body has "{unknown[0][:80]}"', remedy=example)
    return said
