"""Tables that have changed their shape since, tables too large to copy, and values that only the record knows.

The oracles are those of ``test_world`` and ``test_world_gaps``: a transaction that is open since then, and a twin.
"""

import uuid
from collections.abc import Callable

import attrs
import pytest

from flux.hostcalls.base import HostCallFailed
from flux.store.world import WorldError
from flux.supervisor.world import open_world
from tests.conftest import Database
from tests.integration.test_world_gaps import Twins, outcome_before, outcome_in_world
from tests.integration.test_world_gaps import part as part
from tests.postgres_server import PostgresServer
from tests.world_harness import TOKEN, ask, open_guests, plan
from tests.worlds.large import change_four_rows

BIG = """
create table big (id bigint generated always as identity primary key, name text unique, n int not null check (n >= 0),
    parent bigint references big on delete cascade, tripled bigint generated always as (n * 3) stored,
    at timestamptz default now());
create unique index lower_name on big (lower(name)) where n > 5;
create table log (what text, id bigint);
create function log_it() returns trigger language plpgsql as $$
begin insert into log values (tg_op, coalesce(new.id, old.id)); return coalesce(new, old); end $$;
create trigger logs after insert or update or delete on big for each row execute function log_it();
insert into big (name, n, parent) select 'n' || n, n, nullif(n / 10, 0) from generate_series(1, {rows}) n;
delete from log;
"""
BIG_STATE = (
    "select id, name, n, parent, tripled from big where id < 200 or id > 300 order by id limit 400",
    "select count(*), sum(n) from big",
    "select * from log order by id, what",
    "select name from public.big where id = 77 for update",
)
BIG_STATEMENTS = (
    "update big set n = n + 1 where id in (3, 4, 5)",
    "update big set n = n + 1000; update big set n = n - 1000 where id % 2 = 0",
    "insert into big (name, n, parent) values ('new', 8, 7) returning id, tripled",
    "insert into big (name, n) values ('n12', 8)",
    "insert into big (name, n) values ('N12', 8)",
    "insert into big (name, n) values ('N12', 3)",
    "insert into big (name, n) values ('x', -8)",
    "insert into big (name, n) values ('x', null)",
    "insert into big (name, n, parent) values ('x', 1, 999999999)",
    "update big set name = 'n13' where id = 12",
    "update big set name = 'n13' where id = 13",
    "update big set parent = 12 where id = 13; delete from big where id = 12",
    "delete from big where id = 1",
    "delete from big where id = 5; insert into big (name, n) values ('n5', 4)",
    "with gone as (delete from public.big where id = 9 returning *) insert into log select name, n from gone",
    "update big b set n = o.n from big o where o.id = b.id + 1 and b.id < 4",
)
BIG_CHANGES = (
    "update big set n = n + 7 where id < 30; delete from big where id = 12; "
    "insert into big (name, n) values ('n12', 6); delete from big where id between 90 and 99; delete from log"
)


async def test_of_a_large_table_only_touched_rows_are_copied(part: Callable[[str], Twins]) -> None:
    twins = part(BIG.format(rows=400))
    twins.change(BIG_CHANGES)
    pool = await open_guests(twins.changing)
    large = attrs.evolve(plan(twins.snapshot, "big"), rows_max=100)
    async with open_world(pool, TOKEN, large) as world:
        for script in BIG_STATEMENTS:
            found = await outcome_in_world(world, script, BIG_STATE)
            assert found == outcome_before(twins.still, script, BIG_STATE), script
        assert await ask(world, 'select count(*) from "big%copy"') == [{"count": 49}]
        with pytest.raises(HostCallFailed, match="the world is built again"):
            await world.run("insert into big (name, n) values ('n1', 1) on conflict do nothing", [], 1)
        assert world.needed_whole == {"big"}
    async with open_world(pool, TOKEN, attrs.evolve(large, whole=frozenset({"big"}))) as world:
        with pytest.raises(HostCallFailed, match="big is too large to copy"):
            await world.run("insert into big (name, n) values ('n1', 1) on conflict do nothing", [], 1)
        assert world.refusal is not None
    await pool.aclose()


ONLY_OF_TABLES = (
    "insert into big (name, n) values ('n1', 1) on conflict (name) do update set n = 77",
    "merge into big b using (values ('n2', 5), ('m2', 6)) v (name, n) on b.name = v.name "
    "when matched then update set n = v.n when not matched then insert (name, n) values (v.name, v.n)",
    "delete from big where ctid = (select ctid from big where id = 50)",
)
"""What a view can't do."""


@pytest.mark.parametrize("script", ONLY_OF_TABLES)
async def test_a_statement_that_only_a_table_can_do_has_a_whole_copy(
    part: Callable[[str], Twins], script: str
) -> None:
    twins = part(BIG.format(rows=400))
    twins.change(BIG_CHANGES)
    pool = await open_guests(twins.changing)
    touched = attrs.evolve(plan(twins.snapshot, "big"), rows_copied_max=100)
    async with open_world(pool, TOKEN, touched) as world:
        assert await ask(world, 'select count(*) from "big%copy"') == [{"count": 49}]
        with pytest.raises(HostCallFailed, match="the world is built again"):
            await world.run(script, [], 1)
        assert world.needed_whole == {"big"} and not world.needed
    async with open_world(pool, TOKEN, attrs.evolve(touched, whole=frozenset(world.needed_whole))) as world:
        found = await outcome_in_world(world, script, BIG_STATE)
    assert found == outcome_before(twins.still, script, BIG_STATE)
    await pool.aclose()


@pytest.mark.parametrize(
    "more",
    [
        "create trigger whole after update on big for each statement execute function log_it()",
        "create function upsert() returns void language sql as "
        "$$insert into big (name, n) values ('n1', 1) on conflict do nothing$$",
    ],
)
async def test_a_table_is_copied_whole_where_rows_alone_would_not_do(
    part: Callable[[str], Twins], more: str
) -> None:
    twins = part(BIG.format(rows=400) + more + ";")
    twins.change(BIG_CHANGES)
    pool = await open_guests(twins.changing)
    async with open_world(
        pool, TOKEN, attrs.evolve(plan(twins.snapshot, "big"), rows_copied_max=100)
    ) as world:
        assert await ask(world, "select count(*) from pg_temp.big") == [{"count": 400}]
        with pytest.raises(HostCallFailed, match='"big%copy" does not exist'):
            await world.run('select count(*) from "big%copy"', [], 1)
    await pool.aclose()


async def test_a_large_table_is_not_copied_for_the_four_rows_that_change(
    postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    seen = await change_four_rows(make_database(postgres), rows=2000, rows_max=1000)
    rows = [(0, "zero"), (5, "n5"), (6, "n6+"), (7, "n7+"), (8, "n8+")]
    assert seen.answers == ("UPDATE 3", "INSERT 0 1", [{"id": n, "name": name} for n, name in rows])
    # The fifth was deleted since.
    assert seen.copied == [{"count": 5}]


SHAPES = """
create table people (id int primary key, name varchar(10), age int, town text default 'here');
create table old_name (id int primary key, what text);
create table gone (id int primary key);
create table shrunk (id int primary key, a int, b int);
create table retyped (id int primary key, at text);
create table plain (a int);
create function double(n int) returns int language sql as 'select n * 2';
insert into people select n, 'n' || n, n from generate_series(1, 9) n;
insert into old_name select n, 'w' || n from generate_series(1, 9) n;
insert into gone values (1);
insert into shrunk values (1, 1, 1);
insert into retyped values (1, '2020-01-01');
insert into plain values (1), (1), (2);
"""
SHAPE_CHANGES = (
    "update people set age = age + 1 where id < 3; delete from people where id = 9",
    "alter table people add column email text not null default 'none'",
    "update people set age = age + 1, email = 'x' where id in (2, 3)",
    "alter table people rename column name to full_name",
    "alter table people alter column full_name type text",
    "alter table people alter column age type bigint",
    "insert into people (id, full_name, age) values (100, 'a name that is longer than ten', 5000000000)",
    "update people set full_name = 'other' where id in (3, 4)",
    "create unique index people_email on people (id, email)",
    "alter table old_name rename to new_name",
    "update new_name set what = 'changed' where id < 4",
    "drop table gone",
    "alter table shrunk drop column b",
    "alter table retyped alter column at type date using at::date",
    "create table made (id int primary key, what text)",
    "insert into made values (1, 'x')",
    "create or replace function double(n int) returns int language sql as 'select n * 3'",
    "insert into plain values (3); delete from plain where a = 2",
)
SHAPE_STATE = (
    "select * from people order by id",
    "select p.name, p.age + 1 as next from public.people p where p.id < 4 order by p.id",
    "select * from old_name order by id",
    "select * from plain order by a",
)


async def test_tables_have_the_shape_that_they_had(part: Callable[[str], Twins]) -> None:
    twins = part(SHAPES)
    for change in SHAPE_CHANGES:
        twins.change(change)
    pool = await open_guests(twins.changing)
    for written in ((), ("people", "old_name", "plain")):
        async with open_world(pool, TOKEN, plan(twins.snapshot, *written)) as world:
            found = await outcome_in_world(world, "select 1", SHAPE_STATE)
            assert found == outcome_before(twins.still, "select 1", SHAPE_STATE)
            for name, reason in (
                ("gone", "dropped since"),
                ("shrunk", "column b was dropped since"),
                ("retyped", "column at was text and is date"),
                ("new_name", "was called old_name"),
            ):
                with pytest.raises(HostCallFailed, match=reason):
                    await world.run(f"select count(*) from {name}", [], 1)
                assert world.refusal is not None and reason in world.refusal
                world.refusal = None
            notes = "\n".join(world.notes)
            assert "made was made since, and is empty in the replay" in notes
            assert "function double is as it is now: CREATE FUNCTION since" in notes
            assert await ask(world, "select count(*) from made") == [{"count": 0}]
            if written:
                for script in (
                    "insert into people values (10, 'ten', 10)",
                    "insert into people values (11, 'longer than ten characters', 10)",
                    "update people set name = 'y' where id = 1; delete from old_name where id = 2",
                ):
                    found = await outcome_in_world(world, script, SHAPE_STATE)
                    assert found == outcome_before(twins.still, script, SHAPE_STATE), script
    with pytest.raises(WorldError, match="shrunk is written, and can't be rebuilt: column b"):
        async with open_world(pool, TOKEN, plan(twins.snapshot, "shrunk")):
            pass
    await pool.aclose()


STANDING = """
select (select json_agg(s order by s::text) from pg_db_role_setting s),
    (select json_agg(a order by a::text) from pg_default_acl a), (select json_agg(r order by rolname) from pg_authid r)
"""
"""What stands in the server of roles, whatever the tables are."""


@attrs.frozen
class Change:
    """A migration of a project."""

    number: int
    path: str
    sql: str


async def test_migrations_of_the_code_are_applied_to_the_copies(part: Callable[[str], Twins]) -> None:
    before = """
    create table people (id int primary key, name text); create table still (id int primary key);
    insert into people select n, 'n' || n from generate_series(1, 5) n; insert into still values (1);
    """
    twins = part(before)
    migrations = (
        Change(1, "migrations/001_first.sql", "create table people (id int)"),
        Change(2, "migrations/002_plan.sql",
               "alter table people add column plan text not null default 'free';\n"
               "update public.people set plan = 'pro' where id < 3;\n"
               "alter table people add constraint known check (plan in ('free', 'pro'));\n"
               "create table public.plans (name text primary key, since timestamptz default now());\n"
               "insert into plans (name) select distinct plan from people;\n"
               "create index concurrently people_plan on people (plan);\n"
               "create function is_pro(who int) returns boolean language sql as "
               "$$ select plan = 'pro' from people where id = who $$;\n"
               "grant select on plans to public"),
    )  # fmt: skip
    twins.changing.psql(
        "insert into flux.migration_applied (tenant, name, sha256) values ('main', 'migrations/001_first.sql', '')"
    )
    snapshot = twins.changing.psql("select pg_current_snapshot()")
    twins.change("update people set name = 'other'; delete from people where id = 1")
    shape = twins.changing.psql(
        "select string_agg(attname, ',') from pg_attribute where attrelid = 'people'::regclass"
    )
    pool = await open_guests(twins.changing)
    with_migrations = attrs.evolve(plan(snapshot), migrations=migrations)
    async with open_world(pool, TOKEN, with_migrations) as world:
        assert await ask(world, "select * from people where id < 4 order by id") == [
            {"id": 1, "name": "n1", "plan": "pro"},
            {"id": 2, "name": "n2", "plan": "pro"},
            {"id": 3, "name": "n3", "plan": "free"},
        ]
        assert await ask(world, "select name, since = now() as now from plans order by name") == [
            {"name": "free", "now": True},
            {"name": "pro", "now": True},
        ]
        asked = "select is_pro(1) as first, public.is_pro(3) as third"
        assert await ask(world, asked) == [{"first": True, "third": False}]
        depth = await world.begin(None, 1)
        with pytest.raises(HostCallFailed, match="known"):
            await world.run("insert into people values (9, 'x', 'huge')", [], 1)
        await world.rollback(depth, 1)
        assert (await world.run("insert into plans (name) values ('x')", [], 1)).tag == "INSERT 0 1"
    kept = twins.changing.psql(STANDING)
    for sql, reason in (
        ("alter table nowhere add column a int", "nowhere"),
        ("do $$ begin execute 'delete from public.still'; end $$", "read-only transaction"),
        ("create table t as select 1 as a", "makes a table of a query"),
        ("create function pg_temp.wipe() returns int language plpgsql as $$ begin execute 'delete from public.' || "
         "'still'; return 1; end $$; alter table people add column a int default pg_temp.wipe()",
         "writes to tables that are not the world's"),
        ("alter role current_user set work_mem = '7MB'", "alter role would be done for good"),
        ("/* a */ ALTER /* b */ USER current_user PASSWORD 'x'", "alter user would be done for good"),
        ("drop owned by current_user", "drop owned would be done for good"),
        ("reassign owned by current_user to current_user", "read-only transaction"),
        ("comment on role current_user is 'x'", "comment role would be done for good"),
        ("alter database postgres set work_mem = '7MB'", "alter database would be done for good"),
        ("create server s foreign data wrapper w", "create server would be done for good"),
    ):  # fmt: skip
        bad = attrs.evolve(with_migrations, migrations=(Change(3, "migrations/003_bad.sql", sql),))
        with pytest.raises(WorldError, match=f"003_bad.sql can't be applied to the world: .*{reason}"):
            async with open_world(pool, TOKEN, bad):
                pass
    # What others may do to tables that are to come is nothing that a replay sees, and it is not changed.
    rights = "ALTER default Privileges revoke execute on functions from public"
    theirs = (*migrations, Change(3, "migrations/003_rights.sql", rights))
    async with open_world(pool, TOKEN, attrs.evolve(with_migrations, migrations=theirs)) as world:
        assert await ask(world, "select count(*) as n from people") == [{"n": 5}]
    assert kept == twins.changing.psql(STANDING)
    assert twins.changing.psql("select count(*) from still") == "1"
    assert shape == twins.changing.psql(
        "select string_agg(attname, ',') from pg_attribute where attrelid = 'people'::regclass"
    )
    await pool.aclose()


async def test_what_was_drawn_is_drawn_again(part: Callable[[str], Twins]) -> None:
    twins = part(
        "create table t (id serial primary key, token uuid default gen_random_uuid(), "
        "code text default md5(random()::text), name text unique, at timestamptz default clock_timestamp()); "
        "create sequence invoices; "
        "insert into t (name) values ('there'); select nextval('invoices')"
    )
    rows = [
        {
            "id": number, "token": str(uuid.UUID(int=number)), "code": code, "name": code,
            "at": f"2026-01-02T03:04:{second}+00:00",
        }
        for number, code, second in ((12, "a", "06"), (15, "b", "07"), (16, "c", "08"))
    ]  # fmt: skip
    pool = await open_guests(twins.changing)
    recorded = attrs.evolve(
        plan(twins.snapshot, "t"), inserted={"t": rows}, drawn={"invoices": [31]}, seed="a seed"
    )
    told = []
    for _ in range(2):
        async with open_world(pool, TOKEN, recorded) as world:
            first = await world.run(
                "insert into t (name) values ('a') returning id, token::text, code, at", [], 1
            )
            depth = await world.begin(None, 2)
            with pytest.raises(HostCallFailed, match="duplicate key"):
                await world.run("insert into t (name) values ('there')", [], 2)
            await world.rollback(depth, 2)
            await world.run("insert into t (name) values ('there') on conflict do nothing", [], 3)
            rest = await world.run(
                "insert into t (name) values ('b'), ('c'), ('d') returning id, token::text, code, at", [], 4
            )
            assert [[row["id"], row["token"], row["code"]] for row in rows] == [
                row[:3] for row in [*first.rows, *rest.rows[:2]]
            ]
            assert await ask(
                world, "select to_json(at)::text as at from t where id in (12, 15, 16) order by id"
            ) == [{"at": f'"{row["at"]}"'} for row in rows]
            assert rest.rows[2][0] == 17
            assert (await world.run("select nextval('public.invoices')", [], 5)).rows == [[31]]
            told.append(
                (
                    rest.rows[2][1:3],
                    await ask(
                        world,
                        "select random(), gen_random_uuid() as u, pg_catalog.random() as r, timeofday()",
                    ),
                )
            )
    assert told[0] == told[1]
    assert "03:04:05" in str(told[0])
    drawn = []
    for seed in ("a seed", "another", "a seed"):
        async with open_world(pool, TOKEN, attrs.evolve(recorded, seed=seed)) as world:
            drawn.append((await world.run("select gen_random_uuid()::text", [], 1)).rows)
    assert drawn[0] == drawn[2] != drawn[1]
    await pool.aclose()


async def test_row_policies_hold_in_copies(part: Callable[[str], Twins]) -> None:
    sql = """
    create table notes (id int primary key, owner text, what text);
    alter table notes enable row level security;
    create policy own on notes using (owner = current_setting('app.user', true)) with check (what <> 'forbidden');
    create policy short on notes as restrictive for insert with check (length(what) < 20);
    insert into notes select n, case when n % 2 = 0 then 'ann' else 'bob' end, 'w' || n from generate_series(1, 10) n;
    """
    twins = part(sql)
    twins.change("update notes set what = 'changed', owner = 'ann'; delete from notes where id > 7")
    pool = await open_guests(twins.changing)
    for written in ((), ("notes",)):
        async with open_world(pool, TOKEN, plan(twins.snapshot, *written)) as world:
            assert await ask(world, "select * from notes") == []
            await world.run("select set_config('app.user', 'bob', true)", [], 1)
            assert await ask(world, "select id, what from notes order by id") == [
                {"id": n, "what": f"w{n}"} for n in (1, 3, 5, 7, 9)
            ]
            for row, is_refused in (
                ("(11, 'bob', 'fine')", False),
                ("(12, 'bob', 'forbidden')", True),
                ("(13, 'bob', 'this is longer than twenty')", True),
            ):
                depth = await world.begin(None, 2)
                try:
                    await world.run(f"insert into notes values {row}", [], 2)
                    assert not is_refused
                except HostCallFailed as failed:
                    assert is_refused and failed.error.code == "42501", failed
                await world.rollback(depth, 2)
            assert (await world.run("update notes set what = 'x'", [], 3)).tag == "UPDATE 5"
    await pool.aclose()
