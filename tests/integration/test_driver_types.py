"""A value that is read and written back is the same value, to the last digit.

The second client decides: a value is written through the driver into a column,
read back through the driver, and its text is what ``psql`` says the original
literal is. So no digit, month or zero is bent on the way.
"""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from uuid import UUID

import pytest

from flux.store.postgres import (
    BadQueryArgument,
    Connection,
    ConnectOptions,
    Interval,
    Range,
    UnreadableAnswer,
    connect,
)
from tests.postgres_server import PostgresServer

EAST = timezone(timedelta(hours=5, minutes=45))

VALUES: list[tuple[str, str, object]] = [
    ("bool", "true", True),
    ("int2", "-32768", -32768),
    ("int4", "2147483647", 2147483647),
    ("int8", "-9223372036854775808", -(2**63)),
    ("oid", "4294967295", 4294967295),
    ("xid8", "18446744073709551615", 2**64 - 1),
    ("float4", "1e-45", 1.401298464324817e-45),
    ("float8", "-0", -0.0),
    ("float8", "0.1", 0.1),
    ("float8", "5e-324", 5e-324),
    ("float8", "-Infinity", float("-inf")),
    ("numeric", "1.10", Decimal("1.10")),
    ("numeric", "-0.000", Decimal("0.000")),
    ("numeric", "1" + "0" * 200 + ".5", Decimal("1" + "0" * 200 + ".5")),
    ("numeric", "0.00000000000000000001", Decimal("0.00000000000000000001")),
    ("numeric", "-Infinity", Decimal("-Infinity")),
    ("text", "ä ☃ 𝄞 \\ ' \"", "ä ☃ 𝄞 \\ ' \""),
    ("text", "", ""),
    ("varchar(3)", "abc", "abc"),
    ("char(5)", "ab", "ab   "),
    ("name", "a_name", "a_name"),
    ("bytea", "\\x00ff10", b"\x00\xff\x10"),
    ("uuid", "018f0000-0000-7000-8000-000000000001", UUID("018f0000-0000-7000-8000-000000000001")),
    ("date", "2026-02-28", date(2026, 2, 28)),
    ("date", "9999-12-31", date(9999, 12, 31)),
    ("date", "0001-01-01", date(1, 1, 1)),
    ("date", "infinity", "infinity"),
    ("date", "0044-03-15 BC", "0044-03-15 BC"),
    ("date", "10000-01-01", "10000-01-01"),
    ("timestamp", "2026-03-29 02:30:00.000001", datetime(2026, 3, 29, 2, 30, 0, 1)),
    ("timestamp", "9999-12-31 23:59:59.999999", datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ("timestamp", "-infinity", "-infinity"),
    ("timestamp", "294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.999999"),
    ("timestamptz", "2026-01-01 05:45:00+05:45", datetime(2026, 1, 1, tzinfo=UTC)),
    ("timestamptz", "infinity", "infinity"),
    ("timestamptz", "4713-01-01 00:00:00+00 BC", "4713-01-01 00:00:00+00 BC"),
    ("time", "23:59:59.999999", time(23, 59, 59, 999999)),
    ("time", "24:00:00", "24:00:00"),
    ("timetz", "12:00:00+05:45", time(12, tzinfo=EAST)),
    ("interval", "1 day 02:00:00.5", timedelta(days=1, hours=2, milliseconds=500)),
    ("interval", "-1 days -00:00:01", timedelta(days=-1, seconds=-1)),
    ("interval", "1 year 2 mons -3 days 04:00:00", Interval(14, -3, 4 * 3_600_000_000)),
    ("json", '{"a":[1,"ä",null,true],"b":{}}', {"a": [1, "ä", None, True], "b": {}}),
    ("jsonb", '{"a": [1, 2.5]}', {"a": [1, 2.5]}),
    ("jsonb", '"text"', "text"),
    ("int4[]", "{1,NULL,3}", [1, None, 3]),
    ("int4[]", "{}", []),
    ("int4[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
    ("text[]", '{"a,b","\\"quoted\\"",NULL,"NULL",""}', ["a,b", '"quoted"', None, "NULL", ""]),
    ("numeric[]", "{1.10,NaN}", None),
    ("date[]", "{2026-01-01,infinity}", [date(2026, 1, 1), "infinity"]),
    ("interval[]", '{"1 mon"}', [Interval(1)]),
    ("jsonb[]", '{"{\\"a\\": 1}"}', [{"a": 1}]),
    ("int4range", "[1,5)", Range(1, 5)),
    ("int4range", "empty", Range(empty=True)),
    ("numrange", "(1.10,]", Range(Decimal("1.10"), None, lower_inc=False)),
    ("daterange", "[2026-01-01,infinity)", Range(date(2026, 1, 1), "infinity")),
    ("tstzrange", '["2026-01-01 00:00:00+00",)', Range(datetime(2026, 1, 1, tzinfo=UTC), None)),
    ("int4multirange", "{[1,3),[5,8)}", [Range(1, 3), Range(5, 8)]),
    ("inet", "192.168.0.1", IPv4Address("192.168.0.1")),
    ("inet", "2001:db8::1", IPv6Address("2001:db8::1")),
    ("cidr", "10.0.0.0/8", IPv4Network("10.0.0.0/8")),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:03"),
    ("point", "(1.5,-2)", "(1.5,-2)"),
    ("box", "(3,4),(1,2)", "(3,4),(1,2)"),
    ("circle", "<(1,2),3>", "<(1,2),3>"),
    ("bit(4)", "1010", "1010"),
    ("varbit", "101", "101"),
    ("money", "$1,234.50", "$1,234.50"),
    ("tsvector", "'a':1 'b':2", "'a':1 'b':2"),
    ("tsquery", "'a' & 'b'", "'a' & 'b'"),
    ("pg_lsn", "16/B374D848", "16/B374D848"),
    ("jsonpath", '$."a"', '$."a"'),
    ("mood", "so-so ä", "so-so ä"),
    ("mood[]", '{sad,"so-so ä"}', ["sad", "so-so ä"]),
    ("positive", "5", 5),
    ("positive[]", "{5,6}", [5, 6]),
    ("pair", "(1,\"a,b\")", {"id": 1, "label": "a,b"}),
    ("pair[]", '{"(1,x)",NULL}', [{"id": 1, "label": "x"}, None]),
    ("nested", '("(1,x)","{1.10}",2026-01-01)',
     {"p": {"id": 1, "label": "x"}, "n": [Decimal("1.10")], "d": date(2026, 1, 1)}),
    ("mood_range", "[sad,ok)", Range("sad", "ok")),
]  # fmt: skip


@pytest.fixture(scope="module", params=["postgres18", "postgres15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    running: PostgresServer = request.getfixturevalue(request.param)
    running.psql("drop database if exists types")
    running.psql("create database types template template0")
    running.psql(
        "create type mood as enum ('sad', 'so-so ä', 'ok'); create domain positive as int check (value > 0);"
        "create type pair as (id int, label text); create type nested as (p pair, n numeric[], d date);"
        "create type mood_range as range (subtype = mood)",
        "types",
    )
    return running


@pytest.fixture
async def connection(server: PostgresServer) -> AsyncIterator[Connection]:
    opened = await connect(ConnectOptions(host=server.host, port=server.port, user="postgres", database="types"))
    yield opened
    await opened.aclose()


@pytest.mark.parametrize(("type_name", "literal", "value"), VALUES, ids=lambda value: str(value)[:30])
async def test_a_value_read_and_written_back_is_the_same(
    server: PostgresServer, connection: Connection, type_name: str, literal: str, value: object
) -> None:
    quoted = literal.replace("'", "''")
    server.psql(f"drop table if exists held; create table held (id int, v {type_name})", "types")
    server.psql(f"insert into held values (1, '{quoted}')", "types")
    read = await connection.fetch_value("select v from held where id = 1")
    if value is not None:  # a NaN equals nothing; its text is compared below
        assert read == value
        assert isinstance(read, type(value)) and isinstance(read, bool) == isinstance(value, bool)
        assert str(read) == str(value), "trailing zeros and signs count"
    await connection.execute("insert into held values (2, $1)", read)
    texts = server.psql("select 'x' || encode(convert_to(v::text, 'UTF8'), 'hex') from held order by id", "types")
    assert len(texts.split("\n")) == 2
    assert len(set(texts.split("\n"))) == 1
    await connection.execute("insert into held values (3, $1)", None)
    assert await connection.fetch_value("select v from held where id = 3") is None


async def test_nan_stays_nan(connection: Connection) -> None:
    read = await connection.fetch_row("select 'NaN'::numeric, 'NaN'::float8, 'NaN'::float4")
    assert read is not None
    assert read[0].is_nan() and read[1] != read[1] and read[2] != read[2]
    assert await connection.fetch_value("select $1::numeric = 'NaN' and $2::float8 = 'NaN'", read[0], read[1])


async def test_what_sql_calls_nothing_has_its_form(connection: Connection) -> None:
    assert await connection.fetch_row("select null, 'text', array[]::text[], row(1, 'a', null)") == (
        None, "text", [], (1, "a", None)
    )  # fmt: skip
    assert await connection.fetch_value("select pg_sleep(0)") in ("", None)
    assert await connection.fetch_value("select 'null'::json") is None
    assert await connection.fetch_value("select array_agg(t) from (select 1 as a, 'b' as b) t") == [(1, "b")]


async def test_json_as_text_keeps_each_character(server: PostgresServer) -> None:
    exact = ConnectOptions(
        host=server.host, port=server.port, user="postgres", database="types", json_as_text=True
    )  # fmt: skip
    connection = await connect(exact)
    for text in ('{"a":  1.10, "a": -0}', "1e400", "null", '"\\u0000"'):
        assert await connection.fetch_value("select $1::json", text) == text
    assert await connection.fetch_value("select $1::jsonb", '{"b": 1.10}') == '{"b": 1.10}'
    assert await connection.fetch_value("select $1::jsonb[]", ['{"a": 1.0}']) == ['{"a": 1.0}']
    await connection.aclose()


@pytest.mark.parametrize(
    ("sql", "argument"),
    [
        ("select $1::timestamptz", datetime(2026, 1, 1)),
        ("select $1::timestamp", datetime(2026, 1, 1, tzinfo=UTC)),
        ("select $1::date", "2026-02-30"),
        ("select $1::date", "2026-02-03 10:00:00"),
        ("select $1::date", "03.02.2026"),
        ("select $1::timestamp", "2026-01-01 10:00:00+00"),
        ("select $1::timestamp", "2026-01-01"),
        ("select $1::timestamptz", "2026-01-01 10:00:00"),
        ("select $1::timestamptz", "2026-01-01 10:99:00+00"),
        ("select $1::timestamptz", "now"),
        ("select $1::interval", "1 day"),
        ("select $1::json", float("nan")),
        ("select $1::json", {1, 2}),
        ("select $1::numeric", "x"),
        ("select $1::text", 5),
        ("select $1::bytea", "text"),
        ("select $1::int4range", "[1,2)"),
        ("select $1::mood", 5),
    ],
)
async def test_a_value_that_could_only_be_guessed_at_is_refused(
    connection: Connection, sql: str, argument: object
) -> None:
    with pytest.raises(BadQueryArgument):
        await connection.fetch(sql, argument)
    assert await connection.fetch_value("select 1") == 1


async def test_a_type_that_changes_is_learnt_anew(server: PostgresServer, connection: Connection) -> None:
    server.psql("drop type if exists changing cascade; create type changing as (a int)", "types")
    assert await connection.fetch_value("select row(1)::changing") == {"a": 1}
    server.psql("alter type changing add attribute b text", "types")
    seen = []
    for _ in range(3):
        try:
            seen.append(await connection.fetch_value("select row(1, 'x')::changing"))
        except UnreadableAnswer as error:
            seen.append(error.code)
    assert seen[-1] == {"a": 1, "b": "x"}
    server.psql("alter type mood add value if not exists 'new'", "types")
    assert await connection.fetch_value("select 'new'::mood") == "new"


async def test_types_of_extensions_are_their_text(postgres18: PostgresServer) -> None:
    postgres18.psql("create extension if not exists hstore; create extension if not exists citext")
    connection = await connect(ConnectOptions(host=postgres18.host, port=postgres18.port, user="postgres"))
    assert await connection.fetch_value("select 'a=>1'::hstore") == '"a"=>"1"'
    assert await connection.fetch_value("select $1::hstore -> 'a'", '"a"=>"1"') == "1"
    assert await connection.fetch_value("select $1::citext = 'ABC'", "abc") is True
    assert await connection.fetch_value("select array['x']::citext[]") == ["x"]
    await connection.aclose()
