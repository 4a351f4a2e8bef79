"""A psql that is kept answers as one that is started for each question does."""

import subprocess

import pytest

from tests.postgres_server import PostgresServer


def ask_one_of_its_own(server: PostgresServer, sql: str) -> subprocess.CompletedProcess[str]:
    """What a psql that is started for this question alone says."""
    return subprocess.run(
        [server.bin_dir / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", server.host, "-p", str(server.port),
         "-U", server.user, "-d", "postgres", "-c", sql],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sql",
    ["select 'one'", "select 1; select 2, null, 'three'", "", ";", "-- nothing", "select ':HOME', 'a\\b', $$'$$ -- end",
     "values (E'two\\nlines'), (''), ('\\echo no')",
     "select repeat('long', 100000) union all select '" + "ü" * 50_000 + "'",
     "do $$ begin raise notice 'heard'; end $$", "create temp table t (n int); insert into t values (1) returning n",
     "copy (select 1) to stdout", "begin; select 2; rollback", "select txid_current() is not null; select 1 / 1"],
)  # fmt: skip
def test_it_prints_what_a_psql_of_its_own_prints(postgres18: PostgresServer, sql: str) -> None:
    for _ in range(2):
        assert postgres18.psql(sql) == ask_one_of_its_own(postgres18, sql).stdout.strip()


@pytest.mark.parametrize("sql", ["select 1; select nothing", "select 1 /", "select 'open", "begin; select 1 / 0"])
def test_it_fails_as_a_psql_of_its_own_does(postgres18: PostgresServer, sql: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        postgres18.psql(sql)
    alone = ask_one_of_its_own(postgres18, sql)
    assert (caught.value.stderr, caught.value.stdout) == (alone.stderr, alone.stdout)
    assert caught.value.__notes__ == [alone.stderr]
    assert postgres18.psql("select 'still here'") == "still here"


def test_statements_of_one_question_succeed_or_fail_together(postgres18: PostgresServer) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        postgres18.psql("create table half (n int); select 1 / 0")
    assert postgres18.psql("select to_regclass('half') is null") == "t"


@pytest.mark.parametrize(
    ("left", "seen", "expected"),
    [
        ("set work_mem = '7MB'", "show work_mem", "4MB"),
        ("set role pg_monitor", "select current_user", "postgres"),
        ("select pg_advisory_lock(7)", "select count(*) from pg_locks where locktype = 'advisory'", "0"),
        ("create temp table mine (n int)", "select to_regclass('mine') is null", "t"),
        ("begin; create table unfinished (n int)", "select to_regclass('unfinished') is null", "t"),
        ("prepare p as select 1", "select count(*) from pg_prepared_statements", "0"),
    ],
)
def test_nothing_of_a_question_is_left_for_the_next(
    postgres18: PostgresServer, left: str, seen: str, expected: str
) -> None:
    postgres18.psql(left)
    assert postgres18.psql(seen) == expected


def test_one_that_has_lost_its_connection_is_not_asked(postgres18: PostgresServer) -> None:
    pid = postgres18.psql("select pg_backend_pid()")
    assert postgres18.psql("select pg_backend_pid()") == pid
    ended = f"select count(*) from (select pg_terminate_backend({pid}, 60000)) _"
    assert ask_one_of_its_own(postgres18, ended).stdout == "1\n"
    postgres18.psql("create sequence asked; select nextval('asked')")
    assert postgres18.psql("select last_value from asked") == "1"
    postgres18.psql("drop sequence asked")


def test_what_a_session_begins_with_is_asked_of_a_new_one(postgres18: PostgresServer) -> None:
    before = postgres18.psql("select current_setting('work_mem')")
    postgres18.psql("alter role postgres set work_mem = '9MB'")
    assert (before, postgres18.psql("show work_mem")) == ("4MB", "9MB")
    postgres18.psql("alter role postgres reset work_mem")
    assert postgres18.psql("show work_mem") == "4MB"
