"""What is to be done with migrations, and what they take away, decided from texts."""

import attrs
import pytest

from flux.migration_plan import digest_migration, find_drift, find_losses, list_pending, loses_by_type

TABLES = {
    "users": {"id": "integer", "plan": "text", "score": "bigint", "name": "character varying(80)"},
    "orders": {"id": "integer", "total": "numeric(10,2)"},
}


@attrs.frozen
class File:
    """A migration."""

    number: int
    sql: str = "select 1"

    @property
    def path(self) -> str:
        return f"migrations/{self.number:03}.sql"


def losses(*scripts: str) -> list[str]:
    """What a history of scripts takes away."""
    files = [File(number, sql) for number, sql in enumerate(scripts, 1)]
    return [
        f"{loss.path.removeprefix('migrations/')}:{loss.line} {loss.what}"
        for loss in find_losses(files, TABLES, "public")
    ]


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("drop table users", "drops table users"),
        ("DROP TABLE IF EXISTS public.users CASCADE", "drops table public.users"),
        ("drop table other.things", "drops table other.things"),
        ('drop table "users"', "drops table users"),
        ("alter table users drop plan", "drops column users.plan"),
        ("alter table only users add x int, drop column if exists plan", "drops column users.plan"),
        ("truncate users", "empties table users"),
        ("truncate table only users, orders", "empties table users"),
        ("delete from users", "deletes all rows of users"),
        ("with gone as (delete from users returning id) select * from gone where true", "deletes all rows of users"),
        ("update users set plan = 'free'", "overwrites users.plan in all rows"),
        ("update users u set (plan, x) = ('a', 1) from orders o", "overwrites users.plan in all rows"),
        ("alter table users alter plan type varchar(10)", "narrows users.plan from text to varchar(10)"),
        ("alter table users alter column score set data type int", "narrows users.score from bigint to int"),
        ("alter table users alter id type text using left(id::text, 1)", "computes users.id anew as text, by USING"),
        ("alter table orders alter total type numeric(8,2)", "narrows orders.total from numeric(10,2) to numeric(8,2)"),
        ("drop schema public", "drops schema public"),
        ("drop sequence users_id_seq", "drops sequence users_id_seq"),
        ("drop type mood cascade", "drops type mood and all that depends on it"),
        ("drop owned by ann", "drops all that a role owns"),
        ("alter type place drop attribute street", "drops an attribute of a type"),
        ("merge into users u using orders o on true when matched then delete", "deletes rows by MERGE"),
        ("do $$ begin if true then drop table users; end if; end $$", "drops table users"),
        ("do language plpgsql 'begin delete from users; execute ''x''; end'", "deletes all rows of users"),
        ("do e'begin drop table users; end'", "drops table users"),
        ("alter table users * drop plan", "drops column users.plan"),
        ("do $x$ begin execute 'drop table ' || 'users'; end $x$", "runs SQL that is put together"),
    ],
)  # fmt: skip
def test_a_step_that_takes_something_away_is_named(sql: str, what: str) -> None:
    first, *_ = losses(sql)
    assert first.startswith(f"001.sql:1 {what}")


@pytest.mark.parametrize(
    "sql",
    [
        "drop table not_there",
        "drop index users_plan; drop view v; drop function f(); drop trigger t on users",
        "alter table users drop constraint users_pkey, alter plan drop default, alter plan drop not null",
        "alter table users drop column not_there",
        "delete from users where id = 1",
        "delete from not_there",
        "update users set plan = 'free' where plan is null",
        "alter table users add tier int; update users set tier = 1",
        "alter table users add tier int; alter table users drop tier",
        "create table drafts (id int); insert into drafts values (1); truncate drafts; drop table drafts",
        "alter table users alter id type bigint, alter name type varchar(100), alter name type text",
        "alter table orders alter total type numeric(12,2); alter table orders alter total type numeric",
        "create function f() returns void language sql as 'delete from users'",
        "create function f() returns void begin atomic delete from users; end",
        "create trigger t before update or delete on users execute function f()",
        "create table x (u int references users on delete cascade on update cascade)",
        "insert into users values (1) on conflict (id) do update set plan = 'x'",
        "select * from users for update",
        "comment on table users is 'drop table users'; -- drop table users",
    ],
)
def test_a_step_that_takes_nothing_away_is_let_pass(sql: str) -> None:
    assert losses(sql) == []


def test_a_rename_is_followed() -> None:
    assert losses("alter table users rename to people", "drop table users", "drop table people") == [
        "003.sql:1 drops table people"
    ]
    assert losses("alter table users rename column plan to tier;\nalter table users drop tier") == [
        "001.sql:2 drops column users.tier"
    ]


def test_the_line_is_that_of_the_step() -> None:
    assert losses("\n\nalter table users\n  add x int,\n  drop column plan;\n") == [
        "001.sql:5 drops column users.plan"
    ]
    assert losses("do $$\nbegin\n  delete from users;\nend $$") == ["001.sql:3 deletes all rows of users"]


@pytest.mark.parametrize(
    ("old", "new", "loses"),
    [
        ("integer", "bigint", False), ("bigint", "integer", True), ("integer", "text", False),
        ("text", "integer", True), ("real", "double precision", False), ("double precision", "real", True),
        ("character varying(10)", "varchar(9)", True), ("character varying(10)", "character varying", False),
        ("numeric(10,2)", "numeric(10,1)", True), ("integer", "numeric", False), ("integer", "numeric(5,0)", True),
        ("numeric", "numeric(10,2)", True), ("text", "char(3)", True), ("jsonb", "json", True), ("date", "date", False),
    ],
)  # fmt: skip
def test_a_type_that_holds_less_loses(old: str, new: str, loses: bool) -> None:
    assert loses_by_type(old, new) is loses


def test_files_and_database_of_one_history_have_no_drift() -> None:
    files = [File(1), File(2), File(3)]
    applied = {file.path: digest_migration(file.sql) for file in files[:2]}
    assert find_drift(files, applied) == ()
    assert list_pending(files, applied) == (files[2],)
    assert find_drift([], {}) == ()


def test_drift_is_told_by_its_kind() -> None:
    applied = {file.path: digest_migration(file.sql) for file in (File(1), File(3), File(9))}
    found = find_drift([File(1, "select 2"), File(2), File(3), File(4)], applied)
    assert [(drift.kind, drift.path) for drift in found] == [
        ("missing", "migrations/009.sql"), ("changed", "migrations/001.sql"), ("out of order", "migrations/002.sql"),
    ]  # fmt: skip


def test_the_ends_of_lines_are_no_drift() -> None:
    assert find_drift([File(1, "a\r\nb")], {"migrations/001.sql": digest_migration("a\nb")}) == ()
