"""The console's question about all executions of a window: what would become of each on this code?

The body says which, and how many are to be run at once::

    {"q": "since:14:00 until:14:05 status:>=500", "at_once": 2, "calls": true}

The answer is a stream of JSON lines (`flux.supervisor.work_stream`), so that whoever asks sees how far it is: first how
many there are, then each replay when it has ended, in whatever order that is, and a last line that says that these
were all, or what ended it::

    {"schema": "flux.replays/1", "on": ".", "total": 23, "not_stored": 0}
    {"schema": "flux.replay/1", "number": 4, ...}
    {"heartbeat": true}
    {"end": {"replayed": 23, "problem": null}}

``number`` is its place in the window, the oldest has 0. A reader that goes ends it: what is running is stopped, the
rest is not begun. So does the end of the server. One that reads slowly is waited for. ``not_stored`` counts executions
that have just ended, may be meant, and are not among them. Records can be large: without ``calls`` each replay is told
without its calls and its answer.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from flux.errors import OperatorError
from flux.execution import Execution
from flux.filter import Filter, parse
from flux.message import HttpResponse
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, summary_json
from flux.supervisor.present_replay import replay_json
from flux.supervisor.replay import Replay
from flux.supervisor.replay_many import AT_ONCE, ReplayHost, Told, replay_many
from flux.supervisor.work_stream import ServerStoppingError, Tell, WorkStreams
from flux.verdict import Verdict

EXECUTIONS_MAX = 10_000
"""More than this in one window are refused."""
AT_ONCE_MAX = 32
PAGE = 500


class TooManyExecutionsError(OperatorError):
    """More executions match than are replayed at a time."""

    code = "FLX346"


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What the body says."""

    q: str
    """A filter."""
    at_once: int = AT_ONCE
    calls: bool = True
    """Each replay is told with its calls and its answer."""


class ReplaysDesk:
    """Answers it."""

    def __init__(
        self, pool: Pool, host: ReplayHost, streams: WorkStreams, now: Callable[[], datetime]
    ) -> None:
        self._pool = pool
        self._host = host
        self._streams = streams
        self._now = now

    async def replay(self, body: bytes, not_stored: int, query: Query) -> HttpResponse:
        """Replay the executions of a window."""
        return self._streams.answer(await self.prepare(_read(body), not_stored, query.get("on")))

    async def prepare(self, asked: Asked, not_stored: int, on: str | None) -> "ReplayWork":
        """Return the work of replaying what is asked for, all that is to be replayed being known."""
        summaries = await self._list(parse(asked.q, self._now()))
        return ReplayWork(summaries, not_stored, on, asked, self._pool, self._host)

    async def _list(self, filter_: Filter) -> list[reading.Summary]:
        """Return all that match, the oldest first."""
        found: list[reading.Summary] = []
        while True:
            page = await reading.list_summaries(self._pool, filter_, PAGE, found[-1].id if found else None)
            found += page
            if len(found) > EXECUTIONS_MAX:
                raise TooManyExecutionsError(
                    f"more than {EXECUTIONS_MAX:,} executions match", remedy="a narrower window, or -q"
                )
            if len(page) < PAGE:
                return found[::-1]


class ReplayWork:
    """All replays of a window. See `flux.supervisor.work_stream.Work`."""

    def __init__(
        self,
        summaries: Sequence[reading.Summary],
        not_stored: int,
        on: str | None,
        asked: Asked,
        pool: Pool,
        host: ReplayHost,
    ) -> None:
        self._summaries = summaries
        self._not_stored = not_stored
        self._on = on
        self._asked = asked
        self._pool = pool
        self._host = host
        self._replayed = 0

    def head(self) -> Document:
        total = len(self._summaries)
        return {"schema": "flux.replays/1", "on": self._on, "total": total, "not_stored": self._not_stored}

    async def do(self, tell: Tell) -> None:
        async def read(id: uuid.UUID) -> Execution:
            return (await reading.get_execution(self._pool, id))[1]

        ids = [summary.id for summary in self._summaries]
        async with replay_many(
            ids, self._on, read=read, host=self._host, at_once=self._asked.at_once
        ) as results:
            async for told in results:
                await tell(self._show(told))
                self._replayed += 1

    def stopped(self) -> ServerStoppingError:
        return ServerStoppingError(
            f"the server is stopping: {self._replayed} of {len(self._summaries)} were replayed",
            remedy="ask again when it is back",
        )

    def end(self) -> Document:
        return {"replayed": self._replayed}

    def _show(self, told: Told[Replay]) -> Document:
        summary = summary_json(self._summaries[told.number])
        if isinstance(told.result, Replay):
            document = {**replay_json(summary, told.result), "number": told.number}
            if not self._asked.calls:
                del document["calls"]
                document["replayed"] = {**document["replayed"], "output": None}
            return document
        reason = f"{told.result.code} {told.result.message}"
        verdict = Verdict.UNREPLAYABLE.value
        return {"execution": summary, "verdict": verdict, "reason": reason, "number": told.number}


def _read(body: bytes) -> Asked:
    try:
        asked = msgspec.json.decode(body, type=Asked)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body can't be read: {error}", remedy='send {"q": "since:15m status:>=500"}'
        ) from error
    if not 1 <= asked.at_once <= AT_ONCE_MAX:
        raise BadQueryError(f'"at_once" is {asked.at_once}', remedy=f"write a number from 1 to {AT_ONCE_MAX}")
    return asked
