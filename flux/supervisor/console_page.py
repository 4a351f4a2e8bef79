"""The console's question for what a page shows of an execution: why it ended so, and some of its calls.

`GET executions/ID` and its `why` are whole, for scripts. A page of an execution of thousands of calls would wait for
all of them to be written and read, and for spans that no page shows, to draw two hundred. This answers from one
reading of the record with what the page draws, and says of the other calls how many there are.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio

from flux import why
from flux.store import reading
from flux.store.jobs import list_jobs_of
from flux.store.postgres import Pool
from flux.store.replays import list_replays
from flux.supervisor.console_query import BadQueryError, Query, number
from flux.supervisor.console_queue import job_json
from flux.supervisor.evidence import gather_evidence
from flux.supervisor.present import Document, summary_json, trace_json, why_json
from flux.supervisor.web.passage import CALLS_SHOWN, FIND_CHARACTERS_MAX, choose_calls

CALLS_MAX = 5000
CHILDREN_MAX = 1000
REPLAYS_MAX = 100
SEARCHES = trio.CapacityLimiter(1)
"""Threads that look for text in the calls of an execution, which is work for the processor: others wait their turn."""


async def answer_page(
    pool: Pool, find: Callable[[str], Awaitable[reading.Summary]], name: str, query: Query
) -> Document:
    """Answer with ``n`` calls of the execution that ``name`` means, from ``from`` on, of those that have ``find``."""
    room = number(query, "n", CALLS_SHOWN, CALLS_MAX)
    first, text = _read_first(query), query.get("find", "")
    if len(text) > FIND_CHARACTERS_MAX:
        raise BadQueryError(
            f"what is looked for has {len(text):,} characters", remedy=f"write at most {FIND_CHARACTERS_MAX}"
        )
    summary, execution = await reading.get_execution(pool, (await find(name)).id)
    if text:  # Of a large record it takes seconds: beside the server's work, and no longer than somebody waits for it.
        check = trio.from_thread.check_cancelled
        passage = await trio.to_thread.run_sync(
            choose_calls, execution.calls, text, first, room, check, limiter=SEARCHES
        )
    else:
        passage = choose_calls(execution.calls, text, first, room)
    shown = summary_json(summary)
    trace = trace_json(
        shown,
        execution,
        calls=[execution.calls[place] for place in passage.places],
        spans=(),
        children=[summary_json(child) for child in await reading.list_children(pool, summary.id, CHILDREN_MAX)],
        jobs=[job_json(job) for job in await list_jobs_of(pool, summary.id, CHILDREN_MAX)],
        replays=await list_replays(pool, summary.id, REPLAYS_MAX),
    )
    del trace["spans"]  # Not none: not asked for.
    explained = why.explain(await gather_evidence(pool, summary, execution))
    return {
        "schema": "flux.execution-page/1",
        "trace": trace,
        "why": why_json(shown, explained),
        "passage": attrs.asdict(passage),
    }


def _read_first(query: Query) -> int:
    text = query.get("from", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadQueryError(f'from is "{text}"', remedy="write a number: 0 is the first call")
    return int(text)
