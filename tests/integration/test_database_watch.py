"""The session that watches a database: it notices that the database is gone and back, and of several one leads."""

from collections.abc import Callable

import trio

from flux.supervisor.database_watch import DatabaseWatch
from tests.conftest import Database, create_database
from tests.postgres_server import PostgresServer

PATIENCE_S = 60.0


async def test_a_database_that_is_gone_is_noticed_and_so_is_its_return(postgres18: PostgresServer) -> None:
    database = create_database(postgres18)
    watch = DatabaseWatch(database.options(), "main")
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await wait(lambda: watch.leads)
            assert watch.failure is None
            await in_thread(postgres18, f"alter database {database.name} allow_connections false")
            await in_thread(
                postgres18, f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database.name}'"
            )
            await wait(lambda: watch.failure is not None)
            assert not watch.leads
            await in_thread(postgres18, f"alter database {database.name} allow_connections true")
            await wait(lambda: watch.failure is None and watch.leads)
            nursery.cancel_scope.cancel()


async def test_of_several_watchers_one_leads_and_another_when_that_one_ends(postgres18: PostgresServer) -> None:
    database: Database = create_database(postgres18)
    watches = [DatabaseWatch(database.options(), "main") for _ in range(3)]
    scopes = [trio.CancelScope() for _ in watches]
    working: set[int] = set()

    async def work(number: int) -> None:
        working.add(number)
        try:
            assert len(working) == 1
            await trio.sleep_forever()
        finally:
            working.discard(number)

    async def run(number: int) -> None:
        with scopes[number]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watches[number].run)
                await watches[number].lead(lambda: work(number))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(run, number)
            had: set[int] = set()
            for _ in watches:
                await wait(lambda: len(working - had) == 1)
                (leader,) = working
                had.add(leader)
                scopes[leader].cancel()
            nursery.cancel_scope.cancel()
    assert had == {0, 1, 2}


async def wait(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - others change it.
        await trio.sleep(0.01)


async def in_thread(server: PostgresServer, sql: str) -> None:
    await trio.to_thread.run_sync(server.psql, sql)
