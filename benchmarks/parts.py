"""What each part of recording costs a request: the product, and the product with one part left out.

    python benchmarks/parts.py [--quick] [--rounds 7] [--requests 150] [--folder DIR]

Recording can't be switched off in Flux, so this harness takes parts away that a server always has. It runs
`flux.supervisor.execute.Executor` in this process, with real workers and a real Postgres (fsync on), one
request after the other, without HTTP in front::

    whole           as ``flux dev`` runs it
    no journal      events are told to nobody before the guest hears its answers
    no capture      the tables' triggers are disabled: no rows before and after
    no record       COMMIT alone in the guest's transaction; nothing is encoded or stored
    nothing         all three left out: the same worker, statements and transaction, unrecorded

The difference between a line and ``whole`` is the part's cost; parts overlap little, but their sum is
not exactly the difference to ``nothing``. Workers serve many requests here (warm), so that forking does not
cover the parts; ``fresh`` is ``whole`` with a process for each request, and the difference is its
price. Rounds are interleaved, each begins with another variant, and differences and ratios are of the variants of one
round. CPU is of the whole tree (supervisor, zygote, workers) and of Postgres, in nanoseconds but for processes that
have ended, of which the kernel tells ticks of 10 ms: of the default round of ``fresh`` that is under 1 %.

At the end, the round trip of one host call, recorded whole: functions that ask the clock many times, and one
that asks for a point SELECT as often, less the same function that asks for none. (``host_call.py`` has the
sandbox's own share of it, and the floor.)
"""

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks.figures import get_tree_cpu_s, print_machine, print_table, spread
from benchmarks.sides import SETTINGS, create_database, running_stub
from benchmarks.workloads import FIND_PERSON, FUNCTIONS, SCHEMA, SHORT, TABLES, WORKLOADS
from flux.execution import Execution, LogLine, Returned, Transaction, Trigger
from flux.hostcall import HostCallRequest, HostCallResult
from flux.mutation import Mutation
from flux.project import list_migrations, read_project
from flux.store.migrate import apply_user_migrations
from flux.store.queries import QUERIES
from flux.store.records import RecordWriter
from flux.supervisor import execute
from flux.supervisor.artifacts import Artifacts
from flux.supervisor.backing import open_backing
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.environments import Environments
from flux.supervisor.execute import Backing, Executor
from flux.tenant import Tenant
from tests.conftest import Database
from tests.dev_process import write_project
from tests.postgres_server import PostgresServer, running_postgres

CALLS = 900
"""Host calls of one execution in the round trip's measurement; the default limit is 1000."""
CALLING = f'''

@function("POST /clock")
async def ask_the_clock(ctx: Context, input: dict) -> None:
    for _ in range(input["calls"]):
        await ctx.clock.fresh()


@function("POST /plain-clock")
def ask_the_clock_plainly(ctx: Context, input: dict) -> None:
    for _ in range(input["calls"]):
        ctx.clock.fresh()


@function("POST /select")
async def ask_the_database(ctx: Context, input: dict) -> None:
    await ctx.db.query("{FIND_PERSON}", 1)
    for number in range(input["calls"]):
        await ctx.db.query("{FIND_PERSON}", number + 1)
'''


class NoJournal:
    """Hears what a `Journal` hears, and keeps nothing."""

    def begin(self, execution: Execution) -> None: ...
    def asked(self, key: bytes, request: HostCallRequest, started_ns: int) -> None: ...
    def answered(self, key: bytes, seq: int, result: HostCallResult, answered: int) -> None: ...
    def logged(self, key: bytes, line: LogLine) -> None: ...
    def transaction(self, key: bytes, transaction: Transaction) -> None: ...
    def mutated(self, key: bytes, call: int, mutations: Sequence[Mutation]) -> None: ...
    def ended(self, key: bytes, execution: Execution, *, in_transaction: bool) -> None: ...
    def stored(self, key: bytes) -> None: ...


class NoWriter:
    """The `RecordWriter`, but for the records that it is given: they are not stored."""

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def submit(self, record: object, on_stored: Callable[[], None]) -> None:  # noqa: ARG002 - the writer's signature
        """Say that it is stored."""
        on_stored()


class NoAudience:
    """Who hears of executions, and tells nobody."""

    def done(self, execution: Execution, *, stored: bool) -> None: ...
    def stored(self, execution_id: uuid.UUID) -> None: ...


@attrs.frozen
class _NoRecord:
    blobs: tuple[()] = ()


class _CommitOnly:
    """Stands for the queries of `flux.supervisor.execute`: the record's statement is left out."""

    commit_record = "select pg_catalog.pg_current_xact_id_if_assigned()"

    def __init__(self, queries: Any) -> None:
        self._queries = queries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queries, name)


@contextlib.contextmanager
def without_record() -> Iterator[None]:
    """Leave the record out of what `flux.supervisor.execute` does at an execution's end."""
    replaced = {
        "make_record": lambda _execution: _NoRecord(),
        "commit_parameters": lambda _record, _token: (),
        "QUERIES": _CommitOnly(QUERIES),
    }
    before = {name: getattr(execute, name) for name in replaced}
    try:
        for name, value in replaced.items():
            setattr(execute, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(execute, name, value)


@contextlib.contextmanager
def without_capture(database: Database) -> Iterator[None]:
    """Disable the capture triggers on the workloads' tables, and what would put them back at once."""
    def alter(word: str) -> None:
        names = ("insert", "update", "delete", "truncate")
        database.psql(
            "; ".join(f'alter table {table} {word} trigger "!flux_{name}"' for table in TABLES for name in names)
        )

    database.psql("alter event trigger flux_ddl disable")
    alter("disable")
    assert database.psql("select count(*) from flux.coverage()") == str(len(TABLES)), "no table is captured"
    try:
        yield
    finally:
        alter("enable")
        database.psql("alter event trigger flux_ddl enable")


@attrs.frozen
class Variant:
    """The product, or what is left of it."""

    name: str
    journal: bool = True
    capture: bool = True
    record: bool = True
    fresh: bool = False


VARIANTS = (
    Variant("whole"),
    Variant("no journal", journal=False),
    Variant("no capture", capture=False),
    Variant("no record", record=False),
    Variant("nothing", journal=False, capture=False, record=False),
    Variant("fresh", fresh=True),
)


@attrs.frozen
class Round:
    """Of one variant and workload; milliseconds a request."""

    elapsed_ms: float
    flux_cpu_ms: float
    postgres_cpu_ms: float


class Harness:
    """A deployment, fresh and warm, over one database."""

    def __init__(
        self, backing: Backing, database: Database, fresh: LiveDeployment, warm: LiveDeployment
    ) -> None:
        self.backing = backing
        self._database = database
        self._fresh = fresh
        self._warm = warm
        self._next = random.randrange(10**9)  # Addresses of sign-ups that no run before has used.

    async def measure(self, variant: Variant, workload: str, requests: int) -> Round:
        """Run so many requests one after the other."""
        backing = self.backing
        # What stands in has the same methods, as far as an execution calls them.
        stand_in: Any
        if not variant.journal:
            stand_in = NoJournal()
            backing = attrs.evolve(backing, journal=stand_in)
        if not variant.record:
            stand_in = NoWriter(self.backing.writer)
            backing = attrs.evolve(backing, writer=stand_in)
        executor = Executor(backing, NoAudience())
        with contextlib.ExitStack() as stack:
            if not variant.capture:
                stack.enter_context(without_capture(self._database))
            if not variant.record:
                stack.enter_context(without_record())
            for _ in range(5):
                await self.request(executor, workload, fresh=variant.fresh)
            cpu, postgres = get_tree_cpu_s(os.getpid()), get_tree_cpu_s(self._database.server.pid)
            own = get_tree_cpu_s(
                self._database.server.pid
            )  # Postgres is our child here, so it is in our tree.
            started = time.perf_counter()
            for _ in range(requests):
                await self.request(executor, workload, fresh=variant.fresh)
            elapsed_s = time.perf_counter() - started
            await self.backing.writer.flush()
            await trio.sleep(0.05)
            now_postgres = get_tree_cpu_s(self._database.server.pid)
            flux_s = get_tree_cpu_s(os.getpid()) - cpu - (now_postgres - own)
        return Round(
            elapsed_s / requests * 1000, flux_s / requests * 1000, (now_postgres - postgres) / requests * 1000
        )

    async def request(self, executor: Executor, workload: str, *, fresh: bool) -> None:
        """Run one."""
        self._next += 1
        method, path, params, body = WORKLOADS[workload].trigger(self._next)
        trigger = Trigger("http", method, path, path, params=tuple(params.items()), body=repr(body).encode())
        value = {**params, **(body if isinstance(body, dict) else {})}
        await self._run(executor, WORKLOADS[workload].function, trigger, value, fresh=fresh)

    async def _run(
        self, executor: Executor, function: str, trigger: Trigger, value: object, *, fresh: bool
    ) -> None:
        deployment = self._fresh if fresh else self._warm
        executed = await executor.execute(deployment.runnables[function], trigger, value)
        assert isinstance(executed.outcome, Returned), executed.outcome

    async def measure_call_us(self, function: str, rounds: int) -> tuple[list[float], list[float]]:
        """Return what each round found one host call to take, and its CPU of guest, Flux and Postgres, in us."""
        executor = Executor(self.backing, NoAudience())
        trigger = Trigger("http", "POST", f"/{function}", f"/{function}")
        elapsed_us, cpu_us = [], []
        for _ in range(rounds):
            taken: dict[int, tuple[float, float]] = {}
            for calls in (0, CALLS):
                cpu, started = get_tree_cpu_s(os.getpid()), time.perf_counter()
                await self._run(executor, function, trigger, {"calls": calls}, fresh=False)
                taken[calls] = (time.perf_counter() - started, get_tree_cpu_s(os.getpid()) - cpu)
            per_call = [(much - little) / CALLS * 1e6 for little, much in zip(*taken.values(), strict=True)]
            elapsed_us.append(per_call[0])
            cpu_us.append(per_call[1])
        return elapsed_us, cpu_us


@contextlib.asynccontextmanager
async def open_harness(
    server: PostgresServer, stub_port: int, folder: Path, name: str = "parts"
) -> AsyncIterator[Harness]:
    """Open everything behind `Executor` as ``flux dev`` does, over a new database called ``name``."""
    database = create_database(server, name)
    root = folder / "project"
    root.mkdir()
    allow = f'[http]\nallow = ["127.0.0.1:{stub_port}"]\n'
    write_project(
        root,
        {"service.py": FUNCTIONS.replace("STUB_PORT", str(stub_port)) + CALLING},
        toml=f"{allow}[sandbox]\nwarm = 1000000\n",
        migrations={"001.sql": SCHEMA},
    )
    tenant = Tenant()
    (folder / "journal").mkdir(mode=0o700)

    def report(error: BaseException) -> None:
        raise error

    async with open_backing(database.options(), tenant, folder / "journal", {}, report=report) as opened:
        backing = opened.backing
        warm_project = read_project(root)
        async with backing.owner.acquire() as connection:
            await apply_user_migrations(connection, tenant.name, list_migrations(warm_project))
        (root / "flux.toml").write_text(f'[project]\nname = "test"\n{allow}')
        async with trio.open_nursery() as nursery:
            environments = Environments(folder / "environments", print)
            deployments = Deployments(
                nursery, Artifacts(folder / "artifacts"), environments, tenant, idle_workers=4, on_output=print
            )
            warm = await deployments.prepare(warm_project)
            fresh = await deployments.prepare(read_project(root))
            yield Harness(backing, database, fresh, warm)
            nursery.cancel_scope.cancel()


def _get_difference_ms(one: Round, whole: Round) -> float:
    return one.elapsed_ms - whole.elapsed_ms


def _get_cpu_ratio(one: Round, whole: Round) -> float:
    return (one.flux_cpu_ms + one.postgres_cpu_ms) / (whole.flux_cpu_ms + whole.postgres_cpu_ms)


async def run(rounds: int, requests: int, folder: Path, server: PostgresServer, stub_port: int) -> None:
    """Measure all and print it."""
    async with open_harness(server, stub_port, folder) as harness:
        found: dict[str, dict[str, list[Round]]] = {
            workload: {variant.name: [] for variant in VARIANTS} for workload in (*SHORT, "tpcc")
        }
        for number in range(rounds):
            first = number % len(VARIANTS)
            for workload, by_variant in found.items():
                for variant in VARIANTS[first:] + VARIANTS[:first]:
                    by_variant[variant.name].append(await harness.measure(variant, workload, requests))
        for workload, by_variant in found.items():
            print(f"### {WORKLOADS[workload].title}\n")
            whole = by_variant["whole"]
            print_table(
                ("variant", "ms a request", "against whole", "Flux CPU ms", "Postgres CPU ms", "CPU, whole = 1"),
                [
                    (
                        name,
                        spread([each.elapsed_ms for each in rounds_], 2),
                        f"{statistics.median(map(_get_difference_ms, rounds_, whole)):+.2f} ms",
                        spread([each.flux_cpu_ms for each in rounds_], 2),
                        spread([each.postgres_cpu_ms for each in rounds_], 2),
                        spread(list(map(_get_cpu_ratio, rounds_, whole)), 2),
                    )
                    for name, rounds_ in by_variant.items()
                ],
            )
            print(flush=True)
        print("### one host call, there and back\n")
        rows = []
        for name, function in (
            ("clock.now, async def", "ask_the_clock"),
            ("clock.now, def", "ask_the_clock_plainly"),
            ("db.query of a point SELECT, async def", "ask_the_database"),
        ):
            elapsed_us, cpu_us = await harness.measure_call_us(function, 3 * rounds)
            rows.append((name, spread(elapsed_us), spread(cpu_us, 0)))
        print_table(("call", "us", "CPU us, all processes"), rows)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that it works")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=150, help="a round (default 150)")
    parser.add_argument(
        "--folder", type=Path, help="where the journal is written (default: the temporary folder)"
    )
    options = parser.parse_args()
    rounds, requests = (2, 40) if options.quick else (options.rounds, options.requests)
    print_machine()
    with (
        tempfile.TemporaryDirectory(prefix="fluxbench", dir=options.folder) as folder,
        running_postgres(extra_settings=SETTINGS, on_disk=True) as server,
        running_stub() as stub_port,
    ):
        trio.run(run, rounds, requests, Path(folder), server, stub_port)


if __name__ == "__main__":
    main()
