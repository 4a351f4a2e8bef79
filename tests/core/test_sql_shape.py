"""Statements that are written differently and say the same, and those that only look alike."""

import pytest

from flux.sql_shape import normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT  *\n FROM users -- all of them\n WHERE id = $1 ;", "select * from users where id=$1"),
        ("insert into t (a, b) values ($1, $2)", "INSERT INTO t(a,b)\nVALUES\n($1,$2)"),
        ("select count ( * ) from t", "select count(*)from t"),
        ("select /* a /* nested */ comment */ 1", "select 1"),
        ("select a[ 1 ]", "select a[1]"),
        ("update t set a = a + 1 where b >= $1", "update t set a=a + 1 where b>=$1"),
    ],
)
def test_space_case_and_comments_do_not_matter(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select 1e5", "select 1 e5"),
        ("select 1.5", "select 1 .5"),
        ("select u&'x'", "select u & 'x'"),
        ("select 'a'\n'b'", "select 'a' 'b'"),
        ("select 'A'", "select 'a'"),
        ('select "A"', 'select "a"'),
        ("select $$A$$", "select $$a$$"),
        ("select a - -1", "select a --1"),
        ("select 'a  b'", "select 'a b'"),
        ("select a >= -1", "select a > = -1"),
        ("select 1", "select 2"),
        ("select ab", "select a b"),
        ("select É", "select é"),
    ],
)
def test_what_means_something_else_stays_something_else(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("sql", ["", ";", " -- nothing\n", "/* never closed", "'never closed", "$a$ never", "\0"])
def test_what_is_no_statement_is_still_something(sql: str) -> None:
    assert normalise(normalise(sql)) == normalise(sql)
