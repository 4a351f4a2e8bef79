"""What a statement writes and locks, and how it is rewritten to stay in its world."""

import pytest

from flux.sql_world import TableName, find_names, find_targets, locks_rows, rewrite


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
