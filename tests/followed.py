"""A Python function recorded in this process, with what follows it: the real walls, no server and no database.

The function's host calls are answered by a table, so that the same module can be run by a plain interpreter too.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import attrs
import trio

from flux import ids, values
from flux.execution import Execution, Trigger
from flux.hostcall import HostCallRequest, HostCallResult
from flux.project import read_project
from flux.redact import RedactionRules, Redactor
from flux.session import RecordSession
from flux.supervisor.artifacts import Artifacts
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.drive import drive
from flux.supervisor.environments import Environments
from flux.supervisor.replay import Replayer, read_value
from flux.supervisor.shelf import Shelf
from flux.supervisor.start_document import make_document
from flux.tenant import Tenant
from tests.dev_process import write_project

NEVER = object()
"""The answer to a call that gets none."""


class Answers:
    """A host that answers each call by its name."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self._answers = answers

    def is_immediate(self, name: str) -> bool:
        return self._answers[name] is not NEVER

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        await trio.lowlevel.checkpoint()
        if self._answers[request.name] is NEVER:
            await trio.sleep_forever()
        return HostCallResult(values.encode_canonical(self._answers[request.name]), None, 1_000_000, time.time_ns())

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        raise AssertionError((request, elapsed_ns))


@attrs.frozen
class Followed:
    """Code that is served, and who replays it."""

    live: LiveDeployment
    replayer: Replayer

    async def record(
        self, function: str, data: bytes, answers: Mapping[str, object], headers: tuple[tuple[str, str], ...] = ()
    ) -> Execution:
        """Run a function and return its record. With ``headers`` a request has started it."""
        runnable = self.live.runnables[function]
        now_ns = time.time_ns()
        started = Trigger("http", "POST", "/", "/", headers=headers) if headers else Trigger("invoke")
        head = Execution(
            id=ids.make_execution_id(now_ns // 1_000_000, os.urandom(ids.ENTROPY_BYTES)),
            tenant="main", function=function, deployment=self.live.deployment.id, sha=self.live.deployment.sha,
            dirty=True, trigger=attrs.evolve(started, body=data), started_at_ns=now_ns, seed=bytes(range(32)),
            level=runnable.sandbox.level,
        )  # fmt: skip
        document = make_document(
            head, head.trigger, runnable.bounds.limits, runnable.chain, read_value(head.trigger)
        )
        session = RecordSession()
        worker = await runnable.sandbox.acquire(fresh=True)
        try:
            driven = await drive(
                worker, document, session, Answers(answers), runnable.bounds,
                redactor=Redactor(RedactionRules.parse([]), head.seed),
            )  # fmt: skip
        finally:
            await runnable.sandbox.release(worker, reusable=False)
        assert driven.outcome is not None
        return attrs.evolve(
            head, outcome=driven.outcome, elapsed_ns=driven.elapsed_ns, calls=session.calls, logs=session.logs
        )


@contextlib.asynccontextmanager
async def open_followed(folder: Path, functions: Mapping[str, str]) -> AsyncIterator[Followed]:
    """Serve ``functions`` for as long as the block lasts."""
    project = write_project(folder / "project", functions)
    async with trio.open_nursery() as nursery:
        deployments = Deployments(
            nursery, Artifacts(folder / "artifacts"), Environments(folder / "environments", installs=False), Tenant(),
            idle_workers=1, isolation="core", on_output=print,
        )  # fmt: skip
        live = await deployments.prepare(read_project(project))
        yield Followed(live, Replayer(Shelf(deployments, project), None, "public"))
        nursery.cancel_scope.cancel()
