"""Records as a stream of JSON lines: each execution whole, the oldest first.

::

    {"schema": "flux.record/1", "id": ..., "name": ..., "calls": [...], "mutations": [...], ...}
    {"end": {"records": 1, "last": "01a2...", "not_stored": 0, "problem": null}}

A line is what ``flux trace ID --json`` prints, without what follows from other lines (``children``, ``jobs``,
``replays``) or from itself (``spans``). One record at a time is in memory, and the next is read when the line before
has been taken. The last line says that these were all, or what ended it; whoever goes on from ``last`` gets what comes
behind.

A record that was taken out while the stream went on is left out, as it would be had the stream begun later.
"""

import uuid
from collections.abc import AsyncGenerator

from flux.errors import FluxError
from flux.filter import Filter
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.present import Document, encode, summary_json, trace_json

PAGE = 100
"""Summaries read at once."""
_OF_OTHERS = ("spans", "children", "jobs", "replays")


class RecordStream:
    """The body of the answer.

    A class and not just a generator: a client can be gone before the first line, and a generator that was never begun
    runs none of its clean-up.
    """

    def __init__(
        self, pool: Pool, filter_: Filter, first: list[reading.Summary], after: uuid.UUID | None, not_stored: int,
        doubt: FluxError | None,
    ) -> None:  # fmt: skip
        """``first`` is the first page, behind ``after``: what fails before the answer begins is an error of its own.

        ``not_stored`` executions have ended, may be meant, and are not in the store; ``doubt``: nor may others be.
        """
        self._doubt = doubt
        self._not_stored = not_stored
        self._pool = pool
        self._filter = filter_
        self._lines = self._stream(first, after)

    def __aiter__(self) -> "RecordStream":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._lines)

    async def aclose(self) -> None:
        """Let go of the store."""
        await self._lines.aclose()

    async def _stream(
        self, page: list[reading.Summary], last: uuid.UUID | None
    ) -> AsyncGenerator[bytes, None]:
        count = 0
        problem = self._doubt
        try:
            while page:
                for summary in page:
                    try:
                        line = await self._read(summary.id)
                    except reading.NoSuchExecutionError:
                        continue
                    yield line
                    last, count = summary.id, count + 1
                if len(page) < PAGE:
                    break
                page = await list_page(self._pool, self._filter, page[-1].id)
        except FluxError as error:
            problem = error
        end: Document = {"records": count, "last": None if last is None else str(last), "not_stored": self._not_stored}
        end["problem"] = None
        if problem is not None:
            end["problem"] = {"code": problem.code, "message": problem.message, "remedy": problem.remedy}
        yield encode({"end": end}) + b"\n"

    async def _read(self, execution_id: uuid.UUID) -> bytes:
        summary, execution = await reading.get_execution(self._pool, execution_id)
        document = trace_json(summary_json(summary), execution, spans=(), children=())
        for name in _OF_OTHERS:
            del document[name]
        return encode(document | {"schema": "flux.record/1"}) + b"\n"


async def list_page(pool: Pool, filter_: Filter, after: uuid.UUID | None) -> list[reading.Summary]:
    """Return the next executions that match, the oldest first."""
    return await reading.list_summaries_after(pool, filter_, PAGE, after)
