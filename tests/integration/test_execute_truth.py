"""What is answered, told and recorded is what took place, in the cases in which that is not plain."""

import errno
import json
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.execution import Execution, Interrupted, Raised, Returned, Trigger
from flux.limits import Limits
from flux.sandbox.scripted import Script, ScriptedGuest
from flux.store import postgres_connection, postgres_wire
from flux.store.reading import get_execution
from flux.supervisor import execute
from flux.supervisor import undone as undone_rows
from flux.supervisor.execute import StoreStalledError
from flux.supervisor.journal import JournalError
from tests.conftest import Database
from tests.execution_world import CuttingProxy, ExecutionWorld, cutting_proxy, open_world, sql
from tests.faults.chaos_proxy import Direction, Harm, chaos_proxy
from tests.integration.test_execute_cut import write_two, write_two_and_shrug
from tests.integration.test_execution_database import saying

SCHEMA = """
create table notes (id int primary key, text text); grant all on notes to flux_guest_main;
create table audit (id int, text text); grant all on audit to flux_guest_main;
"""


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[ExecutionWorld]:
    async with open_world(database, tmp_path / "journal") as opened:
        database.psql(SCHEMA)
        yield opened


async def stored(world: ExecutionWorld, execution: Execution) -> Execution:
    """The record, as it is read from the database."""
    await world.settle()
    _, found = await get_execution(world.backing.owner, execution.id)
    return found


def undone(execution: Execution) -> list[str | None]:
    return [mutation.key for mutation in execution.mutations if not mutation.committed]


def kept(execution: Execution) -> list[str | None]:
    return [mutation.key for mutation in execution.mutations if mutation.committed]


# A COMMIT that nobody answers, on a database that can't be asked.


async def write_one(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
    """What `write_two` begins with."""
    await guest.call(*sql("insert into notes values (1, 'one')"))
    return "done"


async def insist(guest: ScriptedGuest, statement: str, *parameters: Any) -> Any:
    """Run a statement; fail as a function does that does not catch its error."""
    seq = await guest.ask(*sql(statement, *parameters))
    while seq not in guest.answers:
        await guest.hear()
    error, value = guest.answers[seq]
    if error is not None:
        report = {"type": "DatabaseError", "message": error["message"], "call": seq}
        await guest.write(json.dumps(["raise", report]).encode() + b"\n")
        await trio.sleep_forever()
    return value


async def count_exchanges(world: ExecutionWorld, proxy: CuttingProxy, script: Script, *, atomic: bool) -> int:
    """How many exchanges an execution of ``script`` has, the reset of the session behind it included."""
    for _ in range(2):  # The first one learns and prepares.
        world.database.psql("truncate notes; delete from flux.execution; delete from flux.transaction")
        proxy.exchanges = 0
        await world.run(script, atomic=atomic)
        await world.settle()
    world.database.psql("truncate notes; delete from flux.execution; delete from flux.transaction")
    return proxy.exchanges


@pytest.mark.parametrize("after", [False, True])
async def test_an_unknown_commit_is_told_as_unknown_and_recorded_as_what_it_was(
    database: Database, tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "FIND_OUT_S", 0.5)
    async with cutting_proxy(database.server) as proxy:
        options = proxy.options(database.options())
        async with open_world(database, tmp_path / "journal", options=options, guests=proxy.options) as world:
            database.psql(SCHEMA)
            commit = await count_exchanges(world, proxy, write_two, atomic=True) - 1
            proxy.exchanges, proxy.cut_at, proxy.after, proxy.goes_down = 0, commit, after, True
            executed = await world.run(write_two)
            assert isinstance(executed.outcome, Raised) and executed.outcome.type == "CommitUnknown"
            assert executed.outcome.status == 503
            proxy.up()
            await world.settle()
            rows = database.psql("select count(*) from notes")
            assert rows == ("2" if after else "0")
            ((outcome, kind, _),) = world.records()
            assert (outcome, kind) == (("returned", "") if after else ("raised", "CommitFailed"))
            assert world.heard.stored_[-1] == executed.execution.id
            assert undone(await stored(world, executed.execution)) == (
                [] if after else ['{"id":1}', '{"id":2}']
            )


@pytest.mark.parametrize("after", [False, True])
async def test_what_became_of_a_commit_is_found_out_though_a_line_that_it_is_asked_over_is_dead(
    database: Database, tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks the function's line may have silenced others; over a further one the database can be asked."""
    monkeypatch.setattr(undone_rows, "TRY_S", 0.3)
    monkeypatch.setattr(postgres_wire, "CANCEL_GRACE_S", 0.2)
    role = b"user\0" + database.options().user.encode() + b"\0"
    async with cutting_proxy(database.server) as proxy, chaos_proxy(database.server) as owners:
        options = owners.options(database.options())
        async with open_world(database, tmp_path / "journal", options=options, guests=proxy.options) as world:
            database.psql(SCHEMA)
            for atomic, script in ((True, write_two), (False, write_two_and_shrug)):
                database.psql("truncate notes; delete from flux.execution; delete from flux.transaction")
                exchanges = await count_exchanges(world, proxy, write_two if atomic else write_one, atomic=atomic)
                proxy.cut_at, proxy.after, proxy.was_cut = exchanges - 1, after, False

                def silence(number: int, commit: int = exchanges - 1) -> None:
                    if number == commit and not proxy.was_cut:
                        owners.arm(role, Direction.OUT, Harm.HELD, 1)

                proxy.exchanges, proxy.on_exchange = 0, silence
                executed = await world.run(script, atomic=atomic)
                proxy.on_exchange = lambda _number: None
                assert proxy.was_cut and owners.struck
                record = await stored(world, executed.execution)
                owners.disarm()
                assert not record.completeness, "of nothing it is said that it is not known"
                if atomic:
                    assert isinstance(executed.outcome, Returned) is after
                    assert isinstance(executed.outcome, Raised) is not after
                    if isinstance(executed.outcome, Raised):
                        assert executed.outcome.type == "CommitFailed"
                        assert "did not take place" in executed.outcome.message
                    assert database.psql("select count(*) from notes") == ("2" if after else "0")
                else:
                    assert kept(record)[:1] == (['{"id":1}'] if after else [])


@pytest.mark.parametrize("after", [False, True])
async def test_a_record_says_of_which_transaction_it_does_not_know_whether_it_was_committed(
    database: Database, tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "FIND_OUT_S", 0.3)
    async with cutting_proxy(database.server) as proxy:
        options = proxy.options(database.options())
        async with open_world(database, tmp_path / "journal", options=options, guests=proxy.options) as world:
            database.psql(SCHEMA)
            commit = await count_exchanges(world, proxy, write_one, atomic=False) - 1
            proxy.exchanges, proxy.cut_at, proxy.after, proxy.goes_down = 0, commit, after, True
            executed = await world.run(write_two_and_shrug, atomic=False)
            assert database.psql("select count(*) from notes") == ("1" if after else "0")
            proxy.up()
            record = await stored(world, executed.execution)
            assert any("whether transaction" in sentence for sentence in record.completeness), (
                record.completeness
            )
            assert undone(record) == []
            assert kept(record) == (['{"id":1}'] if after else [])


async def test_a_record_that_waits_for_a_lock_is_told_as_failed_and_is_there_once_it_is_free(
    world: ExecutionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit ends the statement inside the transaction: that nothing was committed is known, and nobody is asked."""
    monkeypatch.setattr(postgres_connection, "COMMIT_S_MAX", 0.3)
    async with world.backing.owner.acquire() as other, other.transaction():
        await other.execute("lock table flux.execution")
        executed = await world.run(write_one)
        assert isinstance(executed.outcome, Raised) and executed.outcome.type == "CommitFailed"
        assert "nothing was committed" in executed.outcome.message
        assert world.backing.guests.counts.open == 1, "a good connection is kept"
    assert world.database.psql("select count(*) from notes") == "0"
    assert undone(await stored(world, executed.execution)) == ['{"id":1}']
    ((outcome, kind, _),) = world.records()
    assert (outcome, kind) == ("raised", "CommitFailed")


# What is deferred, and what is caught.


async def test_a_constraint_that_is_deferred_fails_the_function_and_says_so(world: ExecutionWorld) -> None:
    world.database.psql(
        "create table children (id int, note int references notes deferrable initially deferred);"
        "grant all on children to flux_guest_main"
    )
    for atomic in (True, False):
        executed = await world.run(saying("insert into children values (1, 77)"), atomic=atomic)
        outcome = executed.outcome
        assert isinstance(outcome, Raised)
        if atomic:
            assert outcome.type == "CommitFailed" and "23503" in outcome.message
        record = await stored(world, executed.execution)
        assert record.mutation_count == 1 and len(undone(record)) == 1 and not kept(record)
    assert world.database.psql("select count(*) from children") == "0"


@pytest.mark.parametrize("atomic", [True, False])
async def test_rows_of_a_trigger_that_is_deferred_are_on_record(world: ExecutionWorld, atomic: bool) -> None:
    world.database.psql(
        "create function note_down() returns trigger language plpgsql as $$ begin "
        "insert into audit values (new.id, 'seen'); return null; end $$;"
        "create constraint trigger noting after insert on notes deferrable initially deferred "
        "for each row execute function note_down()"
    )
    executed = await world.run(saying("insert into notes values (1, 'x')"), atomic=atomic)
    assert isinstance(executed.outcome, Returned), executed.outcome
    record = await stored(world, executed.execution)
    assert record.mutation_count == 2 == len(record.mutations)
    assert {mutation.call for mutation in record.mutations} == {1}
    assert world.database.psql("select count(*) from audit") == "1"


async def test_a_function_that_catches_a_failed_statement_is_told_that_nothing_was_committed(
    world: ExecutionWorld,
) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.call(*sql("insert into notes values (1, 'x')"))
        try:
            await guest.call(*sql("insert into notes values (1, 'again')"))
        except RuntimeError:
            return "caught"
        return "done"

    executed = await world.run(script)
    assert isinstance(executed.outcome, Raised) and "25P02" in executed.outcome.message
    assert world.database.psql("select count(*) from notes") == "0"
    assert undone(await stored(world, executed.execution)) == ['{"id":1}']


async def test_blocks_of_concurrent_tasks_that_overlap_are_refused_and_nothing_is_lost(
    world: ExecutionWorld,
) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        one = await guest.call("db.begin", None)
        two = await guest.call("db.begin", None)
        await guest.call(*sql("insert into notes values (1, 'x')"))
        try:
            await guest.call("db.commit", one)
        except RuntimeError as refused:
            assert str(refused) == "TransactionOrder"
        await guest.call("db.commit", two)
        await guest.call("db.commit", one)
        return "done"

    for atomic in (True, False):
        world.database.psql("truncate notes")
        executed = await world.run(script, atomic=atomic)
        assert isinstance(executed.outcome, Returned), executed.outcome
        assert world.database.psql("select count(*) from notes") == "1"


async def test_a_block_that_is_never_closed_is_rolled_back_where_each_block_is_its_own(
    world: ExecutionWorld,
) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.call("db.begin", None)
        await guest.call(*sql("insert into notes values (1, 'x')"))
        return "done"

    executed = await world.run(script, atomic=False)
    assert isinstance(executed.outcome, Returned)
    assert world.database.psql("select count(*) from notes") == "0"
    assert undone(await stored(world, executed.execution)) == ['{"id":1}']


# Rows that are undone where no statement shows it.

BLOCK = """
do $$ begin
  begin insert into notes values (1, 'undone'); raise exception 'x'; exception when raise_exception then null; end;
  insert into notes values (2, 'kept');
end $$
"""
FUNCTION = """
create function try_it() returns boolean language plpgsql as $$ begin
  begin insert into notes values (1, 'undone'); raise exception 'x';
  exception when raise_exception then return false; end;
end $$
"""


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize(
    "statement",
    [BLOCK, "insert into notes select 2, 'kept' where not try_it()", "insert into audit select 2, 'x' where try_it()",
     "select try_it()"],
)  # fmt: skip
@pytest.mark.parametrize("forge", ["select 1", "select set_config('flux.ordinal', '4711 x', true)"])
async def test_rows_undone_inside_a_statement_are_told_as_undone(
    world: ExecutionWorld, statement: str, atomic: bool, forge: str
) -> None:
    world.database.psql(FUNCTION)

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        depth = await guest.call("db.begin", None)
        for one in (
            "insert into audit values (0, 'before')",
            statement,
            forge,
            "insert into audit values (1, 'after')",
        ):
            await guest.call(*sql(one))
        await guest.call("db.commit", depth)
        return "done"

    executed = await world.run(script, atomic=atomic)
    assert isinstance(executed.outcome, Returned), executed.outcome
    record = await stored(world, executed.execution)
    assert undone(record) == ['{"id":1}']
    there = world.database.psql("select count(*) from notes") + world.database.psql(
        "select count(*) from audit"
    )
    assert len(kept(record)) == sum(map(int, there))


async def test_a_savepoint_undoes_what_it_should_whatever_a_guest_sets(world: ExecutionWorld) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.call(*sql("insert into notes values (1, 'x')"))
        depth = await guest.call("db.begin", None)
        await guest.call(*sql("select set_config('flux.ordinal', '0 x', true)"))
        await guest.call(*sql("insert into notes values (2, 'x')"))
        await guest.call("db.rollback", depth)
        await guest.call(*sql("insert into notes values (3, 'x')"))
        return "done"

    record = await stored(world, (await world.run(script)).execution)
    assert undone(record) == ['{"id":2}']
    assert kept(record) == ['{"id":1}', '{"id":3}']


# Runs that are given up by the database.


async def test_every_attempt_is_on_record_and_the_last_one_is_answered(world: ExecutionWorld) -> None:
    world.database.psql("insert into notes values (1, '0')")
    runs = 0

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        nonlocal runs
        runs += 1
        await guest.call(*sql("select * from notes"))
        if runs < 3:
            world.database.psql("update notes set text = text || 'x'")
        await insist(guest, "update notes set text = text || 'y'")
        return f"run {runs}"

    executed = await world.run(script)
    assert isinstance(executed.outcome, Returned) and executed.outcome.body == b"run 3"
    await world.settle()
    assert world.database.psql("select attempt, outcome, parent is null from flux.execution order by id") == (
        "1|raised|t\n2|raised|f\n3|returned|f"
    )
    assert world.database.psql("select text from notes") == "0xxy"


async def test_attempts_have_an_end(world: ExecutionWorld) -> None:
    world.database.psql("insert into notes values (1, '0')")

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.call(*sql("select * from notes"))
        world.database.psql("update notes set text = text || 'x'")
        await insist(guest, "update notes set text = text || 'y'")
        return "never"

    for retries in (0, 1):
        world.database.psql("delete from flux.execution")
        executed = await world.run(script, retries=retries)
        assert isinstance(executed.outcome, Raised)
        await world.settle()
        assert len(world.records()) == execute.ATTEMPTS + retries


async def test_an_attempt_that_cannot_be_recorded_is_not_made_and_the_one_before_it_is_answered(
    world: ExecutionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.database.psql("insert into notes values (1, '0')")
    begin, runs = world.backing.journal.begin, 0

    def begin_once(head: Execution) -> None:
        if runs:
            raise JournalError("no room for the journal")
        begin(head)

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        nonlocal runs
        runs += 1
        await guest.call(*sql("select * from notes"))
        world.database.psql("update notes set text = text || 'x'")
        await insist(guest, "update notes set text = text || 'y'")
        return "never"

    monkeypatch.setattr(type(world.backing.journal), "begin", lambda _journal, head: begin_once(head))
    executed = await world.run(script)
    assert isinstance(executed.outcome, Raised) and runs == 1
    await world.settle()
    assert [outcome for outcome, _, _ in world.records()] == ["raised"]
    # Where there is none before it, nothing ran.
    with pytest.raises(JournalError):
        await world.run(script)
    assert runs == 1 and len(world.records()) == 1


async def test_a_write_skew_found_at_commit_is_tried_again(world: ExecutionWorld) -> None:
    world.database.psql("insert into notes values (1, 'on'), (2, 'on')")
    barrier, waiting = trio.Event(), 0

    def leaving(number: int) -> Script:
        async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
            nonlocal waiting
            answer = await guest.call(*sql("select count(*)::int from notes where text = 'on'"))
            waiting += 1
            if waiting == 2:
                barrier.set()
            await barrier.wait()
            if answer["rows"][0][0] == 2:
                await insist(guest, "update notes set text = 'off' where id = $1", number)
            return "done"

        return script

    async def leave(number: int) -> None:
        executed = await world.run(leaving(number), isolation="serializable")
        assert isinstance(executed.outcome, Returned), executed.outcome

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave, 1)
        nursery.start_soon(leave, 2)
    assert world.database.psql("select count(*) from notes where text = 'on'") == "1"
    await world.settle()
    assert sorted(outcome for outcome, _, _ in world.records()) == ["raised", "returned", "returned"]


async def test_what_has_left_is_never_sent_again(world: ExecutionWorld) -> None:
    world.database.psql("insert into notes values (1, '0')")

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.call(*sql("select * from notes"))
        try:
            await guest.call("http.request", "POST", "http://127.0.0.1:1/", {})
        except RuntimeError as refused:
            assert str(refused) == "HttpConnectError"
        world.database.psql("update notes set text = text || 'x'")
        await insist(guest, "update notes set text = text || 'y'")
        return "never"

    executed = await world.run(script, allow=("127.0.0.1:1",))
    assert isinstance(executed.outcome, Raised)
    await world.settle()
    assert len(world.records()) == 1


# Large and odd records.


@pytest.mark.parametrize("size", [70_000, 9_000_000])
@pytest.mark.parametrize("write", [True, False])
async def test_a_large_body_is_recorded_by_its_content(world: ExecutionWorld, size: int, write: bool) -> None:
    body = os.urandom(size)

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        if write:
            await guest.call(*sql("insert into notes values (1, $1)", "z" * 100_000))
        return "a" * (size // 2)

    limits = Limits(body_bytes_max=2 * size, response_bytes_max=2 * size)
    executed = await world.run(script, trigger=Trigger("invoke", body=body), limits=limits)
    assert isinstance(executed.outcome, Returned), executed.outcome
    record = await stored(world, executed.execution)
    is_cut = size > 8 * 2**20
    assert record.trigger.body == body[: 8 * 2**20]
    assert bool(record.completeness) == is_cut
    assert isinstance(record.outcome, Returned) and len(record.outcome.body) == size // 2
    assert int(world.database.psql("select count(*) from flux.blob")) >= 1


async def test_text_that_a_database_has_no_place_for_stops_no_commit(world: ExecutionWorld) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.log("nul \0")
        await guest.call(*sql("insert into notes values (1, 'x')"))
        return "nul \0"

    trigger = Trigger("http", "GET", "/a\0b", "/{x}", (("x", "\0"),), (), (("x-odd", "\xff\0"),), b"\0")
    executed = await world.run(script, trigger=trigger)
    assert isinstance(executed.outcome, Returned), executed.outcome
    assert world.database.psql("select count(*) from notes") == "1"
    record = await stored(world, executed.execution)
    assert record.trigger.body == b"\0"


# Flux itself fails.


@pytest.mark.parametrize(
    "frame",
    [
        [1, "http.request", ["GET", "http://a", {"headers": {"$bytes": "%%"}}]],
        [1, "http.request", ["GET", "http://a", {"body": {"$nope": 1}, "headers": [1, [2]]}]],
        [1, "db.query", ["select $1", [{"$uuid": "no"}]]],
        [1, "db.query", ["select \ud800", []]],
        [1, "db.commit", [2**70]],
        [1, "db.begin", [{}]],
    ],
)
async def test_whatever_a_guest_asks_it_is_on_record(world: ExecutionWorld, frame: list[Any]) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.write(json.dumps(frame).encode() + b"\n")
        await guest.hear()
        return "done"

    executed = await world.run(script)
    assert executed.execution.outcome.kind in ("returned", "killed"), executed.outcome
    await world.settle()
    assert len(world.records()) == 1
    assert not world.reports


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("is_brief", [True, False])
async def test_the_journal_is_full_at_any_event_and_nothing_untrue_is_told(
    world: ExecutionWorld, monkeypatch: pytest.MonkeyPatch, atomic: bool, is_brief: bool
) -> None:
    write = os.write
    left = 0

    def failing(descriptor: int, data: Any) -> int:
        nonlocal left
        if descriptor == world.backing.journal._segment.fd:
            left -= 1
            if left == -1 or (left < 0 and not is_brief):
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("flux.supervisor.journal.os.write", failing)
    is_done = False
    for n in range(60):
        world.database.psql("truncate notes; delete from flux.execution; delete from flux.transaction")
        left = n
        try:
            executed = await world.run(write_two, atomic=atomic)
        except JournalError:
            assert n == 0  # Nothing ran.
            continue
        await world.settle()
        is_done = left >= 0
        rows = world.database.psql("select count(*) from notes")
        ((outcome, kind, message),) = world.records()
        assert outcome == executed.outcome.kind, f"{n}: {kind} {message} but {executed.outcome}"
        if atomic:
            assert rows == ("2" if isinstance(executed.outcome, Returned) else "0"), (
                f"{n}: {executed.outcome}"
            )
        record = await stored(world, executed.execution)
        assert len(kept(record)) == int(rows), f"{n}: {record.mutations}"
        assert not {*undone(record)} & {*kept(record)}
        if is_done:
            break
    assert is_done and n > 8


async def test_too_many_records_that_wait_refuse_a_request_before_it_runs(
    world: ExecutionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "ROOM_S", 0.2)
    monkeypatch.setattr(world.backing.writer, "_waiting_max", 0)
    with pytest.raises(StoreStalledError):
        await world.run(write_two)
    assert world.database.psql("select count(*) from notes") == "0"
    monkeypatch.setattr(world.backing.writer, "_waiting_max", 10)
    assert isinstance((await world.run(write_two)).outcome, Returned)


# Somebody loses patience.


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_server_that_is_stopped_at_any_exchange_records_what_took_place(
    database: Database, tmp_path: Path, atomic: bool
) -> None:
    async with (
        cutting_proxy(database.server) as proxy,
        open_world(database, tmp_path / "journal", guests=proxy.options) as world,
    ):
        database.psql(SCHEMA)
        for n in range(1, 40):
            database.psql("truncate notes; delete from flux.execution; delete from flux.transaction")
            proxy.exchanges = 0
            with trio.CancelScope() as scope:
                proxy.on_exchange = partial(_cancel_at, scope, n)
                await world.run(write_two, atomic=atomic)
            await world.settle()
            execution, _ = world.heard.done_[-1]
            assert len(world.records()) == 1
            rows = database.psql("select count(*) from notes")
            if atomic:
                assert rows == ("2" if isinstance(execution.outcome, Returned) else "0"), (
                    f"{n}: {execution.outcome}"
                )
            record = await stored(world, execution)
            assert len(kept(record)) == int(rows), f"stopped at {n}: {record.mutations}"
            assert isinstance(execution.outcome, Interrupted | Returned)
            if not scope.cancel_called:
                break
        assert isinstance(execution.outcome, Returned) and n > 8


def _cancel_at(scope: trio.CancelScope, wanted: int, number: int) -> None:
    if number == wanted:
        scope.cancel()


async def test_each_end_is_told_once_and_stored_behind_it(world: ExecutionWorld) -> None:
    for script in (
        saying("select 1"),
        saying("insert into notes values (1, 'x')"),
        saying("select 1", fail=True),
    ):
        executed = await world.run(script)
        await world.settle()
        ends = [
            is_stored for execution, is_stored in world.heard.done_ if execution.id == executed.execution.id
        ]
        assert ends == [executed.stored]
        assert world.heard.stored_.count(executed.execution.id) == (not executed.stored)
    assert world.heard.too_early == []
