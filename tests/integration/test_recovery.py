# ruff: noqa: ASYNC110, ASYNC240 - a test may wait for its files, and for a server that tells nobody
"""Recovery against real databases: who died where, and what the records say then. A second psql is the oracle."""

import contextlib
import itertools
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from flux.errors import FluxError
from flux.execution import Execution, Interrupted, LogLine, Returned, Transaction
from flux.hostcall import HostCallRequest, HostCallResult
from flux.store.migrate import ensure_guest
from flux.store.postgres import Connection, ConnectionLost, ConnectOptions, connect
from flux.store.queries import QUERIES
from flux.store.reading import get_execution
from flux.store.records import make_record
from flux.supervisor import recovery
from flux.supervisor.journal import Journal
from flux.supervisor.left_behind import LeftBehind, read_left_behind
from flux.supervisor.recovery import Recovered, make_interrupted, recover
from flux.supervisor.recovery_store import DatabaseStore
from tests.conftest import Database
from tests.journal_program import (
    Forks,
    account_of,
    make_execution,
    make_mutation,
    make_story,
    say_at_work,
    say_step,
    serve_forks,
)
from tests.postgres_server import PostgresServer
from tests.repetitions import TIMES

PID = 4711
KILLS = 30 * TIMES


# -- What is decided ---------------------------------------------------------------------------------------


def left_behind(**changes: Any) -> LeftBehind:
    known = LeftBehind(id=make_execution(1).id, pid=PID, head=make_execution(1))
    return attrs.evolve(known, **changes)


def transaction(**changes: Any) -> Transaction:
    return attrs.evolve(Transaction("repeatable read", "1:1:", None, False, 1), **changes)


def test_an_execution_that_had_not_ended_is_interrupted_with_all_up_to_the_cut() -> None:
    model = next(
        model
        for model in account_of(itertools.islice(make_story(5), 400)).values()
        if model.ended is None and model.calls and model.logs
    )
    left = model.as_left_behind(PID)
    record = make_interrupted(left, frozenset())
    assert record == attrs.evolve(
        model.head,
        outcome=Interrupted(f"the supervisor ended (pid {PID}) before the function did"),
        calls=left.calls,
        logs=left.logs,
        transactions=left.transactions,
        mutations=left.mutations,
        mutation_count=len(left.mutations),
        elapsed_ns=record.elapsed_ns,
    )
    assert record.elapsed_ns == max(
        [line.at_ns for line in left.logs]
        + [call.started_ns + (call.result.elapsed_ns if call.result else 0) for call in left.calls]
    )


def test_one_that_was_committing_keeps_its_record_but_committed_nothing() -> None:
    rng = random.Random(1)
    seen, undone = make_mutation(rng, 800, 1), make_mutation(rng, 800, 2)
    ended = make_execution(
        1, outcome=Returned(201), elapsed_ns=77, mutations=(undone,), mutation_count=2,
        transactions=(transaction(xid=800, committed=True),), logs=(LogLine(5, "info", "done"),),
    )  # fmt: skip
    seen_both = (attrs.evolve(seen, call=1), attrs.evolve(undone, call=2))
    left = left_behind(ended=ended, in_transaction=True, mutations=seen_both, lost=("event 3 is lost",))
    record = make_interrupted(left, frozenset())
    assert record == attrs.evolve(
        ended,
        outcome=Interrupted(
            f"the supervisor ended (pid {PID}) while it was committing; "
            "the database does not have it, so nothing was committed"
        ),
        mutations=seen_both,
        transactions=(transaction(xid=800, committed=False),),
    )


def test_what_a_function_committed_before_the_cut_stays_committed() -> None:
    rng = random.Random(1)
    mutations = tuple(make_mutation(rng, xid) for xid in (800, 801, 802))
    left = left_behind(
        mutations=mutations,
        transactions=(
            transaction(xid=800, committed=True, ended_ns=5),  # acknowledged
            transaction(begun_by=2, xid=801),  # COMMIT was sent, the answer never came
            transaction(begun_by=3, xid=802),  # never sent
        ),
    )
    record = make_interrupted(left, frozenset({800, 801}))
    assert [(one.xid, one.committed) for one in record.transactions] == [
        (800, True),
        (801, True),
        (802, False),
    ]
    assert [(one.xid, one.committed) for one in record.mutations] == [(802, False)]
    assert record.mutation_count == 3
    assert record.completeness == ()
    assert isinstance(record.outcome, Interrupted)
    assert "nothing was committed" not in record.outcome.reason


def test_a_transaction_without_an_id_takes_the_one_that_only_it_can_have() -> None:
    left = left_behind(transactions=(transaction(ended_ns=3), transaction(begun_by=2)))
    record = make_interrupted(left, frozenset({800}))
    assert record.transactions == (transaction(ended_ns=3), transaction(begun_by=2, xid=800, committed=True))
    assert record.completeness == ()


def test_what_can_t_be_told_apart_is_said_to_be_unknown() -> None:
    left = left_behind(transactions=(transaction(), transaction(begun_by=2)))
    record = make_interrupted(left, frozenset({800}))
    assert record.transactions == left.transactions
    assert record.completeness == ("transaction 800 committed; which call began it is not known",)


def test_a_commit_that_the_database_forgot_is_said() -> None:
    left = left_behind(transactions=(transaction(xid=800, committed=True, ended_ns=3),))
    record = make_interrupted(left, frozenset())
    assert record.completeness == (
        "the server said that transaction 800 had committed, but the database has nothing of it",
    )


def test_one_whose_beginning_is_lost_invents_none() -> None:
    left = left_behind(head=None, pid=None, lost=("1 of its 3 known events can't be found in the journal",))
    record = make_interrupted(left, frozenset())
    assert (record.function, record.tenant, record.sha, record.trigger.kind) == ("", "", "", "unknown")
    assert record.outcome == Interrupted("the supervisor ended before the function did")
    assert record.started_at_ns == make_execution(1).started_at_ns
    assert "how it began is lost" in record.completeness[0]
    assert record.completeness[1:] == left.lost


# -- What is stored ----------------------------------------------------------------------------------------


def leave_journal(folder: Path, count: int, seed: int = 3) -> list[LeftBehind]:
    journal = Journal(folder, segment_bytes_max=20_000)
    for event in itertools.islice(make_story(seed), count):
        event.tell(journal)
    journal.close()
    return read_left_behind(folder)


def records(database: Database) -> str:
    """What a second client finds in the tables, whatever the time is."""
    return database.psql(
        "select id, outcome, function, call_count, mutation_count, completeness, md5(body) "
        "from flux.execution order by id"
    ) + database.psql(
        "select execution, xid, ordinal, key, before, after, committed from flux.mutation order by seq"
    )


async def run_recovery(folder: Path, database: Database) -> Recovered:
    pool = database.pool()
    try:
        return await recover(folder, DatabaseStore(pool))
    finally:
        await pool.aclose()


async def test_every_execution_left_behind_gets_its_record(
    tmp_path: Path, postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres)
    left = [one for one in leave_journal(tmp_path, 3000) if not one.is_stored]
    recovered = await run_recovery(tmp_path, database)
    completed = {one.id for one in left if one.ended and not one.in_transaction}
    interrupted = {one.id for one in left} - completed
    assert len(completed) > 10 and len(interrupted) > 10
    assert set(recovered.completed) == completed
    assert set(recovered.interrupted) == interrupted
    assert recovered.damage == ()
    assert list(tmp_path.iterdir()) == []
    rows = database.psql("select id, outcome from flux.execution order by id").splitlines()
    assert {row.split("|")[0] for row in rows} == {str(one.id) for one in left}
    assert {uuid.UUID(row.split("|")[0]) for row in rows if row.endswith("interrupted")} == interrupted
    rolled_back = int(database.psql("select count(*) from flux.mutation where not committed"))
    assert rolled_back == sum(len(one.mutations) for one in left if one.id in interrupted) > 0
    # And what is read back is what was decided.
    pool = database.pool()
    for one in left[:30]:
        _, execution = await get_execution(pool, one.id)
        expected = one.ended if one.id in completed else make_interrupted(one, frozenset())
        assert expected is not None
        assert attrs.evolve(execution, mutations=()) == attrs.evolve(expected, mutations=())
        assert len(execution.mutations) == len(expected.mutations)
    await pool.aclose()


async def test_an_execution_that_the_database_has_is_left_as_it_is(
    tmp_path: Path, database: Database
) -> None:
    left = [one for one in leave_journal(tmp_path, 300) if not one.is_stored]
    pool = database.pool()
    for one in left:
        await DatabaseStore(pool).add(attrs.evolve(one.head or make_execution(1), function="stored_before"))
    await pool.aclose()
    before = records(database)
    recovered = await run_recovery(tmp_path, database)
    assert recovered.interrupted == recovered.completed == ()
    assert set(recovered.already_stored) >= {one.id for one in left}
    assert records(database) == before


async def test_a_folder_without_journals_is_no_work(tmp_path: Path, database: Database) -> None:
    assert await run_recovery(tmp_path / "none", database) == Recovered()


async def test_what_is_damaged_is_recovered_as_far_as_it_goes_and_kept(
    tmp_path: Path, database: Database
) -> None:
    leave_journal(tmp_path, 100)
    path = sorted(tmp_path.iterdir())[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    recovered = await run_recovery(tmp_path, database)
    assert [str(path) in line for line in recovered.damage] == [True]
    assert [one.suffix for one in tmp_path.iterdir()] == [".damaged"]
    assert int(database.psql("select count(*) from flux.execution where completeness <> 'whole'")) > 0


class StopsAt:
    """A store that ends everything at its n-th step, before or after it is done."""

    class Stopped(Exception):
        """The end."""

    def __init__(self, store: DatabaseStore, step: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, step, after

    def _step(self, *, after: bool) -> None:
        if after == self._after:
            self._left -= 1
            if self._left < 0:
                raise self.Stopped

    async def exists(self, execution_id: uuid.UUID) -> bool:
        self._step(after=False)
        result = await self._store.exists(execution_id)
        self._step(after=True)
        return result

    async def list_committed(self, execution_id: uuid.UUID, xids: Collection[int]) -> frozenset[int]:
        self._step(after=False)
        result = await self._store.list_committed(execution_id, xids)
        self._step(after=True)
        return result

    async def add(self, execution: Execution) -> bool:
        self._step(after=False)
        result = await self._store.add(execution)
        self._step(after=True)
        return result


async def test_a_database_that_does_not_answer_ends_a_start_and_loses_nothing(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_journal(tmp_path, 60)
    left = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(recovery, "ASK_S", 0.2)
    async with contextlib.aclosing(await connect(database.options())) as locking:
        await locking.execute("begin; lock table flux.execution in access exclusive mode")
        with pytest.raises(ConnectionLost, match=r"which a server left in the journal, was stored: \d+ of \d+ are"):
            await run_recovery(tmp_path, database)
        assert sorted(path.name for path in tmp_path.iterdir()) == left
    monkeypatch.undo()
    recovered = await run_recovery(tmp_path, database)
    assert list(tmp_path.iterdir()) == []
    made = len(recovered.interrupted) + len(recovered.completed)
    assert made > 0 and database.psql("select count(*) from flux.execution") == str(made)


async def test_a_recovery_that_ends_at_any_step_and_runs_again_makes_the_same_records(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database, reference = make_database(postgres18), make_database(postgres18)
    leave_journal(tmp_path / "reference", 60)
    await run_recovery(tmp_path / "reference", reference)
    expected = records(reference)
    pool = database.pool()
    for after in (False, True):
        for step in itertools.count():
            leave_journal(tmp_path / "again", 60)
            try:
                await recover(tmp_path / "again", StopsAt(DatabaseStore(pool), step, after=after))
                break
            except StopsAt.Stopped:
                recovered = await recover(tmp_path / "again", DatabaseStore(pool))
            assert recovered.segments_in_use == 0
            assert list((tmp_path / "again").iterdir()) == []
            assert records(database) == expected
            database.psql("truncate flux.execution, flux.mutation")
        assert step > 10
    await pool.aclose()


async def test_a_database_that_goes_away_leaves_the_journals_for_the_next_start(
    tmp_path: Path, database: Database
) -> None:
    leave_journal(tmp_path, 100)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options = attrs.evolve(database.options(), database="no_such_database")
    with pytest.raises(FluxError):
        await run_recovery(tmp_path, attrs.evolve(database, name=str(options.database)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    await run_recovery(tmp_path, database)
    assert list(tmp_path.iterdir()) == []


# -- Commits on their way ----------------------------------------------------------------------------------


async def begin_record(database: Database, execution: Execution) -> Connection:
    """A session that has written the record and not committed: all that is left of its supervisor."""
    connection = await connect(database.options())
    await connection.begin()
    await connection.execute("insert into public.paid values ($1)", execution.id)
    await connection.fetch_value(QUERIES.add_execution, *make_record(execution).values)
    return connection


@pytest.mark.parametrize("commits", [True, False])
async def test_recovery_waits_for_a_commit_that_is_on_its_way(
    tmp_path: Path, database: Database, commits: bool
) -> None:
    database.psql("create table public.paid (execution uuid)")
    execution = make_execution(1, outcome=Returned(200))
    journal = Journal(tmp_path)
    journal.begin(make_execution(1))
    journal.ended(execution.id.bytes, execution, in_transaction=True)
    journal.close()
    connection = await begin_record(database, execution)
    found: list[Recovered] = []
    waiting = "select count(*) from pg_stat_activity where wait_event = 'transactionid' and datname = '%s'"

    async def recover_meanwhile() -> None:
        found.append(await run_recovery(tmp_path, database))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recover_meanwhile)
        while database.psql(waiting % database.name) == "0":
            await trio.sleep(0.02)
        assert list(tmp_path.iterdir())
        await (connection.commit() if commits else connection.rollback())
    await connection.aclose()
    (recovered,) = found
    assert (recovered.already_stored if commits else recovered.interrupted) == (execution.id,)
    assert database.psql("select outcome from flux.execution") == ("returned" if commits else "interrupted")
    assert database.psql("select count(*) from public.paid") == ("1" if commits else "0")


async def test_a_session_that_outlived_its_supervisor_is_ended(tmp_path: Path, database: Database) -> None:
    """Its transaction sits in a statement that would take an hour; nobody waits for the answer any more."""
    database.psql("create table public.paid (n int)")
    owner = await connect(database.options())
    role = await ensure_guest(owner, "main", "public", "secret")
    await owner.aclose()
    guest = await connect(attrs.evolve(database.options(role), password="secret"))
    await guest.begin()
    await guest.execute("insert into paid values (1)")
    xid = int(await guest.fetch_value("select pg_current_xact_id()::text"))
    execution = make_execution(1)
    journal = Journal(tmp_path)
    journal.begin(execution)
    journal.mutated(execution.id.bytes, 1, (make_mutation(random.Random(1), xid),))
    journal.close()
    async with trio.open_nursery() as nursery:

        async def sleep_on_the_server() -> None:
            with pytest.raises(FluxError):
                await guest.fetch("select pg_sleep(3600)")

        nursery.start_soon(sleep_on_the_server)
        while "pg_sleep(3600)" not in database.psql(
            "select query from pg_stat_activity where state = 'active'"
        ):
            await trio.sleep(0.02)
        recovered = await run_recovery(tmp_path, database)
    assert recovered.interrupted == (execution.id,)
    assert database.psql("select count(*) from public.paid") == "0"


async def test_what_another_database_s_journal_says_of_transactions_is_no_obstacle(
    tmp_path: Path, database: Database
) -> None:
    execution = make_execution(1)
    journal = Journal(tmp_path)
    journal.begin(execution)
    journal.mutated(execution.id.bytes, 1, (make_mutation(random.Random(1), 2**40),))
    journal.close()
    assert (await run_recovery(tmp_path, database)).interrupted == (execution.id,)


# -- Transfers under kill -9 -------------------------------------------------------------------------------


def test_after_kill_9_every_committed_transfer_has_exactly_one_record(
    tmp_path: Path, database: Database
) -> None:
    """A supervisor reduced to its order of writing is killed at random, and so is the recovery after it."""
    database.psql(
        "create table public.account (id int primary key, balance int); "
        "insert into public.account values (1, 0), (2, 0); create table public.transfer (execution uuid)"
    )
    options = database.options()
    place = (tmp_path, options.host, options.port, options.user, database.name)
    rng = random.Random(4)
    recoveries_killed = transfers = interrupted = number = 0
    with Forks("tests.integration.test_recovery") as programs:
        # A kill follows what is done, for on a busy machine nothing may be done in any given time.
        while number < KILLS or transfers <= 100 or interrupted <= 10 or recoveries_killed <= 5:
            number += 1
            assert number < 20 * KILLS, (transfers, interrupted, recoveries_killed)
            pid = programs.start("transfer", number, *place)
            for _ in range(rng.randrange(8)):
                programs.wait_step()
            time.sleep(rng.random() * 0.02)  # Anywhere within a transfer, which takes a few milliseconds.
            programs.kill(pid)
            assert programs.wait_end()[1] == -signal.SIGKILL
            while True:
                pid = programs.start("recover", number, *place)
                if rng.random() < 0.7:
                    time.sleep(rng.random() * 0.03)
                    programs.kill(pid)
                _, exit_code = programs.wait_end()
                if exit_code == 0:
                    break
                assert exit_code == -signal.SIGKILL
                recoveries_killed += 1
            transfers, interrupted = check_transfers(tmp_path, database)


def check_transfers(folder: Path, database: Database) -> tuple[int, int]:
    """Data and records agree: one returned record for each transfer, none for any other, and no more records.

    Return how many transfers there are, and how many interrupted executions.
    """
    assert list(folder.iterdir()) == []
    disagreements, doubled, sum_, transfers, arrived, interrupted = database.psql(
        "select (select count(*) from public.transfer t full join "
        "(select id from flux.execution where outcome = 'returned') e on e.id = t.execution "
        "where t.execution is null or e.id is null), "
        "(select count(*) - count(distinct id) from flux.execution), "
        "(select sum(balance) from public.account), "
        "(select count(*) from public.transfer), "
        "(select balance from public.account where id = 2), "
        "(select count(*) from flux.execution where outcome = 'interrupted')"
    ).split("|")
    assert (disagreements, doubled, sum_) == ("0", "0", "0")
    assert transfers == arrived
    return int(transfers), int(interrupted)


async def run_transfers(folder: Path, number: int, options: ConnectOptions) -> None:
    """Transfer without end, writing in a supervisor's order; each is a step."""
    connection = await connect(options)
    journal = Journal(folder)
    say_at_work()
    for seed in itertools.count(number * 100_000):
        execution = make_execution(seed)
        journal.begin(execution)
        journal.asked(execution.id.bytes, HostCallRequest(1, "db.execute", b"[]"), 1)
        await connection.begin()
        journal.transaction(execution.id.bytes, Transaction("repeatable read", "1:1:", None, False, 1))
        await connection.execute("update public.account set balance = balance - 1 where id = 1")
        await connection.execute("update public.account set balance = balance + 1 where id = 2")
        await connection.execute("insert into public.transfer values ($1)", execution.id)
        xid = int(await connection.fetch_value("select pg_current_xact_id()::text"))
        journal.mutated(execution.id.bytes, 1, (make_mutation(random.Random(seed), xid),))
        journal.answered(execution.id.bytes, 1, HostCallResult(b"1"), 1)
        ended = attrs.evolve(execution, outcome=Returned(200))
        journal.ended(execution.id.bytes, ended, in_transaction=True)
        await connection.fetch_value(QUERIES.add_execution, *make_record(ended).values)
        await connection.commit()
        journal.stored(execution.id.bytes)
        say_step()


async def run_program(words: list[str]) -> None:
    """The two programs that are killed."""
    what, number, folder, host, port, user, name = words
    server = PostgresServer(Path(), Path(), Path(), host, int(port), user, os.getpid())
    database = Database(server, name)
    if what == "transfer":
        await run_transfers(Path(folder), int(number), database.options())
    else:
        say_at_work()
        await run_recovery(Path(folder), database)


if __name__ == "__main__":
    serve_forks(lambda words: trio.run(run_program, words))
