"""The console's JSON API: what ``flux`` asks of a running server, and what it hears.

One `Console` answers everything under ``/_flux/``, the pages for people by its
`flux.supervisor.web.desk.WebDesk`. It holds no state: executions come from the store and from `Live`,
functions from the `ConsoleHost` that runs them. Each question is one method that returns a document; `handle`
does what all have in common: the door, the method, the query's names, and the turning of an error into
``application/problem+json`` with its code, its remedy and the exit code that the command line ends with.

An error is never turned into an empty answer. A database that is down is 503; so is a
question about what has just ended and cannot be stored. What a query does not know, it refuses:
a misspelt parameter must not become a list of everything.

Records are written in batches, so an execution may be answered before it is stored. Whoever asks
right after its own request must find it: so each question waits, for a moment, until all that
has ended by now is in the store.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs
import trio

from flux import why
from flux.config import RecordingConfig
from flux.errors import FluxError, OperatorError
from flux.execution import Execution
from flux.filter import Filter, Term, matches, parse, parse_moment
from flux.message import HttpRequest, HttpResponse, RequestHead, problem
from flux.scopes import get_needed
from flux.store import reading
from flux.store.erasures import count_erasures
from flux.store.jobs import list_jobs_of
from flux.store.postgres import Pool
from flux.store.replays import list_replays
from flux.supervisor.bisect import Bisector
from flux.supervisor.console_activity import answer_activity
from flux.supervisor.console_admin import AREAS, AdminDesk, AdminHost
from flux.supervisor.console_bisect import BisectDesk
from flux.supervisor.console_bisects import BisectRunsDesk
from flux.supervisor.console_checks import ChecksDesk
from flux.supervisor.console_cron import CronDesk
from flux.supervisor.console_debug import DebugHost, answer_debug
from flux.supervisor.console_debugs import DebugsDesk
from flux.supervisor.console_deploy import DeployDesk, DeployHost, DeployOrder
from flux.supervisor.console_diff import DiffDesk, DiffHost
from flux.supervisor.console_door import Door
from flux.supervisor.console_errors import describe_error
from flux.supervisor.console_guarded import GuardedDeploy
from flux.supervisor.console_incidents import IncidentDesk
from flux.supervisor.console_interleave import InterleaveHost, answer_interleave
from flux.supervisor.console_machines import MachineDesk, Readiness, Shared, no_metrics
from flux.supervisor.console_page import CHILDREN_MAX, REPLAYS_MAX, answer_page
from flux.supervisor.console_prove import answer_prove
from flux.supervisor.console_pytest import PytestHost, answer_pytest
from flux.supervisor.console_query import Query, flag, number, read_data, read_query
from flux.supervisor.console_queue import QueueDesk, job_json
from flux.supervisor.console_records import RecordsDesk
from flux.supervisor.console_replay import ReplayDesk
from flux.supervisor.console_replays import ReplaysDesk
from flux.supervisor.console_state import StateDesk
from flux.supervisor.debug_room import DebugPart, DebugRoom
from flux.supervisor.evidence import gather_evidence
from flux.supervisor.in_flight import Unrest
from flux.supervisor.live import HEARTBEAT_S, Line, LineStream, Live, Published, Select
from flux.supervisor.metrics import Metric
from flux.supervisor.present import (
    Document,
    encode,
    error_group_json,
    log_json,
    show_body,
    show_moment,
    summary_json,
    trace_json,
    why_json,
)
from flux.supervisor.prove import Prover
from flux.supervisor.replay_many import ReplayHost
from flux.supervisor.runs import Runs
from flux.supervisor.spans import list_spans
from flux.supervisor.web.desk import NOWHERE, WebDesk, no_such_path
from flux.supervisor.work_stream import Start, WorkStreams
from flux.tenant import Tenant

API = "api"
STORE_TIMEOUT_S = 30.0
"""How long the store may take for one question."""
SETTLE_TIMEOUT_S = 2.0
"""How long a question waits for what has just ended to be stored. Batches take milliseconds."""
LIST_DEFAULT = 20
LIST_MAX = 1000
GROUPS_MAX = 1000
LOGS_DEFAULT = 200
"""Lines of ``flux logs`` when no time is given."""
PAGE = 500
"""Executions read at once for a stream's history."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JSON = (("content-type", "application/json"), ("cache-control", "no-store"))
_CASE = (("content-type", "application/vnd.flux.case"), ("cache-control", "no-store"))
_LINES = (("content-type", "application/x-ndjson"), ("cache-control", "no-store"))


class NoSuchFunctionError(OperatorError):
    """No function of that name is deployed."""

    code = "FLX113"
    exit_code = 3


class NotStoredError(OperatorError):
    """The execution has ended, and its record is not in the store yet."""

    code = "FLX720"
    exit_code = 6


class StoreTimeoutError(OperatorError):
    """The database did not answer in time."""

    code = "FLX721"
    exit_code = 5


@attrs.frozen
class Invoked:
    """How a function answered that was invoked through the console."""

    status: int
    """HTTP status of its answer."""
    body: bytes
    content_type: str
    summary: Mapping[str, Any]
    """The execution, as `flux.supervisor.present` describes it."""


class ConsoleHost(ReplayHost, DebugHost, PytestHost, DiffHost, InterleaveHost, DeployHost, AdminHost, Protocol):
    """Who runs the functions."""

    def functions(self) -> Sequence[Mapping[str, Any]]:
        """Return each function as ``flux.functions/1`` has it: see `flux.documents`."""

    def openapi(self) -> Mapping[str, Any]:
        """Return the routes that are served as an OpenAPI document; raise when there are none yet."""

    async def invoke(self, name: str, data: bytes) -> Invoked:
        """Run a function with ``data``, a JSON value, as its input."""

    async def export(self, original: Execution) -> bytes:
        """Return ``original`` as a case file. See `flux.case_file`."""

    def bisector(self) -> Bisector:
        """Return who runs executions on commits."""

    def prover(self) -> Prover:
        """Return who makes experiments on executions."""

    def checks(self) -> Sequence[Mapping[str, Any]]:
        """Return what ``flux doctor`` asks: ``name``, ``ok``, ``detail``, ``remedy``."""

    def ready(self) -> bool:
        """Return whether requests are taken."""


Answer = Document | HttpResponse
_T = TypeVar("_T")


class Console:
    """Answers everything under ``/_flux/``."""

    def __init__(
        self, pool: Pool, live: Live, host: ConsoleHost, door: Door, start: Start, *,
        rest: Callable[[], Awaitable[Unrest]], schema: str = "public",
        tenant: str = Tenant().name,
        now: Callable[[], datetime] = lambda: datetime.now(UTC), heartbeat_s: float = HEARTBEAT_S,
        recording: Callable[[], RecordingConfig] = RecordingConfig, readiness: Readiness | None = None,
        counters: Callable[[], Sequence[Metric]] = list, shared: Shared = no_metrics,
        others: Callable[[], Awaitable[Sequence[Metric]]] | None = None, worker: str = "",
        checks_elsewhere: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] | None = None, url: str = NOWHERE,
        debugs: DebugPart | None = None,
        register_schedules: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:  # fmt: skip
        """``start`` runs what goes on beside an answer; ``rest`` waits until what runs now is stored; ``recording`` is
        what is said of records; ``counters`` counts here, ``shared`` what the database holds for all, and ``others`` in
        the other processes of the server, of which this is ``worker``;
        ``checks_elsewhere`` are what all processes say together; ``url`` is where the functions are;
        ``debugs`` is what executions that are stepped through may take; None: no other server shares it.
        ``register_schedules`` is done before schedules are read: see `flux.supervisor.cron.Cron.register`."""
        self._checks_desk = ChecksDesk(pool, host.checks, checks_elsewhere)
        self.machines = MachineDesk(
            live, door, readiness or Readiness(), serves=host.ready, counters=counters, shared=shared,
            others=others, worker=worker,
        )  # fmt: skip
        self._pool = pool
        self._live = live
        self._host = host
        self._door = door
        self._now = now
        self._replays = ReplayDesk(pool, host, self._find)
        self._works, self._runs = WorkStreams(start, heartbeat_s), Runs(start, now)
        self._many = ReplaysDesk(pool, host, self._works, now)
        self._diffs = DiffDesk(pool, host, self._find)
        self._queue = QueueDesk(pool, tenant)
        self._cron = CronDesk(pool, tenant, now, register_schedules)
        self._deploys = DeployDesk(host)
        self._bisects = BisectDesk(pool, host.bisector, self._find)
        erasures = partial(count_erasures, pool, tenant)
        self._debugs = DebugsDesk(pool, host, start, self._find, now, debugs or DebugRoom().own, erasures)
        self._desks: Mapping[str, IncidentDesk | BisectRunsDesk | DebugsDesk] = {
            "debugs": self._debugs,
            "incidents": IncidentDesk(pool, self._many, self._runs, tenant, self._settle, now),
            "bisects": BisectRunsDesk(self._bisects, self._diffs, self._runs, self._find, erasures),
        }  # fmt: skip
        self._records = RecordsDesk(
            pool, tenant, schema, recording, self._find, self._settle, now, lambda: live.unheard, rest,
            self._forget,
        )
        self._state = StateDesk(pool, schema, self._find, self._settle, now)
        self._admin = AdminDesk(pool, host, tenant, now)
        self._web = WebDesk(door, self._api, now, url, lambda: host.tenants_keeper() is not None)
        self._heartbeat_s = heartbeat_s

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one request whose path begins with ``/_flux/``."""
        try:
            answer = await self._route(request)
        except FluxError as error:
            return describe_error(error)
        if isinstance(answer, HttpResponse):
            return answer
        return HttpResponse(200, _JSON, encode(answer))

    async def _route(self, request: HttpRequest) -> Answer:
        head = request.head
        match head.path.removeprefix("/_flux").strip("/").split("/"):
            case ["health"]:
                return _only("GET", head) or self.machines.health()
            case ["live"]:
                return _only("GET", head) or self.machines.live()
            case ["metrics"]:
                return _only("GET", head) or await self.machines.metrics(head)
            case [first, *path] if first == API:
                needed = get_needed(head.method, path[0] if path else "")
                if (refusal := await self._door.refuse(head, needed)) is not None:
                    return refusal
                return await self._api(path, request)
            case path:
                return await self._web.answer(path, request) or no_such_path(head)

    async def _api(self, path: list[str], request: HttpRequest) -> Answer:
        head = request.head
        ask: Callable[[Query], Awaitable[Answer]]
        allowed: tuple[str, ...] = ()
        method = "GET"
        match path:
            case ["executions"]:
                ask, allowed = self._executions, ("q", "n", "before")
            case ["activity"]:
                ask, allowed = partial(answer_activity, self._pool, self._now), ("minutes",)
            case ["executions", name]:
                ask = self._for(self._trace, name)
            case ["executions", name, "page"]:
                ask, allowed = partial(answer_page, self._pool, self._find, name), ("from", "n", "find")
            case ["executions", name, "why"]:
                ask = self._for(self._why, name)
            case ["executions", name, "prove"]:
                ask, method = self._for(self._prove, name), "POST"
            case ["executions", name, "replay"]:
                ask, method, allowed = partial(self._replays.replay, name, request.body), "POST", ("on",)
            case ["executions", name, "debug"]:
                asks = partial(answer_debug, self._pool, self._host, self._find, name)
                ask, method = self._for(asks, request.body), "POST"
            case ["executions", name, "bisect"]:
                ask, allowed = partial(self._bisects.plan_for, name), ("good", "bad", "functions_from")
            case ["executions", name, "diff", other]:
                ask, allowed = partial(self._diffs.compare, name, other), ("all",)
            case ["executions", name, "diff"]:
                ask, method, allowed = partial(self._diffs.replay, name), "POST", ("on", "all")
            case ["replays"]:
                ask, method, allowed = partial(self._replay_many, request.body), "POST", ("on",)
            case ["expect"]:
                ask, method = self._for(self._replays.expect, request.body), "POST"
            case [area, *words] if area in self._desks and (
                found := self._desks[area].find(head.method, words, request.body)
            ):
                ask, method, allowed = found.ask, found.method, found.allowed
            case ["executions", name, "case"]:
                ask = self._for(self._case, name)
            case ["executions", name, "html"]:
                ask = self._for(self._web.export, name)
            case ["executions", name, "pytest"]:
                ask, method = self._for(partial(answer_pytest, self._pool, self._host, self._find), name), "POST"
            case ["interleave"]:
                ask, method, allowed = partial(self._interleave, request.body), "POST", ("on",)
            case ["deployments"]:
                ask, allowed = self._deploys.deployments, ("n",)
            case ["deploy"]:
                ask, method = self._for(self._deploys.deploy, request.body), "POST"
            case ["deploy", "guarded"]:
                ask, method = self._for(self._deploy_guarded, request.body), "POST"
            case ["rollback"]:
                ask, method = self._for(self._deploys.roll_back, request.body), "POST"
            case ["bisect", "plan" | "graph" | "probe" | "finding" as question]:
                ask, method = partial(self._bisects.answer, question, request.body), "POST"
            case ["queue"]:
                ask, allowed = self._queue.list_jobs, ("state", "function", "n")
            case ["queue", job, "retry"]:
                ask, method = self._for(self._queue.retry, job), "POST"
            case ["cron"]:
                ask = self._cron.list_schedules
            case ["cron", name, "history"]:
                ask, allowed = partial(self._cron.history, name), ("n",)
            case ["cron", name, "pause" | "resume" as verb]:
                ask, method = self._for(self._cron.pause if verb == "pause" else self._cron.resume, name), "POST"
            case ["functions"]:
                ask = self._functions
            case ["openapi"]:
                ask = self._openapi
            case ["checks"]:
                ask = self._checks_desk.tell
            case ["errors"]:
                ask, allowed = self._errors, ("since", "n")
            case ["state", "history"]:
                ask, allowed = self._state.history, ("table", "key", "n")
            case ["redact", "test"]:
                ask, method = self._for(self._records.redact, request.body), "POST"
            case ["records", "prune"]:
                ask, method, allowed = self._records.prune, "POST", ("dry_run",)
            case ["records", "export"]:
                ask, allowed = self._records.export, ("q", "after")
            case ["records", "forget"]:
                ask, method, allowed = self._records.forget, "POST", ("table", "key", "dry_run")
            case ["state", "blame"]:
                ask, allowed = self._state.blame, ("table", "key")
            case ["state", "at"]:
                ask, allowed = self._state.at, ("table", "key", "time", "before", "snapshot", "n")
            case ["state", "diff"]:
                ask, allowed = self._state.diff, ("table", "from", "to", "n")
            case ["tail"]:
                ask, allowed = self._tail, ("q", "since", "follow")
            case ["logs"]:
                ask, allowed = self._logs, ("function", "since", "follow")
            case ["invoke", name]:
                ask, method = self._for(lambda function: self._invoke(function, request.body), name), "POST"
            case [area, *_] if area in AREAS and (asked := self._admin.find(head.method, path, request.body)):
                ask, method = asked.ask, asked.method
            case _:
                return no_such_path(head)
        if (refusal := _only(method, head)) is not None:
            return refusal
        query = read_query(head, allowed)
        if method == "POST" and path != ["replays"]:  # Its answer begins as soon as the store has said which.
            return await ask(query)  # Functions have limits of their own.
        with trio.move_on_after(STORE_TIMEOUT_S):
            return await ask(query)
        raise StoreTimeoutError(
            f"the database did not answer within {STORE_TIMEOUT_S:g} s",
            remedy="see flux doctor; a busy database shows in pg_stat_activity",
        )

    @staticmethod
    def _for(ask: Callable[[_T], Awaitable[Answer]], name: _T) -> Callable[[Query], Awaitable[Answer]]:
        async def asked(_query: Query) -> Answer:
            return await ask(name)

        return asked

    # --- executions --------------------------------------------------------------------------------

    async def _executions(self, query: Query) -> Document:
        filter_ = self._filter(query)
        limit = number(query, "n", LIST_DEFAULT, LIST_MAX)
        waiting = await self._settle()
        before = await self._find(query["before"]) if query.get("before") else None
        found = await reading.list_summaries(
            self._pool, filter_, limit, before.id if before is not None else None
        )
        return {
            "schema": "flux.executions/1",
            "executions": [summary_json(summary) for summary in found],
            "not_stored": waiting,
        }

    async def _trace(self, name: str) -> Document:
        summary, execution = await reading.get_execution(self._pool, (await self._find(name)).id)
        children = await reading.list_children(self._pool, summary.id, CHILDREN_MAX)
        return trace_json(
            summary_json(summary),
            execution,
            spans=list_spans(execution),
            children=[summary_json(child) for child in children],
            jobs=[job_json(job) for job in await list_jobs_of(self._pool, summary.id, CHILDREN_MAX)],
            replays=await list_replays(self._pool, summary.id, REPLAYS_MAX),
        )

    async def _why(self, name: str) -> Document:
        summary, execution = await reading.get_execution(self._pool, (await self._find(name)).id)
        evidence = await gather_evidence(self._pool, summary, execution)
        return why_json(summary_json(summary), why.explain(evidence))

    async def _prove(self, name: str) -> HttpResponse:
        return await answer_prove(self._host.prover(), self._works, self._find, name)

    async def _case(self, name: str) -> HttpResponse:
        _, execution = await reading.get_execution(self._pool, (await self._find(name)).id)
        return HttpResponse(200, _CASE, await self._host.export(execution))

    async def _interleave(self, body: bytes, query: Query) -> Document:
        return await answer_interleave(self._pool, self._host, self._find, body, query.get("on"))

    async def _deploy_guarded(self, body: bytes) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return self._works.answer(GuardedDeploy(self._host, DeployOrder.read(body)))

    async def _replay_many(self, body: bytes, query: Query) -> HttpResponse:
        return await self._many.replay(body, await self._settle(), query)

    def _forget(self) -> None:
        """Give up what was made of records: a row was taken out of them."""
        self._debugs.sessions.close()
        self._runs.forget()

    def close(self) -> None:
        """End what goes on beside answers: the supervisor shuts down."""
        self._debugs.sessions.close()
        self._works.close()
        self._runs.close()

    async def _find(self, text: str) -> reading.Summary:
        """Return the execution that ``text`` means, or raise; also when it can't be stored just now."""
        waiting = await self._settle()
        if waiting:
            self._refuse_not_stored(text, waiting)
        return await reading.find_summary(self._pool, text)

    def _refuse_not_stored(self, text: str, waiting: int) -> None:
        """Raise when ``text`` may mean an execution that is not stored: another one would be the wrong answer."""
        published = self._live.find_not_stored(text.lower())
        if published is None and not text.startswith("@"):
            return
        if published is not None:
            what = f"{published.summary['name']} has ended, but its record"
        else:
            what = f'"{text}" can\'t be told: the records of {waiting} executions that have just ended'
        raise NotStoredError(
            f"{what} could not be stored yet: the database does not take records",
            remedy="nothing is lost: it is stored as soon as the database is back. See flux doctor",
        )

    async def _settle(self) -> int:
        """Wait until what has ended by now is stored; return how many executions still are not."""
        with trio.move_on_after(SETTLE_TIMEOUT_S):
            await self._live.wait_stored()
        return self._live.not_stored_count

    # --- failures, rows, functions -----------------------------------------------------------------

    async def _errors(self, query: Query) -> Document:
        since = self._moment(query)
        limit = number(query, "n", GROUPS_MAX, GROUPS_MAX)
        waiting = await self._settle()
        groups = await reading.list_error_groups(self._pool, since, limit)
        return {
            "schema": "flux.errors/1",
            "groups": [error_group_json(group) for group in groups],
            "not_stored": waiting,
        }

    async def _functions(self, _query: Query) -> Document:
        await trio.lowlevel.checkpoint()
        return {"schema": "flux.functions/1", "functions": [dict(row) for row in self._host.functions()]}

    async def _openapi(self, _query: Query) -> Document:
        await trio.lowlevel.checkpoint()
        return dict(self._host.openapi())

    async def _invoke(self, name: str, body: bytes) -> Document:
        if name not in (names := self._list_names()):
            raise _no_such_function(name, names)
        invoked = await self._host.invoke(name, read_data(body))
        return {
            "schema": "flux.invoke/1",
            "status": invoked.status,
            **show_body(invoked.body, [("content-type", invoked.content_type)]),
            "execution": dict(invoked.summary),
        }

    def _list_names(self) -> list[str]:
        return sorted(str(row["name"]) for row in self._host.functions())

    async def _check_function(self, name: str) -> None:
        """Raise unless a function of this name is deployed, or was once."""
        names = self._list_names()
        if name not in names and not await reading.count_function(self._pool, name, None, 1):
            raise _no_such_function(name, names)

    # --- streams -----------------------------------------------------------------------------------

    async def _tail(self, query: Query) -> HttpResponse:
        filter_ = self._filter(query)
        if (since := self._moment(query)) is not None:
            filter_ = Filter((*filter_.terms, Term("since", ">=", since)))

        def select(published: Published) -> tuple[Line, ...]:
            return (published.summary_line,) if matches(filter_, published.summary) else ()

        follow = flag(query, "follow", default=True)
        if since is not None:
            return await self._stream(select, self._summaries_since(filter_), follow=follow)
        if follow:
            return await self._stream(select, None, follow=True)
        return await self._stream(select, self._latest_summaries(filter_), follow=False)

    async def _summaries_since(self, filter_: Filter) -> AsyncIterator[Sequence[Line]]:
        after = None
        while True:
            page = await reading.list_summaries_after(self._pool, filter_, PAGE, after)
            yield [_line_of(summary) for summary in page]
            if len(page) < PAGE:
                return
            after = page[-1].id

    async def _latest_summaries(self, filter_: Filter) -> AsyncIterator[Sequence[Line]]:
        page = await reading.list_summaries(self._pool, filter_, LIST_DEFAULT, None)
        yield [_line_of(summary) for summary in reversed(page)]

    async def _logs(self, query: Query) -> HttpResponse:
        function, since = query.get("function"), self._moment(query)
        follow = flag(query, "follow", default=False)
        if function is not None:
            await self._check_function(function)

        def select(published: Published) -> list[Line]:
            if function is not None and published.summary["function"] != function:
                return []
            since_text = show_moment(since) if since is not None else ""
            return [Line(published.id, encode(log)) for log in published.logs if log["at"] >= since_text]

        if since is not None:
            return await self._stream(select, self._logs_since(function, since), follow=follow)
        if follow:
            return await self._stream(select, None, follow=True)
        return await self._stream(select, self._latest_logs(function), follow=False)

    async def _logs_since(self, function: str | None, since: datetime) -> AsyncIterator[Sequence[Line]]:
        after = None
        while True:
            lines, after = await reading.list_logs_after(
                self._pool, function=function, since=since, after=after, limit=PAGE
            )
            yield [_line_of_log(logged) for logged in lines]
            if after is None:
                return

    async def _latest_logs(self, function: str | None) -> AsyncIterator[Sequence[Line]]:
        page = await reading.list_logs(self._pool, function=function, lines_max=LOGS_DEFAULT)
        yield [_line_of_log(logged) for logged in page.lines]

    async def _stream(
        self, select: Select, history: AsyncIterator[Sequence[Line]] | None, *, follow: bool
    ) -> HttpResponse:
        """Return a body of JSON lines. The subscription comes before the first look into the store."""
        subscription = self._live.subscribe(select)
        try:
            await self._live.complete(subscription)
            # The first page is read before the answer begins: a store that is down is a 503 and no cut stream.
            first = await anext(history, ()) if history is not None else ()
        except BaseException:
            subscription.close()
            raise
        lines = _continue(first, history) if history is not None else None
        stream = LineStream(subscription, lines, self._now(), follow=follow, heartbeat_s=self._heartbeat_s)
        return HttpResponse(200, _LINES, stream)

    # --- reading what was asked --------------------------------------------------------------------

    def _filter(self, query: Query) -> Filter:
        return parse(query.get("q", ""), self._now())

    def _moment(self, query: Query) -> datetime | None:
        text = query.get("since")
        return parse_moment(text, self._now()) if text else None


async def _continue(
    first: Sequence[Line], rest: AsyncIterator[Sequence[Line]]
) -> AsyncIterator[Sequence[Line]]:
    yield first
    async for page in rest:
        yield page


def _no_such_function(name: str, names: Sequence[str]) -> NoSuchFunctionError:
    return NoSuchFunctionError(
        f'no function is called "{name[:200]}"; there is {", ".join(names) or "none"}',
        remedy="flux function list",
    )


def _line_of(summary: reading.Summary) -> Line:
    ended_at = summary.started_at + timedelta(microseconds=summary.elapsed_ns // 1000)
    return Line(str(summary.id), encode(summary_json(summary)), ended_at)


def _line_of_log(logged: reading.Logged) -> Line:
    execution = logged.execution
    ended_at = _EPOCH + timedelta(microseconds=(execution.started_at_ns + execution.elapsed_ns) // 1000)
    document = log_json(logged.line, logged.number + 1, execution)
    return Line(str(execution.id), encode(document), ended_at)


def _only(method: str, head: RequestHead) -> HttpResponse | None:
    if head.method == method or (head.method == "HEAD" and method == "GET"):
        return None
    refusal = problem(405, "METHOD_NOT_ALLOWED", f"{head.path} is asked with {method}")
    return attrs.evolve(refusal, headers=(*refusal.headers, ("allow", method)))
