"""Two servers on one Postgres, jobs pushed from transactions of which a third roll back, kill -9 of either at random.

Anybody can run it, on a machine as loaded as they like::

    python -m tests.queue.jobs --jobs 10000 --kills 20
    python -m tests.queue.jobs --jobs 500 --kills 4 --seed 7

Each transaction pushes some jobs and writes their numbers into a table; each job writes its own into the ledger, in its
own transaction. What the servers say of themselves is not asked. When the queue is empty, a second ``psql`` compares
the two tables: every number that was pushed by a committed transaction is in the ledger exactly once, and no other is.
And each of these jobs has one record of an attempt that committed, whose parent is on record too.
"""

import argparse
import contextlib
import http.client
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.conftest import Database, create_database
from tests.dev_process import DevServer, database_url, start_dev, wait_ready, write_project
from tests.postgres_server import running_postgres

FUNCTIONS = """\
from flux_guest import function


@function("POST /push")
async def push(ctx, input):
    for n in range(input["first"], input["first"] + input["count"]):
        await ctx.db.execute("insert into pushed values ($1)", n)
        await ctx.queue.push("work", {"n": n})
    if input["fails"]:
        raise RuntimeError("rolled back")
    return {}


@function()
async def work(ctx, payload):
    await ctx.db.execute("insert into ledger values ($1)", payload["n"])
"""
TOML = '[queue]\nlease = "2s"\nconcurrency = 4\n[recording]\nself_check_s = 0\n'
SCHEMA = "create table pushed (n int not null); create table ledger (n int not null);"
PER_TRANSACTION = 10
PUSHERS = 4
EMPTY_S_MAX = 1800.0


@attrs.define
class Report:
    """What came of a run, as psql has it."""

    pushed: int = 0
    """Jobs of committed transactions."""
    rolled_back: int = 0
    """Transactions that answered that they failed."""
    unknown: int = 0
    """Transactions whose server was killed before it answered."""
    kills: int = 0
    missing: int = 0
    """Jobs that were pushed and are not in the ledger."""
    twice: int = 0
    """Numbers that are in the ledger more than once."""
    unasked: int = 0
    """Numbers in the ledger that no committed transaction has pushed."""
    false_answers: int = 0
    """Transactions that are committed and answered that they failed, or the other way round."""
    unlinked: int = 0
    """Jobs without exactly one record of a committed attempt whose parent is on record."""
    dead: int = 0
    taken_over: int = 0
    """Jobs that were begun by a server which died."""
    elapsed_s: float = 0.0

    @property
    def is_fine(self) -> bool:
        wrong = (self.missing, self.twice, self.unasked, self.false_answers, self.unlinked, self.dead)
        return self.pushed > 0 and not any(wrong)


@attrs.define
class _Pair:
    """The two servers; one of them may be down for a while."""

    folders: tuple[Path, ...]
    url: str
    servers: list[DevServer] = attrs.field(factory=list)

    def start(self, folder: Path) -> DevServer:
        return start_dev(folder, "--database-url", self.url)


def run(database: Database, folder: Path, *, jobs: int, kills: int, seed: int) -> Report:
    """Push at least about ``jobs`` jobs, killing servers meanwhile; wait for the queue to be empty, and compare."""
    chance = random.Random(seed)
    folder.chmod(0o755)
    folders = tuple(
        write_project(folder / name, {"jobs.py": FUNCTIONS}, toml=TOML, migrations={"001.sql": SCHEMA})
        for name in ("one", "two")
    )
    pair = _Pair(folders, database_url(database))
    report = Report()
    began = time.monotonic()
    try:
        for where in folders:
            server = pair.start(where)
            wait_ready(server)
            pair.servers.append(server)
        transactions = [
            (number * PER_TRANSACTION, number % 3 == 2) for number in range(-(-jobs * 3 // 2 // PER_TRANSACTION))
        ]
        answers = _push_all(pair, transactions, kills, chance, report)
        _wait_empty(pair, database)
        for server in pair.servers:
            assert server.stop() == 0, "\n".join(server.story)
    finally:
        for server in pair.servers:
            server.kill()
    _compare(database, answers, report)
    report.elapsed_s = time.monotonic() - began
    return report


def _push_all(
    pair: _Pair, transactions: list[tuple[int, bool]], kills: int, chance: random.Random, report: Report
) -> dict[int, int | None]:
    """Push from several threads; return the status that each transaction was answered with, None without an answer."""
    answers: dict[int, int | None] = {}
    waiting = iter(transactions)
    lock = threading.Lock()

    def push(index: int) -> None:
        while True:
            with lock:
                first, fails = next(waiting, (-1, False))
            if first < 0:
                return
            body = {"first": first, "count": PER_TRANSACTION, "fails": fails}
            server = pair.servers[index % 2]
            try:
                answers[first] = server.request("POST", "/push", body).status
            except (OSError, http.client.HTTPException):
                answers[first] = None
                while pair.servers[index % 2] is server:  # It was killed, and another one is on its way.
                    time.sleep(0.05)

    threads = [threading.Thread(target=push, args=(index,)) for index in range(PUSHERS)]
    for thread in threads:
        thread.start()
    for number in range(kills):
        _wait_share(lambda: len(answers), len(transactions) * (number + 1) / (kills + 1), threads)
        which = chance.randrange(2)
        time.sleep(chance.random() * 0.2)
        pair.servers[which].kill()
        report.kills += 1
        again = pair.start(pair.folders[which])
        wait_ready(again)
        pair.servers[which] = again
    for thread in threads:
        thread.join()
    return answers


def _wait_share(count: object, share: float, threads: list[threading.Thread]) -> None:
    """Wait until so many transactions are answered, or all are."""
    assert callable(count)
    while count() < share and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)


def _wait_empty(pair: _Pair, database: Database) -> None:
    deadline = time.monotonic() + EMPTY_S_MAX
    while database.psql("select count(*) from flux.job where state in ('waiting', 'running')") != "0":
        for server in pair.servers:
            assert server.process.poll() is None, "\n".join(server.story)
        assert time.monotonic() < deadline, "the queue does not become empty"
        time.sleep(0.2)


def _compare(database: Database, answers: dict[int, int | None], report: Report) -> None:
    def numbers(sql: str) -> list[int]:
        return [int(line) for line in database.psql(sql).splitlines()]

    pushed, ledger = numbers("select n from pushed order by n"), numbers("select n from ledger order by n")
    report.pushed = len(pushed)
    report.missing = len(set(pushed) - set(ledger))
    report.twice = len(ledger) - len(set(ledger))
    report.unasked = len(set(ledger) - set(pushed))
    report.rolled_back = sum(status == 500 for status in answers.values())
    report.unknown = sum(status is None for status in answers.values())
    there = {n - n % PER_TRANSACTION for n in pushed}
    report.false_answers = sum(
        (status == 200) is not (first in there) for first, status in answers.items() if status is not None
    )
    report.dead = int(database.psql("select count(*) from flux.job where state = 'dead'"))
    report.taken_over = int(database.psql("select count(*) from flux.job where lost > 0"))
    report.unlinked = int(
        database.psql(
            "select count(*) from flux.job j where (select count(*) from flux.execution e "
            "join flux.execution p on p.id = e.parent where e.id = j.execution and e.parent = j.parent "
            "and e.trigger = 'queue' and e.outcome = 'returned') <> 1"
        )
    ) + abs(
        report.pushed
        - int(database.psql("select count(*) from flux.execution where function = 'work' and outcome = 'returned'"))
    )


@contextlib.contextmanager
def _fresh_database() -> Iterator[Database]:
    with running_postgres() as server:
        yield create_database(server)


def main() -> int:
    """Run it as the command line says, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    said = parser.parse_args()
    with _fresh_database() as database, tempfile.TemporaryDirectory(prefix="flux-jobs-") as folder:
        report = run(database, Path(folder), jobs=said.jobs, kills=said.kills, seed=said.seed)
    print(f"seed {said.seed}")
    for name, value in attrs.asdict(report).items():
        print(f"{name:>14}  {value:.1f}" if isinstance(value, float) else f"{name:>14}  {value:,}")
    print("fine" if report.is_fine else "NOT FINE")
    return 0 if report.is_fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
