"""What brings one schema to another, decided from definitions alone."""

import pytest

from flux.schema_diff import CannotPushError, SchemaObject, compare, make_schema, plan


def column(
    name: str, type: str = "text", *, default: str | None = None, required: bool = False, rest: str = ""
) -> SchemaObject:
    """A column of a table."""
    table, _, bare = name.partition(".")
    text = " ".join(filter(None, [type, rest, default and f"default {default}", "not null" if required else ""]))
    parts = {"place": f"alter table {table} alter column {bare}", "name": bare, "type": type, "default": default,
             "required": "not null" if required else None, "rest": rest}  # fmt: skip
    place = f"alter table {table}"
    creation, removal = f"{place} add column {bare} {text}", f"{place} drop column {bare}"
    return SchemaObject("column", name, text, creation, removal, table, parts)


def thing(kind: str, name: str, definition: str = "", table: str | None = None, **parts: str) -> SchemaObject:
    """Anything else."""
    creation = f"create {kind} {name} {definition}".strip()
    return SchemaObject(kind, name, definition, creation, f"drop {kind} {name}", table, parts)


USERS = thing("table", "users")


def steps(live: list[SchemaObject], wanted: list[SchemaObject]) -> list[tuple[str, str | None]]:
    """The plan from one to the other."""
    return [(step.sql, step.loss) for step in plan(make_schema(live), make_schema(wanted))]


def test_equal_schemas_need_nothing() -> None:
    both = make_schema([USERS, column("users.id", "int")])
    assert compare(both, both) == () and plan(both, both) == ()


def test_a_new_table_brings_its_columns_and_is_followed_by_what_stands_on_it() -> None:
    index = thing("index", "users_id", "on users", "users")
    wanted = [index, column("users.id"), USERS]
    assert [each.kind for each in compare({}, make_schema(wanted))] == ["table"]
    assert steps([], wanted) == [("create table users", None), ("create index users_id on users", None)]


def test_what_is_dropped_is_a_loss_and_what_stands_on_it_goes_first() -> None:
    key = thing("constraint", "users.other", "FOREIGN KEY (other) REFERENCES others", "users")
    assert steps([USERS, column("users.id"), key], []) == [
        ("drop constraint users.other", None), ("drop table users", "drops table users"),
    ]  # fmt: skip
    assert steps([USERS, column("users.plan")], [USERS]) == [
        ("alter table users drop column plan", "drops column users.plan")
    ]


@pytest.mark.parametrize(
    ("live", "wanted", "sql", "loss"),
    [
        (column("users.a"), column("users.a", required=True), "set not null", None),
        (column("users.a", required=True), column("users.a"), "drop not null", None),
        (column("users.a", default="1"), column("users.a"), "drop default", None),
        (column("users.a"), column("users.a", default="2"), "set default 2", None),
        (column("users.a", "integer"), column("users.a", "bigint"), "type bigint using a::bigint", None),
        (column("users.a", "bigint"), column("users.a", "integer"), "type integer using a::integer",
         "narrows users.a from bigint to integer"),
    ],
)  # fmt: skip
def test_a_column_is_changed_in_place(live: SchemaObject, wanted: SchemaObject, sql: str, loss: str | None) -> None:
    assert steps([USERS, live], [USERS, wanted]) == [(f"alter table users alter column a {sql}", loss)]


def test_a_default_is_out_of_the_way_while_its_columns_type_changes() -> None:
    live, wanted = column("users.a", "text", default="'1'"), column("users.a", "int", default="1")
    ((sql, _loss),) = steps([USERS, live], [USERS, wanted])
    assert [line.split("column a ")[1].rstrip(";") for line in sql.split("\n")] == [
        "drop default", "type int using a::int", "set default 1",
    ]  # fmt: skip


def test_an_enum_grows_where_the_new_label_belongs_and_never_loses_one() -> None:
    small = SchemaObject("enum", "mood", "'b', 'd'", "", "drop type mood", parts={"b": "'b'", "d": "'d'"})
    large = SchemaObject(
        "enum", "mood", "'a', 'b', 'c', 'd'", "", "", parts={"a": "'a'", "b": "'b'", "c": "'c'", "d": "'d'"}
    )
    assert steps([small], [large]) == [
        ("alter type mood add value 'a' before 'b';\nalter type mood add value 'c' after 'b'", None)
    ]
    with pytest.raises(CannotPushError, match="enum mood"):
        steps([large], [small])


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        (column("users.a", rest=" generated always as (1) stored"), column("users.a")),
        (thing("table", "users"), thing("table", "users", "partition by range (d)")),
        (thing("domain", "d", "int"), thing("domain", "d", "text")),
    ],
)
def test_what_cannot_be_changed_in_place_is_refused_by_name(live: SchemaObject, wanted: SchemaObject) -> None:
    with pytest.raises(CannotPushError, match=live.name):
        steps([USERS, live], [USERS, wanted])
