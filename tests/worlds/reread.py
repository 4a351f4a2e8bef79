"""Record many reads while others write, and have every one of them answered again by worlds.

Anybody can run it::

    python -m tests.worlds.reread --reads 100000

Executions run through the real executor against a real PostgreSQL, several at once, and other clients write to the same
tables all the time: in single statements, in transactions that stay open for a while, rolled back, or without any
change. What an execution does is drawn: READ COMMITTED or REPEATABLE READ, one transaction or several; reads of a row,
of ranges, sums, joins, with and without an order, with locks; writes of its own; blocks that are rolled back;
statements that fail and are caught.

Then each execution's record is read from the database, and all its statements are asked again, in the world that it saw
(`flux.supervisor.world_keeper`), while the writers go on. A read counts as re-answered when all that the guest was
answered is the same: columns, types, rows and tag.

What must not be expected: that a statement fails again which failed because of another transaction's lock, or of a row
that its snapshot does not see. There is no other transaction in a world. Such statements are counted, and end their
execution's part.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from flux import values
from flux.calls import read_statement
from flux.execution import Execution
from flux.hostcall import HostCall
from flux.hostcalls.base import HostCallFailed
from flux.sandbox.scripted import Script, ScriptedGuest
from flux.store.migrate import prepare
from flux.store.postgres import Connection, DatabaseError, Pool, connect
from flux.store.reading import get_execution
from flux.supervisor.world import WorldDatabase
from flux.supervisor.world_keeper import open_keeper
from tests.conftest import Database, create_database
from tests.execution_world import ExecutionWorld, open_world, sql
from tests.postgres_server import running_postgres

SCHEMA = """
create table accounts (id int primary key, owner text not null, amount numeric not null);
create table pairs (a int, b text, note json, n int default 0, primary key (b, a));
create table rates (id int primary key, rate float8 not null, at timestamptz not null default now());
create table still (id int primary key, what text);
insert into accounts select n, 'owner ' || n % 7, n * 10 from generate_series(1, 40) n;
insert into pairs select n % 20, 'b' || n, '{"n": -0.0}' from generate_series(1, 60) n;
insert into rates select n, n / 3.0 from generate_series(1, 30) n;
insert into still values (1, 'one'), (2, 'two');
grant select, insert, update, delete on all tables in schema public to flux_guest_main;
"""
READS_A_STEP = (5, 25)
BATCH = 40
"""Executions that are recorded, and then asked again, at a time; fewer where few reads are wanted."""
BATCH_MIN = 8
AT_ONCE = 6
WRITERS = 2
BECAUSE_OF_OTHERS = frozenset({"40001", "40P01", "23505"})
"""SQLSTATEs of statements that fail because of another transaction, which a world does not have."""
SHOWN_MAX = 10

READS: tuple[tuple[str, Callable[[random.Random], list[Any]]], ...] = (
    ("select id, owner, amount from accounts where id = $1", lambda chance: [chance.randint(1, 45)]),
    (
        "select * from accounts where amount between $1 and $2 order by id",
        lambda chance: [0, chance.randint(1, 500)],
    ),
    ("select count(*), sum(amount), max(owner) from accounts", lambda _chance: []),
    ("select * from pairs where a = $1", lambda chance: [chance.randint(0, 20)]),
    ("select a, b, note, n from public.pairs order by b, a", lambda _chance: []),
    ("select id, rate, at from rates where id < $1", lambda chance: [chance.randint(1, 30)]),
    (
        "select a.id, p.b, r.rate from accounts a join pairs p on p.a = a.id left join rates r on r.id = a.id "
        "where a.id < $1 order by 1, 2",
        lambda chance: [chance.randint(1, 20)],
    ),
    ("select count(distinct at) from rates", lambda _chance: []),
    ("select s.what, now() from still s", lambda _chance: []),
    (
        "with part as (select * from accounts where id % 3 = $1) select count(*) from part",
        lambda c: [c.randint(0, 2)],
    ),
)
LOCKING = "select id, amount from accounts where id = $1 for update"
WRITES: tuple[tuple[str, Callable[[random.Random], list[Any]]], ...] = (
    (
        "update accounts set amount = amount + 1 where id = $1 returning id, amount",
        lambda c: [c.randint(1, 45)],
    ),
    ("update accounts set owner = owner || '+' where id % 20 = $1", lambda c: [c.randint(0, 19)]),
    ("update accounts set amount = 0 where false", lambda _chance: []),
    ("delete from pairs where a = $1 and n % 2 = 0", lambda c: [c.randint(0, 20)]),
    (
        "insert into pairs (a, b, note) values ($1, $2, '[1, 2]') on conflict (b, a) do update set n = pairs.n + 1 "
        "returning a, b, n",
        lambda c: [c.randint(0, 20), f"b{c.randint(1, 70)}"],
    ),
    (
        "insert into accounts values ($1, 'new', 1) on conflict do nothing",
        lambda c: [c.randint(1, 45)],
    ),
    ("update pairs set a = a + 1000 where b = $1", lambda c: [f"b{c.randint(1, 70)}"]),
)
FOREIGN: tuple[str, ...] = (
    "update accounts set amount = amount + {n} where id = {n}",
    "update accounts set owner = 'owner {n}' where id % 9 = {n} % 9",
    "delete from accounts where id = {n}",
    "insert into accounts values ({n}, 'foreign', {n}) on conflict (id) do update set owner = 'again'",
    "update pairs set n = n + 1 where a = {n} % 20",
    "delete from pairs where b = 'b{n}'",
    "insert into pairs (a, b) values ({n} % 20, 'b{n}') on conflict do nothing",
    "update rates set rate = rate * 1.5, at = clock_timestamp() where id = {n} % 30",
    "delete from rates where id = {n} % 30",
    "insert into rates (id, rate) values ({n} % 30, 0.1) on conflict do nothing",
    "select 1",
)


@attrs.define
class Tally:
    """What came of it."""

    executions: int = 0
    statements: int = 0
    reads: int = 0
    """Reads that were recorded and asked again."""
    equal: int = 0
    """Of them, those that were answered as recorded."""
    own: int = 0
    """Reads after a write of the execution's own."""
    uncertain: int = 0
    """Statements during whose beginning somebody committed, so that two snapshots are on record."""
    because_of_others: int = 0
    """Executions whose part ended with a statement that failed because of another transaction."""
    kinds: Counter[str] = attrs.field(factory=Counter)
    """Reads by isolation, and whether there was one transaction."""
    different: list[str] = attrs.field(factory=list)
    """What was answered otherwise, reads and writes alike."""
    built: int = 0
    """Worlds."""
    changes: int = 0
    """Row changes in the log at the end."""
    recorded_s: float = 0.0
    reread_s: float = 0.0

    def add(self, heard: "Tally") -> None:
        """Count what came of one execution too."""
        for name in ("statements", "reads", "equal", "own", "because_of_others", "kinds", "different"):
            setattr(self, name, getattr(self, name) + getattr(heard, name))

    def report(self) -> str:
        """Return what a person reads."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        return "\n".join(
            [
                f"{self.equal} of {self.reads} reads re-answered exactly, in {self.executions} executions ({kinds})",
                f"  {self.own} behind a write of their own; {self.uncertain} statements with two snapshots; "
                f"{self.because_of_others} executions ended by others",
                f"  {self.statements} statements asked again in {self.reread_s:.0f} s, {self.built} worlds; "
                f"recorded in {self.recorded_s:.0f} s among {self.changes} row changes",
                *(f"  {each}" for each in self.different[:SHOWN_MAX]),
            ]
        )


def make_script(seed: int) -> Script:
    """Return what one execution does."""

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        chance = random.Random(seed)
        for _ in range(chance.randint(4, 10)):
            if chance.random() < 0.3:
                await _block(guest, chance)
            else:
                await _step(guest, chance)
        return "done"

    return script


async def _block(guest: ScriptedGuest, chance: random.Random) -> None:
    depth = await guest.call("db.begin", None)
    ends = chance.choice(["db.commit", "db.rollback"])
    try:
        for _ in range(chance.randint(0, 4)):
            await _step(guest, chance)
        if chance.random() < 0.2:
            await guest.call(*sql("select 1 / (id - 1) from still"))
    except RuntimeError:
        ends = "db.rollback"
    await guest.call(ends, depth)


async def _step(guest: ScriptedGuest, chance: random.Random) -> None:
    if chance.random() < 0.25:
        statement, make = chance.choice(WRITES)
        await guest.call(*sql(statement, *make(chance)))
    if chance.random() < 0.05:
        await guest.call(*sql(LOCKING, chance.randint(1, 45)))
    for _ in range(chance.randint(*READS_A_STEP)):
        statement, make = chance.choice(READS)
        await guest.call(*sql(statement, *make(chance)))


async def write_on(pool: Pool, seed: int) -> None:
    """Change the tables as another client would, until cancelled."""
    chance = random.Random(seed)
    async with pool.acquire() as connection:
        while True:
            with contextlib.suppress(DatabaseError):  # A deadlock, or a key that is there already.
                await _write_once(connection, chance)
            if connection.in_transaction:
                await connection.rollback()
            await trio.sleep(chance.random() * 0.02)


async def _write_once(connection: Connection, chance: random.Random) -> None:
    if chance.random() < 0.5:
        await connection.execute(chance.choice(FOREIGN).format(n=chance.randint(1, 70)))
        return
    await connection.begin()
    for _ in range(chance.randint(0, 4)):
        await connection.execute(chance.choice(FOREIGN).format(n=chance.randint(1, 70)))
        await trio.sleep(chance.random() * 0.005)
    await (connection.commit() if chance.random() < 0.7 else connection.rollback())


async def record(world: ExecutionWorld, pool: Pool, seeds: range) -> list[tuple[Execution, bool]]:
    """Run executions, several at once; return what is on record of them, and whether each is atomic."""
    ran: list[tuple[Execution, bool]] = []
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def run(seed: int) -> None:
        atomic = bool(seed // 2 % 2)
        isolation = "read committed" if seed % 2 else "repeatable read"
        async with limiter:
            executed = await world.run(make_script(seed), atomic=atomic, isolation=isolation)
        ran.append((executed.execution, atomic))

    async with trio.open_nursery() as nursery:
        for seed in seeds:
            nursery.start_soon(run, seed)
    await world.settle()
    return [((await get_execution(pool, execution.id))[1], atomic) for execution, atomic in ran]


class _Reread:
    """One execution, asked again."""

    def __init__(self, original: Execution, world: WorldDatabase, tally: Tally, kind: str) -> None:
        self._calls = {call.request.seq: call for call in original.calls}
        self._name = original.name
        self._world = world
        self._tally = tally
        self._kind = kind
        self._wrote = False
        world.follow(self._calls.get)

    async def run(self) -> None:
        """Ask everything again, in order."""
        for call in self._calls.values():
            if not call.request.name.startswith("db.") or call.result is None:
                continue
            error = await self._repeat(call)
            recorded = call.result.error
            if error == (None if recorded is None else recorded.code):
                continue
            if recorded is not None and recorded.code in BECAUSE_OF_OTHERS:
                self._tally.because_of_others += 1
                return
            self._differs(call, f"recorded error {recorded and recorded.code}, now {error}")
            return

    async def _repeat(self, call: HostCall) -> str | None:
        """Ask one thing again; return the code of its error."""
        arguments = values.decode(call.request.arguments)
        assert isinstance(arguments, list)
        self._tally.statements += 1
        try:
            await self._ask(call, arguments)
        except HostCallFailed as failed:
            return failed.error.code
        return None

    async def _ask(self, call: HostCall, arguments: list[Any]) -> None:
        seq = call.request.seq
        match call.request.name:
            case "db.begin":
                await self._world.begin(arguments[0], seq)
            case "db.commit":
                await self._world.commit(arguments[0], seq)
            case "db.rollback":
                await self._world.rollback(arguments[0], seq)
            case _:
                answer = await self._world.run(arguments[0], arguments[1], seq)
                again = values.encode(
                    {
                        "columns": list(answer.columns),
                        "types": list(answer.types),
                        "rows": answer.rows,
                        "tag": answer.tag,
                    }
                )
                self._compare(call, again)

    def _compare(self, call: HostCall, again: bytes) -> None:
        assert call.result is not None
        statement = read_statement(call)
        assert statement is not None
        is_equal = again == call.result.value
        if statement.sql.startswith(("select", "with")) and call.result.error is None:
            self._tally.reads += 1
            self._tally.equal += is_equal
            self._tally.own += self._wrote
            self._tally.kinds[self._kind] += 1
        else:
            self._wrote = True
        if not is_equal and call.result.error is None:
            self._differs(call, f"{call.result.value!r} is now {again!r}")

    def _differs(self, call: HostCall, how: str) -> None:
        statement = read_statement(call)
        what = call.request.name if statement is None else f"{statement.sql} {list(statement.arguments)}"
        self._tally.different.append(f"{self._name} ({self._kind}) call {call.request.seq}: {what}: {how}")


async def reread(world: ExecutionWorld, recorded: list[tuple[Execution, bool]], tally: Tally) -> None:
    """Ask everything on record again, in the worlds of then."""
    backing = world.backing
    async with open_keeper(backing.guests, backing.token, "public") as keeper:
        keeper.expect([original for original, _ in recorded])
        for original, atomic in recorded:
            if not original.transactions:
                continue
            kind = f"{original.transactions[0].isolation}, {'one transaction' if atomic else 'several'}"
            tally.executions += 1
            tally.uncertain += sum(
                bool(each.after) for every in original.transactions for each in every.statements
            )
            aside: frozenset[str] = frozenset()
            while True:
                heard = Tally()
                async with keeper.lend(original, aside=aside, atomic=atomic) as lent:
                    await _Reread(original, lent, heard, kind).run()
                if not lent.needed_aside:
                    break
                aside |= lent.needed_aside
            tally.add(heard)
        tally.built += keeper.built


async def run(
    database: Database,
    folder: Path,
    reads: int,
    seed: int = 0,
    tell: Callable[[Tally], None] = lambda _tally: None,
) -> Tally:
    """Record and re-answer until ``reads`` reads have been asked again; ``tell`` hears how far it is."""
    tally = Tally()
    size = max(BATCH_MIN, min(BATCH, reads // 100))
    async with open_world(database, folder / "journal", guest_connections=AT_ONCE + 2) as world:
        database.psql(SCHEMA)
        pool = database.pool(WRITERS + 1)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(WRITERS):
                    nursery.start_soon(write_on, pool, seed + number)
                while tally.reads < reads:
                    await _run_batch(world, pool, tally, range(seed, seed + size))
                    tell(tally)
                    seed += size
                nursery.cancel_scope.cancel()
        finally:
            await pool.aclose()
    tally.changes = int(database.psql("select count(*) from flux.mutation"))
    return tally


async def _run_batch(world: ExecutionWorld, pool: Pool, tally: Tally, seeds: range) -> None:
    began = time.monotonic()
    recorded = await record(world, pool, seeds)
    between = time.monotonic()
    await reread(world, recorded, tally)
    tally.recorded_s += between - began
    tally.reread_s += time.monotonic() - between


def _tell(tally: Tally) -> None:
    print(f"{tally.equal} of {tally.reads} reads", file=sys.stderr)
    for each in tally.different[:SHOWN_MAX]:
        print(f"  {each}", file=sys.stderr)


async def _prepare(database: Database) -> None:
    connection = await connect(database.options())
    await prepare(connection)
    await connection.aclose()


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, record, ask again and report; 0 when every read was answered as recorded."""
    parser = argparse.ArgumentParser(prog="python -m tests.worlds.reread", description=__doc__.split("\n")[0])
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with running_postgres() as server, tempfile.TemporaryDirectory() as scratch:
        database = create_database(server)
        prepared: Callable[[Database], Awaitable[None]] = _prepare
        trio.run(prepared, database)
        tally = trio.run(run, database, Path(scratch), options.reads, options.seed, _tell)
    print(tally.report())
    return 0 if tally.equal == tally.reads and not tally.different else 1


if __name__ == "__main__":
    sys.exit(main())
