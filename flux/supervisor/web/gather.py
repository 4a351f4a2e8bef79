"""What a page asks of the API: the half that waits.

Each function is one page's questions, in the order in which they are asked; the answers have the names under which
the page and its ``.json`` know them. An answer that is an error ends the page: there is no page with a part missing.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from flux.supervisor.console_query import BadQueryError, Query, needed
from flux.supervisor.web.deployments import DEPLOYMENTS_SHOWN
from flux.supervisor.web.passage import CALLS_SHOWN, read_first
from flux.supervisor.web.queue import JOBS_SHOWN, TICKS_SHOWN
from flux.supervisor.web.scrubber import NOW, get_version
from flux.supervisor.web.values import read

Put = Callable[[tuple[str, ...], Mapping[str, str]], Awaitable[bytes]]
"""Asks the API a question by its path and query; returns the document as it came, or raises."""

LIST_MAX = "50"
"""Executions on a page of the list."""
INCIDENT_MAX = "500"
"""Executions of a window that are looked at for what they have in common."""
ROWS_MAX = "200"
"""Rows of a table that have changed, on a page."""


@attrs.define
class Documents:
    """What has been asked and answered."""

    put: Put
    written: dict[str, bytes] = attrs.field(factory=dict)
    """By name, as they came."""
    read: dict[str, Any] = attrs.field(factory=dict)
    """By name, as Python has them."""

    async def ask(self, name: str, *path: str, **query: str | None) -> Any:
        """Ask, keep the answer, and return it; parameters that are None or empty are not sent."""
        said = {key.rstrip("_"): value for key, value in query.items() if value}
        self.written[name] = await self.put(path, said)
        self.read[name] = read(self.written[name])
        return self.read[name]


async def gather_executions(documents: Documents, query: Query, *_path: str) -> None:
    """The list, and what was going on in the last hour."""
    await documents.ask("executions", "executions", q=query.get("q"), before=query.get("before"), n=LIST_MAX)
    if not query.get("before"):
        await documents.ask("activity", "activity")


async def gather_errors(documents: Documents, query: Query, *_path: str) -> None:
    """Failures by kind."""
    await documents.ask("errors", "errors", since=query.get("since"), n="200")


async def gather_execution(documents: Documents, _query: Query, name: str) -> None:
    """All of an execution, and why it ended as it did."""
    trace = await documents.ask("trace", "executions", name)
    # By its id: "@-1" may mean another one by now.
    await documents.ask("why", "executions", trace["id"], "why")


async def gather_debug(documents: Documents, query: Query, name: str) -> None:
    """An event of an execution, as far as somebody has looked at it."""
    await documents.ask("debug", "debugs", name, **query)


async def gather_execution_page(documents: Documents, query: Query, name: str) -> None:
    """What the page of an execution shows: of many calls some."""
    first, room = str(read_first(query)), str(CALLS_SHOWN)
    page = await documents.ask("page", "executions", name, "page", from_=first, n=room, find=query.get("find"))
    documents.read |= {part: page[part] for part in ("trace", "why", "passage")}


async def gather_state(documents: Documents, query: Query, *_path: str) -> None:
    """A row's versions and the writers of its columns, or what became of a table; nothing without either."""
    between = [name for name in ("from", "to") if query.get(name)]
    stops = [name for name in ("change", "time", "mark") if query.get(name)]
    if between:
        if others := [name for name in ("key", *stops) if query.get(name)]:
            raise BadQueryError(
                f"{between[0]} asks for a whole table, {others[0]} for a row", remedy="leave one of them out"
            )
        table, since, until = (needed(query, name) for name in ("table", "from", "to"))
        await documents.ask("diff", "state", "diff", table=table, from_=since, to=until, n=ROWS_MAX)
    elif query.get("table") or query.get("key") or stops:
        table, key = needed(query, "table"), needed(query, "key")
        if query.get("change") and query.get("time"):
            raise BadQueryError("as of when is said twice: change and time", remedy="leave one of them out")
        history = await documents.ask("history", "state", "history", table=table, key=key)
        for name in ("change", "mark"):
            if query.get(name) and (name, query[name]) != ("mark", NOW):
                get_version(history["versions"], query[name], f"{table}[{key}]")
        await documents.ask("blame", "state", "blame", table=table, key=key)
        if query.get("time"):
            await documents.ask("at", "state", "at", table=table, key=key, time=query["time"])


async def gather_diff(documents: Documents, _query: Query, pair: str) -> None:
    """Two executions, ``A..B``, side by side."""
    a, dots, b = pair.partition("..")
    if not (a and dots and b):
        raise BadQueryError(f'"{pair[:80]}" is no pair of executions', remedy="write A..B, two names")
    await documents.ask("diff", "executions", a, "diff", b)


async def gather_deployments(documents: Documents, _query: Query, *_path: str) -> None:
    """What was served."""
    await documents.ask("deployments", "deployments", n=str(DEPLOYMENTS_SHOWN))


async def gather_queue(documents: Documents, query: Query, *_path: str) -> None:
    """Jobs, how many there are, and the schedules."""
    state, function = query.get("state"), query.get("function")
    await documents.ask("queue", "queue", state=state, function=function, n=str(JOBS_SHOWN))
    await documents.ask("cron", "cron")


async def gather_cron(documents: Documents, _query: Query, function: str) -> None:
    """A function's schedules and what became of their times."""
    await documents.ask("history", "cron", function, "history", n=str(TICKS_SHOWN))
    await documents.ask("cron", "cron")


async def gather_tenants(documents: Documents, _query: Query, *_path: str) -> None:
    """Who else is served."""
    await documents.ask("tenants", "tenants")


async def gather_incidents(documents: Documents, _query: Query, *_path: str) -> None:
    """Windows that have a name, and failures of the last day."""
    await documents.ask("incidents", "incidents")
    await documents.ask("errors", "errors", since="1d", n="200")


async def gather_incident(documents: Documents, _query: Query, window: str) -> None:
    """A window, what failed in it, and what became of that in replays."""
    incident = await documents.ask("incident", "incidents", window)
    # Two times from here on: "last:15m" is another window with each question.
    since, until = incident["since"], incident["until"]
    terms = f"since:{since} until:{until} status:>=500 -trigger:replay"
    await documents.ask("executions", "executions", q=terms, n=INCIDENT_MAX)
    await documents.ask("run", "incidents", f"{since}..{until}", "replay")


async def gather_incident_run(documents: Documents, _query: Query, window: str) -> None:
    """How far the replays of a window are."""
    await documents.ask("run", "incidents", window, "replay")


async def gather_bisects(documents: Documents, _query: Query, *_path: str) -> None:
    """Bisects that were begun, and what could be."""
    await documents.ask("bisects", "bisects")
    await documents.ask("executions", "executions", q="since:1d status:>=500 -trigger:replay", n="20")


async def gather_bisect(documents: Documents, _query: Query, name: str) -> None:
    """How far an execution's bisect is; where none was begun, where it would begin."""
    await documents.ask("run", "bisects", name)


async def gather_doctor(documents: Documents, _query: Query, *_path: str) -> None:
    """How the server is."""
    await documents.ask("checks", "checks")
