"""A database that was dumped by pg_dump and restored by pg_restore says what it said before, and goes on recording."""

import subprocess
from pathlib import Path

import trio

from flux.execution import Execution
from flux.filter import Filter
from flux.store import reading
from flux.store.migrate import prepare
from flux.store.postgres import Pool, connect
from tests.conftest import Database, create_database
from tests.console_world import make_execution, open_world, raised

LOG = (
    "select seq, xid, op, schema_name, table_name, key, before, after, committed, execution "
    "from flux.mutation order by seq"
)


async def test_records_and_the_log_of_changes_are_as_they_were_after_a_restore(
    database: Database, tmp_path: Path
) -> None:
    async with open_world(database) as world:
        await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
        await world.run_as_guest(make_execution(raised()), "update users set plan = null", keep=False)
        await world.run_as_guest(make_execution(), "update users set plan = 'pro'")
    before, log = await read_all(database), database.psql(LOG)
    assert len(before) == 3
    assert log

    restored = create_database(database.server)
    await trio.to_thread.run_sync(copy, database, restored, tmp_path / "backup")
    connection = await connect(restored.options())
    try:
        prepared = await prepare(connection)
    finally:
        await connection.aclose()
    assert prepared.coverage == ()
    assert await read_all(restored) == before
    assert restored.psql(LOG) == log

    # What is written from now on is in the log as well, behind what was there.
    restored.psql("update users set plan = 'free'")
    *_, last = restored.psql(LOG).splitlines()
    assert restored.psql(LOG).splitlines()[:-1] == log.splitlines()
    assert "|U|public|users|" in last


async def read_all(database: Database) -> list[tuple[reading.Summary, Execution]]:
    """All that can be read of executions."""
    pool: Pool = database.pool()
    summaries = await reading.list_summaries(pool, Filter(()), 100, None)
    found = [await reading.get_execution(pool, summary.id) for summary in summaries]
    await pool.aclose()
    return found


def copy(database: Database, to: Database, path: Path) -> None:
    """As docs/operations.md has it."""
    server = database.server
    where = ["-h", server.host, "-p", str(server.port), "-U", server.user]
    subprocess.run([server.bin_dir / "pg_dump", *where, "-Fc", "-f", path, database.name], check=True)
    subprocess.run(
        [server.bin_dir / "pg_restore", *where, "--exit-on-error", "--single-transaction", "-d", to.name, path],
        check=True,
    )
