"""Writing records: each once, whole or saying why not, whatever the database does meanwhile.

What is there is asked of a second client; what must come back is compared with the execution that went in.
"""

import contextlib
import hashlib
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import attrs
import pytest
import trio

from flux.codec import BLOB_BYTES_MIN
from flux.execution import Execution, Interrupted, Killed, LogLine, Raised, Returned
from flux.mutation import Mutation, Operation
from flux.store import postgres_connection, postgres_limits, postgres_wire, reading, records
from flux.store.postgres import DatabaseError, Pool, connect
from flux.store.records import Record, RecordStore, RecordWriter, commit_parameters, make_record
from tests.conftest import Database
from tests.execution_world import served_on_loopback
from tests.faults.chaos_proxy import Direction, Harm, chaos_proxy
from tests.postgres_server import PostgresServer
from tests.stored_executions import TOKEN, commit_record, guest_connection, lost_host, make_execution, raised

PATIENCE_S = 180.0


def mutation(number: int, **changes: object) -> Mutation:
    """A row that was inserted in vain."""
    return attrs.evolve(
        Mutation("shop", "users", f'{{"id":{number}}}', Operation.INSERT, None, f'{{"id":{number}}}', False, 771,
                 number, 1, 1, 1_764_000_000_123_456_789),
        **changes,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running_writer(database: Database, **settings: int) -> AsyncIterator[tuple[RecordWriter, Pool]]:
    """A writer at work, and its pool."""
    pool = database.pool()
    writer = RecordWriter(pool, **settings)
    try:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(writer.run)
                yield writer, pool
                nursery.cancel_scope.cancel()
    finally:
        await pool.aclose()


async def until(is_so: Callable[[], object]) -> None:
    """Look again and again until it is so."""
    while True:
        if is_so():
            return
        await trio.sleep(0.01)


def ids_stored(database: Database) -> set[str]:
    return set(database.psql("select id from flux.execution").split())


# --- what a record says ----------------------------------------------------------------------------


async def test_the_columns_say_what_the_execution_did(database: Database) -> None:
    execution = make_execution(
        raised("HttpTimeout", "no answer", status=504, code="TIMEOUT", call=2),
        started_at_ns=1_764_000_000_123_456_789,
        dirty=True,
        parent=uuid.UUID(int=7),
        attempt=3,
        mutation_count=5,
    )
    execution = attrs.evolve(execution, calls=(*execution.calls, lost_host("https://api.stripe.com/v1/charges")))
    pool = database.pool()
    await RecordStore(pool).add(execution)
    said = database.psql(
        "select id, name, tenant, trigger, function, method, path, route, status, outcome, error_type, error_message,"
        " error_location::json->>'line', started_at at time zone 'utc', elapsed_ns, call_count, mutation_count, sha,"
        " dirty, deployment, parent, attempt, replay_of is null, xid is null, completeness, hosts_failed, format,"
        " signature"
        " from flux.execution"
    ).split("|")
    signature = said.pop()
    assert said == [
        str(execution.id), execution.name, "default", "http", "create_order", "POST", "/orders/7", "/orders/{id}",
        "504", "raised", "HttpTimeout", "no answer", "12", "2025-11-24 16:00:00.123456", "14000000", "2", "5",
        execution.sha, "t", "d-1", str(uuid.UUID(int=7)), "3", "t", "t", "whole", "{api.stripe.com}", "1",
    ]  # fmt: skip
    assert "api.stripe.com" in signature
    _, read = await reading.get_execution(pool, execution.id)
    # Nothing has really changed five rows, and that is told.
    assert read == attrs.evolve(execution, completeness=(reading.ROWS_GONE,))
    await pool.aclose()


@pytest.mark.parametrize(
    ("outcome", "columns"),
    [
        (Returned(204), "204|returned|||f"),
        (Returned(500), "500|returned|"),
        (raised("HTTPError", "no such order", status=404, code="NOT_FOUND"), "404|raised|HTTPError|no such order|f"),
        (Killed("timeout", "10s", "flux.toml:12"), "504|killed|"),
        (Interrupted("the supervisor ended"), "|interrupted|"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
async def test_status_and_failure_are_the_outcomes(database: Database, outcome: object, columns: str) -> None:
    pool = database.pool()
    await RecordStore(pool).add(make_execution(outcome))  # type: ignore[arg-type]
    said = database.psql("select status, outcome, error_type, error_message, signature is not null from flux.execution")
    assert said.startswith(columns)
    # What answers 500 and up, or nothing, has failed and is counted; 4xx that the function chose is not.
    assert said.endswith("|t") == (columns[:1] in ("5", "|"))
    await pool.aclose()


HOSTILE = {
    "nul": "a\0b",
    "half a character": "a\ud800b",
    "controls": "\x1b[2J\u202e\n\t",
    "long": "x" * 3_000_000,
    "wide": "\U0001f600" * 100_000,
    "empty": "",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_a_guest_writes_can_always_be_stored(database: Database, name: str) -> None:
    text = HOSTILE[name]
    trigger = attrs.evolve(make_execution().trigger, path=text, route=text, method=text, headers=((text, text),))
    execution = make_execution(
        raised(text, text), function=text, trigger=trigger, logs=(LogLine(1, text, text),), completeness=(text,)
    )
    other = make_execution()
    async with running_writer(database) as (writer, pool):
        for each in (execution, other):
            writer.submit(make_record(each), lambda: None)
        await writer.flush()
        assert writer.counts.reduced == 0
        summary, read = await reading.get_execution(pool, execution.id)
        assert ids_stored(database) == {str(execution.id), str(other.id)}
        if name != "half a character":
            assert read == execution
        assert summary.error_message is not None and len(summary.error_message) <= records.TEXT_CHARACTERS_MAX
        assert len(summary.function) <= records.NAME_CHARACTERS_MAX


# --- one with its transaction ----------------------------------------------------------------------


async def test_a_record_is_committed_with_the_data(
    postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres)
    tenant = f"t_{database.name}"
    pool = database.pool()
    async with guest_connection(database, tenant) as guest:
        database.psql("create table shop.orders (id int primary key)")
        database.psql(f"grant all on shop.orders to flux_guest_{tenant}")
        written, lost, read_only = make_execution(), make_execution(), make_execution()
        await guest.begin("repeatable read")
        await guest.execute("insert into orders values (1)")
        xid = await commit_record(guest, commit_parameters(make_record(written), TOKEN))
        assert ids_stored(database) == set()
        await guest.commit()

        await guest.begin()
        await guest.execute("insert into orders values (2)")
        await commit_record(guest, commit_parameters(make_record(lost), TOKEN))
        await guest.rollback()

        await guest.begin()
        assert await commit_record(guest, commit_parameters(make_record(read_only), TOKEN)) is None
        await guest.commit()

        with pytest.raises(DatabaseError, match="only a supervisor"):
            await commit_record(guest, commit_parameters(make_record(lost), b"a guess"))
    assert database.psql("select id, xid from flux.execution order by xid") == f"{written.id}|{xid}\n{read_only.id}|"
    assert database.psql("select key, xid from flux.mutation") == f'{{"id":1}}|{xid}'
    _, read = await reading.get_execution(pool, written.id)
    assert [(m.table, m.op, m.committed, m.xid) for m in read.mutations] == [("orders", "insert", True, xid)]
    await pool.aclose()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_inserting_a_record_waits_for_its_commit_and_tells_what_became_of_it(
    database: Database, ending: str
) -> None:
    execution = make_execution()
    inserted: list[bool] = []
    async with running_writer(database) as (writer, _pool), guest_connection(database) as guest:
        await guest.begin()
        await commit_record(guest, commit_parameters(make_record(execution), TOKEN))

        async def insert() -> None:
            inserted.append(await writer.insert(make_record(attrs.evolve(execution, function="recovered"))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(insert)
            await until(lambda: database.psql("select 1 from pg_stat_activity where wait_event_type = 'Lock'"))
            assert inserted == []
            await guest.execute(ending)
    assert inserted == [ending == "rollback"]
    assert database.psql("select function from flux.execution") == (
        "create_order" if ending == "commit" else "recovered"
    )


# --- many ------------------------------------------------------------------------------------------


async def test_what_is_submitted_is_stored_once_and_told_when_it_is(database: Database) -> None:
    executions = [make_execution() for _ in range(700)]
    told: list[uuid.UUID] = []
    async with running_writer(database) as (writer, pool):
        for execution in executions:
            writer.submit(make_record(execution), lambda execution=execution: told.append(execution.id))
        assert writer.counts.waiting == 700 and writer.counts.waiting_bytes > 0 and told == []
        await writer.flush()
        counts = writer.counts
        assert told == [execution.id for execution in executions]
        _, read = await reading.get_execution(pool, executions[345].id)
        assert read == executions[345]
    assert ids_stored(database) == {str(execution.id) for execution in executions}
    assert (counts.waiting, counts.waiting_bytes, counts.stored, counts.retries) == (0, 0, 700, 0)
    assert counts.stalled_since is None
    # Many at a time, or it would be one transaction each.
    assert int(database.psql("select count(distinct xmin::text) from flux.execution")) <= 4


async def test_it_is_durable_when_it_is_told(database: Database) -> None:
    found: list[str] = []
    async with running_writer(database) as (writer, _pool):
        execution = make_execution()
        writer.submit(make_record(execution), lambda: found.extend(ids_stored(database)))
        await writer.flush()
    assert found == [str(execution.id)]


async def test_a_record_that_is_there_already_does_not_spoil_its_batch(database: Database) -> None:
    executions = [make_execution() for _ in range(10)]
    told: list[uuid.UUID] = []
    async with running_writer(database) as (writer, _pool):
        writer.submit(make_record(executions[3]), lambda: None)
        await writer.flush()
        again = [attrs.evolve(execution, function="again") for execution in executions]
        for execution in (*again, again[5]):
            writer.submit(make_record(execution), lambda execution=execution: told.append(execution.id))
        await writer.flush()
        assert writer.counts.reduced == 0
    assert len(told) == 11
    assert ids_stored(database) == {str(execution.id) for execution in executions}
    assert database.psql("select id from flux.execution where function <> 'again'") == str(executions[3].id)


async def test_a_write_on_a_line_that_is_dead_keeps_no_later_one_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but its COMMIT has come to the server, which hears of no end: it would keep the record's key for hours."""
    monkeypatch.setattr(records, "WRITE_S_MAX", 0.5)
    for module, name in ((postgres_connection, "COMMIT_S_MAX"), (postgres_wire, "CANCEL_GRACE_S")):
        monkeypatch.setattr(module, name, 0.2)
    role = b"user\0" + database.options().user.encode() + b"\0"
    executions = [make_execution() for _ in range(4)]
    async with chaos_proxy(database.server) as proxy:
        pool = Pool(proxy.options(database.options()), 4)
        writer = RecordWriter(pool)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(writer.run)
                for number, execution in enumerate(executions[:3]):
                    # The second is written as the first but for what was to be learned; the third is cut at its end.
                    proxy.arm(role, Direction.OUT, Harm.HELD, proxy.seen if number == 2 else 0)
                    writer.submit(make_record(execution), lambda: None)
                    if number == 2:
                        writer.submit(make_record(executions[3]), lambda: None)
                    await writer.flush()
                assert proxy.struck and writer.counts.retries
                nursery.cancel_scope.cancel()
        proxy.disarm()
        await pool.aclose()
    assert ids_stored(database) == {str(execution.id) for execution in executions}


@contextlib.asynccontextmanager
async def slow_line(server: PostgresServer, bytes_per_s: int) -> AsyncIterator[int]:
    """A port to ``server`` that takes no more than so much from each client."""

    async def serve(client: trio.SocketStream) -> None:
        async def inward() -> None:
            while data := await backend.receive_some(65536):
                await client.send_all(data)

        try:
            async with (
                client,
                await trio.open_unix_socket(f"{server.host}/.s.PGSQL.{server.port}") as backend,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(inward)
                while data := await client.receive_some(8192):
                    await trio.sleep(len(data) / bytes_per_s)
                    await backend.send_all(data)
                nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # One end has left; so does the other.

    async with served_on_loopback(serve) as port:
        yield port


async def test_what_is_large_has_the_time_that_a_slow_line_needs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (records, "WRITE_S_MAX", 0.2), (postgres_connection, "COMMIT_S_MAX", 0.2),
        (postgres_wire, "CANCEL_GRACE_S", 0.1), (postgres_limits, "SLOW_LINE_BYTES_PER_S", 2**30),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    small = [make_execution(Returned(200, (), os.urandom(50_000))) for _ in range(4)]
    large = make_execution(Returned(200, (), os.urandom(150_000)))
    database.psql("create table sent (size int); create function note(bytea) returns bigint language sql as $$"
                  "insert into sent values (length($1)) returning 7::bigint $$")  # fmt: skip
    async with slow_line(database.server, 500_000) as port:
        pool = Pool(attrs.evolve(database.options(), host="127.0.0.1", port=port), 2)
        writer = RecordWriter(pool)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(writer.run)
                # Together they are too much for the time: fewer and fewer are tried, and they come through.
                for execution in small:
                    writer.submit(make_record(execution), lambda: None)
                await writer.flush()
                assert writer.counts.retries and writer.counts.reduced == 0
                assert ids_stored(database) == {str(execution.id) for execution in small}
                # One can't be parted: it has time by its size. The same holds for what goes with a COMMIT.
                monkeypatch.setattr(postgres_limits, "SLOW_LINE_BYTES_PER_S", 8192)
                retries = writer.counts.retries
                writer.submit(make_record(large), lambda: None)
                await writer.flush()
                assert writer.counts.retries == retries and str(large.id) in ids_stored(database)
                async with pool.acquire() as connection:
                    await connection.begin()
                    assert await connection.commit_with("select note($1)", os.urandom(150_000)) == 7
                nursery.cancel_scope.cancel()
        await pool.aclose()
    assert database.psql("select size from sent") == "150000"


async def test_a_record_that_the_database_refuses_is_stored_reduced_and_says_so(database: Database) -> None:
    good = [make_execution() for _ in range(5)]
    bad = make_execution(raised(), mutations=(mutation(1, after="{no json"),), mutation_count=1)
    told: list[str] = []
    async with running_writer(database) as (writer, pool):
        for execution in (*good[:2], bad, *good[2:]):
            writer.submit(make_record(execution), lambda: told.append("stored"))
        await writer.flush()
        assert len(told) == 6 and writer.counts.reduced == 1
        for execution in good:
            assert (await reading.get_execution(pool, execution.id))[1] == execution
        summary, read = await reading.get_execution(pool, bad.id)
    assert (read.calls, read.mutations, read.logs) == ((), (), ())
    assert read.outcome == bad.outcome and read.mutation_count == 1
    sentence, gone = read.completeness
    assert sentence.startswith("the record can't be stored whole (") and "json" in sentence
    assert (gone, summary.completeness) == (reading.ROWS_GONE, (sentence,))


async def test_large_payloads_are_stored_once_beside_the_records(database: Database) -> None:
    body = b"0123456789" * BLOB_BYTES_MIN
    executions = [make_execution(Returned(200, (), body)) for _ in range(3)]
    async with running_writer(database) as (writer, pool):
        for execution in executions:
            writer.submit(make_record(execution), lambda: None)
        await writer.write_blobs(make_record(executions[0]).blobs)
        await writer.flush()
        for execution in executions:
            assert (await reading.get_execution(pool, execution.id))[1] == execution
        database.psql("delete from flux.blob")
        _, read = await reading.get_execution(pool, executions[0].id)
    assert isinstance(read.outcome, Returned) and read.outcome.body == b""
    assert hashlib.sha256(body).hexdigest() in read.completeness[0]


async def test_rows_that_were_changed_in_vain_are_in_their_history(database: Database) -> None:
    database.psql("create schema shop; create table shop.users (id int primary key)")
    lost = tuple(mutation(number) for number in range(1, 450))
    first = make_execution(raised(), mutations=(*lost, mutation(7, committed=True)), mutation_count=450)
    second = make_execution()
    async with running_writer(database) as (writer, pool):
        writer.submit(make_record(first), lambda: None)
        writer.submit(make_record(first), lambda: None)
        await writer.flush()
        await writer.add_rolled_back(second.id, [mutation(7, at_ns=0)])
        (after, before) = await reading.list_row_history(pool, "shop", "users", "7")
        _, read = await reading.get_execution(pool, first.id)
    assert read.mutations == lost
    assert database.psql("select count(*), sum(committed::int) from flux.mutation") == "450|0"
    assert (before.execution, before.name, before.outside, before.version) == (first.id, first.name, False, None)
    assert before.mutation == attrs.evolve(mutation(7), call=None, at_ns=1_764_000_000_123_456_000)
    assert after.execution is None  # It has no record, and nothing is made up for it.


# --- when the database is away ---------------------------------------------------------------------


@contextlib.contextmanager
def locked(database: Database) -> Iterator[Callable[[], None]]:
    """Another client holds a lock on the table of records; call what it gives to release it."""
    server = database.server
    with subprocess.Popen(
        [server.bin_dir / "psql", "-X", "-q", "-h", server.host, "-p", str(server.port), "-U", server.user,
         database.name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("begin; lock table flux.execution;\n\\echo locked\n")
        process.stdin.flush()
        assert process.stdout.readline() == "locked\n"
        yield process.stdin.close
        process.stdin.close()


async def test_while_the_store_stalls_records_wait_and_new_work_is_held_back(database: Database) -> None:
    executions = [make_execution() for _ in range(30)]
    async with running_writer(database, waiting_max=20) as (writer, _pool):
        with locked(database) as release:
            for execution in executions[:20]:
                await writer.wait_room()
                writer.submit(make_record(execution), lambda: None)
            with trio.move_on_after(1.5) as scope:
                await writer.wait_room()
            assert scope.cancelled_caught, "there is no room for a 21st"
            assert writer.counts.waiting == 20 and writer.counts.stalled_since is not None
            release()
        for execution in executions[20:]:
            await writer.wait_room()
            writer.submit(make_record(execution), lambda: None)
        await writer.flush()
        assert writer.counts.stalled_since is None
    assert ids_stored(database) == {str(execution.id) for execution in executions}


async def test_records_outlast_a_database_that_is_down(database: Database) -> None:
    executions = [make_execution() for _ in range(300)]
    async with running_writer(database) as (writer, _pool):
        writer.submit(make_record(executions[0]), lambda: None)
        await writer.flush()
        server = database.server
        server.psql(f"alter database {database.name} allow_connections false")
        server.psql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database.name}'")
        for execution in executions[1:]:
            writer.submit(make_record(execution), lambda: None)
        await until(lambda: writer.counts.retries >= 2)
        assert writer.counts.waiting == 299 and writer.counts.stalled_since is not None
        assert "not currently accepting connections" in writer.counts.last_error
        server.psql(f"alter database {database.name} allow_connections true")
        await writer.flush()
        assert writer.counts.stalled_since is None
    assert ids_stored(database) == {str(execution.id) for execution in executions}


async def test_servers_processes_that_are_killed_lose_and_double_nothing(database: Database) -> None:
    executions = [make_execution() for _ in range(2000)]
    told: list[uuid.UUID] = []
    async with running_writer(database) as (writer, _pool):

        async def keep_killing() -> None:
            for _ in range(15):
                database.server.psql(
                    f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database.name}'"
                )
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_killing)
            for execution in executions:
                writer.submit(make_record(execution), lambda execution=execution: told.append(execution.id))
                if len(told) % 50 == 0:
                    await trio.sleep(0.001)
        await writer.flush()
        assert writer.counts.reduced == 0
    assert told == [execution.id for execution in executions]
    assert database.psql("select count(*), count(distinct id) from flux.execution") == "2000|2000"


async def test_a_writer_that_is_cancelled_keeps_what_is_not_stored(database: Database) -> None:
    executions = [make_execution() for _ in range(600)]
    pool = database.pool()
    writer = RecordWriter(pool)
    told: list[uuid.UUID] = []
    for execution in executions:
        writer.submit(make_record(execution), lambda execution=execution: told.append(execution.id))
    for delay_s in (0.0, 0.012, 0.02, 0.03):
        with trio.move_on_after(delay_s):
            await writer.run()
        assert writer.counts.waiting + len(told) == 600
        assert {str(each) for each in told} <= ids_stored(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await writer.flush()
        nursery.cancel_scope.cancel()
    assert told == [execution.id for execution in executions]
    assert ids_stored(database) == {str(execution.id) for execution in executions}
    await pool.aclose()


async def test_an_error_of_the_database_is_never_taken_for_success(database: Database) -> None:
    pool = database.pool()
    store = RecordStore(pool)
    execution = make_execution()
    assert not await store.exists(execution.id)
    database.psql("alter table flux.execution rename to elsewhere")
    with pytest.raises(DatabaseError, match="does not exist"):
        await store.add(execution)
    with pytest.raises(DatabaseError, match="does not exist"):
        await store.exists(execution.id)
    database.psql("alter table flux.elsewhere rename to execution")
    await store.add(execution)
    await store.add(execution)
    assert await store.exists(execution.id)
    await pool.aclose()


def test_a_record_larger_than_the_database_takes_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECORD_BODY_BYTES_MAX", 2000)
    execution = make_execution(logs=tuple(LogLine(n, "info", uuid.uuid4().hex) for n in range(200)))
    record: Record = make_record(execution)
    assert record.values[-1] and len(record.values[-1]) <= 2000  # type: ignore[arg-type]
    completeness = dict(zip(records.COLUMNS, record.values, strict=True))["completeness"]
    assert isinstance(completeness, str) and "can't be stored whole (it has" in completeness


async def test_a_connection_is_not_needed_for_nothing(database: Database) -> None:
    connection = await connect(database.options())
    await connection.aclose()
    closed = Pool(database.options(), 1)
    await closed.aclose()
    writer = RecordWriter(closed)
    await writer.write_blobs(())
    await writer.add_rolled_back(uuid.UUID(int=1), ())


def test_an_execution_is_not_changed_by_making_its_record() -> None:
    execution: Execution = make_execution(Raised("KeyError", "x"), mutations=(mutation(1), mutation(2, committed=True)))
    before = attrs.asdict(execution, recurse=False)
    make_record(execution)
    assert attrs.asdict(execution, recurse=False) == before
