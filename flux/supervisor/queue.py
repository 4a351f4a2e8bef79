"""Running jobs: one supervisor's share of the queue.

`Queue.run` claims jobs that are due and runs each in a task of its own, as many at once as the project allows, on the
code that is current. It is woken by the database when somebody commits a push, by the end of a job, and by the time at
which the next one is due. It keeps a *lease*: while that lasts, what it has claimed is its own. A supervisor that is
not heard of loses its jobs to the others, and may still be alive: so what makes sure that a job is done once is not the
lease but the end of the attempt, which is stored with its record or not at all (`flux.supervisor.job_attempt`). A job
that is begun twice has asked the world outside twice all the same, so the lease is kept on a connection of its own: it
waits for nobody's statements, and is given up at once where it is late.

Nothing that fails here ends the supervisor: without the database there are no jobs, and it is asked again.
"""

import contextlib
import math
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import attrs
import trio

from flux import ids
from flux.errors import FluxError
from flux.execution import Returned, Trigger
from flux.jobs import KEPT_DAYS
from flux.store import jobs
from flux.store.jobs import Claimed
from flux.store.postgres import Connection, ConnectionLost, connect
from flux.store.queries import QUERIES
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.execute import Backing, Executor, may_run_again
from flux.supervisor.inputs import parse_json
from flux.supervisor.job_attempt import JobAttempt
from flux.supervisor.job_payload import put_secrets_back

POLL_S = 2.0
"""How long a look at the queue is put off when nothing wakes us: what others may have freed tells nobody."""
AGAIN_S = 1.0
"""Before the database is asked again that did not answer."""
NOT_RUN_PAUSE_S = 5.0
"""Before a job is tried again that could not be run at all."""
PRUNE_EVERY_S = 600.0
PRUNED_MAX = 5000
GOODBYE_S = 5.0


class Queue:
    """See the module."""

    def __init__(
        self,
        backing: Backing,
        executor: Executor,
        deployments: Deployments,
        *,
        concurrency: int,
        lease_s: float,
        report: Callable[[BaseException], None],
        note: Callable[[str], None],
    ) -> None:
        """``report`` hears of failures of Flux itself, ``note`` of what a person may want to know."""
        self._backing = backing
        self._executor = executor
        self._deployments = deployments
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._report = report
        self._note = note
        self._worker = ids.make_execution_id(
            backing.clock.now_ns() // 1_000_000, backing.entropy.take(ids.ENTROPY_BYTES)
        )
        self._description = f"{socket.gethostname()}, process {os.getpid()}"
        self._woken = trio.Event()
        self._pause_s = POLL_S
        """How long nobody looks at the queue unless he is woken."""
        self._leased_until = -math.inf
        """When our lease ends, on trio's clock and at the earliest."""
        self._lease_line: Connection | None = None
        """What it is kept on."""
        self._keeping = trio.Lock()
        """Whoever uses that holds it."""
        self._is_away = False
        """The database has not answered, and that was told."""
        self._mine: set[uuid.UUID] = set()
        """Jobs that were claimed and are in progress."""

    async def run(self, drain: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until ``drain`` is set, and those that were begun to their end. Cancelled, it interrupts them."""
        task_status.started()
        if self._concurrency == 0:
            await drain.wait()
            return
        try:
            async with trio.open_nursery() as background:
                background.start_soon(self._listen)
                background.start_soon(self._forever, self._keep_lease, self._lease_s / 4, AGAIN_S)
                background.start_soon(self._forever, self._take_over, self._lease_s / 2)
                background.start_soon(self._forever, self._prune, PRUNE_EVERY_S)
                async with trio.open_nursery() as running, trio.open_nursery() as claiming:
                    claiming.start_soon(self._claim_forever, running)
                    await drain.wait()
                    claiming.cancel_scope.cancel()  # Those that run go on to their end.
                background.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_S):
                await self._attempt(self._say_goodbye)
            if self._lease_line is not None:
                self._lease_line.terminate()

    # In the background

    async def _forever(
        self, do: Callable[[], Awaitable[object]], every_s: float, again_s: float | None = None
    ) -> None:
        """Do something every ``every_s`` seconds; where it failed, again after ``again_s`` where that is less."""
        while True:
            is_done = await self._attempt(do)
            await trio.sleep(every_s if is_done or again_s is None else min(every_s, again_s))

    async def _attempt(self, do: Callable[[], Awaitable[object]]) -> bool:
        """Do something with the database; False, and told once, when it does not answer."""
        try:
            await do()
        except FluxError as error:
            if not self._is_away:
                self._is_away = True
                self._note(f"the queue waits for the database: {error.code} {error.message}")
            return False
        except Exception as crash:
            self._report(crash)
            return False
        self._is_away = False
        return True

    async def _keep_lease(self) -> None:
        asked = trio.current_time()
        # A line that is dead must not keep us from the next try until the lease is over.
        with self._within(self._lease_s / 4):
            async with self._keeping:
                line = self._lease_line
                if line is None or not line.check_alive():
                    line = self._lease_line = await self._open_lease_line()
                await line.execute(
                    QUERIES.keep_queue_worker, self._worker, self._backing.tenant, self._description, self._lease_s
                )
        self._leased_until = asked + self._lease_s

    async def _open_lease_line(self) -> Connection:
        options = self._backing.owner.options
        # Without a grace, for which the lease would be too short.
        line = await connect(
            attrs.evolve(options, application_name=f"{options.application_name} lease", cancel_grace_s=0)
        )
        try:
            # So the server has to end by itself what we have left there.
            await line.execute(f"set statement_timeout = {round(self._lease_s * 1000)}")
        except BaseException:
            line.terminate()
            raise
        return line

    async def _take_over(self) -> None:
        with self._within(self._lease_s):
            async with self._backing.owner.acquire() as connection:
                await connection.execute(
                    QUERIES.release_orphans, self._backing.tenant, self._worker, list(self._mine), 2 * self._lease_s
                )
            if await jobs.take_over(self._backing.owner, self._backing.tenant):
                self._wake()

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError:
            raise ConnectionLost(
                f"{self._backing.owner.options.place} did not answer within {seconds:g} s",
                remedy="see whether it runs; it is asked again and again",
            ) from None

    async def _prune(self) -> None:
        async with self._backing.owner.acquire() as connection:
            await connection.execute(QUERIES.prune_queue, KEPT_DAYS, PRUNED_MAX)

    async def _say_goodbye(self) -> None:
        async with self._backing.owner.acquire() as connection:
            await connection.execute(QUERIES.release_queue_worker, self._worker)

    async def _listen(self) -> None:
        """Be woken by pushes, on a connection of its own."""
        while True:
            await self._attempt(self._hear)
            await trio.sleep(AGAIN_S)

    async def _hear(self) -> None:
        connection = await connect(self._backing.owner.options)
        try:
            await connection.listen(jobs.CHANNEL)
            self._wake()  # What was pushed before we listened told us nothing.
            while True:
                await connection.wait_notification()
                self._wake()
        finally:
            connection.terminate()

    # Claiming

    def _wake(self) -> None:
        self._woken.set()

    async def _claim_forever(self, running: trio.Nursery) -> None:
        await self._deployments.wait_current()
        while True:
            self._woken = trio.Event()
            self._pause_s = POLL_S
            if len(self._mine) < self._concurrency:
                await self._attempt(partial(self._claim, running))
            with trio.move_on_after(self._pause_s):
                await self._woken.wait()

    async def _claim(self, running: trio.Nursery) -> None:
        """Claim as much as there is room for, and start it; note how long nothing else will be due."""
        live = self._deployments.current
        assert live is not None, "there was one, and it is only replaced"
        most = {name: runnable.jobs_max for name, runnable in live.runnables.items()}
        free, tenant = self._concurrency - len(self._mine), self._backing.tenant
        due_s: float | None = None
        if trio.current_time() > self._leased_until - self._lease_s / 2:
            await self._keep_lease()  # Without one, what is claimed would be anybody's.
        # Not interrupted: what is claimed must be known to be. A database that hangs ends it all the same.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._lease_s):
            async with self._backing.owner.acquire() as connection:
                claimed = await jobs.claim(connection, tenant, most, free, self._worker)
                for job in claimed:
                    live.enter()
                    self._mine.add(job.id)
                    running.start_soon(self._run_job, live, job)
                due_s = await connection.fetch_value(QUERIES.find_next_due, tenant, list(most))
        # What is due and was not claimed waits for what nobody tells us of: others' jobs to end, or a lock.
        if due_s is not None and due_s > 0:
            self._pause_s = min(due_s, POLL_S)

    # Running

    async def _run_job(self, live: LiveDeployment, claimed: Claimed) -> None:
        try:
            runnable = live.runnables[claimed.function]
            chance = int.from_bytes(self._backing.entropy.take(2)) / 65536
            attempt = JobAttempt(
                claimed, self._worker, runnable.function.retries, self._backing.owner, chance, may_run_again
            )
            payload = put_secrets_back(self._backing.secrets, claimed.id, claimed.payload)
            trigger = Trigger(
                kind="queue" if claimed.tick is None else "cron",
                body=payload, job=str(claimed.id), call=claimed.parent_call, correlation=claimed.trace,
            )  # fmt: skip
            try:
                executed = await self._executor.execute_job(
                    runnable, trigger, parse_json(payload), attempt
                )
                if isinstance(executed.outcome, Returned):
                    attempt.is_settled = True  # With the transaction that its record is in.
                problem = "whether its transaction was committed was not known"
            except FluxError as error:
                problem = f"it could not be run: {error.code} {error.message}"
            while not attempt.is_settled:
                if not await self._attempt(partial(attempt.give_back, NOT_RUN_PAUSE_S, problem)):
                    await trio.sleep(AGAIN_S)
        except Exception as crash:
            self._report(crash)
        finally:
            live.leave()
            self._mine.discard(claimed.id)
            self._wake()
