"""What a statement draws in its own text is written out as the record shows it, or left alone."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.sql_draws import give_draws

A, B = "0b0f6c3e-1111-4222-8333-444455556666", "1c0f6c3e-1111-4222-8333-444455556666"
AT = "2026-11-26T01:02:03.123456+00:00"


def give(
    sql: str, rows: Sequence[Mapping[str, object]] = (), answer: Sequence[object] | None = None, table: str = "t"
) -> str:
    return give_draws(sql, lambda name: rows if name == table else (), answer)


@pytest.mark.parametrize(
    ("sql", "rows", "given"),
    [
        ("insert into t (id) values (gen_random_uuid())", [{"id": A}], f"insert into t (id) values ('{A}')"),
        ("INSERT INTO public.t (id, n) VALUES (pg_catalog.gen_random_uuid(), $1) RETURNING id", [{"id": A, "n": 1}],
         f"INSERT INTO public.t (id, n) VALUES ('{A}', $1) RETURNING id"),
        ("insert into t as x (id, at) values (gen_random_uuid()::text, clock_timestamp())", [{"id": A, "at": AT}],
         f"insert into t as x (id, at) values ('{A}', '{AT}')"),
        ("insert into t (id, n) values (uuidv7(), 1), (uuidv7(), 2)", [{"id": A}, {"id": B}],
         f"insert into t (id, n) values ('{A}', 1), ('{B}', 2)"),
        ("insert into t (n, key) values (random(), gen_random_bytes(16))", [{"n": 0.25, "key": "\\x00ff"}],
         "insert into t (n, key) values ('0.25', '\\x00ff')"),
        ('insert into "t" ("Id") values (gen_random_uuid()) on conflict do nothing', [{"Id": A}],
         f'insert into "t" ("Id") values (\'{A}\') on conflict do nothing'),
        ("update t set id = gen_random_uuid(), n = n + 1 where n = 3", [{"id": A, "n": 4}],
         f"update t set id = '{A}', n = n + 1 where n = 3"),
        ("update only t set a = f(1, 2), id = gen_random_uuid() returning id", [{"id": A}],
         f"update only t set a = f(1, 2), id = '{A}' returning id"),
    ],
)  # fmt: skip
def test_what_a_row_got_is_given_again(sql: str, rows: list[Mapping[str, object]], given: str) -> None:
    assert give(sql, rows) == given


@pytest.mark.parametrize(
    ("sql", "answer", "given"),
    [
        ("select gen_random_uuid()", [A], f"select '{A}'::pg_catalog.uuid as \"gen_random_uuid\""),
        ("select 1, random() as r;", [1, 0.5], "select 1, '0.5'::pg_catalog.float8 as r;"),
        ("select clock_timestamp() at", [AT], f"select '{AT}'::pg_catalog.timestamptz at"),
        ("select coalesce(1, 2), gen_random_bytes(2) as b", [1, "\\x0102"],
         "select coalesce(1, 2), '\\x0102'::pg_catalog.bytea as b"),
    ],
)  # fmt: skip
def test_what_a_select_of_values_was_answered_is_given_again(sql: str, answer: list[object], given: str) -> None:
    assert give(sql, answer=answer) == given


@pytest.mark.parametrize(
    ("sql", "rows", "answer"),
    [
        # Nothing is drawn; nothing was recorded; the rows are not one by one those of the record.
        ("insert into t (id) values ($1)", [{"id": A}], None),
        ("insert into t (id) values (gen_random_uuid())", [], None),
        ("insert into t (id) values (gen_random_uuid())", [{"id": A}, {"id": B}], None),
        ("insert into t (id) values (uuidv4()), (uuidv4()) on conflict do nothing", [{"id": A}], None),
        ("update t set id = gen_random_uuid()", [{"id": A}, {"id": B}], None),
        # Not all of the value; not a value of the statement's own; of no column that is known.
        ("insert into t (id) values (md5(random()::text))", [{"id": "x"}], None),
        ("insert into t (n) values (random() * 10)", [{"n": 3.5}], None),
        ("insert into t (id) select gen_random_uuid() from u", [{"id": A}], None),
        ("insert into t values (gen_random_uuid())", [{"id": A}], None),
        ("insert into other (id) values (gen_random_uuid())", [{"id": A}], None),
        ("select gen_random_uuid() from t", [], [A]),
        ("select gen_random_uuid() union select gen_random_uuid()", [], [A]),
        ("select random(1, 6) as n", [], [4]),
        ("select id from t where id <> gen_random_uuid()", [], [A]),
        ("delete from t where n < random()", [{"n": 0.1}], None),
        ("with x as (select gen_random_uuid() as id) insert into t (id) select id from x", [{"id": A}], None),
        # What the record has is no such value: it is redacted, or a trigger's.
        ("insert into t (id) values (gen_random_uuid())", [{"id": "[redacted]"}], None),
        ("insert into t (id) values (gen_random_uuid())", [{"id": f"{A}'); drop table t; --"}], None),
        ("insert into t (id) values (gen_random_uuid())", [{"id": None}], None),
        ("insert into t (n) values (random())", [{"n": True}], None),
        ("select gen_random_uuid()", [], []),
        # A name in quotes, a string, a comment.
        ("select 'gen_random_uuid()' as a", [], [A]),
        ("select 1 /* gen_random_uuid() */", [], [1]),
    ],
)  # fmt: skip
def test_what_is_not_known_for_sure_is_left_alone(
    sql: str, rows: list[Mapping[str, object]], answer: list[object] | None
) -> None:
    assert give(sql, rows, answer) == sql


@given(
    st.text(alphabet="insertupdatesetvalues ()[],.;:='\"$-*gen_random_uuid", max_size=60),
    st.sampled_from(["insert into t ", "update t set ", "select ", ""]),
)
def test_no_text_of_a_statement_is_too_odd(text: str, head: str) -> None:
    sql = f"{head}{text} gen_random_uuid()"
    given_sql = give(sql, [{"id": A}], [A])
    assert given_sql == sql or A in given_sql
