"""What REPEATABLE READ and SERIALIZABLE wrote beside rows that others had overtaken is written again by a world.

The other client is ``psql``; each answer, and each error, that the transaction got from PostgreSQL is on record.
"""

from pathlib import Path

import pytest

from flux.hostcalls.base import HostCallFailed
from flux.sandbox.scripted import ScriptedGuest
from flux.supervisor.world_keeper import open_keeper
from tests.asked_again import Say, lend_whole, record, repeat
from tests.conftest import Database
from tests.execution_world import open_world, sql

SCHEMA = """
create table keyed (id int primary key, name text unique, v int);
create table seats (id int primary key, number int unique deferrable initially deferred);
create table rooms (id int primary key, during int4range, exclude using gist (during with &&));
create table parts (id int primary key, v int) partition by range (id);
create table parts_1 partition of parts for values from (0) to (100);
insert into keyed select n, 'n' || n, n from generate_series(1, 30) n;
insert into seats select n, n from generate_series(1, 3) n;
insert into rooms select n, int4range(n * 10, n * 10 + 5) from generate_series(1, 3) n;
insert into parts select n, n from generate_series(1, 3) n;
grant select, insert, update, delete on all tables in schema public to flux_guest_main;
"""
KEYED = "select * from keyed order by id, v"
OVER_AN_OLD_ROW = (
    ("delete from keyed where id = 1", "insert into keyed values (1, 'n1', 100)"),
    # Another row under a name that the snapshot shows taken.
    ("update keyed set name = 'else' where id = 2", "insert into keyed values (102, 'n2', 100)"),
    ("delete from keyed where id = 3", "insert into keyed values (3, 'mine', 5) on conflict (id) do update set v = -1"),
    ("delete from keyed where id = 4", "insert into keyed values (4, 'n4', 9), (5, 'n5', 9) on conflict do nothing"),
    ("delete from keyed where id = 6", "update keyed set name = 'n6' where id = 7 returning *"),
    (
        "delete from keyed where id in (8, 9)",
        "merge into keyed k using (values (8), (108)) t (id) on k.v = -9 "
        "when not matched then insert values (t.id, null, 9)",
    ),
    ("delete from rooms where id = 1", "insert into rooms values (11, '[12, 14)')"),
    ("update seats set number = 100 where id = 1", "insert into seats values (11, 1)"),
)  # fmt: skip


async def writes_over_old_rows(guest: ScriptedGuest, say: Say) -> None:
    await guest.call(*sql(KEYED))
    for theirs, own in OVER_AN_OLD_ROW:
        await say(theirs)
        await guest.call(*sql(own))
        await guest.call(*sql(KEYED))
    await guest.call(*sql("select * from rooms where during @> 13 order by id"))
    await guest.call(*sql("select * from seats order by id"))
    # The old rows can be seen, and that is all.
    for refused in (
        "update keyed set v = 0 where id = 1",
        "delete from keyed where name = 'n2' and v = 2",
        "select v from keyed where id = 3 for share",
    ):
        depth = await guest.call("db.begin", None)
        with pytest.raises(RuntimeError):
            await guest.call(*sql(refused))
        await guest.call("db.rollback", depth)
    # What others have changed since can't be changed either, in the way or not.
    await say("update keyed set v = 0 where id = 24; delete from keyed where id = 25")
    for refused in (
        "update keyed set v = v + 1 where id in (24, 26)",
        "delete from keyed where id = 25",
        "select v from keyed where id in (24, 26) for update",
    ):
        depth = await guest.call("db.begin", None)
        with pytest.raises(RuntimeError):
            await guest.call(*sql(refused))
        await guest.call("db.rollback", depth)
    await guest.call(*sql("update keyed set v = v + 1 where id = 26"))
    # Its own can be changed.
    await guest.call(*sql("update keyed set v = 101 where id = 102"))
    await guest.call(*sql("select v from keyed where id = 102 for update"))
    # What it rolls back was there all the same, for as long.
    depth = await guest.call("db.begin", None)
    await guest.call(*sql("delete from keyed where id = 21"))
    await say("delete from keyed where id = 20")
    await guest.call(*sql("insert into keyed values (20, 'n20', 100)"))
    await guest.call(*sql(KEYED))
    await guest.call("db.rollback", depth)
    await guest.call(*sql(KEYED))
    await say("delete from keyed where id = 21")
    await guest.call(*sql("insert into keyed values (21, 'n21', 100)"))
    await guest.call(*sql(KEYED))
    # What it takes away itself is in nobody's way either, and what is there still is.
    await guest.call(*sql("delete from keyed where id = 22"))
    await guest.call(*sql("insert into keyed values (22, 'n22', 100)"))
    depth = await guest.call("db.begin", None)
    with pytest.raises(RuntimeError):
        await guest.call(*sql("insert into keyed values (23, 'n23', 100)"))
    await guest.call("db.rollback", depth)
    await guest.call(*sql(KEYED))


async def transactions_follow_each_other(guest: ScriptedGuest, say: Say) -> None:
    depth = await guest.call("db.begin", "repeatable read")
    await guest.call(*sql(KEYED))
    await say("delete from keyed where id = 14; update keyed set name = 'more' where id = 15")
    await guest.call(*sql("insert into keyed values (14, 'n14', 100), (115, 'n15', 115)"))
    await guest.call(*sql(KEYED))
    await guest.call("db.commit", depth)
    await guest.call(*sql(KEYED))
    await guest.call(*sql("update keyed set v = v + 1 where id in (14, 15)"))


async def writes_over_an_old_row_of_a_partition(guest: ScriptedGuest, say: Say) -> None:
    await guest.call(*sql("select * from parts"))
    await say("delete from parts where id = 1")
    await guest.call(*sql("insert into parts values (1, 100)"))


async def test_what_was_written_over_a_row_that_was_there_no_more_is_written_again(
    database: Database, tmp_path: Path
) -> None:
    async with open_world(database, tmp_path / "journal") as world:
        database.psql(SCHEMA)
        original = await record(world, writes_over_old_rows)
        several = await record(world, transactions_follow_each_other, isolation="serializable", atomic=False)
        in_parts = await record(world, writes_over_an_old_row_of_a_partition)
        errors = [call.result.error.code for call in original.calls if call.result and call.result.error]
        assert errors == ["40001"] * 6 + ["23505"]
        database.psql("update keyed set v = 1000; delete from seats")
        async with open_keeper(world.backing.guests, world.backing.token, "public") as keeper:
            async with lend_whole(keeper, original) as lent:
                assert await lent.finish() is None, "what is checked at COMMIT found nothing in the way"
                assert "in the way" not in " ".join(lent.notes)
            async with lend_whole(keeper, several, isolation="serializable", atomic=False):
                pass
            # Code that changes another row instead is not refused.
            async with keeper.lend(original, aside=frozenset({"keyed"})) as lent:
                lent.follow({call.request.seq: call for call in original.calls}.get)
                refused = next(call for call in original.calls if b"where id = 25" in call.request.arguments)
                assert refused.result is not None and refused.result.error is not None
                for row, message in ((27, None), (25, refused.result.error.message)):
                    depth = await lent.begin(None, 1000 + row)
                    heard = None
                    try:
                        await lent.run(f"delete from keyed where id = {row}", [], refused.request.seq)
                    except HostCallFailed as failed:
                        heard = failed.error.message
                    assert heard == message
                    await lent.rollback(depth, 1001 + row)
                assert "concurrent delete" in str(heard)
            # Code that leaves out what made room finds none, although others have changed that row since.
            async with keeper.lend(original) as lent:
                lent.follow({call.request.seq: call for call in original.calls}.get)
                taken = next(call for call in original.calls if b"(22, 'n22', 100)" in call.request.arguments)
                assert await repeat(lent, taken) == "23505"
            # What can't be held is said.
            async with keeper.lend(in_parts) as lent:
                lent.follow({call.request.seq: call for call in in_parts.calls}.get)
                assert [await repeat(lent, call) for call in in_parts.calls][1] == "23505"
                assert "rows of parts that others had changed by then are in the way" in " ".join(lent.notes)
