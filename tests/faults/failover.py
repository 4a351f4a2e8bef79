"""The database ends at once, comes again, and at last another one takes its place, all under a load of trades.

    python -m tests.faults.failover --restarts 10 --trades 2000

Clients make trades (`tests.faults.ledger`) through the real executor all the time. Meanwhile the server is shut down
in the mode "immediate", which finishes nothing, and started again; and at the end it is shut down for good, its
synchronous standby (``pg_basebackup``, ``pg_promote``) is promoted, and the way to the database leads there, as a
moved address would. Then ``psql`` asks the standby whether each trade that was answered is there, once, and on record.

The standby confirms each commit (``synchronous_standby_names``). One that lags behind has not what it never got, and
no client of Postgres can know of that.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import trio

from flux.execution import Trigger
from flux.store.migrate import prepare
from flux.store.postgres import connect
from flux.supervisor.execute import StoreStalledError
from flux.supervisor.journal import JournalError
from tests.conftest import Database, create_database
from tests.execution_world import ExecutionWorld, open_world
from tests.faults.chaos_proxy import ChaosProxy, chaos_proxy
from tests.faults.ledger import PATH, SCHEMA, Findings, Told, check, make_trade
from tests.postgres_server import AS_UID_1000, PostgresServer, running_postgres

CLIENTS = 4
PAUSE_S = 0.02
"""After a trade that was not made: the database may be away, and each try is a record."""
WAIT_S_MAX = 300.0
SETTINGS = ("synchronous_commit=on", "wal_level=replica", "max_wal_senders=4")


@attrs.define
class Tally:
    """What came of it."""

    restarts: int = 0
    failovers: int = 0
    told: Told = attrs.field(factory=Told)
    findings: Findings | None = None
    took_s: float = 0.0

    def report(self) -> str:
        """Return what a person reads."""
        told = self.told
        return (
            f"{self.restarts} immediate shutdowns, {self.failovers} promoted standby under {CLIENTS} clients: "
            f"{len(told.done)} trades answered as made, {len(told.failed)} as failed, {len(told.refused)} refused, "
            f"{len(told.unknown)} with an answer that leaves it open; wrong: {self.findings}; in {self.took_s:.0f} s"
        )


@attrs.define
class Load:
    """Clients that make trades until they are stopped."""

    world: ExecutionWorld
    told: Told
    number: int = 0
    is_stopped: bool = False

    async def run(self) -> None:
        """Be one client."""
        while not self.is_stopped:
            self.number += 1
            if not await self._trade(self.number):
                await trio.sleep(PAUSE_S)

    async def wait_done(self, more: int) -> None:
        """Wait until so many more trades are made."""
        wanted = len(self.told.done) + more
        with trio.fail_after(WAIT_S_MAX):
            while len(self.told.done) < wanted:  # noqa: ASYNC110 - clients, who tell nobody
                await trio.sleep(0.005)

    async def _trade(self, number: int) -> bool:
        told, is_atomic = self.told, bool(number % 3)
        try:
            executed = await self.world.run(
                make_trade(number, atomic=is_atomic),
                atomic=is_atomic,
                isolation="read committed",
                trigger=Trigger("invoke", path=f"{PATH}{number}"),
            )
        except (JournalError, StoreStalledError):
            told.refused.add(number)
            return False
        told.take(number, executed)
        return number in told.done


@attrs.define
class Cluster:
    """A server that is shut down and started again, and its standby."""

    primary: PostgresServer
    stack: contextlib.ExitStack

    def restart(self) -> None:
        """Shut it down at once, and start it on what it left behind."""
        end(self.primary)
        self.primary = self.stack.enter_context(started(self.primary, self.primary.data_dir))

    def start_standby(self) -> PostgresServer:
        """Copy the server and have the copy follow it, and each commit wait for the copy."""
        server = self.primary
        home = Path(server.host).with_name(Path(server.host).name + "s")
        home.mkdir()
        self.stack.callback(shutil.rmtree, home)
        _command([*_prefix(), server.bin_dir / "pg_basebackup", "-D", home / "data", "-R", "-X", "stream", "-c", "fast",
                  "-h", server.host, "-p", str(server.port), "-U", server.user])  # fmt: skip
        standby = self.stack.enter_context(started(attrs.evolve(server, host=str(home)), home / "data"))
        server.psql("alter system set synchronous_standby_names = '*'")
        server.psql("select pg_reload_conf()")
        _wait(lambda: server.psql("select sync_state from pg_stat_replication") == "sync")
        return standby

    def fail_over(self, standby: PostgresServer) -> None:
        """Shut the server down for good, and have the standby take its place."""
        end(self.primary)
        # It would wait for a standby of its own.
        standby.psql("alter system set synchronous_standby_names = ''")
        assert standby.psql("select pg_promote()") == "t"
        self.primary = standby


def end(server: PostgresServer) -> None:
    """Shut down in the mode "immediate", and wait until nobody writes to its files any more."""
    os.kill(server.pid, signal.SIGQUIT)
    _wait(lambda: not (server.data_dir / "postmaster.pid").exists())


@contextlib.contextmanager
def started(server: PostgresServer, data_dir: Path) -> Iterator[PostgresServer]:
    """Start a server as ``server`` was, on these files and the socket in its folder, until the block ends."""
    settings = [
        f"unix_socket_directories={server.host}", "listen_addresses=", f"port={server.port}", "fsync=off",
        "shared_buffers=32MB", "max_connections=60", "log_min_messages=warning", *SETTINGS,
    ]  # fmt: skip
    command: list[str | Path] = [*_prefix(), server.bin_dir / "postgres", "-D", data_dir]
    command += [part for setting in settings for part in ("-c", setting)]
    log_path = Path(server.host) / "log"
    with log_path.open("ab") as log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as run:
        try:
            again = attrs.evolve(server, data_dir=data_dir, log_path=log_path, pid=run.pid)
            _wait(lambda: _answers(again))
            yield again
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGQUIT)
            run.wait()


def _answers(server: PostgresServer) -> bool:
    try:
        return server.psql("select 1") == "1"
    except subprocess.CalledProcessError:
        return False


def _prefix() -> tuple[str, ...]:
    return AS_UID_1000 if os.geteuid() == 0 else ()


def _command(words: list[str | Path]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


async def run(cluster: Cluster, database: Database, folder: Path, restarts: int, trades: int) -> Tally:
    """Shut down and start again, so often, and fail over once; between two ``trades / (restarts + 2)`` are made."""
    tally = Tally()
    began = time.monotonic()
    each = max(1, trades // (restarts + 2))
    async with chaos_proxy(database.server) as proxy:
        options = proxy.options(database.options())
        async with open_world(database, folder / "journal", options=options, guest_connections=CLIENTS * 2) as world:
            database.psql(SCHEMA)
            load = Load(world, tally.told)
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(load.run)
                await _disturb(cluster, proxy, load, tally, restarts, each)
                load.is_stopped = True
            await world.settle()
    database = Database(cluster.primary, database.name)
    tally.findings = await trio.to_thread.run_sync(check, database, tally.told)
    tally.took_s = time.monotonic() - began
    return tally


async def _disturb(
    cluster: Cluster, proxy: ChaosProxy, load: Load, tally: Tally, restarts: int, each: int
) -> None:
    for _ in range(restarts):
        await load.wait_done(each)
        await trio.to_thread.run_sync(cluster.restart)
        tally.restarts += 1
    standby = await trio.to_thread.run_sync(cluster.start_standby)
    await load.wait_done(each)
    await trio.to_thread.run_sync(cluster.fail_over, standby)
    proxy.server = standby
    tally.failovers += 1
    await load.wait_done(each)


def disturb(restarts: int, trades: int, folder: Path) -> Tally:
    """Do it with servers of its own."""

    async def prepare_and_run() -> Tally:
        connection = await connect(database.options())
        await prepare(connection)
        await connection.aclose()
        return await run(cluster, database, folder, restarts, trades)

    with running_postgres(extra_settings=SETTINGS) as server, contextlib.ExitStack() as stack:
        database = create_database(server)
        cluster = Cluster(server, stack)
        return trio.run(prepare_and_run)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, disturb and report; 0 when nothing was lost, doubled or made up."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.failover", description=__doc__.split("\n")[0])
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--trades", type=int, default=300)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        tally = disturb(options.restarts, options.trades, Path(scratch))
    print(tally.report())
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
