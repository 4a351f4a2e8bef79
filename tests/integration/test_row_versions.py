"""A row keeps its history when its table or its columns get other names, and no other row's comes into it.

The oracle is another client: what psql was told to write, and in which order.
"""

from collections.abc import AsyncIterator

import pytest

from flux.store.moments import Moment
from flux.store.postgres import Pool
from flux.store.row_blame import find_blame
from flux.store.row_states import StateNotKnownError, find_state
from flux.store.row_versions import find_row_writer, list_history_notes, list_row_history
from tests.conftest import Database


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = database.pool()
    yield pool
    await pool.aclose()


async def test_a_row_is_the_same_under_every_name_of_its_table_and_columns(pool: Pool, database: Database) -> None:
    database.psql("create table public.users (id int primary key, plan text, note text)")
    database.psql("insert into users values (1, 'a', 'x'); insert into users values (2, 'other', 'x')")
    database.psql("update users set plan = 'b' where id = 1")
    before = database.psql("select pg_current_snapshot()")
    database.psql("alter table users rename to people")
    database.psql("alter table people rename column plan to tier; alter table people rename column id to number")
    database.psql("update people set tier = 'c' where number = 1")
    database.psql("alter table people drop column note")
    database.psql("alter table people set schema public; update people set tier = 'd' where number = 1")
    # Another table takes the name that it had, with a row of the same key.
    database.psql("create table public.users (id int primary key, plan text); insert into users values (1, 'not hers')")
    database.psql("update users set plan = 'nor this' where id = 1")

    versions = await list_row_history(pool, "public", "people", "1")
    assert [version.mutation.after for version in versions] == [
        '{"number":1,"tier":"d"}', '{"number":1,"tier":"c","note":"x"}', '{"id":1,"plan":"b","note":"x"}',
        '{"id":1,"plan":"a","note":"x"}',
    ]  # fmt: skip
    assert [version.version for version in versions] == [4, 3, 2, 1]
    assert not any(version.gap for version in versions)
    assert [v.version for v in await list_row_history(pool, "public", "people", "number=1", 2)] == [4, 3]
    blame = await find_blame(pool, "public", "people", "1")
    assert blame.columns["tier"].seq == versions[0].seq and blame.columns["number"].seq == versions[3].seq

    others = await list_row_history(pool, "public", "users", "1")
    plans = ["nor this", "not hers"]
    assert [version.mutation.after for version in others] == [f'{{"id":1,"plan":"{plan}"}}' for plan in plans]
    assert not any(version.gap for version in others)
    assert (await find_blame(pool, "public", "users", "1")).columns["id"].seq == others[1].seq

    then = await find_state(pool, "public", "people", "1", Moment(snapshot=before), 1)
    assert then.rows[0].values == {"id": "1", "plan": '"b"', "note": '"x"'}, "the names and columns are of then"
    writer = await find_row_writer(pool, "public", "people", {"number": 1}, before)
    assert writer is not None and writer.seq == versions[2].seq


async def test_a_change_past_the_capture_shows_across_a_rename(pool: Pool, database: Database) -> None:
    database.psql("create table public.users (id int primary key, plan text); insert into users values (1, 'a')")
    database.psql("set session_replication_role = replica; update users set plan = 'unseen' where id = 1")
    database.psql("alter table users rename to people; alter table people rename column plan to tier")
    database.psql("update people set tier = 'c' where id = 1")
    assert [version.gap for version in await list_row_history(pool, "public", "people", "1")] == [True, False]


async def test_another_key_is_another_history_and_is_said_to_be(pool: Pool, database: Database) -> None:
    database.psql("create table public.users (id int primary key, email text); insert into users values (1, 'a@b.c')")
    assert await list_history_notes(pool, "public", "users", "1") == []
    snapshot = database.psql("select pg_current_snapshot()")
    database.psql("alter table users drop constraint users_pkey; alter table users add primary key (email)")
    database.psql("update users set id = 2 where email = 'a@b.c'")
    (version,) = await list_row_history(pool, "public", "users", "a@b.c")
    assert version.mutation.after == '{"id":2,"email":"a@b.c"}'
    (note,) = await list_history_notes(pool, "public", "users", "a@b.c")
    assert "the primary key was" in note and "changes from before are not known" in note
    with pytest.raises(StateNotKnownError, match="primary key has changed since"):
        await find_state(pool, "public", "users", "a@b.c", Moment(snapshot=snapshot), 1)


async def test_a_table_that_was_made_anew_goes_on_where_the_old_one_ended(pool: Pool, database: Database) -> None:
    for plan in ("a", "b"):  # As a dump that is restored, or a migration that copies.
        database.psql("drop table if exists public.users")
        database.psql("create table public.users (id int primary key, plan text)")
        database.psql(f"insert into users values (1, '{plan}')")
    images = [version.mutation.after for version in await list_row_history(pool, "public", "users", "1")]
    assert images[0] == '{"id":1,"plan":"b"}' and '{"id":1,"plan":"a"}' in images
