"""Three races over two concurrent requests each, as handlers: recorded for real, and what repairs them.

The requests meet between what they read and what they write, at a lock that a ``psql`` holds until both wait for it:
so the race is in every record of theirs and never a matter of luck. In a replay nobody holds it.

``python -m tests.races --times 100`` records each race so often and replays each record at once; whoever counts is the
database's own final state, asked by a second ``psql``.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.conftest import Database
from tests.dev_process import (
    START_S_MAX,
    Answer,
    CountingStub,
    DevServer,
    counting_stub,
    running_dev,
    write_project,
)
from tests.postgres_server import running_postgres

SCHEMA = """
create table subscription (
    id bigint generated always as identity primary key, user_id int not null, forum_id int not null,
    at timestamptz not null default now());
create table wallet (id int primary key, balance int not null);
create table customer (id int primary key, name text not null);
create table product (id int primary key, stock int not null);
create table orders (
    id uuid primary key default gen_random_uuid(), product int not null references product, customer int not null);
insert into wallet select n, 100 from generate_series(1, 1000) n;
insert into customer select n, 'c' || n from generate_series(1, 2) n;
insert into product select n, 1 from generate_series(1, 1000) n;
"""
HANDLERS = """\
from flux_guest import function

STUB = "http://127.0.0.1:PORT"


async def meet(ctx, input):
    await ctx.db.execute("select pg_advisory_xact_lock_shared($1)", input["meet"])


@function("POST /subscribe")
async def subscribe(ctx, input):
    user, forum = input["user"], input["forum"]
    found = await ctx.db.query_one(
        "select id from subscription where user_id = $1 and forum_id = $2", user, forum)
    await meet(ctx, input)
    if found is None:
        await ctx.db.execute("insert into subscription (user_id, forum_id) values ($1, $2)", user, forum)
    return {"subscribed": found is None}


@function("POST /deposit", atomic=False, isolation="read committed")
async def deposit(ctx, input):
    row = await ctx.db.query_one("select balance from wallet where id = $1", input["wallet"])
    await meet(ctx, input)
    balance = row["balance"] + input["amount"]
    await ctx.db.execute("update wallet set balance = $2 where id = $1", input["wallet"], balance)
    await ctx.http.post(STUB + "/receipts", json={"wallet": input["wallet"]})
    return {"balance": balance}


@function("POST /bump")
async def bump(ctx, input):
    row = await ctx.db.query_one("select w.balance from wallet w where w.id = $1", input["wallet"])
    await meet(ctx, input)
    await ctx.db.execute("update wallet set balance = $1 where id = $2", row["balance"] + 1, input["wallet"])
    return {"balance": row["balance"] + 1}


@function("POST /order", isolation="read committed")
async def order(ctx, input):
    row = await ctx.db.query_one("select stock from product where id = $1", input["product"])
    await meet(ctx, input)
    if row["stock"] < 1:
        return {"ordered": False}
    await ctx.db.execute("update product set stock = stock - 1 where id = $1", input["product"])
    await ctx.db.execute(
        "insert into orders (product, customer) values ($1, $2)", input["product"], input["customer"])
    return {"ordered": True}
"""
UNIQUE = "alter table subscription add constraint once unique (user_id, forum_id);"


Changes = tuple[tuple[str, str], ...]
"""What stands in the handlers' text, and what is to stand there."""


@attrs.frozen
class Race:
    """One of them."""

    path: str
    bodies: tuple[str, str]
    """JSON of the two requests; N is the round's number."""
    check: str
    """Of what must not be."""
    half_fixes: Mapping[str, Changes]
    """What people try first, as changes of the handlers' text, by what it is."""
    fixes: Mapping[str, Changes]


DOUBLE = Race(
    "/subscribe",
    ('{"user": N, "forum": 1, "meet": N}', '{"user": N, "forum": 1, "meet": N}'),
    "select user_id, forum_id, count(*) from subscription group by 1, 2 having count(*) > 1",
    {
        "looks once more": (
            ("    if found is None:\n        await ctx.db.execute(\"insert into subscription",
             "    found = found or await ctx.db.query_one(\n"
             "        \"select 1 as again from subscription where user_id = $1 and forum_id = $2\", user, forum)\n"
             "    if found is None:\n        await ctx.db.execute(\"insert into subscription"),
        ),
        "inserts where there is none": (
            ('values ($1, $2)", user, forum)\n    return {"subscribed"',
             'select $1::int, $2::int where not exists (select from subscription where user_id = $1::int and '
             'forum_id = $2::int)", user, forum)\n    return {"subscribed"'),
        ),
    },
    {"serializable": (('@function("POST /subscribe")', '@function("POST /subscribe", isolation="serializable")'),)},
)  # fmt: skip
UNIQUE_FIX = (
    ('values ($1, $2)", user, forum)\n    return {"subscribed"',
     'values ($1, $2) on conflict do nothing", user, forum)\n    return {"subscribed"'),
)  # fmt: skip
"""Goes with the migration `UNIQUE`."""
LOST = Race(
    "/deposit",
    ('{"wallet": N, "amount": 10, "meet": N}', '{"wallet": N, "amount": 10, "meet": N}'),
    "select id, balance from wallet where balance not in (100, 120)",
    {
        "one transaction": (
            ('"POST /deposit", atomic=False,', '"POST /deposit",'),
        ),
    },
    {
        "for update": (
            ('"POST /deposit", atomic=False,', '"POST /deposit",'),
            ("select balance from wallet where id = $1", "select balance from wallet where id = $1 for update"),
        ),
        "adds in place": (
            ("update wallet set balance = $2 where id = $1", "update wallet set balance = balance + $2 where id = $1"),
            ('input["wallet"], balance)\n    await ctx.http', 'input["wallet"], input["amount"])\n    await ctx.http'),
        ),
    },
)  # fmt: skip
OVERSELL = Race(
    "/order",
    ('{"product": N, "customer": 1, "meet": N}', '{"product": N, "customer": 2, "meet": N}'),
    "select id, stock from product where stock < 0",
    {
        "locks another row": (
            ('    row = await ctx.db.query_one("select stock',
             '    await ctx.db.query_one("select id from customer where id = $1 for update", input["customer"])\n'
             '    row = await ctx.db.query_one("select stock'),
        ),
    },
    {
        "for update": (
            ("select stock from product where id = $1", "select stock from product where id = $1 for update"),
        ),
        "serializable": (
            ('"POST /order", isolation="read committed"', '"POST /order", isolation="serializable"'),
        ),
    },
)  # fmt: skip
RACES = {"double subscription": DOUBLE, "lost update": LOST, "oversell": OVERSELL}
BUMP = Race("/bump", ('{"wallet": N, "meet": N}', '{"wallet": N, "meet": N}'), "select 1 where false", {}, {})
"""No race: PostgreSQL gives one of the two up, and Flux runs it again."""
CHECK_ALL = " union all ".join(
    f"select '{name}' as race from ({race.check}) wrong" for name, race in RACES.items()
)
"""Finds a row with the race's name for each thing that must not be."""
CLEAN = "truncate subscription, orders; update wallet set balance = 100; update product set stock = 1"
"""Leaves none of the wrong rows of a round."""
MOMENT = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
CHECKSUM = """
select md5(coalesce(string_agg(t, ',' order by t), '')) from (
    select 's' || subscription::text from subscription union all select 'w' || wallet::text from wallet
    union all select 'p' || product::text from product union all select 'o' || orders::text from orders
    union all select 'n' || last_value::text from subscription_id_seq) all_rows(t)
"""


@attrs.define
class Arena:
    """A server with the handlers, and those who see what happens behind it."""

    server: DevServer
    database: Database
    stub: CountingStub
    rounds: int = 0

    def record(self, *races: Race, meanwhile: str = "select 1") -> list[str]:
        """Let the two requests of each race run at the same time; return the executions' names.

        ``meanwhile`` is run by ``psql`` when all of them have read and none has written.
        """
        self.rounds += 1
        place = self.rounds
        answers: list[Answer] = []

        def ask(path: str, body: str) -> None:
            answers.append(self.server.request("POST", path, json.loads(body.replace("N", str(place)))))

        threads = [
            threading.Thread(target=ask, args=(race.path, body)) for race in races for body in race.bodies
        ]
        waiting = (
            f"select count(*) from pg_locks where locktype = 'advisory' and not granted and objid = {place}"
        )
        with self._holding(place):
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + START_S_MAX
            while self.database.psql(waiting) != str(len(threads)):
                assert time.monotonic() < deadline, "they never met"
                time.sleep(0.01)
            self.database.psql(meanwhile)
        for thread in threads:
            thread.join()
        assert {answer.status for answer in answers} == {200}, [answer.body for answer in answers]
        return [answer.flux_id for answer in answers]

    @contextlib.contextmanager
    def _holding(self, place: int) -> Iterator[None]:
        """Keep others waiting at ``place``."""
        server = self.database.server
        psql = subprocess.Popen(
            [server.bin_dir / "psql", "-XqAt", "-h", server.host, "-p", str(server.port), "-U", server.user,
             self.database.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert psql.stdin is not None
        assert psql.stdout is not None
        try:
            psql.stdin.write(f"select pg_advisory_lock({place});\nselect 'held';\n")
            psql.stdin.flush()
            while psql.stdout.readline() != "held\n":
                assert psql.poll() is None, "psql has ended"
            yield
        finally:
            psql.stdin.close()
            psql.wait()
            psql.stdout.close()

    def save(self, *repairs: Changes) -> None:
        """Write the handlers as they were at first, but for ``repairs``; wait until they are served."""
        content = HANDLERS
        for old, new in (change for changes in repairs for change in changes):
            assert content.count(old) == 1, old
            content = content.replace(old, new)
        content = content.replace("PORT", str(self.stub.port))
        path = self.server.project / "functions" / "race.py"
        if path.read_text() != content:
            told = len(self.server.story)
            path.write_text(content)
            self.server.wait_story("race.py", after=told)

    def interleave(self, names: list[str], check: str | None, *, on: str = ".", in_turn: bool = False) -> Any:
        """Replay executions at once, as the command line asks for it; nobody outside may notice."""
        answer = self.ask(names, check, on=on, in_turn=in_turn)
        assert answer.status == 200, answer.body
        return answer.json

    def ask(self, names: list[str], check: str | None, *, on: str = ".", in_turn: bool = False) -> Answer:
        """As `interleave`, whatever the answer is."""
        before = self.look()
        place = json.loads((self.server.project / ".flux" / "dev.json").read_text())
        body = {"executions": names, "in_turn": in_turn, **({} if check is None else {"check": check})}
        answer = self.server.request(
            "POST", f"/_flux/api/interleave?on={on}", body, {"authorization": f"Bearer {place['token']}"}
        )
        assert self.look() == before
        return answer

    def look(self) -> tuple[object, ...]:
        """What must be the same after any replay: the stub's counter, the rows, the databases and the roles."""
        return (
            len(self.stub.seen),
            self.database.psql(CHECKSUM),
            self.database.psql("select count(*) from pg_database"),
            self.database.psql("select count(*) from pg_roles"),
        )


@contextlib.contextmanager
def open_arena(folder: Path, database: Database) -> Iterator[Arena]:
    """Serve the handlers for as long as the block lasts."""
    with counting_stub() as stub:
        folder.chmod(0o755)
        project = write_project(
            folder / "races",
            {"race.py": HANDLERS.replace("PORT", str(stub.port))},
            toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n',
            migrations={"001.sql": SCHEMA},
        )
        with running_dev(project, database) as server:
            yield Arena(server, database, stub)


def is_reproduced(told: Any) -> bool:
    """Whether what was recorded came out again, wrong rows included, with no help but the gates."""
    together = told["together"]
    return (
        told["verdict"] == "still wrong"
        and told["check"]["replayed"] == told["check"]["recorded"] != []
        and all(table["same"] for table in together["tables"])
        and together["relaxed_gates"] == 0
        and together["fidelity"]["matched"] == together["fidelity"]["equal"] > 0
        and all(one["verdict"] == "identical" for one in together["executions"])
    )


def main() -> int:
    """Count how often the races are reproduced from their record, each time from a new one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--times", type=int, default=100)
    times = parser.parse_args().times
    reproduced = 0
    began = time.monotonic()
    with running_postgres() as server, tempfile.TemporaryDirectory() as folder:
        server.psql("create database races template template0")
        with open_arena(Path(folder), Database(server, "races")) as arena:
            for number in range(1, times + 1):
                arena.database.psql(CLEAN)
                told = arena.interleave(arena.record(*RACES.values()), CHECK_ALL)
                found = [row["race"] for row in told["check"]["replayed"]]
                if is_reproduced(told) and found == sorted(RACES):
                    reproduced += 1
                else:
                    print(json.dumps(told), file=sys.stderr)
                if number % 10 == 0 or number == times:
                    elapsed_s = time.monotonic() - began
                    print(
                        f"{', '.join(RACES)}: reproduced {reproduced} of {number}, {elapsed_s:.0f} s",
                        flush=True,
                    )
    return int(reproduced < times)


if __name__ == "__main__":
    sys.exit(main())
