"""Rows of partitioned tables through time: partitions are attached and detached, rows and their keys move.

The oracle is another client, which reads the tables before each step. What Flux can't know it has to say.
"""

import json
from collections.abc import AsyncIterator

import pytest

from flux.store.moments import Moment
from flux.store.postgres import Pool
from flux.store.row_blame import find_blame
from flux.store.row_diff import find_diff
from flux.store.row_partitions import PartitionError
from flux.store.row_states import StateNotKnownError, find_state
from flux.store.row_versions import find_row_writer, list_history_notes, list_row_history
from tests.conftest import Database

TABLES = """
create table parted (id int primary key, v text) partition by range (id);
create table low partition of parted for values from (0) to (100);
create table high partition of parted for values from (100) to (200);
insert into parted values (1, 'a'), (2, 'b'), (150, 'c');
"""


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    database.psql(TABLES)
    pool = database.pool()
    yield pool
    await pool.aclose()


def take(database: Database) -> tuple[Moment, list[str]]:
    """A moment, and what psql reads at it."""
    moment = Moment(snapshot=database.psql("select pg_current_snapshot()"))
    return moment, database.psql("select to_json(t)::text from parted t order by id").splitlines()


async def read_then(pool: Pool, moment: Moment) -> list[str]:
    found = await find_state(pool, "public", "parted", None, moment, 100)
    assert not any(row.is_gap for row in found.rows)
    rows = [{name: json.loads(value) for name, value in row.values.items()} for row in found.rows]
    return [json.dumps(row, separators=(",", ":")) for row in rows]


async def read_images(pool: Pool, table: str, key: str) -> list[tuple[str | None, bool]]:
    return [(each.mutation.after, each.gap) for each in await list_row_history(pool, "public", table, key)]


async def test_a_row_of_a_partition_is_a_row_of_the_whole_table_under_either_name(
    pool: Pool, database: Database
) -> None:
    first, rows = take(database)
    database.psql("update low set v = 'direct' where id = 1")
    database.psql("update parted set id = id + 100 where id = 2")  # To the other partition.
    second, rows_moved = take(database)
    assert (await read_then(pool, first), await read_then(pool, second)) == (rows, rows_moved)
    for table in ("parted", "low", "public.low"):
        assert await read_images(pool, table, "1") == [('{"id":1,"v":"direct"}', False), ('{"id":1,"v":"a"}', False)]
        assert await list_history_notes(pool, "public", table, "1") == []
        assert (await find_blame(pool, "public", table, "1")).columns["v"].value == '"direct"'
        (row,) = (await find_state(pool, "public", table, "1", first, 1)).rows
        assert row.values["v"] == '"a"'
    writer = await find_row_writer(pool, "public", "low", {"id": 1}, str(second.snapshot))
    assert writer is not None and writer.mutation.after == '{"id":1,"v":"direct"}'
    refused = r"public\.low is a partition: .* as those of public\.parted"
    with pytest.raises(PartitionError, match=refused):
        await find_state(pool, "public", "low", None, first, 10)
    with pytest.raises(PartitionError, match=refused):
        await find_diff(pool, "public", "low", first, second, 10)


async def test_a_key_that_was_changed_leads_to_the_row_that_it_was_and_to_the_one_that_it_became(
    pool: Pool, database: Database
) -> None:
    database.psql("create table plain (id int primary key, v text)")
    database.psql("insert into plain values (1, 'a'), (2, 'b'), (3, 'c')")
    database.psql("update plain set id = 40, v = 'moved' where id = 2")
    database.psql("update parted set id = id + 100 where id = 2")
    for table, new in (("plain", 40), ("parted", 102)):
        assert (await read_images(pool, table, "2"))[0] == (None, False), "its history ends under this key"
        (note,) = await list_history_notes(pool, "public", table, "2")
        assert note.startswith("the statement that took it out at") and f'brought {{"id":{new}}}' in note
        (note,) = await list_history_notes(pool, "public", table, str(new))
        assert note.startswith("the statement that brought it at") and 'took out {"id":2}' in note
    # Of two rows of one statement, which became which stands nowhere; and who inserts takes nothing out.
    database.psql("update plain set id = id + 50 where id in (1, 3); insert into plain values (7, 'new')")
    for key in ("1", "51", "7"):
        assert await list_history_notes(pool, "public", "plain", key) == []


async def test_what_was_attached_or_detached_since_is_refused_or_said_and_never_guessed(
    pool: Pool, database: Database
) -> None:
    attached, _ = take(database)
    database.psql("update low set v = 'last' where id = 1")
    database.psql("create table other (id int primary key, w text); insert into other values (1, 'x')")
    database.psql("alter table parted detach partition low")
    detached, rows = take(database)
    database.psql("update low set v = 'alone' where id = 1; update parted set v = 'd' where id = 150")
    assert await read_then(pool, detached) == rows
    (row,) = (await find_state(pool, "public", "low", "1", detached, 1)).rows
    assert row.values["v"] == '"last"'
    # Before, it was another table's, whose changes it can't undo.
    for table, key in (("low", None), ("low", "1"), ("parted", None), ("parted", "150")):
        with pytest.raises(StateNotKnownError, match="partition"):
            await find_state(pool, "public", table, key, attached, 10)
    (note,) = await list_history_notes(pool, "public", "low", "1")
    assert note.startswith("it may have been a partition of public.parted")
    assert await read_images(pool, "low", "1") == [('{"id":1,"v":"alone"}', False)]
    assert await list_history_notes(pool, "public", "other", "1") == [], "it has other columns"

    # What it was changed to while it was apart is no change of the whole table's: the row shows a gap there.
    database.psql("alter table parted attach partition low for values from (0) to (100)")
    database.psql("update parted set v = 'back' where id = 1")
    history = [('{"id":1,"v":"back"}', True), ('{"id":1,"v":"last"}', False), ('{"id":1,"v":"a"}', False)]
    assert await read_images(pool, "parted", "1") == await read_images(pool, "low", "1") == history
    with pytest.raises(StateNotKnownError, match="attached or detached"):
        await find_state(pool, "public", "parted", None, detached, 10)
