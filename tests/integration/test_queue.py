"""The queue over a real Postgres: what a push, an attempt and its end leave in the tables, as psql sees them.

Functions are scripts, run by the real executor; claims, attempts and take-overs are the real ones, made step by step.
"""

import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from flux.config import QueueConfig
from flux.deployment import Function
from flux.execution import Raised, Returned, Trigger
from flux.grants import Grants
from flux.hostcall import Position
from flux.hostcalls.clock import SystemClock
from flux.hostcalls.entropy import SystemEntropy
from flux.hostcalls.secret import TenantSecrets
from flux.jobs import INVOKE_DEPTH_MAX, LOST_MAX, PAYLOAD_BYTES_MAX, State
from flux.limits import Limits
from flux.sandbox.scripted import Script, ScriptedGuest, ScriptedSandbox
from flux.store import jobs, postgres_wire
from flux.store.jobs import Claimed, JobNotDeadError, NoSuchJobError
from flux.store.postgres import CannotConnect, ConnectOptions
from flux.store.queries import QUERIES
from flux.supervisor import queue as queue_module
from flux.supervisor import undone
from flux.supervisor.drive import Bounds
from flux.supervisor.execute import Executed, Executor, may_run_again
from flux.supervisor.inputs import parse_json
from flux.supervisor.job_attempt import JobAttempt
from flux.supervisor.job_payload import put_secrets_back
from flux.supervisor.queue import Queue
from flux.supervisor.runnable import Runnable
from tests.conftest import Database
from tests.execution_world import DEPLOYMENT, NO_CHAIN, NO_RULES, ExecutionWorld, cutting_proxy, open_world
from tests.faults.chaos_proxy import Direction, Harm, chaos_proxy

TENANT = "main"


async def push(guest: ScriptedGuest, start: dict[str, Any]) -> str:
    """Push a job, and then fail if the input says so."""
    said = start["input"]
    if "block" in said:
        depth = await guest.call("db.begin", None)
    answer = await guest.call("queue.push", "work", said["payload"], said.get("options", {}))
    if "block" in said:
        await guest.call(said["block"], depth)
    if said.get("fails"):
        raise ValueError("too late")
    return str(answer["job"])


async def work(guest: ScriptedGuest, start: dict[str, Any]) -> str:
    """Write, or only look; then fail if the payload says so."""
    said = start["input"]
    if said.get("writes", True):
        await guest.call("db.execute", "insert into ledger values ($1)", [str(said.get("n"))])
    else:
        await guest.call("db.query", "select * from ledger", [])
    if said.get("fails"):
        raise ValueError("no good")
    return "worked"


async def invoke(guest: ScriptedGuest, start: dict[str, Any]) -> str:
    """Invoke what the input names with what it has for it."""
    said = start["input"]
    seq = await guest.ask("invoke", said["function"], said["input"])
    while seq not in guest.answers:
        await guest.hear()
    error, value = guest.answers[seq]
    if error is not None:
        said_of = [error["name"], error["code"], *([error["details"]["type"]] if "type" in error["details"] else [])]
        raise ValueError(" ".join(said_of))
    return str(value["body"])


def chained(number: int) -> Script:
    """Invoke the next one of a chain."""

    async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        return await invoke(guest, {**start, "input": {"function": f"step{number + 1}", "input": {}}})

    return script


SCRIPTS: Mapping[str, Script] = {
    "push": push,
    "work": work,
    "invoke": invoke,
    **{f"step{number}": chained(number) for number in range(INVOKE_DEPTH_MAX + 2)},
}


@attrs.define
class QueueWorld:
    """An `ExecutionWorld` with a deployment of several functions, and a supervisor's identity in the queue."""

    world: ExecutionWorld
    runnables: dict[str, Runnable]
    worker: uuid.UUID = attrs.field(factory=uuid.uuid4)

    @property
    def database(self) -> Database:
        return self.world.database

    async def run(self, function: str, value: object) -> Executed:
        return await self.world.executor.execute(self.runnables[function], Trigger("invoke"), value)

    async def push(self, payload: object, **more: object) -> Executed:
        return await self.run("push", {"payload": payload, **more})

    async def claim(self, most: int | None = None, worker: uuid.UUID | None = None) -> list[Claimed]:
        async with self.world.backing.owner.acquire() as connection:
            mine = worker or self.worker
            await connection.execute(QUERIES.keep_queue_worker, mine, TENANT, "a test", 60.0)
            return await jobs.claim(connection, TENANT, {"work": most, "push": None}, 100, mine)

    async def attempt(self, claimed: Claimed, worker: uuid.UUID | None = None, retries: int = 0) -> Executed:
        runnable = self.runnables[claimed.function]
        attempt = JobAttempt(
            claimed, worker or self.worker, retries, self.world.backing.owner, 0.5, may_run_again
        )
        trigger = Trigger("queue", body=claimed.payload, job=str(claimed.id), call=claimed.parent_call)
        executed = await self.world.executor.execute_job(runnable, trigger, parse_json(claimed.payload), attempt)
        if not isinstance(executed.outcome, Returned) and not attempt.is_settled:
            await attempt.give_back(0.0, "as the queue does")
        return executed

    async def lose(self, worker: uuid.UUID | None = None) -> int:
        """Have a supervisor's lease end, and its jobs taken over."""
        self.database.psql(
            f"update flux.queue_worker set lease_until = now() - interval '1 s' where id = '{worker or self.worker}'"
        )
        return await jobs.take_over(self.world.backing.owner, TENANT)

    def play(self, function: str, script: Script) -> None:
        """Have ``script`` play a function."""
        sandbox = ScriptedSandbox({function: script}, self.world.nursery)
        self.runnables[function] = attrs.evolve(self.runnables[function], sandbox=sandbox)

    def states(self) -> list[str]:
        return self.database.psql("select state from flux.job order by id").splitlines()

    def ledger(self) -> list[str]:
        return self.database.psql("select entry from ledger order by 1").splitlines()


def make_runnables(nursery: trio.Nursery, isolation: str) -> dict[str, Runnable]:
    sandbox = ScriptedSandbox(SCRIPTS, nursery)
    made: dict[str, Runnable] = {}
    for name in SCRIPTS:
        made[name] = Runnable(
            Function(name, None, Position("script.py", 1, name)), DEPLOYMENT, sandbox, Bounds(Limits(), {}), (),
            Grants.parse(()), isolation, NO_CHAIN, NO_RULES, siblings=made,
        )  # fmt: skip
    return made


@contextlib.asynccontextmanager
async def queue_world(
    database: Database,
    folder: Path,
    isolation: str = "repeatable read",
    guests: Callable[[ConnectOptions], ConnectOptions] = lambda options: options,
) -> AsyncIterator[QueueWorld]:
    async with open_world(database, folder / "journal", guests=guests, guest_connections=12) as world:
        database.psql("create table ledger (entry text)")
        yield QueueWorld(world, make_runnables(world.nursery, isolation))
        assert world.reports == []


# --- pushing ---------------------------------------------------------------------------------------


async def test_a_job_is_there_once_its_push_is_committed_and_never_else(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        for more, is_there in (
            ({"fails": True}, False), ({"block": "db.rollback"}, False), ({}, True), ({"block": "db.commit"}, True),
        ):  # fmt: skip
            database.psql("delete from flux.job")
            executed = await queue.push({"n": 1}, **more)
            found = database.psql(
                "select id, function, state, convert_from(payload, 'UTF8'), parent, parent_call from flux.job"
            )
            if is_there:
                assert isinstance(executed.outcome, Returned)
                job, seq = executed.outcome.body.decode(), 2 if "block" in more else 1
                assert found == f'{job}|work|waiting|{{"n":1}}|{executed.execution.id}|{seq}'
            else:
                assert found == ""


async def test_a_key_gives_the_job_of_before_and_is_not_stored_as_it_is(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        said = {"options": {"idempotency_key": "order 7 of bob@example.com"}}
        first, second = [await queue.push({"n": n}, **said) for n in (1, 2)]
        other = await queue.push({"n": 3}, options={"idempotency_key": "order 8"})
        assert isinstance(first.outcome, Returned) and isinstance(other.outcome, Returned)
        assert first.outcome == second.outcome != other.outcome
        assert database.psql("select count(*) from flux.job") == "2"
        assert "bob" not in database.psql("select j::text from flux.job j")


REFUSED: tuple[tuple[str, list[object]], ...] = (
    ("UnknownFunction", ["wrk", {}, {}]),
    ("PayloadNotJson", ["work", {"$bytes": "aGk="}, {}]),
    ("PayloadNotJson", ["work", {"$float": "nan"}, {}]),
    ("PayloadTooLarge", ["work", "x" * PAYLOAD_BYTES_MAX, {}]),
    ("InvalidArguments", ["work", {}, {"delay_s": -1}]),
    ("InvalidArguments", ["work", {}, {"delay_s": "1"}]),
    ("InvalidArguments", ["work", {}, {"delay_s": True}]),
    ("InvalidArguments", ["work", {}, {"idempotency_key": ""}]),
    ("InvalidArguments", ["work", {}, {"dealy_s": 1}]),
    ("InvalidArguments", ["work", {}]),
)


async def test_a_push_that_can_not_be_is_refused_by_name(database: Database, tmp_path: Path) -> None:
    async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        await guest.call("queue.push", *REFUSED[start["input"]["case"]][1])
        return "pushed"

    async with queue_world(database, tmp_path) as queue:
        queue.play("push", script)
        for number, (name, arguments) in enumerate(REFUSED):
            executed = await queue.run("push", {"case": number})
            assert isinstance(executed.outcome, Raised), arguments
            assert executed.outcome.message == name
        assert queue.states() == []


async def test_a_guest_can_neither_see_nor_push_past_its_door(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        await queue.push({"n": 1})
        statements = (
            "select * from flux.job",
            "delete from flux.queue_worker",
            "select flux.push_job('\\x00', gen_random_uuid(), 'main', 'work', '{}', null, null, null, 0)",
            "select flux.end_job('\\x00', gen_random_uuid(), gen_random_uuid(), 1, gen_random_uuid())",
        )

        async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
            await guest.call("db.query", statements[start["input"]["case"]], [])
            return "seen"

        queue.play("push", script)
        for number, sql in enumerate(statements):
            executed = await queue.run("push", {"case": number})
            assert isinstance(executed.outcome, Raised)
            call = executed.execution.calls[0]
            assert call.result is not None and call.result.error is not None
            assert call.result.error.code == "42501", sql
        assert queue.states() == ["waiting"]


# --- attempts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_a_job_is_done_with_its_record_and_is_linked_both_ways(
    database: Database, tmp_path: Path, isolation: str
) -> None:
    async with queue_world(database, tmp_path, isolation) as queue:
        for n, writes in ((1, True), (2, False)):
            pushed = await queue.push({"n": n, "writes": writes})
            (claimed,) = await queue.claim()
            assert queue.states()[-1] == "running"
            executed = await queue.attempt(claimed)
            assert isinstance(executed.outcome, Returned) and executed.stored
            assert queue.states()[-1] == "done" and queue.ledger() == ["1"]
            mine = f"where id = '{claimed.id}'"
            done = database.psql(f"select execution, payload is null, attempt, worker is null from flux.job {mine}")
            assert done == f"{executed.execution.id}|t|1|t"
            found = database.psql(
                f"select trigger, parent, attempt from flux.execution where id = '{executed.execution.id}'"
            )
            assert found == f"queue|{pushed.execution.id}|1"
            assert await queue.claim() == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_an_attempt_whose_job_was_taken_over_commits_nothing_and_the_other_one_does(
    database: Database, tmp_path: Path, isolation: str
) -> None:
    async with queue_world(database, tmp_path, isolation) as queue:
        for n, writes in ((1, True), (2, False)):
            await queue.push({"n": n, "writes": writes})
            (slow,) = await queue.claim()
            assert await queue.lose() == 1
            other = uuid.uuid4()
            (quick,) = await queue.claim(worker=other)
            assert (quick.id, quick.attempt, quick.lost) == (slow.id, 2, 1)
            late = await queue.attempt(slow)
            assert isinstance(late.outcome, Raised) and late.outcome.type == "CommitFailed"
            assert queue.states()[-1] == "running" and queue.ledger() == ["1"] * (n - 1)
            executed = await queue.attempt(quick, worker=other)
            assert isinstance(executed.outcome, Returned)
            assert queue.states()[-1] == "done" and queue.ledger() == ["1"]
        await queue.world.settle()
        outcomes = database.psql("select outcome, attempt from flux.execution where function = 'work' order by 2, id")
        assert outcomes.splitlines() == ["raised|1"] * 2 + ["returned|2"] * 2


@pytest.mark.parametrize("after", [False, True])
async def test_a_job_is_done_if_and_only_if_its_rows_are_there_wherever_the_connection_is_cut(
    database: Database, tmp_path: Path, after: bool
) -> None:
    async with cutting_proxy(database.server) as proxy, queue_world(database, tmp_path, guests=proxy.options) as queue:
        cuts = 0
        for n in range(1, 40):
            database.psql("delete from flux.job; delete from ledger; delete from flux.execution")
            await queue.push({"n": 1})
            (claimed,) = await queue.claim()
            # Each exchange as a whole, and in the middle.
            proxy.exchanges, proxy.cut_at, proxy.in_part = 0, (n + 1) // 2, n % 2 == 0
            proxy.after, proxy.was_cut = after, False
            executed = await queue.attempt(claimed)
            proxy.cut_at = None
            is_done = isinstance(executed.outcome, Returned)
            assert queue.ledger() == (["1"] if is_done else []), f"cut at {n}: {executed.outcome}"
            assert queue.states() == (["done"] if is_done else ["waiting"]), f"cut at {n}: {executed.outcome}"
            await queue.world.settle()
            outcomes = database.psql("select outcome from flux.execution where function = 'work'").splitlines()
            assert outcomes == ["returned" if is_done else "raised"], f"cut at {n}"
            if not proxy.was_cut:
                break
            cuts += 1
        # The opening with its snapshot, the statement, and the record with the job's end and COMMIT: one packet each.
        assert is_done and cuts >= 6, cuts


async def test_a_job_that_fails_waits_as_often_as_it_has_retries_and_is_then_dead(
    database: Database, tmp_path: Path
) -> None:
    async with queue_world(database, tmp_path) as queue:
        await queue.push({"n": 1, "fails": True})
        for attempt in (1, 2):
            (claimed,) = await queue.claim()
            executed = await queue.attempt(claimed, retries=1)
            assert isinstance(executed.outcome, Raised) and executed.execution.attempt == attempt
            assert queue.states() == ["waiting" if attempt == 1 else "dead"]
            if attempt == 1:
                assert await queue.claim() == [], "its pause is not over"
                database.psql("update flux.job set run_at = now()")
        assert queue.ledger() == []
        found = database.psql("select failures, error, payload is null from flux.job")
        assert found == "2|ValueError: no good|f"
        assert database.psql("select count(*) from flux.execution where function = 'work'") == "2", "stored with it"

        owner = queue.world.backing.owner
        (dead,) = await jobs.list_jobs(owner, TENANT, [State.DEAD], None, 10)
        assert (await jobs.find_job(owner, TENANT, str(dead.id)[:13])).id == dead.id
        await jobs.retry(owner, TENANT, dead)
        assert database.psql("select state, failures, attempt from flux.job") == "waiting|0|2"
        with pytest.raises(JobNotDeadError):
            await jobs.retry(owner, TENANT, await jobs.find_job(owner, TENANT, str(dead.id)))
        for text in ("", "xyz", "ffff", "0" * 40):
            with pytest.raises(NoSuchJobError):
                await jobs.find_job(owner, TENANT, text)


async def test_a_job_that_takes_its_supervisors_down_comes_to_an_end(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        await queue.push({"n": 1})
        for _ in range(LOST_MAX + 1):
            assert len(await queue.claim()) == 1
            assert await queue.lose() == 1
        assert queue.states() == ["dead"] and await queue.claim() == []


async def test_a_stopped_attempt_is_on_record_and_its_job_waits(database: Database, tmp_path: Path) -> None:
    begun = trio.Event()

    async def wait(guest: ScriptedGuest, _start: dict[str, Any]) -> str:
        begun.set()
        await guest.call("clock.sleep", 3600)
        return "never"

    async with queue_world(database, tmp_path) as queue:
        queue.play("work", wait)
        await queue.push({"n": 1})
        (claimed,) = await queue.claim()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.attempt, claimed)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert database.psql("select state, failures, lost from flux.job") == "waiting|0|1"
        assert database.psql("select outcome from flux.execution where function = 'work'") == "interrupted"


async def test_no_more_of_a_function_run_at_once_than_it_allows_over_all_servers(
    database: Database, tmp_path: Path
) -> None:
    async with queue_world(database, tmp_path) as queue:
        for n in range(6):
            await queue.push({"n": n})
        mine, other = await queue.claim(most=3), uuid.uuid4()
        assert len(mine) == 3 and await queue.claim(most=3, worker=other) == []
        await queue.attempt(mine[0])
        (theirs,) = await queue.claim(most=3, worker=other)
        assert [one.payload for one in (*mine, theirs)] == [b'{"n":%d}' % n for n in range(4)], "in their order"
        assert len(await queue.claim(most=None)) == 2


async def test_a_delayed_job_is_not_due(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        await queue.push({"n": 1}, options={"delay_s": 3600})
        assert await queue.claim() == []
        async with queue.world.backing.owner.acquire() as connection:
            due_s = await connection.fetch_value(QUERIES.find_next_due, TENANT, ["work"])
        assert 3000 < due_s <= 3600


async def test_a_function_that_is_not_atomic_pushes_and_works_in_transactions_of_its_own(
    database: Database, tmp_path: Path
) -> None:
    async with queue_world(database, tmp_path) as queue:
        for name in ("push", "work"):
            function = attrs.evolve(queue.runnables[name].function, atomic=False)
            queue.runnables[name] = attrs.evolve(queue.runnables[name], function=function)
        await queue.push({"n": 1}, fails=True)
        assert queue.states() == ["waiting"], "the push was a transaction of its own"
        await queue.push({"n": 2, "fails": True}, block="db.rollback")
        assert queue.states() == ["waiting"]
        (claimed,) = await queue.claim()
        executed = await queue.attempt(claimed)
        assert isinstance(executed.outcome, Returned) and executed.stored
        assert queue.states() == ["done"] and queue.ledger() == ["1"]


async def test_values_of_secrets_stand_in_no_row_of_the_queue_and_reach_the_job(
    database: Database, tmp_path: Path
) -> None:
    secrets = TenantSecrets({"KEY": "sk_live_4242424242", "SHORT": "abc"}, b"key")
    payload = {"auth": 'Bearer sk_live_4242424242 "x"', "n": 1.5, "sk_live_4242424242": ["abc", 4242424242]}
    async with queue_world(database, tmp_path) as queue:
        backing = attrs.evolve(queue.world.backing, secrets=secrets)
        queue.world.executor = Executor(backing, queue.world.heard)
        await queue.push(payload)
        assert "4242424242," not in database.psql("select convert_from(payload, 'UTF8') from flux.job")
        (claimed,) = await queue.claim()
        assert b"sk_live" not in claimed.payload
        assert json.loads(put_secrets_back(secrets, claimed.id, claimed.payload)) == payload
        other = uuid.uuid4()
        assert put_secrets_back(secrets, other, claimed.payload) == claimed.payload, "a handle is one job's own"


async def test_what_was_claimed_and_not_heard_of_goes_back(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        for n in range(2):
            await queue.push({"n": n})
        known, lost = await queue.claim()
        async with queue.world.backing.owner.acquire() as connection:
            for after_s, states in ((60.0, ["running", "running"]), (0.0, ["running", "waiting"])):
                await connection.execute(QUERIES.release_orphans, TENANT, queue.worker, [known.id], after_s)
                assert queue.states() == states
        assert [one.id for one in await queue.claim()] == [lost.id]


class NoCode:
    """In the place of deployments, of which there is none."""

    async def wait_current(self) -> None:
        await trio.sleep_forever()


async def test_a_lease_is_kept_though_a_line_to_the_database_is_dead(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_wire, "CANCEL_GRACE_S", 300.0)  # Who waits for it is too late.
    line = b"application_name\0flux lease\0"
    lease = "select max(extract(epoch from lease_until)) from flux.queue_worker"
    notes: list[str] = []
    async with (
        chaos_proxy(database.server) as proxy,
        open_world(database, tmp_path / "journal", options=proxy.options(database.options())) as world,
    ):
        queue = Queue(
            world.backing, world.executor, NoCode(), concurrency=1, lease_s=1.0,  # type: ignore[arg-type]
            report=world.reports.append, note=notes.append,
        )  # fmt: skip
        drain = trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(queue.run, drain)
                await until(lambda: bool(database.psql(lease)))
                for direction in Direction:
                    proxy.arm(line, direction, Harm.HELD, 1)
                    await until(lambda: proxy.struck)
                    before = float(database.psql(lease))
                    await until(lambda before=before: float(database.psql(lease)) > before + 1)
                proxy.disarm()
                drain.set()
        assert world.reports == [] and notes and all("did not answer within" in note for note in notes)


@attrs.define
class LeaseLine:
    """In the place of a connection; each is dead after some answers."""

    options: ConnectOptions
    answers: list[float]
    """When leases were kept, of all lines."""
    left: int = 4
    """Answers that it still gives: one to its setting, the others to leases."""
    is_closed: bool = False

    def check_alive(self) -> bool:
        return not self.is_closed

    def terminate(self) -> None:
        self.is_closed = True

    async def listen(self, channel: str) -> None:
        pass

    async def wait_notification(self) -> None:
        await trio.sleep_forever()

    async def execute(self, sql: str, *_arguments: object) -> None:
        self.left -= 1
        if self.left >= 0:
            if sql == QUERIES.keep_queue_worker:
                self.answers.append(trio.current_time())
            return
        try:
            await trio.sleep_forever()
        finally:
            # As the driver's end of a statement that was cancelled.
            grace_s = self.options.cancel_grace_s
            with trio.CancelScope(shield=True):
                await trio.sleep(postgres_wire.CANCEL_GRACE_S if grace_s is None else grace_s)
            self.terminate()


class NoPlace:
    """In the place of a pool whose connections are all taken, for ever."""

    options = ConnectOptions(host="nowhere", user="flux")

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        await trio.sleep_forever()
        yield


@attrs.frozen
class Ends:
    """What a queue needs of a server that runs nothing."""

    clock: SystemClock
    entropy: SystemEntropy
    owner: NoPlace
    tenant: str = TENANT


@pytest.mark.parametrize("refusals", [0, 2])
async def test_a_lease_never_ends_though_each_line_it_is_kept_on_dies(
    refusals: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    answers: list[float] = []
    asked: list[str] = []

    async def connect(options: ConnectOptions) -> LeaseLine:
        asked.append(options.application_name)
        if options.application_name == "flux lease" and asked.count("flux lease") % (1 + refusals):
            await trio.sleep(0.5)
            raise CannotConnect("refused on purpose", remedy="none")
        return LeaseLine(options, answers)

    monkeypatch.setattr(queue_module, "connect", connect)
    reports: list[BaseException] = []
    notes: list[str] = []
    lease_s = QueueConfig().lease
    queue = Queue(
        Ends(SystemClock(), SystemEntropy(), NoPlace()), None, NoCode(), concurrency=1, lease_s=lease_s,  # type: ignore[arg-type]
        report=reports.append, note=notes.append,
    )  # fmt: skip
    with trio.move_on_after(600):
        await queue.run(trio.Event())
    # What the database would have seen: each lease is prolonged before it is over.
    assert all(later - earlier < lease_s for earlier, later in itertools.pairwise(answers)), answers
    assert len(answers) > 100 and 600 - (answers[-1] - answers[0]) < 2 * lease_s
    assert asked.count("flux lease") > 40 and notes and reports == []


async def test_a_job_that_only_reads_is_done_though_the_line_to_store_its_end_is_dead(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undone, "TRY_S", 0.3)
    monkeypatch.setattr(postgres_wire, "CANCEL_GRACE_S", 0.2)
    role = b"user\0" + database.options().user.encode() + b"\0"
    async with (
        chaos_proxy(database.server) as proxy,
        open_world(database, tmp_path / "journal", options=proxy.options(database.options())) as world,
    ):
        database.psql("create table ledger (entry text)")
        queue = QueueWorld(world, make_runnables(world.nursery, "repeatable read"))
        for at in (0, 1, 4):  # The first learns; then the line is dead before the transaction, and within it.
            await queue.push({"n": 1, "writes": False})
            (claimed,) = await queue.claim()
            proxy.arm(role, Direction.OUT, Harm.HELD, at)
            executed = await queue.attempt(claimed)
            assert proxy.struck is (at > 0)
            proxy.disarm()
            assert isinstance(executed.outcome, Returned) and executed.stored
            assert set(queue.states()) == {"done"}
        assert database.psql("select count(*) from flux.execution where trigger = 'queue'") == "3"


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - a psql, which tells nobody
        await trio.sleep(0.02)


# --- invoking --------------------------------------------------------------------------------------


async def test_an_invoked_function_is_an_execution_with_a_transaction_of_its_own(
    database: Database, tmp_path: Path
) -> None:
    async with queue_world(database, tmp_path) as queue:
        executed = await queue.run("invoke", {"function": "work", "input": {"n": 1}})
        assert isinstance(executed.outcome, Returned) and executed.outcome.body == b"worked"
        assert queue.ledger() == ["1"]
        await queue.world.settle()
        child = database.psql("select trigger, parent from flux.execution where function = 'work'")
        assert child == f"invoke|{executed.execution.id}"


async def test_what_an_invoke_comes_to_is_a_typed_error(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        for function, value, message in (
            ("work", {"n": 1, "fails": True}, "InvokeFailed FLX575 ValueError"),
            ("invoke", {"function": "work", "input": {}}, "InvokeCycle FLX573"),
            ("nobody", {}, "UnknownFunction FLX570"),
        ):
            executed = await queue.run("invoke", {"function": function, "input": value})
            assert isinstance(executed.outcome, Raised) and executed.outcome.message == message
        assert queue.ledger() == []


async def test_a_chain_of_invokes_has_an_end(database: Database, tmp_path: Path) -> None:
    async with queue_world(database, tmp_path) as queue:
        await queue.run("step0", {})
        await queue.world.settle()
        assert database.psql("select count(*) from flux.execution") == str(INVOKE_DEPTH_MAX)
        said = database.psql("select error_message, count(*) from flux.execution group by 1 order by 2")
        assert said.splitlines()[0] == "InvokeTooDeep FLX574|1"


async def test_a_caller_that_is_given_up_takes_what_it_invoked_along(database: Database, tmp_path: Path) -> None:
    begun = trio.Event()

    async def wait(guest: ScriptedGuest, _start: dict[str, Any]) -> str:
        begun.set()
        await guest.call("clock.sleep", 3600)
        return "never"

    async with queue_world(database, tmp_path) as queue:
        queue.play("work", wait)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run, "invoke", {"function": "work", "input": {}})
            await begun.wait()
            nursery.cancel_scope.cancel()
        await queue.world.settle()
        rows = database.psql("select function, outcome, error_message from flux.execution order by function")
        assert rows.splitlines() == [
            "invoke|interrupted|the server was stopped before the function ended",
            "work|interrupted|the function that invoked it no longer waited for it",
        ]
