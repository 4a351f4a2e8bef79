"""Three races over two concurrent requests each, as handlers: recorded for real, and what repairs them.

The requests meet at a stub between what they read and what they write, so the race is in every record of theirs
and never a matter of luck. ``python -m tests.races --times 100`` records each race so often and
replays each record at once; whoever counts is the database's own final state, asked by a second ``psql``.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.conftest import Database
from tests.dev_process import Answer, CountingStub, DevServer, counting_stub, running_dev, write_project
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
    await ctx.http.post(STUB + "/meet/" + input["meet"])


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
    return {"balance": balance}


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


@attrs.frozen
class Race:
    """One of them."""

    path: str
    bodies: tuple[str, str]
    """JSON of the two requests; N is the round's number."""
    check: str
    """Of what must not be."""
    half_fixes: Mapping[str, tuple[tuple[str, str], ...]]
    """What people try first, as changes of the handlers' text, by what it is."""
    fixes: Mapping[str, tuple[tuple[str, str], ...]]


DOUBLE = Race(
    "/subscribe",
    ('{"user": N, "forum": 1, "meet": "s-N"}', '{"user": N, "forum": 1, "meet": "s-N"}'),
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
    ('{"wallet": N, "amount": 10, "meet": "d-N"}', '{"wallet": N, "amount": 10, "meet": "d-N"}'),
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
            ('input["wallet"], balance)\n    return', 'input["wallet"], input["amount"])\n    return'),
        ),
    },
)  # fmt: skip
OVERSELL = Race(
    "/order",
    ('{"product": N, "customer": 1, "meet": "o-N"}', '{"product": N, "customer": 2, "meet": "o-N"}'),
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
        "serializable": (('isolation="read committed"', 'isolation="serializable"'),),
    },
)  # fmt: skip
RACES = {"double subscription": DOUBLE, "lost update": LOST, "oversell": OVERSELL}
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

    def record(self, race: Race) -> list[str]:
        """Let the two requests of a race run at the same time; return the executions' names."""
        self.rounds += 1
        answers: list[Answer] = []

        def ask(body: str) -> None:
            answers.append(
                self.server.request("POST", race.path, json.loads(body.replace("N", str(self.rounds))))
            )

        threads = [threading.Thread(target=ask, args=(body,)) for body in race.bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200, 200], [answer.body for answer in answers]
        return [answer.flux_id for answer in answers]

    def save(self, changes: tuple[tuple[str, str], ...] = ()) -> None:
        """Write the handlers as they were at first, but for ``changes``; wait until they are served."""
        content = HANDLERS
        for old, new in changes:
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
        before = self.look()
        place = json.loads((self.server.project / ".flux" / "dev.json").read_text())
        body = {"executions": names, "in_turn": in_turn, **({} if check is None else {"check": check})}
        answer = self.server.request(
            "POST", f"/_flux/api/interleave?on={on}", body, {"authorization": f"Bearer {place['token']}"}
        )
        assert answer.status == 200, answer.body
        assert self.look() == before
        return answer.json

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
    """Count how often each race is reproduced from its record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--times", type=int, default=100)
    times = parser.parse_args().times
    missed = 0
    with running_postgres() as server, tempfile.TemporaryDirectory() as folder:
        server.psql("create database races template template0")
        with open_arena(Path(folder), Database(server, "races")) as arena:
            for name, race in RACES.items():
                reproduced = 0
                for _ in range(times):
                    told = arena.interleave(arena.record(race), race.check)
                    if is_reproduced(told):
                        reproduced += 1
                    else:
                        print(json.dumps(told), file=sys.stderr)
                print(f"{name}: reproduced {reproduced} of {times}")
                missed += times - reproduced
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
