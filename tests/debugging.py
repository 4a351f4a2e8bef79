"""The debugger's commands over executions recorded in this process: the console's answers, without a server.

What asks is plain code in a thread, as the commands are; what answers is `flux.supervisor.console_debug`, here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec
import trio

from flux.cli.debug_walk import Ask
from flux.cli.record import Record
from flux.execution import Execution
from flux.supervisor.console_debug import look
from flux.supervisor.present import summary_of_execution
from flux.supervisor.replay import Replay
from flux.travel import Tap
from tests.followed import Followed

T = TypeVar("T")


@attrs.define
class Host:
    """Who follows, and counts how often."""

    followed: Followed
    runs: int = 0

    async def follow(self, original: Execution, tap: Tap) -> Replay:
        self.runs += 1
        return await self.followed.replayer.follow(original, tap)

    async def find_code(self, original: Execution) -> Path:  # noqa: ARG002 - the protocol's
        return Path(self.followed.live.deployment.folder)


async def use(followed: Followed, execution: Execution, work: Callable[[Ask], T]) -> T:
    """Run ``work`` in a thread, with what asks about ``execution``."""
    host = Host(followed)
    summary = summary_of_execution(execution)

    def ask(order: dict[str, object]) -> Record:
        body = json.dumps(order).encode()
        answer: Any = trio.from_thread.run(look, execution, summary, host, body)
        return Record(json.loads(msgspec.json.encode(answer)))

    return await trio.to_thread.run_sync(work, ask)
