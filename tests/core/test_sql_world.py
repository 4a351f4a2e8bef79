"""What a statement writes and locks, and how it is rewritten to stay in its world."""

import pytest

from flux.sql_world import TableName, drop_locks, find_drawn, find_names, find_targets, locks_rows, rewrite


@pytest.mark.parametrize(
    ("sql", "targets"),
    [
        ("insert into users (email) values ($1)", [TableName(None, "users")]),
        ("WITH x AS (INSERT INTO public.a VALUES (1) RETURNING *) UPDATE ONLY \"B c\" SET a = 1",
         [TableName("public", "a"), TableName(None, "B c")]),
        ("insert into t values (1) on conflict (id) do update set a = 1", [TableName(None, "t")]),
        ("delete from a.b using c", [TableName("a", "b")]),
        ("merge into m using n on true when matched then update set a = 1", [TableName(None, "m")]),
        ("select * from t for update", []),
        ("select 'insert into x', $$delete from y$$ -- update z", []),
        ("insert into", []),
    ],
)  # fmt: skip
def test_the_tables_that_a_statement_says_it_writes(sql: str, targets: list[TableName]) -> None:
    assert list(find_targets(sql)) == targets


@pytest.mark.parametrize(
    "sql", ["select 1 from t for update", "select 1 for no key update", "select 1 FOR /* */ SHARE"]
)
def test_a_lock_on_rows_is_seen(sql: str) -> None:
    assert locks_rows(sql)
    assert not locks_rows(sql.replace("for", "4").replace("FOR", "4"))


def test_names_are_folded_or_as_quoted() -> None:
    assert find_names('select A, "B" from c') >= {"a", "B", "c"}


@pytest.mark.parametrize(
    ("sql", "rewritten"),
    [
        ("select * from public.users, public.other", "select * from pg_temp.users, public.other"),
        ('select "public"."users".id', 'select pg_temp."users".id'),
        ("select now(), pg_catalog.now()", "select now(), flux_world.now()"),
        ("select CURRENT_TIMESTAMP", "select flux_world.now()::timestamptz"),
        ("select current_timestamp(3)", "select flux_world.now()::timestamptz(3)"),
        ("select current_date - 1, localtime", "select flux_world.now()::date - 1, flux_world.now()::time"),
        ("select 1 as current_date, t.current_date", "select 1 as current_date, t.current_date"),
        ("select 'current_date', $$public.users$$", "select 'current_date', $$public.users$$"),
        ("select other.public.users", "select other.public.users"),
    ],
)
def test_what_would_go_past_the_world_is_turned_into_it(sql: str, rewritten: str) -> None:
    assert rewrite(sql, "public", {"users"}) == rewritten


@pytest.mark.parametrize(
    ("sql", "rewritten"),
    [
        ("select total(1), public.total(2), other.total(3)",
         "select pg_temp.total(1), pg_temp.total(2), other.total(3)"),
        ("insert into total (a) values (total(1))", "insert into total (a) values (pg_temp.total(1))"),
        ("select total from t", "select total from t"),
        ("select nextval('public.numbers'), nextval('numbers')",
         "select nextval('pg_temp.numbers'), nextval('numbers')"),
        ("select setval('\"public\".\"numbers\"'::regclass, 3)", "select setval('pg_temp.\"numbers\"'::regclass, 3)"),
        ("select 'public.numbers'", "select 'public.numbers'"),
        ("select public.gen_random_uuid(), pg_catalog.random()",
         "select flux_world.gen_random_uuid(), flux_world.random()"),
    ],
)  # fmt: skip
def test_functions_and_sequences_are_those_of_the_world(sql: str, rewritten: str) -> None:
    assert rewrite(sql, "public", {"numbers"}, {"total"}) == rewritten


def test_locks_are_dropped_and_nothing_else() -> None:
    assert drop_locks("select 1 from a, b for no key update of a, b skip locked") == "select 1 from a, b "
    assert (
        drop_locks("select * from (select 1 from a for update) x limit 2")
        == "select * from (select 1 from a ) x limit 2"
    )
    assert drop_locks("select substring('x' for 3) from a") == "select substring('x' for 3) from a"


def test_sequences_that_are_asked_for_a_number() -> None:
    assert find_drawn(
        "select nextval('a'), nextval('public.\"B\"'), nextval('other.c'), nextval($1)", "public"
    ) == ("a", "B")
