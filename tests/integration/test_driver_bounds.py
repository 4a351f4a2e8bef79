"""What a database may do to the process that asks it: answer too much, too long, and unasked.

Whoever owns the tables decides what comes out of them. So the bounds are the asking side's, and hold whatever the
session was told.
"""

from contextlib import aclosing
from typing import Any

import pytest
import trio

from flux.store import postgres_wire
from flux.store.postgres import (
    AnswerTooLarge,
    CommitUnknown,
    ConnectionLost,
    ConnectOptions,
    DatabaseError,
    Pool,
    connect,
)
from flux.store.postgres_snapshots import SnapshotBracket
from tests.postgres_server import PostgresServer

MIB = 2**20
PATIENCE_S = 120.0


def options(server: PostgresServer, **more: object) -> ConnectOptions:
    return ConnectOptions(**{"host": server.host, "port": server.port, "user": "postgres", **more})  # type: ignore[arg-type]


async def test_a_pools_connections_are_bounded_and_are_so_again_when_they_come_back(
    postgres18: PostgresServer,
) -> None:
    pool = Pool(options(postgres18, answer_bytes_max=MIB), 1)
    large = "select repeat('x', 1000) from generate_series(1, 50000)"
    with trio.fail_after(PATIENCE_S):
        async with pool.acquire() as connection:
            pid = connection.backend_pid
            with pytest.raises(AnswerTooLarge, match="1,048,576 bytes"):
                await connection.fetch(large)
            connection.answer_bytes_max = 4 * MIB
            assert len(await connection.fetch_value("select repeat('x', 2 * 1024 * 1024)")) == 2 * MIB
        async with pool.acquire() as connection:
            assert connection.backend_pid == pid, "what was ended is usable"
            with pytest.raises(AnswerTooLarge):
                await connection.fetch_row(large)
            with pytest.raises(AnswerTooLarge):
                await connection.execute("do $$ begin loop raise notice '%', repeat('x', 9999); end loop; end $$")
    await pool.aclose()


async def test_a_value_beyond_all_bounds_is_not_heard_to_its_end(postgres18: PostgresServer) -> None:
    connection = await connect(options(postgres18, answer_bytes_max=MIB))
    with trio.fail_after(PATIENCE_S):
        with pytest.raises((AnswerTooLarge, ConnectionLost)):
            await connection.fetch("select repeat('x', 64 * 1024 * 1024)")
    assert connection.is_closed
    assert connection._wire._answer_bytes < 8 * MIB, "hung up while it came"


class Pieces:
    """Stands before a connection's protocol, and counts what it is handed."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.count = 0

    def data_received(self, data: bytes) -> None:
        self.count += 1
        self._protocol.data_received(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)


SAYS_AT_COMMIT = """
    create table loud (n int);
    create function say() returns trigger language plpgsql as
        $$ begin raise notice '%', repeat('x', new.n); return null; end $$;
    create constraint trigger at_commit after insert on loud deferrable initially deferred
        for each row execute function say();
"""


async def test_a_bound_that_a_connection_was_given_later_holds_to_the_end_of_what_is_too_long(
    postgres: PostgresServer,
) -> None:
    # As a function's connection has it: its pool's have none.
    name = "bounds_given_later"
    postgres.psql(f"create database {name}")
    postgres.psql(SAYS_AT_COMMIT, name)
    long = 24 * MIB
    for what in (
        f"select repeat('x', {long})",
        f"select repeat('x', {long})::int",
        f"do $$ begin raise notice '%', repeat('x', {long}); end $$",
        "set constraints all immediate",
        "commit",
    ):
        connection = await connect(options(postgres, database=name))
        connection.on_notice = lambda _notice: None
        connection.answer_bytes_max = MIB
        with trio.fail_after(PATIENCE_S):
            await connection.begin("repeatable read")
            if what == "commit":
                await connection.run(f"insert into loud values ({long})")
                with pytest.raises(CommitUnknown, match="1,048,576 bytes"):
                    await connection.commit()
            else:
                await connection.run(f"insert into loud values ({long})")
                with pytest.raises(AnswerTooLarge, match="1,048,576 bytes"):
                    await connection.execute(what)
        assert connection.is_closed, what
        assert connection._wire._answer_bytes < 3 * MIB, f"hung up while it came: {what}"
    postgres.psql(f"drop database {name} with (force)")


async def test_a_long_text_of_an_error_or_a_notice_is_handed_over_in_few_pieces(postgres18: PostgresServer) -> None:
    # asyncpg copies all of such a text for each of its pieces: in many, it stops the process.
    async with aclosing(await connect(options(postgres18))) as connection:
        pieces: Any = Pieces(connection._wire.protocol)
        connection._wire.protocol = pieces
        heard: list[str] = []
        connection.on_notice = lambda notice: heard.append(notice.message)
        with trio.fail_after(PATIENCE_S):
            for length in (20, 70_000, 4 * MIB):
                with pytest.raises(DatabaseError) as refused:
                    await connection.execute(f"select repeat('x', {length})::int")
                assert refused.value.report.message.endswith(f'integer: "{"x" * length}"')
                await connection.execute(
                    f"do $$ begin raise notice '%', repeat('y', {length}) using hint = repeat('z', {length}); end $$"
                )
                assert heard.pop() == "y" * length and not heard
        assert pieces.count < 40, "of 12 MiB"


@pytest.mark.parametrize("bytes_at_a_time", [1, 2, 9, 10, 11, 12, 13, 37])
async def test_in_whatever_pieces_an_answer_comes_nothing_of_it_is_waited_for_in_vain(
    postgres18: PostgresServer, monkeypatch: pytest.MonkeyPatch, bytes_at_a_time: int
) -> None:
    monkeypatch.setattr(postgres_wire, "RECEIVE_BYTES_MAX", bytes_at_a_time)
    with trio.fail_after(PATIENCE_S):
        async with aclosing(await connect(options(postgres18))) as connection:
            heard: list[str] = []
            connection.on_notice = lambda notice: heard.append(notice.message)
            await connection.execute("set client_min_messages = notice")
            row = await connection.fetch_row("select $1::text as long, 2 as n, null as none", "ab" * 100)
            assert row is not None and tuple(row) == ("ab" * 100, 2, None)
            await connection.listen("pieces")
            await connection.execute("do $$ begin perform pg_notify('pieces', repeat('n', 99)); end $$")
            assert (await connection.wait_notification()).payload == "n" * 99
            with pytest.raises(DatabaseError, match="invalid input syntax for type integer"):
                await connection.fetch("select repeat('x', 300)::int")
            await connection.begin()
            between = "select repeat('w', 200)"
            assert (await connection.run_between(between, [], SnapshotBracket())).rows == [("w" * 200,)]
            await connection.execute("do $$ begin raise notice '%', repeat('y', 300); end $$")
            assert await connection.commit_with("select repeat('v', 100)") == "v" * 100
            assert heard == ["y" * 300]
            assert await connection.fetch_value("select 'after'") == "after"


async def test_no_sql_lifts_the_limit_of_time(postgres18: PostgresServer) -> None:
    connection = await connect(options(postgres18, answer_s_max=0.5))
    with trio.fail_after(PATIENCE_S):
        await connection.execute("set statement_timeout = 0")
        with pytest.raises(DatabaseError, match=r"longer than 0\.5 s") as ended:
            await connection.fetch("select pg_sleep(3600)")
        assert ended.value.sqlstate == "57014"
        assert await connection.fetch_value("select 1") == 1
        await connection.aclose()


async def test_notifications_that_nobody_takes_do_not_pile_up(
    postgres18: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aclosing(await connect(options(postgres18))) as connection:
        await connection.execute("do $$ begin execute 'listen flood'; end $$")
        flood = "select count(pg_notify('flood', g || repeat('x', 7000))) from generate_series(1, 2000) g"
        with trio.fail_after(PATIENCE_S):
            await connection.fetch(flood)
            await connection.fetch("select 1")
            assert len(connection._wire.notifications) == 1000
            assert (await connection.wait_notification()).payload.startswith("1001x")
        monkeypatch.setattr(postgres_wire, "UNASKED_BYTES_MAX", 4096)
        await trio.to_thread.run_sync(postgres18.psql, flood)
        with trio.fail_after(PATIENCE_S):
            # An idle session that talks is not listened to for ever, and not taken for a quiet one.
            while connection.check_alive():  # noqa: ASYNC110 (it has no event for us)
                await trio.sleep(0.02)


async def test_a_statement_between_snapshots_that_cannot_be_ended_takes_its_connection_along(
    postgres18: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_answers(*_arguments: object) -> None:
        raise OSError("nobody is there")

    monkeypatch.setattr(postgres_wire, "request_cancel", nobody_answers)
    pool = Pool(options(postgres18), 1)
    with trio.fail_after(PATIENCE_S):
        async with pool.acquire() as connection:
            pid = connection.backend_pid
            await connection.begin("read committed")
            with trio.move_on_after(0.1) as scope:
                await connection.run_between("select pg_sleep(3600)", [], SnapshotBracket())
            assert scope.cancelled_caught and connection.is_closed
        # The pool has noticed: the next one gets another connection, and not the remains of that one.
        async with pool.acquire() as connection:
            assert await connection.fetch_value("select 1") == 1 and connection.backend_pid != pid
    postgres18.psql(f"select pg_terminate_backend({pid})")
    await pool.aclose()
