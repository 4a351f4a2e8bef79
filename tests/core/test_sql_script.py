"""Cutting a script of SQL into its statements, by psql's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.sql_script import get_line, split_script


def texts(script: str) -> list[str]:
    return [statement.sql for statement in split_script(script)]


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", []),
        (" \n ;;; -- nothing; at all\n /* ; */ ;", []),
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("  select 1 -- one;\n , 2 ; ", ["select 1 -- one;\n , 2"]),
        ("select ';', 'it''s;'; x", ["select ';', 'it''s;'", "x"]),
        (r"select E'\';', e'\\'; x", [r"select E'\';', e'\\'", "x"]),
        (r"select '\'; x", [r"select '\'", "x"]),
        (r"select type'\'; x", [r"select type'\'", "x"]),
        ('select "a;""b;" from t; x', ['select "a;""b;" from t', "x"]),
        ("do $$ begin; end $$; x", ["do $$ begin; end $$", "x"]),
        ("do $a$ $$;$b$;$a$; x", ["do $a$ $$;$b$;$a$", "x"]),
        ("select a$b$, $1; x$y$ ;", ["select a$b$, $1", "x$y$"]),
        ("select $été$;$été$; x", ["select $été$;$été$", "x"]),
        ("/* a /* ; */ ; */ select 1; x", ["select 1", "x"]),
        ("create rule r as on insert to t do (select 1; select 2); x",
         ["create rule r as on insert to t do (select 1; select 2)", "x"]),
        ("create function f() returns int begin atomic select case 1 when 1 then 2 end; select 3; end; x",
         ["create function f() returns int begin atomic select case 1 when 1 then 2 end; select 3; end", "x"]),
        ("CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC select 1; END; x",
         ["CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC select 1; END", "x"]),
        ("begin; select 1; end", ["begin", "select 1", "end"]),
        ("create table t (a int); begin; commit", ["create table t (a int)", "begin", "commit"]),
        ("select 'never closed; x", ["select 'never closed; x"]),
        ("select $$never closed; x", ["select $$never closed; x"]),
        ('select "never closed; x', ['select "never closed; x']),
        ("select 1 /* never closed; x", ["select 1"]),
        ("select ); select 2", ["select )", "select 2"]),
    ],
)  # fmt: skip
def test_a_script_is_cut_at_the_semicolons_that_end_statements(script: str, statements: list[str]) -> None:
    assert texts(script) == statements


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("COMMIT", ("commit",)),
        ("/* x */ Prepare Transaction 'a'", ("prepare", "transaction")),
        ("create unique index if not exists i", ("create", "unique", "index", "if")),
        ("(select 1)", ()),
        ("select(1)", ("select",)),
    ],
)
def test_a_statement_is_known_by_its_first_words(script: str, words: tuple[str, ...]) -> None:
    (statement,) = split_script(script)
    assert statement.words == words


def test_a_statement_knows_its_line() -> None:
    script = "-- one\nselect 1;\n\n  select\n 2;"
    assert [get_line(script, statement.offset) for statement in split_script(script)] == [2, 4]


@given(st.text(st.sampled_from("a1\u00a0;'\"$()/*-\n eE\\bé"), max_size=60))
def test_nothing_is_lost_or_added_whatever_the_script(script: str) -> None:
    end = 0
    for statement in split_script(script):
        assert statement.offset >= end
        end = statement.offset + len(statement.sql)
        assert script[statement.offset : end] == statement.sql
        assert statement.sql.lstrip(" \n") == statement.sql != ""
