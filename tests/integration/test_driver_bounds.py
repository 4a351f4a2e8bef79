"""What a database may do to the process that asks it: answer too much, too long, and unasked.

Whoever owns the tables decides what comes out of them. So the bounds are the asking side's, and hold whatever the
session was told.
"""

from contextlib import aclosing

import pytest
import trio

from flux.store import postgres_wire
from flux.store.postgres import AnswerTooLarge, ConnectionLost, ConnectOptions, DatabaseError, Pool, connect
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
