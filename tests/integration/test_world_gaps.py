"""What a world's copies demand, compute and draw is what the tables themselves do.

The oracle is a twin: a database to which the same was done up to then, and nothing since, where ``psql`` runs the same
statements. A transaction that is open since then, which other tests ask, could not write to rows that changed.
"""

import json
import re
from collections.abc import Callable, Iterator

import attrs
import pytest

from flux.hostcalls.base import HostCallFailed
from flux.supervisor.world import WorldDatabase, open_world
from tests.conftest import Database
from tests.postgres_server import PostgresServer
from tests.world_harness import TOKEN, Watcher, ask, open_guests, plan

KEYS = """
create table parents (a int, b text, primary key (a, b), tag text unique deferrable);
create table restricted (id int primary key, a int, b text,
    constraint "Holds on" foreign key (a, b) references parents on delete restrict on update restrict);
create table cascaded (id int primary key, a int, b text,
    constraint goes_along foreign key (a, b) references parents on delete cascade on update cascade);
create table nulled (id int primary key, a int, b text default 'x',
    constraint lets_go foreign key (a, b) references parents on delete set null on update set default);
create table deferred (id int primary key, a int, b text,
    constraint later foreign key (a, b) references parents match full deferrable initially deferred);
create table trees (id int primary key, parent int constraint rooted references trees on delete cascade);
create table grandchildren (id int primary key, cascaded int constraint grand references cascaded);
insert into parents select n, 'x', 't' || n from generate_series(1, 20) n;
insert into restricted values (1, 1, 'x');
insert into cascaded values (1, 2, 'x'), (2, 3, 'x');
insert into nulled values (1, 4, 'x'), (2, 5, 'x');
insert into deferred values (1, 6, 'x');
insert into trees values (1, null), (2, 1), (3, 2);
insert into grandchildren values (1, 2);
"""
KEY_STATEMENTS = (
    "insert into restricted values (2, 99, 'x')",
    "insert into restricted values (2, 99, null)",
    "insert into restricted values (2, 7, 'x')",
    "insert into deferred values (2, null, 'x')",
    "insert into deferred values (2, 99, 'y'); set constraints all immediate",
    "insert into deferred values (2, 99, 'y'); insert into parents values (99, 'y'); set constraints later immediate",
    "update restricted set a = 98 where id = 1",
    "update restricted set id = 5 where id = 1",
    "delete from parents where a = 1",
    "update parents set a = 100 where a = 1",
    "update parents set tag = 'other' where a = 1",
    "delete from parents where a = 2",
    "delete from parents where a = 3",
    "update parents set a = 100 where a = 2",
    "delete from parents where a = 4",
    "update parents set a = 100 where a = 5",
    "delete from parents where a = 6; set constraints all immediate",
    "delete from parents where a = 6; insert into parents values (6, 'x'); set constraints all immediate",
    "insert into trees values (9, 8)",
    "insert into trees values (9, 9)",
    "delete from trees where id = 1",
    "update trees set parent = 77 where id = 3",
    "insert into parents values (1, 'x')",
    "insert into parents values (50, 'x', 't1')",
)
STATE = (
    "select * from parents order by a, b",
    "select * from restricted order by id",
    "select * from cascaded order by id",
    "select * from nulled order by id",
    "select * from deferred order by id",
    "select * from trees order by id",
    "select * from grandchildren order by id",
)


@attrs.frozen
class Twins:
    """A database, and one to which nothing happens after `part`."""

    changing: Database
    still: Watcher
    """A session of the other one."""
    snapshot: str
    """Of the first, when they parted."""

    def change(self, sql: str) -> None:
        """Let something happen that a world must not see."""
        self.changing.psql(sql)


@pytest.fixture
def part(
    postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[Callable[[str], Twins]]:
    """Makes two databases alike, which part then."""
    watchers: list[Watcher] = []

    def make(sql: str) -> Twins:
        changing, still = make_database(postgres), make_database(postgres)
        for database in (changing, still):
            database.psql(sql)
        watchers.append(Watcher(still))
        return Twins(changing, watchers[0], changing.psql("select pg_current_snapshot()"))

    yield make
    for watcher in watchers:
        watcher.close()


def without_time(text: str | None) -> str | None:
    """The world's clock is not the twin's."""
    return text and re.sub(r"\d{4}-\d\d-\d\d [\d:.]+\+00", "then", text)


async def outcome_in_world(world: WorldDatabase, script: str, state: tuple[str, ...]) -> object:
    """What the statements of ``script`` come to, taken back afterwards: an error, or the tables' state."""
    depth = await world.begin(None, 1)
    try:
        for sql in script.split("; "):
            try:
                await world.run(sql, [], 1)
            except HostCallFailed as failed:
                assert not world.needed and world.refusal is None, (world.needed, world.refusal)
                details = json.loads(failed.error.details)
                found = (
                    failed.error.code, details.get("constraint"), failed.error.message, details.get("detail"),
                )  # fmt: skip
                return tuple(without_time(part) for part in found)
        return [await ask(world, question) for question in state]
    finally:
        await world.rollback(depth, 1)


def outcome_before(watcher: Watcher, script: str, state: tuple[str, ...]) -> object:
    """The same of the session that saw the tables then."""
    watcher.say("rollback; begin")
    try:
        for sql in script.split("; "):
            said = watcher.say(
                "do $flux$ declare c text; d text; begin execute $sql$"
                + sql
                + "$sql$; exception when others then "
                "get stacked diagnostics c = constraint_name, d = pg_exception_detail; "
                "perform set_config('tests.error', "
                "jsonb_build_array(sqlstate, nullif(c, ''), sqlerrm, nullif(d, ''))::text, false); "
                "end $flux$; select current_setting('tests.error', true)"
            )
            watcher.say("select set_config('tests.error', '', false)")
            if said:
                return tuple(without_time(part) for part in json.loads(said))
        return [watcher.rows(question) for question in state]
    finally:
        watcher.say("rollback")


async def test_foreign_keys_hold_as_they_did(part: Callable[[str], Twins]) -> None:
    twins = part(KEYS)
    # What came since must not matter.
    twins.change(
        "insert into parents values (99, 'x'), (98, 'x'), (8, 'y'); delete from restricted; delete from grandchildren; "
        "delete from parents where a = 7; insert into trees values (8, 1)"
    )
    pool = await open_guests(twins.changing)
    tables = ("parents", "restricted", "cascaded", "nulled", "deferred", "trees", "grandchildren")
    async with open_world(pool, TOKEN, plan(twins.snapshot, *tables)) as world:
        assert world.notes == ()
        for script in KEY_STATEMENTS:
            found = await outcome_in_world(world, script, STATE)
            assert found == outcome_before(twins.still, script, STATE), script
    await pool.aclose()


async def test_a_table_that_a_foreign_key_changes_is_asked_for(part: Callable[[str], Twins]) -> None:
    twins = part(KEYS)
    pool = await open_guests(twins.changing)
    script = "delete from parents where a = 2"
    written = {"parents"}
    for needed in ({"cascaded"}, set()):
        async with open_world(pool, TOKEN, plan(twins.snapshot, *written)) as world:
            try:
                assert (await world.run(script, [], 1)).tag == "DELETE 1"
            except HostCallFailed:
                assert world.needed == needed
            written |= world.needed
            assert world.needed == needed
    async with open_world(pool, TOKEN, plan(twins.snapshot, *written)) as world:
        # A child is refused by what stands for an uncopied table as well.
        script = "delete from parents where a = 1"
        state = STATE[:3]
        assert await outcome_in_world(world, script, state) == outcome_before(twins.still, script, state)
    await pool.aclose()


CODE = """
create table accounts (id int generated always as identity primary key, owner text not null, amount numeric not null,
    doubled numeric generated always as (amount * 2) stored, noted timestamptz default current_timestamp,
    constraint "no debts" check (amount >= 0), constraint one_each unique (owner));
create unique index lower_owner on accounts (lower(owner)) where amount > 0;
create table audit (id serial primary key, what text, at timestamptz default now());
create table totals (one int primary key default 1, total numeric);
create table bookings (room int, during int4range, exclude using gist (during with &&));
create table days (day int, what text, primary key (day, what)) partition by range (day);
create table days_1 partition of days for values from (0) to (10);
create table days_2 partition of days for values from (10) to (20);
create table plain (a int, b text);
create view rich as select id, owner, amount from public.accounts where amount > 50;
create view richest as select max(amount) as most, count(*) as many from rich;
create view since as select now() as at, count(*) from audit;
create materialized view counted as select count(*) as n from accounts;
create function note() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into public.audit (what, at) values (tg_op || coalesce(new.owner, old.owner), current_timestamp);
    if tg_op <> 'DELETE' and new.amount = 13 then new.amount := 14; end if;
    return coalesce(new, old);
end $$;
create trigger "Note it" before insert or update or delete on accounts for each row execute function note();
create function add_up() returns trigger language plpgsql as $$
begin update totals set total = (select sum(amount) from accounts); return null; end $$;
create trigger adds_up after insert or update or delete on accounts for each statement execute function public.add_up();
create trigger only_rich after update of amount on accounts for each row when (new.amount > 1000)
    execute function note();
create function balance(who text) returns numeric language sql stable as $$
    select amount from public.accounts where owner = who $$;
create function pay(who text, sum numeric) returns numeric language plpgsql set search_path = public as $$
begin update accounts set amount = amount + sum where owner = who; return balance(who); end $$;
create function settle() returns trigger language plpgsql as $$
begin update accounts set amount = new.amount where id = old.id; return new; end $$;
create view payable as select id, owner, amount from accounts union all select 0, 'nobody', 0;
create trigger settles instead of update on payable for each row execute function settle();
insert into totals values (1, 0);
insert into accounts (owner, amount) select 'n' || n, n * 10 from generate_series(1, 10) n;
insert into bookings values (1, '[1,5)');
insert into days select n, 'd' from generate_series(0, 19) n;
insert into plain values (1, 'x'), (1, 'x'), (1, 'x'), (2, 'y');
refresh materialized view counted;
"""
CODE_STATE = (
    "select id, owner, amount, doubled from accounts order by id",
    "select id, what from audit order by id",
    "select * from totals",
    "select * from rich order by id",
    "select * from richest",
    "select count from since",
    "select * from counted",
    "select * from bookings order by during",
    "select * from days order by 1, 2",
    "select * from days_2 order by 1, 2",
    "select * from public.plain order by 1, 2",
    "select balance('n3'), public.balance('n4')",
    "select last_value + is_called::int as next from accounts_id_seq",
)
CODE_STATEMENTS = (
    "select 1",
    "insert into accounts (owner, amount) values ('new', 5)",
    "insert into public.accounts (owner, amount) values ('thirteen', 13)",
    "insert into accounts (owner, amount) values ('n1', 5)",
    "insert into accounts (owner, amount) values ('N1', 5)",
    "insert into accounts (owner, amount) values ('N1', 0)",
    "insert into accounts (owner, amount) values ('n1', 5) on conflict on constraint one_each do update set amount = 7",
    "insert into accounts (id, owner, amount) values (5, 'x', 5)",
    "insert into accounts (owner, amount, doubled) values ('x', 5, 1)",
    "insert into accounts (owner, amount) values ('broke', -1)",
    "insert into accounts (owner, amount) values (null, 1)",
    "update accounts set amount = 2000 where id = 3",
    "delete from accounts where id in (1, 2)",
    "select pay('n2', 100)",
    "update rich set amount = 500 where id = 7",
    "update payable set amount = 500 where id = 7",
    "insert into bookings values (2, '[4,9)')",
    "insert into bookings values (2, '[5,9)')",
    "insert into days values (3, 'e'), (13, 'f')",
    "insert into days values (99, 'e')",
    "insert into days values (3, 'd')",
    "insert into days_2 values (3, 'd')",
    "update days set day = 15, what = 'moved' where day = 2",
    "delete from plain where ctid = (select min(ctid) from plain where a = 1)",
    "insert into plain values (1, 'x')",
    "select nextval('accounts_id_seq'), nextval('public.audit_id_seq'), currval('accounts_id_seq'), lastval()",
    "select setval('public.accounts_id_seq', 40); insert into accounts (owner, amount) values ('forty-one', 1)",
)
CODE_CHANGES = """
update accounts set amount = amount + 1; delete from accounts where id = 4;
insert into accounts (owner, amount) values ('late', 99); insert into days values (4, 'late');
delete from days where day > 15; update days set day = 1, what = 'later' where day = 11;
delete from plain where a = 2; insert into plain values (1, 'x'), (3, 'z'); update plain set b = 'yy' where a = 1;
delete from bookings; update totals set total = 5; insert into plain values (3, 'z')
"""


async def test_code_in_the_database_runs_in_the_world(part: Callable[[str], Twins]) -> None:
    twins = part(CODE)
    twins.change(CODE_CHANGES)
    pool = await open_guests(twins.changing)
    written = {"accounts", "bookings", "days", "plain"}
    async with open_world(pool, TOKEN, plan(twins.snapshot, *written)) as world:
        assert world.notes == ("function note runs with the rights of whoever calls it in a replay",)
        for script in CODE_STATEMENTS:
            found = await outcome_in_world(world, script, CODE_STATE)
            assert found == outcome_before(twins.still, script, CODE_STATE), script
    await pool.aclose()
