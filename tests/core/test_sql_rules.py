"""Which SQL a guest may not send."""

import pytest

from flux.sql_rules import REFUSALS, find_refusal, get_first_word


@pytest.mark.parametrize("word", sorted(REFUSALS))
@pytest.mark.parametrize(
    "disguise",
    [
        "{}",
        "{};",
        "  {}",
        "\t\r\n\f\v{}",
        ";{}",
        " ; ; {}",
        "-- a comment\n{}",
        "-- a comment\r{}",
        "--\n--\n{}",
        "-- /*\n{}",
        "--x;select 1\n{}",
        "/* a comment */{}",
        "/**/{}",
        "/***/{}",
        "/*/*/**/*/*/{}",
        "/* -- */{}",
        "/* ' */{}",
        "/* /* nested */ still */ {}",
        "/* a */ -- b\n /* c */ {}",
        "{}/* after */",
        "{}-- after",
        "{}\nwork",
    ],
)
def test_a_refused_statement_is_known_in_any_disguise(word: str, disguise: str) -> None:
    for spelled in (word, word.upper(), word.title()):
        refusal = find_refusal(disguise.format(spelled))
        assert refusal is not None
        assert refusal.startswith(f"{word.upper()} is refused: ")
        assert REFUSALS[word] in refusal


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "(select 1)",
        "((select 1) union (select 2))",
        "SELECT 'commit'",
        'select "commit" from t',
        "select 1; commit",  # The server takes one statement a call, and refuses both.
        "with gone as (delete from t returning *) select * from gone",
        "insert into t values (1) on conflict do nothing",
        "update t set a = 1",
        "delete from t",
        "merge into t using s on t.id = s.id when matched then delete",
        "values (1)",
        "table t",
        "explain select 1",
        "explain analyze update t set a = 1",
        "call p()",
        "do $$ begin perform 1; end $$",
        "create table t (a int)",
        "-- commit\nselect 1",
        "-- commit",
        "/* commit */ select 1",
        "/* commit */",
        "/* /* */ commit",
        "/* commit",
        "committed",
        "sets",
        "endless",
        "",
        "   ",
        ";",
        "(",
        "'commit'",
        '"commit"',
        "$$commit$$",
        "1",
        "\ufeffcommit",  # A name to Postgres, and a syntax error.
        "\0commit",
        "lock table t",
        "show search_path",
        "truncate t",
    ],
)
def test_other_statements_pass(sql: str) -> None:
    assert find_refusal(sql) is None


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("Select 1", "select"),
        ("/* x */ WITH a as (select 1) select * from a", "with"),
        ("  (  SELECT 1)", "select"),
        ("explain (analyze) select 1", "explain"),
        ("", ""),
        ("--", ""),
        ("/*", ""),
        ("/*/", ""),
        ("*/ commit", ""),
        ("- - commit", ""),
    ],
)
def test_the_first_word_is_what_says_what_a_statement_does(sql: str, word: str) -> None:
    assert get_first_word(sql) == word


def test_a_long_statement_of_nothing_but_comments_is_read_in_one_pass() -> None:
    """Quadratic work here would be a way to hold up every other execution."""
    assert get_first_word("/*" * 200_000) == ""
    assert get_first_word("-- x\n" * 200_000 + "commit") == "commit"
    assert get_first_word("(" * 400_000 + "commit") == "commit"
