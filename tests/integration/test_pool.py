"""The pool: never more connections than promised, first come first served, nothing handed on unsettled."""

from collections import Counter
from collections.abc import Callable

import pytest
import trio
import trio.testing

from flux.store import postgres_pool, postgres_wire
from flux.store.postgres import (
    CannotConnect,
    Connection,
    ConnectionLost,
    ConnectOptions,
    DatabaseError,
    Pool,
    PoolClosed,
    PoolCounts,
    TlsMode,
    connect,
)
from tests.faults.chaos_proxy import Direction, Harm, chaos_proxy
from tests.postgres_server import PostgresServer

NAME = "flux pool test"


def options(server: PostgresServer, **more: object) -> ConnectOptions:
    settings = {"host": server.host, "port": server.port, "user": "postgres", "application_name": NAME}
    return ConnectOptions(**{**settings, **more})  # type: ignore[arg-type]


def sessions(server: PostgresServer, condition: str = "true") -> int:
    """How many sessions the server has from here, by its own word."""
    counted = f"select count(*) from pg_stat_activity where application_name = '{NAME}' and {condition}"
    return int(server.psql(counted))


async def wait_sessions(server: PostgresServer, wanted: int) -> None:
    """A closed connection's session ends a moment later."""
    with trio.fail_after(120):
        while await trio.to_thread.run_sync(sessions, server) != wanted:  # noqa: ASYNC110 (it has no event for us)
            await trio.sleep(0.02)


async def test_fifty_tasks_share_five_connections(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 5)
    in_use: Counter[int] = Counter()
    most = 0
    served: list[int] = []

    async def work(number: int) -> None:
        nonlocal most
        for turn in range(20):
            async with pool.acquire() as connection:
                in_use[connection.backend_pid] += 1
                assert in_use[connection.backend_pid] == 1, "one connection in two tasks' hands"
                most = max(most, in_use.total())
                answer = await connection.fetch_value("select $1::int * 1000 + $2::int", number, turn)
                assert answer == number * 1000 + turn
                in_use[connection.backend_pid] -= 1
            served.append(number)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(work, number)
    assert most == 5
    assert Counter(served) == dict.fromkeys(range(50), 20)
    assert sessions(postgres18) == pool.counts.open == pool.counts.idle == 5
    await pool.aclose()
    await wait_sessions(postgres18, 0)


async def test_who_waits_longest_is_served_first(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 1)
    order: list[int] = []

    async def work(number: int) -> None:
        async with pool.acquire():
            order.append(number)

    async with trio.open_nursery() as nursery, pool.acquire():
        for number in range(10):
            nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked()
        assert pool.counts.waiting == 10
    assert order == list(range(10))
    await pool.aclose()


async def test_a_task_that_stops_waiting_leaves_its_place(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 1)
    async with pool.acquire():
        for _ in range(5):
            with trio.move_on_after(0.02) as scope:
                await pool.take()
            assert scope.cancelled_caught
        assert pool.counts.waiting == 0
    async with pool.acquire() as connection:
        assert await connection.fetch_value("select 1") == 1
    await pool.aclose()


async def test_nothing_of_one_task_reaches_the_next(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 1)
    async with pool.acquire() as connection:
        pid = connection.backend_pid
        connection.on_notice = print
        await connection.execute("begin; create temp table left_over (i int)")
    async with pool.acquire() as connection:
        assert connection.backend_pid == pid
        assert not connection.in_transaction
        assert connection.on_notice is None
        await connection.execute("set search_path = pg_temp; set role pg_monitor; create temp table left_over (i int)")
        await connection.fetch("select pg_advisory_lock(42)")
        await connection.listen("channel")
        assert connection.is_dirty
    async with pool.acquire() as connection:
        assert connection.backend_pid == pid
        assert await connection.fetch_row("select current_user, current_setting('search_path')") == (
            "postgres", '"$user", public'
        )  # fmt: skip
        assert await connection.fetch_value("select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert await connection.fetch_value("select to_regclass('pg_temp.left_over')") is None
        assert await connection.fetch("select * from pg_listening_channels()") == []
    await pool.aclose()


async def test_a_failed_transaction_is_rolled_back_when_it_comes_back(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 1)
    with pytest.raises(DatabaseError):
        async with pool.acquire() as connection:
            await connection.begin()
            await connection.execute("select 1/0")
    assert sessions(postgres18, "state = 'idle'") == 1
    await pool.aclose()


async def test_a_session_that_the_server_ended_is_replaced(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 2)
    async with pool.acquire() as one, pool.acquire() as two:
        pids = {one.backend_pid, two.backend_pid}
    for pid in pids:
        postgres18.psql(f"select pg_terminate_backend({pid}, 10000)")
    async with pool.acquire() as one, pool.acquire() as two:
        assert not pids & {one.backend_pid, two.backend_pid}
        assert await two.fetch_value("select 1") == 1
    assert pool.counts.open == 2
    await pool.aclose()


async def test_a_pool_that_cannot_connect_says_so_and_keeps_its_size(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18, database="missing"), 2)
    for _ in range(5):
        with pytest.raises(CannotConnect):
            async with pool.acquire():
                pass
    assert (pool.counts.open, pool.counts.idle, pool.counts.waiting) == (0, 0, 0)
    await pool.aclose()


async def test_a_connection_whose_preparation_fails_is_closed(postgres18: PostgresServer) -> None:
    async def prepare(connection: Connection) -> None:
        await connection.execute("select 1/0")

    pool = Pool(options(postgres18), 1, on_connect=prepare)
    for _ in range(3):
        with pytest.raises(DatabaseError):
            async with pool.acquire():
                pass
    assert pool.counts.open == 0
    await wait_sessions(postgres18, 0)
    await pool.aclose()


async def test_a_pool_that_is_let_in_no_further_does_with_what_it_has(postgres18: PostgresServer) -> None:
    """The limit is the role's, by its own count: a fourth session is refused, by the same code as by a full server."""
    postgres18.psql("create role three login connection limit 3")
    name = f"{NAME}, three"
    pool, others = (
        Pool(options(postgres18, user="three", database="postgres", application_name=n), 8)
        for n in (name, "others")
    )
    most, served = 0, 0

    async def work() -> None:
        nonlocal most, served
        for _ in range(10):
            async with pool.acquire() as connection:
                counted = "select count(*) from pg_stat_activity where application_name = $1"
                most = max(most, await connection.fetch_value(counted, name))
            served += 1

    try:
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(work)
        assert (most, served) == (3, 80), "all were served, by as many sessions as the server lets in"
        assert (pool.counts.open, pool.counts.idle, pool.counts.waiting) == (3, 3, 0)

        # Who gives up leaves its place, and the others are served.
        order: list[int] = []

        async def wait(number: int) -> None:
            async with pool.acquire():
                order.append(number)

        async with trio.open_nursery() as nursery, pool.acquire(), pool.acquire(), pool.acquire() as connection:
            for number in range(4):
                nursery.start_soon(wait, number)
                with trio.fail_after(60):
                    while pool.counts.waiting <= number:  # noqa: ASYNC110 - until the server has refused it
                        await trio.sleep(0.01)
            with trio.move_on_after(0.02) as scope:
                await pool.take()
            assert scope.cancelled_caught and pool.counts.waiting == 4
            # One whose session has ended is no loss: another takes its place at the server.
            connection.terminate()
        assert sorted(order) == [0, 1, 2, 3]

        # A pool that has none at all says at once what the server says.
        async with pool.acquire(), pool.acquire(), pool.acquire():
            refusals: list[str | None] = []

            async def be_refused() -> None:
                with pytest.raises(CannotConnect, match="too many connections for role") as refused:
                    await others.take()
                refusals.append(refused.value.sqlstate)

            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(be_refused)
            assert refusals == ["53300"] * 8
            assert (others.counts.open, others.counts.waiting) == (0, 0)

        # Closed, it tells those who wait.
        async def hear() -> None:
            with pytest.raises(PoolClosed):
                await pool.take()

        async with trio.open_nursery() as nursery, pool.acquire(), pool.acquire(), pool.acquire():
            nursery.start_soon(hear)
            with trio.fail_after(60):
                while not pool.counts.waiting:  # noqa: ASYNC110 - as above
                    await trio.sleep(0.01)
            await pool.aclose()
        assert pool.counts.open == 0
    finally:
        await pool.aclose()
        await wait_sessions(postgres18, 0)
        postgres18.psql("drop role three")


class Door:
    """The way to the server: counts who comes, and can be shut for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts = self.ended = 0
        self._may_pass = trio.Event()
        self._may_pass.set()
        monkeypatch.setattr(postgres_pool, "connect", self._connect)

    def shut(self) -> None:
        self._may_pass = trio.Event()

    def open(self, *, for_those_who_wait: bool = True) -> None:
        if not for_those_who_wait:
            self._may_pass = trio.Event()
        self._may_pass.set()

    async def _connect(self, options: ConnectOptions) -> Connection:
        self.attempts += 1
        try:
            await self._may_pass.wait()
            return await connect(options)
        finally:
            self.ended += 1


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110 - counts, which tell nobody
            await trio.sleep(0.001)


async def test_whoever_is_refused_finds_what_came_back_and_the_line_keeps_its_order(
    postgres18: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role's limit is one session: whatever else is asked for is refused, as long as that is open."""
    postgres18.psql("create role one login connection limit 1")
    pool, others = (Pool(options(postgres18, user="one", database="postgres"), 8) for _ in range(2))
    door = Door(monkeypatch)
    order: list[int] = []

    async def wait(number: int) -> None:
        async with pool.acquire() as connection:
            assert await connection.fetch_value("select count(*) from pg_stat_activity where usename = 'one'") == 1
            order.append(number)

    try:
        # What comes back while another is asked for is idle when that is refused.
        async with trio.open_nursery() as nursery:
            async with pool.acquire():
                door.shut()
                nursery.start_soon(wait, 0)
                await until(lambda: door.attempts == 2)
            assert pool.counts == PoolCounts(open=1, idle=1, waiting=0)
            door.open()
        assert (order, door.attempts) == ([0], 2)

        # Whoever is in the line gets what comes back, in order, and waits for no server that it asks meanwhile.
        monkeypatch.setattr(postgres_pool, "OPEN_AGAIN_S", 0.001)
        async with trio.open_nursery() as nursery:
            async with pool.acquire():
                for number in range(1, 4):
                    nursery.start_soon(wait, number)
                    await until(lambda number=number: pool.counts.waiting == number)
                door.shut()
                await until(lambda: door.attempts > door.ended)
            await until(lambda: len(order) == 4)
        assert order == [0, 1, 2, 3]
        assert pool.counts == PoolCounts(open=1, idle=1, waiting=0) and door.attempts == door.ended
        door.open()

        # One who waits for what comes back does so whatever the server answers meanwhile.
        async with trio.open_nursery() as nursery, pool.acquire():
            nursery.start_soon(wait, 4)
            await until(lambda: pool.counts.waiting == 1)
            postgres18.psql("alter role one nologin")
            many = door.attempts + 5
            await until(lambda: door.attempts >= many)
            postgres18.psql("alter role one login")
        assert order == list(range(5))

        # However often the server is asked meanwhile, and by whomever: who came first is served first.
        async with trio.open_nursery() as nursery, pool.acquire():
            for number in range(5, 11):
                nursery.start_soon(wait, number)
                await until(lambda waiting=number - 4: pool.counts.waiting == waiting)
            many = door.attempts + 30
            await until(lambda: door.attempts >= many)
            door.shut()
            await until(lambda: door.attempts > door.ended)
            monkeypatch.setattr(postgres_pool, "OPEN_AGAIN_S", 60.0)
            door.open()
            await until(lambda: door.attempts == door.ended)
        assert order == list(range(11))

        # Where there is none that could come back, one question each is enough to tell all.
        async def be_refused() -> None:
            with pytest.raises(CannotConnect, match="too many connections for role"):
                await others.take()

        async with pool.acquire():
            door.attempts = 0
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(be_refused)
            assert door.attempts == 8

            # Nor does anybody wait for one who has stopped asking.
            door.shut()
            async with trio.open_nursery() as nursery, trio.open_nursery() as given_up:
                given_up.start_soon(others.take)
                await until(lambda: door.attempts == 9)
                door.open(for_those_who_wait=False)
                nursery.start_soon(be_refused)
                await until(lambda: others.counts.waiting == 1)
                given_up.cancel_scope.cancel()
            assert (door.attempts, others.counts) == (11, PoolCounts(0, 0, 0))
    finally:
        await pool.aclose()
        await wait_sessions(postgres18, 0)
        postgres18.psql("drop role one")


async def test_a_connection_that_could_not_be_settled_is_nobody_elses(postgres18: PostgresServer) -> None:
    def refuse(_notice: object) -> None:
        raise LookupError

    pool = Pool(options(postgres18), 1)
    with pytest.raises(LookupError):
        async with pool.acquire() as connection:
            pid = connection.backend_pid
            await connection.execute("set client_min_messages = debug5")  # So that the reset says something.
            connection.is_dirty, connection.on_notice = True, refuse
    async with pool.acquire() as connection:
        assert connection.backend_pid != pid and pool.counts.open == 1
        assert await connection.fetch_value("show client_min_messages") == "notice"
    await pool.aclose()


async def test_words_that_cannot_be_read_keep_nothing_from_being_settled(postgres18: PostgresServer) -> None:
    """It listens, in an encoding of its own, and is told something before it is rolled back, or made as new."""
    pool = Pool(options(postgres18), 1)
    with trio.fail_after(120):
        for begin in ("begin", ""):
            async with pool.acquire() as connection:
                connection.is_dirty = True
                await connection.execute("listen echo; set client_encoding = 'LATIN1'")
                if begin:
                    await connection.execute("begin; select set_config('work_mem', '99MB', false)")
                postgres18.psql("select pg_notify('echo', chr(233))")
            async with pool.acquire() as connection:
                assert not connection.in_transaction
                assert await connection.fetch_value("select 'caf' || chr(233)") == "caf\u00e9"
                assert await connection.fetch_value("select count(*) from pg_listening_channels()") == 0
    assert pool.counts.open == 1
    await pool.aclose()


async def test_the_keeper_opens_ahead_and_closes_what_is_idle(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 4, min_idle=2, max_idle_s=0.2)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.keep)
        assert (pool.counts.open, pool.counts.idle) == (2, 2)
        async with pool.acquire(), pool.acquire(), pool.acquire(), pool.acquire():
            assert pool.counts.open == 4
        await wait_sessions(postgres18, 2)
        nursery.cancel_scope.cancel()
    await pool.aclose()


async def test_the_keeper_outlives_a_server_that_is_away(postgres18: PostgresServer) -> None:
    postgres18.psql("create database kept_away")
    try:
        pool = Pool(options(postgres18, database="kept_away"), 2, min_idle=1, max_idle_s=0.1)
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.keep)
            postgres18.psql("alter database kept_away allow_connections false")
            async with pool.acquire() as connection:
                connection.terminate()
            await trio.sleep(0.3)  # the keeper tries meanwhile, and is refused
            with trio.fail_after(180):
                while pool.counts.open:  # noqa: ASYNC110 - one that it tries just now counts, until it is refused
                    await trio.sleep(0.01)
            postgres18.psql("alter database kept_away allow_connections true")
            await wait_sessions(postgres18, 1)
            nursery.cancel_scope.cancel()
        await pool.aclose()
    finally:
        postgres18.psql("drop database kept_away with (force)")


async def test_a_closed_pool_gives_nothing_and_takes_everything_back(postgres18: PostgresServer) -> None:
    pool = Pool(options(postgres18), 1)
    refused = 0

    async def wait() -> None:
        nonlocal refused
        with pytest.raises(PoolClosed):
            await pool.take()
        refused += 1

    async with trio.open_nursery() as nursery, pool.acquire() as connection:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await pool.aclose()
        assert await connection.fetch_value("select 1") == 1, "whoever has one may finish"
    assert refused == 2
    assert pool.counts.open == 0
    await wait_sessions(postgres18, 0)


async def test_a_line_that_does_not_answer_takes_the_idle_ones_along(
    postgres18: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_wire, "CANCEL_GRACE_S", 0.2)
    async with chaos_proxy(postgres18) as proxy:
        pool = Pool(proxy.options(options(postgres18, tls=TlsMode.DISABLE)), 4)
        async with pool.acquire() as ended, pool.acquire(), pool.acquire():
            pid = ended.backend_pid
        assert pool.counts == PoolCounts(3, 3, 0)
        # One that the server itself has ended says nothing of the others.
        async with pool.acquire() as one:
            with pytest.raises((DatabaseError, ConnectionLost)):
                await one.execute("select pg_terminate_backend(pg_backend_pid())")
        assert one.is_closed and not one.is_silent and pool.counts == PoolCounts(2, 2, 0)
        proxy.arm(b"user\0", Direction.OUT, Harm.HELD, 1)
        async with trio.open_nursery() as nursery, pool.acquire() as held:
            nursery.start_soon(held.execute, "select 1")
            await until(lambda: proxy.struck)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await until(lambda: held.is_closed)
        assert proxy.struck and held.is_silent and pool.counts == PoolCounts(0, 0, 0)
        async with pool.acquire() as fresh:
            assert await fresh.fetch_value("select 1") == 1 and fresh.backend_pid != pid
        proxy.disarm()
        await pool.aclose()
