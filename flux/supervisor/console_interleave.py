"""The console's question about executions at once: which they are, and what must not be.

The body says it all::

    {"executions": ["qk3f81xa", ...], "check": "select ... ", "in_turn": true}
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from flux.execution import Execution
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.console_query import BadQueryError
from flux.supervisor.interleave import EXECUTIONS_MAX, Interleaved
from flux.supervisor.present import Document, summary_json
from flux.supervisor.present_interleave import interleaved_json


class InterleaveHost(Protocol):
    """Who replays executions at once."""

    async def interleave(
        self, executions: Sequence[Execution], on: str | None, *, check: str | None, in_turn: bool
    ) -> Interleaved:
        """See `flux.supervisor.interleave.Interleaver.interleave`."""


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    executions: list[str]
    check: str | None = None
    in_turn: bool = False


async def answer_interleave(
    pool: Pool,
    host: InterleaveHost,
    find: Callable[[str], Awaitable[reading.Summary]],
    body: bytes,
    on: str | None,
) -> Document:
    """Replay the executions that ``body`` names; ``find`` returns the execution that a text means."""
    try:
        asked = msgspec.json.decode(body, type=_Asked)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body can't be read: {error}",
            remedy='send {"executions": ["qk3f81xa"], "check": "select ..."}',
        ) from error
    if len(asked.executions) > EXECUTIONS_MAX:
        raise BadQueryError(
            f"{len(asked.executions):,} executions are named", remedy=f"{EXECUTIONS_MAX:,} is the most"
        )
    found = [await reading.get_execution(pool, (await find(name)).id) for name in asked.executions]
    interleaved = await host.interleave(
        [execution for _, execution in found], on, check=asked.check, in_turn=asked.in_turn
    )
    return interleaved_json({summary.id: summary_json(summary) for summary, _ in found}, interleaved)
