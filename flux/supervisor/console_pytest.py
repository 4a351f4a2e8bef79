"""The console's question for a recorded failure as a test."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from flux.execution import Execution
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.present import Document
from flux.supervisor.pytest_export import WrittenTest


class PytestHost(Protocol):
    """Who makes tests."""

    async def write_test(self, original: Execution) -> WrittenTest:
        """See `flux.supervisor.pytest_export.write_smallest_test`."""


async def answer_pytest(
    pool: Pool, host: PytestHost, find: Callable[[str], Awaitable[reading.Summary]], name: str
) -> Document:
    """Make a test of the execution that ``name`` means; ``find`` returns it."""
    summary, execution = await reading.get_execution(pool, (await find(name)).id)
    written = await host.write_test(execution)
    return {
        "schema": "flux.pytest/1",
        "execution": summary.name,
        "text": written.text,
        "runs": written.runs,
        "is_smallest": written.is_smallest,
    }
