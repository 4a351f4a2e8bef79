"""The n-th operation fails, for every n, and then a second client looks whether the records and the tables agree.

    python -m tests.faults.every --operations all
    python -m tests.faults.every --operations 20 --seed 7 --only journal

Trades (`tests.faults.ledger`) are made one after the other through the real executor, journal, record writer and
database. In each, one operation fails in one way (`tests.faults.sites`): a message to or from Postgres, a statement,
a call of the system that the journal makes, a step of the function's process, a byte of an answer from outside, a
reading of the clock. It is the first operation, then the second, until a trade has come to its end without reaching
the n-th. After each kind of failure ``psql`` is asked:

    lost        trades that were answered as made, and are not there
    phantom     there though they were answered as failed, or on record as committed and not there
    doubled     on record as committed more than once
    unrecorded  there and not on record exactly once, or run and without a record

and whether money and goods add up. With ``--operations 20``, twenty of each kind are drawn by ``--seed``, and with
``--harms 2`` two of the ways in which each can fail. Where of one kind and way none came to fail, nothing is shown, and
that is told as a finding is.

All operations are tried by ``--jobs`` processes, each kind, way and flavour of trade on a database of its own. What
one of them counts nobody else changes, so the n-th operation stays the same; and most of the time is spent in waiting
for what never comes, which many can do at once.
"""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import trio

from flux.execution import Returned, Trigger
from flux.store import postgres_connection, postgres_wire, records
from flux.store.migrate import prepare
from flux.store.postgres import connect
from flux.supervisor.execute import StoreStalledError
from flux.supervisor.journal import JournalError
from tests.conftest import Database, create_database
from tests.execution_world import ExecutionWorld, open_world
from tests.faults.chaos_proxy import ChaosProxy, chaos_proxy
from tests.faults.ledger import ASKS, ATOMIC, BLOCK, PATH, RAISES, SCHEMA, Findings, Told, check, make_trade
from tests.faults.sites import (
    ClockSite,
    JournalSite,
    OutboundSite,
    Site,
    WorkerSite,
    failing_host,
    failing_journal,
    make_wire_sites,
    stepping_clock,
)
from tests.postgres_server import PostgresServer, running_postgres

OPERATIONS_MAX = 2000
"""No trade has as many of one kind."""
TIMEOUT_S = 60.0
TIMEOUT_HELD_S = 0.5
"""Of a function whose answer never comes: so long it waits, and then the trade is given up."""
STORE_S = 0.5
"""What an operation of Flux's own may take while one never comes, which is a minute elsewhere.

Nobody else ends that: a trade is over once Flux has given it up by itself, and has stored the record.
"""
STORE = "store: "
NEVER = ("never comes", "never goes on")
JOBS = 10
"""Processes, unless it is said: most of them wait."""
CONNECTIONS_MAX = 30
"""Of one process, with those that a cut line has left behind for a moment."""
DRAWS_MAX = 5
"""Trades for one operation that is to fail: after a line was opened anew a trade has more of them than the next one."""


@attrs.define
class Row:
    """What came of one site and one way to fail."""

    site: str
    harm: str
    failed: int = 0
    """Operations that were made to fail."""
    done: int = 0
    """Trades that were answered as made all the same."""
    took_s: float = 0.0
    findings: list[Findings] = attrs.field(factory=list)


@attrs.define
class Tally:
    """All that came of it."""

    rows: list[Row] = attrs.field(factory=list)
    took_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether each kind of operation failed in each way, and nothing was found."""
        return bool(self.rows) and all(row.failed and not any(row.findings) for row in self.rows)

    def report(self) -> str:
        """Return the table that a person reads."""
        lines = [f"{'operation':34} {'fails':24} {'failed':>7} {'made':>6}  lost phantom doubled unrecorded"]
        totals = [0] * 6
        for row in self.rows:
            counts = [
                sum(len(getattr(finding, name)) for finding in row.findings)
                for name in ("lost", "phantom", "doubled", "unrecorded")
            ]
            lines.append(_line(row.site, row.harm, row.failed, row.done, *counts))
            totals = [a + b for a, b in zip(totals, [row.failed, row.done, *counts], strict=True)]
        lines.append(_line("all", "", *totals))
        books = [str(finding) for row in self.rows for finding in row.findings if finding]
        idle = [f"{row.site}, {row.harm}: no operation came to fail" for row in self.rows if not row.failed]
        return "\n".join([*lines, *books, *idle, f"in {self.took_s:.0f} s"])


def _line(site: str, harm: str, *counts: int) -> str:
    failed, done, lost, phantom, doubled, unrecorded = counts
    return f"{site:34} {harm:24} {failed:7} {done:6} {lost:5} {phantom:7} {doubled:7} {unrecorded:10}"


@attrs.define
class Trading:
    """Trades through one world, and what callers were told of them."""

    world: ExecutionWorld
    outbound: OutboundSite
    number: int = 0
    told: Told = attrs.field(factory=Told)

    async def trade(self, site: Site, flavour: str, harm: str) -> bool:
        """Make the next trade while ``site`` is armed; whether it was made."""
        self.number += 1
        number, told = self.number, self.told
        host = f"127.0.0.1:{self.outbound.port}"
        script = make_trade(
            number,
            atomic=flavour != BLOCK,
            raises=flavour == RAISES,
            url=f"http://{host}/" if flavour == ASKS else "",
        )
        try:
            executed = await self.world.run(
                site.wrap(script),
                atomic=flavour != BLOCK,
                timeout_s=TIMEOUT_HELD_S if harm in NEVER else TIMEOUT_S,
                trigger=Trigger("invoke", path=f"{PATH}{number}"),
                allow=(host,),
            )
        except (JournalError, StoreStalledError):
            told.refused.add(number)
            site.disarm()
            return False
        told.take(number, executed)
        # The record is written behind the answer, and its operations are to fail as well.
        async with trio.open_nursery() as nursery:
            if harm in NEVER and not site.name.startswith(STORE):
                nursery.start_soon(_let_go, site)
            await self.world.settle()
            nursery.cancel_scope.cancel()
        site.disarm()
        return isinstance(executed.outcome, Returned)

    async def check(self) -> Findings:
        """Ask a second client about all trades so far."""
        await self.world.settle()
        return await trio.to_thread.run_sync(check, self.world.database, self.told)


async def _let_go(site: Site) -> None:
    """End the wait for what never comes: at once where the trade was given up for it, else after as long."""
    if not site.struck:
        while not site.struck:  # noqa: ASYNC110 - a site tells nobody
            await trio.sleep(0.01)
        await trio.sleep(TIMEOUT_HELD_S)
    site.disarm()


@contextlib.asynccontextmanager
async def open_trading(database: Database, folder: Path) -> AsyncIterator[tuple[Trading, list[Site]]]:
    """Open a world in which everything can be made to fail."""
    with failing_journal() as journal, stepping_clock() as clock:
        async with (
            chaos_proxy(database.server) as proxy,
            failing_host() as outbound,
            open_world(database, folder / "journal", options=proxy.options(database.options())) as world,
        ):
            database.psql(SCHEMA)
            wires = make_wire_sites(proxy, database.options().user)
            sites: list[Site] = [*wires, journal, WorkerSite(), outbound, clock]
            yield Trading(world, outbound), sites


async def fail_each(trading: Trading, site: Site, harm: str, flavour: str, row: Row) -> None:
    """Let all operations fail, each in a trade of its own, until a trade reaches no more."""
    for number in range(1, OPERATIONS_MAX):
        await _fail(trading, site, harm, flavour, row, number)
        if not site.struck:
            return
    raise AssertionError(f"{site.name}: a trade has more than {OPERATIONS_MAX} operations")


async def fail_drawn(
    trading: Trading, site: Site, harm: str, flavour: str, row: Row, operations: int, chance: random.Random
) -> None:
    """Let so many operations fail, each in a trade of its own, drawn of as many as there are when none does."""
    site.arm(harm, 0)
    await trading.trade(site, flavour, "")
    for number in chance.sample(range(1, site.seen + 1), min(operations, site.seen)):
        await _fail(trading, site, harm, flavour, row, number)
        for _ in range(DRAWS_MAX):
            if site.struck or not site.seen:
                break
            await _fail(trading, site, harm, flavour, row, chance.randint(1, site.seen))


async def _fail(trading: Trading, site: Site, harm: str, flavour: str, row: Row, number: int) -> None:
    site.arm(harm, number)
    with _short_of_patience() if harm in NEVER and site.name.startswith(STORE) else contextlib.nullcontext():
        row.done += await trading.trade(site, flavour, harm)
    row.failed += site.struck


@contextlib.contextmanager
def _short_of_patience() -> Iterator[None]:
    """Have Flux give up what never comes after half a second and not after a minute, until the block ends."""
    with (
        mock.patch.object(records, "WRITE_S_MAX", STORE_S),
        mock.patch.object(postgres_connection, "COMMIT_S_MAX", STORE_S),
        mock.patch.object(postgres_wire, "CANCEL_GRACE_S", STORE_S),
    ):
        yield


async def run(
    database: Database,
    folder: Path,
    operations: int | None,
    seed: int = 0,
    only: str = "",
    harms: int | None = None,
    tell: Callable[[Row], None] = lambda _row: None,
) -> Tally:
    """Let ``operations`` of each kind fail in ``harms`` of its ways, all where it is None; ``tell`` hears each row."""
    tally = Tally()
    began = time.monotonic()
    chance = random.Random(seed)
    async with open_trading(database, folder) as (trading, sites):
        await trading.trade(sites[-1], ATOMIC, "")  # The first one asks for what later ones know.
        for site in (each for each in sites if only in each.name):
            ways = site.harms if harms is None else chance.sample(site.harms, min(harms, len(site.harms)))
            for harm in ways:
                row, row_began = Row(site.name, harm), time.monotonic()
                if operations is None:
                    for flavour in site.flavours:
                        await fail_each(trading, site, harm, flavour, row)
                else:
                    flavour = chance.choice(site.flavours)
                    await fail_drawn(trading, site, harm, flavour, row, operations, chance)
                if finding := await trading.check():
                    row.findings.append(finding)
                    trading.told = Told()  # The next row is not to repeat what this one has found.
                row.took_s = time.monotonic() - row_began
                tally.rows.append(row)
                tell(row)
    tally.took_s = time.monotonic() - began
    return tally


@attrs.frozen
class Part:
    """One kind of operation, way to fail and flavour of trade: what one process does on one database."""

    site: str
    harm: str
    flavour: str


def list_parts(server: PostgresServer, only: str = "") -> list[Part]:
    """Return what there is to do, of the sites whose name holds ``only``."""
    sites: list[Site] = [
        *make_wire_sites(ChaosProxy(server), server.user), JournalSite(), WorkerSite(), OutboundSite(), ClockSite()
    ]  # fmt: skip
    return [
        Part(site.name, harm, flavour)
        for site in sites
        if only in site.name
        for harm in site.harms
        for flavour in site.flavours
    ]


class PartError(Exception):
    """A part did not come to its end. It says which part, and with which traceback."""


def do_part(server_values: Mapping[str, Any], name: str, part: Part) -> Row:
    """Let every operation of a part fail, in this process and on the database ``name``, and have a psql look."""
    server = PostgresServer.from_values(server_values)
    database = Database(server, name)

    async def fail_all() -> Row:
        row, began = Row(part.site, part.harm), time.monotonic()
        async with open_trading(database, Path(scratch)) as (trading, sites):
            await trading.trade(sites[-1], ATOMIC, "")  # The first one asks for what later ones know.
            (site,) = (each for each in sites if each.name == part.site)
            await fail_each(trading, site, part.harm, part.flavour, row)
            if finding := await trading.check():
                row.findings.append(finding)
        row.took_s = time.monotonic() - began
        return row

    with tempfile.TemporaryDirectory() as scratch:
        try:
            return trio.run(fail_all)
        except Exception as error:
            # As text: what was raised may be nothing that another process can take apart and put together.
            why = "".join(traceback.format_exception(error))
            raise PartError(f"{part.site}, {part.harm}, {part.flavour}:\n{why}") from None
        finally:
            server.clients.close()


def run_all(jobs: int, only: str, tell: Callable[[Row], None]) -> Tally:
    """Let every operation fail, in ``jobs`` processes; ``tell`` hears each part as it ends."""
    tally, began = Tally(), time.monotonic()
    with running_postgres(extra_settings=[f"max_connections={jobs * CONNECTIONS_MAX}"]) as server:
        template = create_database(server)
        trio.run(_prepare, template)
        parts = list_parts(server, only)
        rows = {(part.site, part.harm): Row(part.site, part.harm) for part in parts}
        with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            waits = []
            # What waits longest first, so that the others fit behind it.
            for part in sorted(parts, key=lambda part: part.harm not in NEVER):
                name = create_database(server, template.name).name
                waits.append(pool.submit(do_part, server.to_values(), name, part))
            for done in concurrent.futures.as_completed(waits):
                try:
                    row = done.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # Else the error is told when all have ended.
                    raise
                tell(row)
                whole = rows[row.site, row.harm]
                whole.failed += row.failed
                whole.done += row.done
                whole.findings += row.findings
    tally.rows = list(rows.values())
    tally.took_s = time.monotonic() - began
    return tally


async def _prepare(database: Database) -> None:
    connection = await connect(database.options())
    await prepare(connection)
    await connection.aclose()


def _tell(row: Row) -> None:
    found = "; ".join(map(str, row.findings)) or "nothing wrong"
    print(
        f"{row.site}, {row.harm}: {row.failed} failed, {row.done} made, {row.took_s:.1f} s: {found}",
        file=sys.stderr,
    )


def _operations(text: str) -> int | None:
    return None if text == "all" else int(text)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, let operations fail and report; 0 when all failed and nothing was lost or made up."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.every", description=__doc__.split("\n")[0])
    parser.add_argument("--operations", type=_operations, default=10, help="how many of each kind, or all")
    parser.add_argument("--seed", type=int, help="what is drawn follows from it, 0 unless it is said")
    parser.add_argument("--harms", type=int, help="in how many ways each, all unless it is said")
    parser.add_argument("--only", default="", help="operations whose name holds this")
    parser.add_argument("--jobs", type=int, help=f"processes that try all operations, {JOBS} unless it is said")
    options = parser.parse_args(arguments)
    if options.operations is None:
        for name in ("harms", "seed"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} goes with a number of operations")
        tally = run_all(JOBS if options.jobs is None else options.jobs, options.only, _tell)
        print(tally.report())
        return 0 if tally.is_good else 1
    if options.jobs is not None:
        parser.error("--jobs goes with --operations all")
    with running_postgres() as server, tempfile.TemporaryDirectory() as scratch:
        database = create_database(server)
        trio.run(_prepare, database)
        tally = trio.run(
            run, database, Path(scratch), options.operations, options.seed or 0, options.only, options.harms, _tell
        )
    print(tally.report())
    return 0 if tally.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
