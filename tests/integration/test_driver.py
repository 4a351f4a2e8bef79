"""The driver's promises: what is answered is right, and what is cut short leaves a usable connection.

The oracle for what the server did is a second client, ``psql``. Nothing here
asserts how long something takes; deadlines only keep a broken driver from
hanging the tests.
"""

import os
import random
import signal
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from flux.store import postgres_connection
from flux.store.postgres import (
    AnswerTooLarge,
    BadQueryArgument,
    CannotConnect,
    CommitUnknown,
    Connection,
    ConnectionBusy,
    ConnectionLost,
    ConnectOptions,
    DatabaseError,
    Isolation,
    Notice,
    Pool,
    StatementRefused,
    TlsMode,
    UnreadableAnswer,
    connect,
)
from flux.store.postgres_bracket import CommitBehind
from flux.store.postgres_messages import MarkedValue
from tests.faults.chaos_proxy import chaos_proxy
from tests.postgres_server import PostgresServer, running_postgres

STORM_S = 12.0
STORM_OPERATIONS = 6000


def options(server: PostgresServer, **more: object) -> ConnectOptions:
    return ConnectOptions(**{"host": server.host, "port": server.port, "user": "postgres", **more})  # type: ignore[arg-type]


@pytest.fixture
async def connection(postgres18: PostgresServer) -> AsyncIterator[Connection]:
    opened = await connect(options(postgres18))
    yield opened
    await opened.aclose()


# Answers.


async def test_an_answer_has_its_columns_rows_and_tag(connection: Connection) -> None:
    await connection.execute("create temp table things (id int primary key, name text)")
    insert = "insert into things values ($1, $2), (2, null) returning id, name as called"
    inserted = await connection.run(insert, (1, "ä"))
    assert inserted.rows == [(1, "ä"), (2, None)]
    assert inserted.tag == "INSERT 0 2"
    assert [(column.name, column.type_name, column.column_number) for column in inserted.columns] == [
        ("id", "int4", 1), ("called", "text", 2)
    ]  # fmt: skip
    empty = await connection.run("select id as x, id as x from things where false")
    assert ([column.name for column in empty.columns], empty.rows, empty.tag) == (["x", "x"], [], "SELECT 0")
    assert (await connection.run("update things set name = 'b'")).columns == ()
    assert await connection.execute("") == ""
    assert await connection.fetch_row("select 1 where false") is None
    assert await connection.fetch_value("select null") is None


async def test_a_script_of_many_statements_is_one_transaction(connection: Connection) -> None:
    assert await connection.execute("create temp table a (i int); insert into a values (1), (2)") == "INSERT 0 2"
    with pytest.raises(DatabaseError) as caught:
        await connection.execute("insert into a values (3); select 1/0")
    assert caught.value.sqlstate == "22012"
    assert await connection.fetch_value("select count(*) from a") == 2


async def test_an_error_carries_every_field_of_the_servers_report(connection: Connection) -> None:
    await connection.execute("create temp table named (id int constraint the_key primary key, n int check (n > 0))")
    await connection.execute("insert into named values (1, 1)")
    with pytest.raises(DatabaseError) as caught:
        await connection.execute("insert into named values ($1, 1)", 1)
    error = caught.value
    assert (error.sqlstate, error.constraint, error.table) == ("23505", "the_key", "named")
    assert error.detail == "Key (id)=(1) already exists."
    with pytest.raises(DatabaseError) as caught:
        await connection.fetch("select id,\n nonsense from named")
    assert (caught.value.sqlstate, caught.value.position) == ("42703", 13)
    assert await connection.fetch_value("select 1") == 1


@pytest.mark.parametrize(
    ("sql", "arguments"),
    [("select $1::int", ("x",)), ("select $1::int", (2**40,)), ("select $1::int", ()), ("select $1::int", (1, 2)),
     ("select $1::uuid", ("no",)), ("select $1::int[]", (5,)), ("select $1::date", (1.5,)),
     ("select $1::text", (b"x",))],
)  # fmt: skip
async def test_an_argument_that_does_not_fit_is_refused_and_leaves_no_transaction(
    postgres18: PostgresServer, connection: Connection, sql: str, arguments: tuple[object, ...]
) -> None:
    for _ in range(2):  # prepared for the first time, then from the cache
        with pytest.raises(BadQueryArgument):
            await connection.fetch(sql, *arguments)
        state = f"select state, backend_xmin is null from pg_stat_activity where pid = {connection.backend_pid}"
        assert postgres18.psql(state) == "idle|t", "the server waits for the next statement and holds no snapshot"
    assert not connection.in_transaction
    assert await connection.fetch_value("select 1") == 1


async def test_notices_arrive_in_order_and_before_the_answer(connection: Connection) -> None:
    heard: list[Notice] = []
    connection.on_notice = heard.append
    await connection.execute(
        "do $$ begin for i in 1..500 loop raise notice 'n%', i using detail = repeat('ä', i); end loop; end $$"
    )
    assert [notice.message for notice in heard] == [f"n{i}" for i in range(1, 501)]
    assert heard[-1].detail == "ä" * 500
    with pytest.raises(DatabaseError):
        await connection.execute("do $$ begin raise notice 'last words'; raise exception 'no'; end $$")
    assert heard[-1].message == "last words"


async def test_what_a_notices_callback_raises_the_statement_raises(connection: Connection) -> None:
    def refuse(_: Notice) -> None:
        raise LookupError("not today")

    connection.on_notice = refuse
    with pytest.raises(LookupError, match="not today"):
        await connection.execute("do $$ begin raise notice 'x'; end $$")
    connection.on_notice = None
    assert await connection.fetch_value("select 1") == 1


async def test_one_connection_is_one_tasks(connection: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.fetch, "select pg_sleep(300)")
        await trio.sleep(0.05)
        with pytest.raises(ConnectionBusy):
            await connection.fetch("select 1")
        nursery.cancel_scope.cancel()


async def test_a_changed_table_does_not_spoil_a_prepared_statement(connection: Connection) -> None:
    await connection.execute("create temp table shape (a int)")
    await connection.execute("insert into shape values (1)")
    assert await connection.fetch_row("select * from shape") == (1,)
    await connection.execute("alter table shape add column b text default 'new'; alter table shape alter a type text")
    assert await connection.fetch_row("select * from shape") == ("1", "new")
    await connection.execute("deallocate all")
    assert await connection.fetch_row("select * from shape") == ("1", "new")


async def test_a_statement_sent_along_is_this_very_one_whatever_sql_prepared(connection: Connection) -> None:
    ours = "select pg_catalog.concat($1::text, ' is ', pg_catalog.current_setting('transaction_isolation'), $2::int4)"
    for number in range(3):
        assert await connection.fetch_value_anew(ours, "it", number) == f"it is read committed{number}"
        # Each takes what was in the unnamed statement's place, or would take ours if it had a name.
        await connection.fetch_value_anew("select 1")
        await connection.execute("deallocate all")
        for name in (f"flux_{taken}" for taken in range(1, 9)):
            await connection.execute(f"prepare {name}(text, int) as select 'another'")
        await connection.execute("deallocate all")
        with pytest.raises(BadQueryArgument):
            await connection.fetch_value_anew(ours, "it", "no number")
        assert not connection.in_transaction


async def test_a_transaction_is_opened_and_asked_in_one_go(connection: Connection) -> None:
    isolation = "select concat(current_setting('transaction_isolation'), ' ', pg_current_snapshot())"
    for level in Isolation:
        told = await connection.begin_and_fetch(level, isolation)
        assert connection.in_transaction
        assert told == await connection.fetch_value(isolation)
        assert told.rpartition(" ")[0] == level.lower()
        await connection.rollback()
    with pytest.raises(DatabaseError) as caught:
        await connection.begin_and_fetch(Isolation.SERIALIZABLE, "select 1 / 0")
    assert caught.value.sqlstate == "22012"
    await connection.settle()
    assert await connection.begin_and_fetch(Isolation.READ_COMMITTED, "select 'ä'") == "ä"
    await connection.rollback()


async def test_a_commit_and_a_session_made_as_new_go_in_one_packet(postgres: PostgresServer) -> None:
    connection = await connect(options(postgres))
    await connection.execute(
        "create table noted (n int primary key);"
        "create table due (n int references noted deferrable initially deferred)"
    )
    add = "insert into noted values ($1)"

    async def touch() -> None:
        connection.is_dirty = True
        await connection.begin()
        await connection.execute(
            "listen noted; notify noted; set work_mem = '99MB'; create temp table kept_back (n int);"
            "select pg_advisory_lock(7); declare left_open cursor with hold for select 1"
        )

    async def check_new(rows: str) -> None:
        assert postgres.psql("select string_agg(n::text, ',' order by n) from noted") == rows
        assert not connection.in_transaction
        assert await connection.fetch_row(
            "select current_setting('work_mem') <> '99MB', to_regclass('kept_back') is null,"
            " (select count(*) from pg_cursors where name = 'left_open'),"
            " (select count(*) from pg_listening_channels())"
        ) == (True, True, 0, 0)
        assert postgres.psql("select pg_try_advisory_lock(7)") == "t"
        with trio.move_on_after(0) as soon:
            await connection.wait_notification()
        assert soon.cancelled_caught, "what it notified itself of is not told to the next"

    for number in (1, 2):  # Its statement stays prepared.
        await touch()
        await connection.execute(add, number)
        await connection.commit_and_reset()
        assert not connection.is_dirty
        await check_new("1,2"[: 2 * number - 1])

    await touch()
    await connection.execute(add, 3)
    await connection.execute("insert into due values (100)")
    with pytest.raises(DatabaseError) as caught:
        await connection.commit_and_reset()  # Refused at COMMIT: the server looks at nothing behind it.
    assert (caught.value.sqlstate, connection.is_dirty) == ("23503", True)
    await connection.reset()
    await check_new("1,2")

    await touch()
    with pytest.raises(DatabaseError):
        await connection.execute(add, 1)
    with pytest.raises(DatabaseError) as caught:
        await connection.commit_and_reset()
    assert caught.value.sqlstate == "25P02"
    await check_new("1,2")

    for insult in ("do $$ begin raise notice 'first' using detail = repeat('C', 20000); end $$", "select 1"):
        await touch()
        await connection.execute(add, 4 if insult == "select 1" else 3)
        await connection.execute(f"{insult}; prepare another as select 1")
        await connection.commit_and_reset()  # It took place, and nobody uses this session again.
        assert connection.is_closed
        connection = await connect(options(postgres))
    await check_new("1,2,3,4")
    await connection.aclose()


async def test_a_last_statement_and_commit_go_in_one_packet_and_together_or_not_at_all(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, other = await connect(options(postgres)), await connect(options(postgres))
    await connection.execute(
        "create temp table held (n int primary key);"
        "create temp table owed (n int references held deferrable initially deferred)"
    )
    notices: list[str] = []
    connection.on_notice = lambda notice: notices.append(notice.message)
    add = "insert into held values ($1) returning n"
    for number in range(3):  # Learned, and then sent along.
        await connection.begin()
        assert await connection.commit_with(add, number) == number
        assert not connection.in_transaction
        await connection.execute("rollback")  # There is nothing any more that it could undo.
        assert await connection.fetch_value("select max(n) from held") == number
    assert "there is no transaction in progress" in notices

    async def refuse(sqlstate: str, sql: str, *arguments: object, before: str = "select 1") -> None:
        await connection.begin()
        await connection.execute(f"{before}; insert into held values (100)")
        with pytest.raises(DatabaseError) as caught:
            await connection.commit_with(sql, *arguments)
        assert caught.value.sqlstate == sqlstate
        await connection.settle()
        assert await connection.fetch_value("select count(*) from held") == 3, "nothing of it is there"

    for _ in range(2):
        await refuse("23505", add, 1)  # The statement fails: COMMIT is not reached.
        await refuse("23503", add, 50, before="insert into owed values (77)")  # COMMIT itself fails.
    await connection.begin()
    with pytest.raises(DatabaseError):
        await connection.execute("select 1 / 0")
    with pytest.raises(DatabaseError) as caught:
        await connection.commit_with(add, 60)
    assert caught.value.sqlstate == "25P02"
    await connection.settle()
    await connection.begin()
    with pytest.raises(BadQueryArgument):
        await connection.commit_with(add, "no number")
    assert connection.in_transaction, "nothing was sent"
    assert await connection.commit_with(add, 3) == 3

    # What others send arrives behind COMMIT's answer; who is cancelled hears the answer first.
    await connection.listen("noise")
    await connection.begin()
    await other.execute("select pg_notify('noise', repeat('C', 7999))")
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await connection.commit_with(add, 4) == 4
    with trio.fail_after(120):
        assert (await connection.wait_notification()).payload == "C" * 7999
    assert await connection.fetch_value("select count(*) from held") == 5

    # What a session tells itself comes behind COMMIT as well, and it is no answer that could be too large.
    await connection.listen("self")
    connection.answer_bytes_max = 100_000
    for commit in (lambda: connection.commit_with(add, 5), connection.commit):
        await connection.begin()
        await connection.execute("select pg_notify('self', g || repeat('x', 7900)) from generate_series(1, 200) g")
        await commit()
        assert not connection.in_transaction
        assert await connection.fetch_value("select count(*) from held") == 6
    with pytest.raises(AnswerTooLarge):
        await connection.fetch_value("select repeat('x', 200000)")
    connection.answer_bytes_max = None

    # Not carried out in time. Where the server says what became of it, that is known, and the session lives on.
    monkeypatch.setattr(postgres_connection, "COMMIT_S_MAX", 0.3)
    await other.execute(
        "create table locked (n int);"
        "create function add(n int) returns int language plpgsql as "
        "$$ begin insert into locked values (n); return n; end $$"
    )
    async with other.transaction():
        await other.execute("lock table locked")
        await connection.begin()
        with pytest.raises(DatabaseError, match="nothing was committed") as caught:
            await connection.commit_with("select add($1)", 1)
        assert caught.value.sqlstate == "57014" and connection.in_transaction
        await connection.settle()
        await connection.begin()
        with pytest.raises(DatabaseError, match="nothing was committed"):
            await connection.commit_with("select add($1)", 1)
        await connection.settle()
    assert await other.fetch_value("select count(*) from locked") == 0
    # COMMIT waits for a standby that never comes; ended, it has taken place here.
    await connection.execute("set synchronous_commit = on")
    postgres.psql("alter system set synchronous_standby_names = 'nobody'")
    postgres.psql("select pg_reload_conf()")
    try:
        with trio.fail_after(120):
            # The server takes the setting up in its own time.
            while await connection.fetch_value("show synchronous_standby_names") != "nobody":  # noqa: ASYNC110
                await trio.sleep(0.01)
        notices.clear()
        await connection.begin()
        commits = 1
        with trio.fail_after(120):
            # Nobody waits before the checkpointer has taken it up as well, and that can't be asked.
            while await connection.commit_with("select add($1)", 1) is not None:
                await connection.begin()
                commits += 1
        assert not connection.in_transaction
        assert "canceling wait for synchronous replication due to user request" in notices
        assert await other.fetch_value("select count(*) from locked") == commits
    finally:
        postgres.psql("alter system reset synchronous_standby_names")
        postgres.psql("select pg_reload_conf()")
        await other.execute("drop function add; drop table locked")
    monkeypatch.undo()

    # Ended by the server in the middle: nobody knows.
    await connection.begin()
    pid = connection.backend_pid
    with pytest.raises(CommitUnknown):
        await connection.commit_with("select pg_terminate_backend($1)", pid)
    assert connection.is_closed
    await other.aclose()


def test_what_comes_behind_a_packets_answer_is_taken_in_to_the_last_byte() -> None:
    """What waits for the end of a transaction comes in the same read as that, and may be cut there."""
    row = row_of("7")
    complete, ready = (kind + struct.pack("!i", 4 + len(body)) + body for kind, body in (
        (b"C", b"INSERT 0 1\x00"), (b"Z", b"I")))
    asked = b"2\x00\x00\x00\x04" + row + complete
    commit = b"1\x00\x00\x00\x042\x00\x00\x00\x04C" + struct.pack("!i", 11) + b"COMMIT\x00"
    noise = b"A" + struct.pack("!i", 4 + 5_000) + b"C" * 5_000
    stream = asked + commit + ready + noise
    end = len(stream) - len(noise)
    for cut in range(1, len(stream)):
        behind = CommitBehind()
        first = behind.take(stream[:cut])
        assert cut < end or (first, behind.tag) == (asked + ready + noise[: cut - end], "COMMIT"), cut
        assert first + behind.take(stream[cut:]) == asked + ready + noise, cut


async def test_what_a_session_heard_before_is_not_taken_for_the_answer_to_a_question(postgres: PostgresServer) -> None:
    listening, other = await connect(options(postgres)), await connect(options(postgres))
    await listening.listen("noise")
    # The server sends these at once, as 8 KiB each that end in the midst of a message. One read takes some of them.
    async with other.transaction():
        for number in range(20):
            await other.execute("select pg_notify('noise', $1)", f"{number:04d}".ljust(7_999, "D"))
    with trio.fail_after(120):
        await listening.wait_notification()
        told = await listening.begin_and_fetch(Isolation.READ_COMMITTED, "select concat(7, pg_current_snapshot())")
        assert told == "7" + await listening.fetch_value("select pg_current_snapshot()::text")
        await listening.rollback()
        rest = [(await listening.wait_notification()).payload[:4] for _ in range(19)]
    assert rest == [f"{number:04d}" for number in range(1, 20)], "and none of what it was told is lost"
    await listening.aclose()
    await other.aclose()


def row_of(*texts: str) -> bytes:
    columns = b"".join(struct.pack("!i", len(text)) + text.encode() for text in texts)
    return b"D" + struct.pack("!ih", 6 + len(columns), len(texts)) + columns


def test_a_row_without_the_mark_is_nobodys_answer_wherever_it_stands() -> None:
    answer = MarkedValue()
    assert answer.find_text() is None
    forged = (row_of("1:1: 2020"), row_of("0" * 32, "1:1: 2020"), row_of(MarkedValue().mark, "1:1: 2020"))
    for data in (b"the rest of a message", *forged, row_of(answer.mark, "7:7: 2026")[:-3]):
        answer(data)
    answer(row_of(answer.mark, "7:7: 2026")[-3:] + row_of(answer.mark, "1:1: 2020"))
    assert answer.find_text() == "7:7: 2026"


async def test_how_a_statement_takes_its_values_is_learned_anew_after_a_failure(connection: Connection) -> None:
    await connection.execute("create temp table seen (number int, at text)")
    add = "insert into pg_temp.seen values ($1, $2) returning number"
    assert [await connection.fetch_value_anew(add, number, "then") for number in (1, 2)] == [1, 2]
    await connection.execute("alter table seen alter number type bigint")  # As a newer Flux's migration might.
    with pytest.raises(DatabaseError):
        await connection.fetch_value_anew(add, 3, "now")
    for number in (2**40, 2**41):
        assert await connection.fetch_value_anew(add, number, "now") == number
    assert await connection.fetch_value("select count(*) from seen") == 4


async def test_more_statements_than_are_kept_prepared_still_work(postgres18: PostgresServer) -> None:
    for kept in (0, 1, 5):
        connection = await connect(options(postgres18, statement_cache_size=kept))
        for number in range(40):
            assert await connection.fetch_value(f"select $1::int + {number % 20}", 1) == 1 + number % 20
        held = await connection.fetch_value("select count(*) from pg_prepared_statements")
        assert held <= kept + 1
        await connection.aclose()


# COPY.


async def test_copy_adds_all_records_or_none(postgres18: PostgresServer, connection: Connection) -> None:
    await connection.execute('drop table if exists "Copied ""x"')
    await connection.execute('create table "Copied ""x" (id int, "näme" text, b bytea)')
    columns = ("id", "näme", "b")
    count = await connection.copy_records(
        'Copied "x', columns, ((i, "☃" * (i % 50), b"\0" * 100) for i in range(20_000)), schema="public"
    )
    assert count == 20_000
    summed = postgres18.psql('select count(*), sum(id), sum(length("näme")) from "Copied ""x"')
    assert summed == f"20000|{sum(range(20_000))}|{sum(i % 50 for i in range(20_000))}"

    def broken() -> Iterator[tuple[int, str, bytes]]:
        for i in range(30_000):
            yield (i, "x", b"")
        raise LookupError("the source failed")

    with pytest.raises(LookupError, match="the source failed"):
        await connection.copy_records('Copied "x', columns, broken())
    with pytest.raises(BadQueryArgument, match="record 2"):
        await connection.copy_records('Copied "x', columns, [(1, "x", b""), ("one", "x", b"")])
    with pytest.raises(DatabaseError):
        await connection.copy_records("missing", columns, [])
    assert await connection.copy_records('Copied "x', columns, []) == 0
    assert postgres18.psql('select count(*) from "Copied ""x"') == "20000"
    assert not connection.in_transaction


async def test_copy_that_is_cancelled_adds_nothing(postgres18: PostgresServer, connection: Connection) -> None:
    await connection.execute("drop table if exists endless; create table endless (id int, t text)")
    with trio.move_on_after(0.2) as scope:
        await connection.copy_records("endless", ("id", "t"), ((1, "x" * 1000) for _ in iter(int, 1)))
    assert scope.cancelled_caught
    assert await connection.fetch_value("select count(*) from endless") == 0
    assert postgres18.psql("select count(*) from endless") == "0"


async def test_copy_with_the_client_is_refused_in_sql(connection: Connection) -> None:
    with pytest.raises(StatementRefused):
        await connection.fetch("copy pg_class to stdout")
    with pytest.raises(DatabaseError):
        await connection.execute("create temp table c (i int); copy c from stdin; select 1")
    assert await connection.fetch_value("select 1") == 1


# Transactions.


async def test_transactions_nest_and_end_as_their_blocks_do(postgres18: PostgresServer, connection: Connection) -> None:
    await connection.execute("drop table if exists kept; create table kept (i int)")
    async with connection.transaction(isolation=Isolation.SERIALIZABLE):
        assert await connection.fetch_value("show transaction_isolation") == "serializable"
        await connection.execute("insert into kept values (1)")
        with pytest.raises(DatabaseError):
            async with connection.transaction():
                await connection.execute("insert into kept values (2)")
                await connection.execute("select 1/0")
        async with connection.transaction():
            await connection.execute("insert into kept values (3)")
        with pytest.raises(StatementRefused):
            async with connection.transaction(read_only=True):
                pass
    with pytest.raises(LookupError):
        async with connection.transaction():
            await connection.execute("insert into kept values (4)")
            raise LookupError
    with pytest.raises(DatabaseError) as caught:
        async with connection.transaction(read_only=True):
            await connection.execute("insert into kept values (5)")
    assert caught.value.sqlstate == "25006"
    assert postgres18.psql("select string_agg(i::text, ',' order by i) from kept") == "1,3"


async def test_a_transaction_whose_client_says_no_more_is_ended_by_the_server(postgres: PostgresServer) -> None:
    gone, other = await connect(options(postgres)), await connect(options(postgres))
    names = "name in ('transaction_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout')"
    with trio.fail_after(120):
        async with gone.transaction(most_s=3600):
            limits = f"select array_agg(setting) from pg_settings where {names} and setting <> '0'"
            assert set(await gone.fetch_value(limits)) == {"3600000"}
            with pytest.raises(StatementRefused):
                async with gone.transaction(most_s=1):
                    pass
        assert await gone.fetch_value(limits) is None, "of this transaction only"

        await gone.begin(most_s=0.3)
        await gone.execute("select pg_advisory_xact_lock(77)")
        await other.execute("select pg_advisory_xact_lock(77)")  # As soon as it is free.
        with pytest.raises(ConnectionLost):
            await gone.execute("select 1")
    await other.aclose()


async def test_what_a_trigger_says_at_commit_is_not_heard_without_bounds(postgres: PostgresServer) -> None:
    """A value of a gigabyte would have to be taken whole; hung up on, nobody knows whether the COMMIT took place."""
    for how in ("commit", "commit_and_reset", "commit_with"):
        connection = await connect(options(postgres, answer_bytes_max=2**20))
        connection.on_notice = lambda _notice: None
        await connection.begin()
        await connection.execute(
            "create temp table loud (n int); create function pg_temp.shout() returns trigger language plpgsql as "
            "$$ begin raise notice '%', repeat('x', 64 * 1024 * 1024); return null; end $$;"
            "create constraint trigger shouts after insert on loud deferrable initially deferred "
            "for each row execute function pg_temp.shout(); insert into loud values (1)"
        )
        end = {"commit": connection.commit, "commit_and_reset": connection.commit_and_reset}
        with trio.fail_after(120), pytest.raises(CommitUnknown, match="not heard out"):
            await (end[how]() if how in end else connection.commit_with("select 1"))
        assert connection.is_closed and connection._wire._answer_bytes < 8 * 2**20


async def test_a_line_on_which_nothing_is_heard_is_given_up_after_two_minutes(postgres18: PostgresServer) -> None:
    async with chaos_proxy(postgres18) as proxy:
        connection = await connect(proxy.options(options(postgres18, tls=TlsMode.DISABLE)))
        sock = connection._wire.socket
        tcp = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in PROBING}
        assert tcp == PROBING and sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        await connection.aclose()


PROBING = {"KEEPIDLE": 30, "KEEPINTVL": 10, "USER_TIMEOUT": 120_000}
"""tcp(7); the last is in milliseconds."""


async def test_of_an_error_that_cannot_be_read_nobody_says_that_its_statement_ran(connection: Connection) -> None:
    await connection.execute("set client_encoding = 'LATIN1'")
    with pytest.raises(UnreadableAnswer, match="whether the statement ran is not known"):
        await connection.fetch("select ('caf' || chr(233))::int")
    await connection.execute("set client_encoding = 'UTF8'")
    with pytest.raises(DatabaseError, match="caf\u00e9") as caught:
        await connection.fetch("select ('caf' || chr(233))::int")
    assert caught.value.sqlstate == "22P02"


async def test_commit_after_a_failed_statement_says_that_it_rolled_back(connection: Connection) -> None:
    await connection.begin()
    with pytest.raises(DatabaseError):
        await connection.execute("select 1/0")
    assert connection.in_transaction
    with pytest.raises(DatabaseError, match="rolled back at COMMIT"):
        await connection.commit()
    assert not connection.in_transaction


# Notifications.


async def test_notifications_are_heard_in_order(postgres18: PostgresServer, connection: Connection) -> None:
    await connection.listen('Channel "ä"')
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                await trio.to_thread.run_sync(
                    postgres18.psql, """select pg_notify('Channel "ä"', 'n' || i) from generate_series(1, 300) i"""
                )

            nursery.start_soon(tell)
            heard = [await connection.wait_notification() for _ in range(300)]
    assert [notification.payload for notification in heard] == [f"n{i}" for i in range(1, 301)]
    assert {notification.channel for notification in heard} == {'Channel "ä"'}
    with trio.move_on_after(0.1) as scope:
        await connection.wait_notification()
    assert scope.cancelled_caught
    assert await connection.fetch_value("select 1") == 1


# Cancellation.


async def test_a_cancelled_statement_is_ended_on_the_server(postgres18: PostgresServer, connection: Connection) -> None:
    with trio.move_on_after(0.2) as scope:
        await connection.execute("select pg_sleep(300)")
    assert scope.cancelled_caught
    assert postgres18.psql(f"select state from pg_stat_activity where pid = {connection.backend_pid}") == "idle"
    assert await connection.fetch_value("select 42") == 42


async def test_a_cancelled_statement_inside_a_transaction_fails_the_transaction_only(connection: Connection) -> None:
    await connection.begin()
    with trio.move_on_after(0.1):
        await connection.execute("select pg_sleep(300)")
    assert connection.in_transaction
    with pytest.raises(DatabaseError) as caught:
        await connection.fetch("select 1")
    assert caught.value.sqlstate == "25P02"
    await connection.settle()
    assert await connection.fetch_value("select 1") == 1


async def test_a_cancelled_begin_leaves_no_transaction_in_the_pool(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 1)
    for _ in range(100):
        with trio.move_on_after(random.random() * 0.002):
            async with pool.acquire() as connection:
                await connection.begin()
                await trio.sleep_forever()
        async with pool.acquire() as connection:
            assert not connection.in_transaction
            idle = f"select state from pg_stat_activity where pid = {connection.backend_pid}"
            assert postgres18.psql(idle) == "idle"
    assert pool.counts.open <= 1
    await pool.aclose()


async def test_a_cancelled_commit_waits_for_its_answer(postgres18: PostgresServer, connection: Connection) -> None:
    await connection.execute(
        "drop table if exists slow; create table slow (i int);"
        "create or replace function wait() returns trigger language plpgsql as "
        "'begin perform pg_sleep(0.3); return null; end';"
        "create constraint trigger wait after insert on slow initially deferred for each row execute function wait()"
    )
    await connection.begin()
    await connection.execute("insert into slow values (1)")
    with trio.move_on_after(0.05) as scope:
        await connection.commit()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not connection.in_transaction
    assert postgres18.psql("select count(*) from slow") == "1"


class Storm:
    """Many tasks, one pool, deadlines at random: whoever gets an answer gets the right one."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.counts: Counter[str] = Counter()
        self.committed = 0

    async def work(self, seed: int, deadline: float) -> None:
        draw = random.Random(seed)
        token = seed * 10**9
        while trio.current_time() < deadline and self.counts.total() < STORM_OPERATIONS:
            token += 1
            with trio.move_on_after(draw.choice([0.0003, 0.001, 0.003, 0.01, 30.0])) as scope:
                async with self.pool.acquire() as connection:
                    await self.operate(connection, draw, token)
            self.counts["cancelled" if scope.cancelled_caught else "done"] += 1

    async def operate(self, connection: Connection, draw: random.Random, token: int) -> None:
        assert not connection.in_transaction, "who had it before left a transaction open"
        match draw.randrange(6):
            case 0:
                slept = "select $1::bigint from pg_sleep($2)"
                assert await connection.fetch_value(slept, token, draw.random() * 0.003) == token
            case 1:  # a new statement: it is cancelled while being prepared, too
                assert await connection.fetch_value(f"select {token} + $1::bigint", 1) == token + 1
            case 2:
                async with connection.transaction():
                    await connection.execute("insert into storm values ($1)", token)
                    assert await connection.fetch_value("select max(i) from storm where i = $1", token) == token
                    async with connection.transaction():
                        await connection.execute("insert into storm values ($1)", -token)
                self.committed += 1
            case 3:
                many = "select $1::bigint, repeat('z', 2000) from generate_series(1, 300)"
                rows = await connection.fetch(many, token)
                assert len(rows) == 300 and all(row[0] == token for row in rows)
            case 4:
                async with connection.transaction():
                    await connection.execute("create temp table c (i bigint, s text) on commit drop")
                    records = ((token, "x" * 100) for _ in range(3000))
                    assert await connection.copy_records("c", ("i", "s"), records) == 3000
                    assert await connection.fetch_value("select sum(i) from c") == 3000 * token
            case 5:
                with pytest.raises(DatabaseError) as caught:
                    await connection.fetch("select 1 / ($1::bigint - $1::bigint)", token)
                assert caught.value.sqlstate == "22012"


async def test_a_storm_of_cancellations_gives_no_wrong_answer(postgres18: PostgresServer) -> None:
    postgres18.psql("drop table if exists storm; create table storm (i bigint)")
    pool = Pool(options(postgres18), 6)
    storm = Storm(pool)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for seed in range(1, 17):
                nursery.start_soon(storm.work, seed, trio.current_time() + STORM_S)
        assert storm.counts["done"] > 100 and storm.counts["cancelled"] > 100
        assert pool.counts.waiting == 0 and pool.counts.idle == pool.counts.open <= 6
        async with trio.open_nursery() as nursery:  # each connection is usable
            for number in range(6):

                async def ask(number: int = number) -> None:
                    async with pool.acquire() as connection:
                        assert await connection.fetch_value("select $1::int from pg_sleep(0.05)", number) == number

                nursery.start_soon(ask)
    left = "select count(*) from pg_stat_activity where application_name = 'flux' and state <> 'idle'"
    assert postgres18.psql(left) == "0"
    # Both rows of a transaction or neither; and each that was reported committed is there.
    assert postgres18.psql("select count(*) from (select abs(i) from storm group by 1 having count(*) <> 2) s") == "0"
    assert int(postgres18.psql("select count(*) / 2 from storm")) >= storm.committed
    await pool.aclose()


# Loss.


async def test_a_killed_server_process_is_reported_and_the_pool_goes_on(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 2)
    with trio.fail_after(180):
        async with pool.acquire() as connection:
            pid = connection.backend_pid
            async with trio.open_nursery() as nursery:

                async def kill() -> None:
                    await trio.sleep(0.1)
                    await trio.to_thread.run_sync(postgres18.psql, f"select pg_terminate_backend({pid})")

                nursery.start_soon(kill)
                with pytest.raises((ConnectionLost, DatabaseError)) as caught:
                    await connection.fetch("select pg_sleep(300)")
            assert not isinstance(caught.value, DatabaseError) or caught.value.sqlstate == "57P01"
            with pytest.raises(ConnectionLost):
                await connection.fetch("select 1")
        async with pool.acquire() as connection:
            assert connection.backend_pid != pid
            assert await connection.fetch_value("select 1") == 1
    await pool.aclose()


async def test_a_connection_lost_during_commit_says_that_nobody_knows(postgres18: PostgresServer) -> None:
    connection = await connect(options(postgres18))
    await connection.execute(
        "drop table if exists doomed; create table doomed (i int);"
        "create or replace function die() returns trigger language plpgsql as "
        "'begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); return null; end';"
        "create constraint trigger die after insert on doomed initially deferred for each row execute function die()"
    )
    await connection.begin()
    await connection.execute("insert into doomed values (1)")
    with trio.fail_after(180), pytest.raises((CommitUnknown, DatabaseError)) as caught:
        await connection.commit()
    assert not isinstance(caught.value, DatabaseError) or caught.value.sqlstate == "57P01"
    assert connection.is_closed or not connection.in_transaction
    assert postgres18.psql("select count(*) from doomed") == "0"
    connection.terminate()


async def test_closing_a_connection_ends_what_another_task_waits_for(postgres18: PostgresServer) -> None:
    connection = await connect(options(postgres18))
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:

            async def close() -> None:
                await trio.sleep(0.1)
                connection.terminate()

            nursery.start_soon(close)
            with pytest.raises(ConnectionLost):
                await connection.fetch("select pg_sleep(300)")
        second = await connect(options(postgres18))
        async with trio.open_nursery() as nursery:

            async def close_second() -> None:
                await trio.sleep(0.1)
                second.terminate()

            nursery.start_soon(close_second)
            with pytest.raises(ConnectionLost):
                # More than the socket takes at once: output is pending when the connection goes.
                await second.fetch("select pg_sleep(300), $1::text", "x" * 50_000_000)


async def test_a_server_that_crashes_and_comes_back_is_found_again() -> None:
    with running_postgres() as server, trio.fail_after(120):
        pool = Pool(options(server), 3)
        async with pool.acquire() as connection:
            await connection.execute("create table survivors (i int)")
            await connection.execute("insert into survivors values (1)")
            await connection.execute("checkpoint")
        async with pool.acquire() as one, pool.acquire() as other:
            await other.fetch("select 1")
            os.kill(one.backend_pid, signal.SIGKILL)  # the postmaster then ends all sessions and recovers
            with pytest.raises((ConnectionLost, DatabaseError)):
                await other.fetch("select pg_sleep(60)")
        while True:
            try:
                async with pool.acquire() as connection:
                    assert await connection.fetch_value("select count(*) from survivors") == 1
                break
            except CannotConnect as error:
                assert error.sqlstate == "57P03" or "hung up" in error.message, error.message
                await trio.sleep(0.02)
        assert pool.counts.open == 1
    with pytest.raises(CannotConnect, match="not reached"):
        async with pool.acquire():
            pass
    assert pool.counts.open == 0
    await pool.aclose()
