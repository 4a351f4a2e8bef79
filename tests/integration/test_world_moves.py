"""A world shows each statement what its own snapshot saw, and is put back to its beginning for the next replay.

What is right was said by PostgreSQL when the execution was recorded: each answer that a world gives is laid beside
the recorded one.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from flux.hostcalls.base import HostCallFailed
from flux.sandbox.scripted import ScriptedGuest
from flux.store.postgres import connect
from flux.store.world_moves import list_moves
from flux.supervisor import world_keeper
from flux.supervisor.world_keeper import WorldKeeper, open_keeper
from flux.supervisor.world_timeline import Snapshot
from tests.asked_again import Play, Say, ask_again, commit_once_waited_for, record
from tests.conftest import Database
from tests.execution_world import ExecutionWorld, open_world, sql

SCHEMA = """
create table accounts (id int primary key, name text unique, amount numeric);
create table rates (id int primary key, rate int);
insert into accounts select n, 'n' || n, n * 10 from generate_series(1, 5) n;
insert into rates select n, n from generate_series(1, 5) n;
create table numbered (id int generated always as identity primary key, what text);
create table seats (id int primary key, number int unique deferrable initially deferred);
grant select, insert, update, delete on all tables in schema public to flux_guest_main;
"""
ACCOUNTS = "select * from accounts order by id"
RATES = "select * from rates order by id"


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[ExecutionWorld]:
    async with open_world(database, tmp_path / "journal") as opened:
        database.psql(SCHEMA)
        yield opened


@pytest.fixture
async def keeper(world: ExecutionWorld) -> AsyncIterator[WorldKeeper]:
    async with open_keeper(world.backing.guests, world.backing.token, "public") as opened:
        yield opened


async def each_sees_its_own(guest: ScriptedGuest, say: Say) -> None:
    await guest.call(*sql(ACCOUNTS))
    await say("update accounts set amount = 0 where id = 1; delete from rates where id = 2")
    await guest.call(*sql("update accounts set amount = amount + 1 where id = 3 returning amount"))
    await guest.call(*sql(ACCOUNTS))
    await say("insert into accounts values (9, 'n9', 9); update rates set rate = 77 where id = 1")
    await guest.call(*sql("select a.id, r.rate from accounts a join public.rates r using (id) order by id"))
    await guest.call(*sql(ACCOUNTS))


async def a_block_is_undone(guest: ScriptedGuest, say: Say) -> None:
    await guest.call(*sql("update accounts set amount = 1 where id = 1"))
    depth = await guest.call("db.begin", None)
    await say("update rates set rate = 5; update accounts set name = 'other' where id = 2")
    await guest.call(*sql(RATES))
    await guest.call(*sql("update accounts set amount = 2, name = 'mine' where id = 4"))
    await guest.call("db.rollback", depth)
    await say("update accounts set amount = 3 where id in (2, 4); delete from rates where id = 3")
    await guest.call(*sql(ACCOUNTS))
    await guest.call(*sql(RATES))


async def names_are_exchanged(guest: ScriptedGuest, say: Say) -> None:
    await guest.call(*sql("update accounts set amount = 1 where id = 5"))
    await say("update accounts set name = 'x' where id = 1; update accounts set name = 'n1' where id = 2")
    await say("update accounts set name = 'n2' where id = 1")
    await guest.call(*sql(ACCOUNTS))


async def others_write_above_its_own(guest: ScriptedGuest, say: Say) -> None:
    """With several transactions; with one, the others would wait for it for ever."""
    await guest.call(*sql("update accounts set amount = amount + 5 where id = 1 returning amount"))
    await say("update accounts set amount = amount * 2 where id = 1; update rates set rate = rate + 1")
    depth = await guest.call("db.begin", None)
    await guest.call(*sql(ACCOUNTS))
    await guest.call(*sql("delete from accounts where id = 1"))
    await guest.call(*sql("select now() - now()"))
    await say("update rates set rate = rate + 1")
    await guest.call(*sql(RATES))
    await guest.call("db.commit", depth)
    await say("insert into accounts values (1, 'n1', 1)")
    await guest.call(*sql(ACCOUNTS))
    depth = await guest.call("db.begin", "read committed")
    await guest.call(*sql("insert into seats values (1, 8), (2, 8)"))
    with pytest.raises(RuntimeError):
        await guest.call("db.commit", depth)
    await guest.call(*sql("select count(*) from seats"))
    with pytest.raises(RuntimeError):
        await guest.call(*sql("insert into seats values (1, 9), (2, 9)"))
    await guest.call(*sql("insert into seats values (1, 1), (2, 2)"))


ATOMIC = (each_sees_its_own, a_block_is_undone, names_are_exchanged)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
@pytest.mark.parametrize("play", [*ATOMIC, others_write_above_its_own])
async def test_each_statement_sees_what_it_saw(
    world: ExecutionWorld, keeper: WorldKeeper, play: Play, isolation: str
) -> None:
    atomic = play in ATOMIC
    original = await record(world, play, atomic=atomic, isolation=isolation)
    world.database.psql("update accounts set amount = -1; delete from rates")
    for _ in range(2):
        async with keeper.lend(original, atomic=atomic, isolation=isolation) as lent:
            assert await ask_again(lent, original) >= 2
    assert (keeper.built, keeper.lent) == (1, 2)


async def test_a_statement_that_waited_for_a_row_goes_on_with_the_row_of_the_other(
    world: ExecutionWorld, keeper: WorldKeeper
) -> None:
    other = await connect(world.database.options())
    async with trio.open_nursery() as nursery:
        await other.begin()
        await other.execute("update accounts set amount = amount + 100, name = 'theirs' where id = 1")

        async def play(guest: ScriptedGuest, say: Say) -> None:
            await guest.call(*sql(ACCOUNTS))
            nursery.start_soon(commit_once_waited_for, world, other)
            await guest.call(
                *sql("update accounts set amount = amount + 1 where id = 1 returning amount, name")
            )
            await guest.call(*sql(ACCOUNTS))
            await guest.call(*sql("select * from accounts where id = 1 for update"))

        original = await record(world, play, isolation="read committed")
    await other.aclose()
    updated = original.calls[1].result
    assert updated is not None and b'"111"' in updated.value
    async with keeper.lend(original) as lent:
        assert await ask_again(lent, original) == 4


async def test_a_new_statement_sees_what_the_recorded_one_before_it_saw(
    world: ExecutionWorld, keeper: WorldKeeper
) -> None:
    async def play(guest: ScriptedGuest, say: Say) -> None:
        await guest.call(*sql(RATES))
        await say("update rates set rate = 50 where id = 5")
        await guest.call(*sql(RATES))
        await say("update rates set rate = 60 where id = 5")

    original = await record(world, play, isolation="read committed")
    question = "select rate from rates where id = 5"
    async with keeper.lend(original) as lent:
        lent.follow({call.request.seq: call for call in original.calls}.get)
        heard = [(await lent.run(question, [], 100)).rows]
        await lent.run(RATES, [], 1)
        heard.append((await lent.run(question, [], 101)).rows)
        await lent.run(RATES, [], 2)
        heard.append((await lent.run(question, [], 102)).rows)
    assert heard == [[[5]], [[5]], [[50]]]
    async with keeper.lend(original, isolation="repeatable read") as lent:
        lent.follow({call.request.seq: call for call in original.calls}.get)
        await lent.run(RATES, [], 1)
        heard_of = [lent.is_comparable]
        await lent.run(RATES, [], 2)
        assert [*heard_of, lent.is_comparable] == [True, False]
        assert "one snapshot" in " ".join(lent.notes)
        with pytest.raises(HostCallFailed, match="isolation 'repeatable read'"):
            await lent.begin("serializable", 103)


async def test_executions_that_ran_near_each_other_share_a_world(
    world: ExecutionWorld, keeper: WorldKeeper
) -> None:
    async def play(guest: ScriptedGuest, say: Say) -> None:
        await guest.call(*sql("insert into numbered (what) values ('mine') returning id"))
        await guest.call(*sql(ACCOUNTS))
        await guest.call(*sql("select now()"))
        await say("update accounts set amount = amount + 1")

    originals = [await record(world, play) for _ in range(5)]
    keeper.expect(originals)
    for original in [*originals, *reversed(originals)]:
        async with keeper.lend(original) as lent:
            assert await ask_again(lent, original) == 3
    assert (keeper.built, keeper.lent) == (1, 10)
    # A table more than any of them wrote: another world, which then serves all.
    for original in originals:
        async with keeper.lend(original, frozenset({"rates"})) as lent:
            assert (await lent.run("update rates set rate = 0", [], 50)).tag == "UPDATE 5"
            assert await ask_again(lent, original) == 3
    assert keeper.built == 2
    assert world.database.psql("select sum(rate) from rates") == "15"


async def test_a_world_in_which_something_is_left_is_not_lent_again(
    world: ExecutionWorld, keeper: WorldKeeper
) -> None:
    async def play(guest: ScriptedGuest, say: Say) -> None:
        await guest.call(*sql(ACCOUNTS))

    original = await record(world, play)
    async with keeper.lend(original) as lent:
        await lent.run("do $$ begin execute 'prepare mine as select 1'; end $$", [], 1)
    async with keeper.lend(original) as lent:
        await lent.run("select set_config('flux.world_now', '2001-01-01', false), pg_advisory_lock(7)", [], 1)
    assert keeper.built == 2
    async with keeper.lend(original) as lent:
        assert (await lent.run("select extract(year from now())::int > 2001", [], 1)).rows == [[True]]
        assert world.database.psql("select count(*) from pg_locks where locktype = 'advisory'") == "0"
    assert keeper.built == 2
    with pytest.raises(ValueError, match="somebody"):
        async with keeper.lend(original) as lent:
            raise ValueError("somebody has failed")
    async with keeper.lend(original) as lent:
        assert await ask_again(lent, original) == 1
    assert keeper.built == 3


async def test_what_only_the_other_of_two_snapshots_with_one_xmax_saw_is_known_too(
    world: ExecutionWorld,
) -> None:
    """A snapshot does not name its own transaction among the running ones, so that it may pass for a later one."""
    asked = "select pg_current_snapshot()::text"
    since = world.database.psql(asked)
    first, second, third = [await connect(world.database.options()) for _ in range(3)]
    for number, connection in enumerate((first, second, third)):
        await connection.begin()
        await connection.execute(f"insert into rates values ({100 + number}, 0)")
    world.database.psql("insert into rates values (103, 0)")
    earlier = str(await first.fetch_value(asked))
    await third.commit()
    later = world.database.psql(asked)
    assert Snapshot.parse(earlier).age >= Snapshot.parse(later).age
    guest = await world.backing.guests.take()
    known = await list_moves(guest, world.backing.token, since, earlier, [])
    assert {row["key"] for row in known} >= {'{"id":102}', '{"id":103}'}
    await world.backing.guests.give_back(guest)
    for connection in (first, second, third):
        await connection.aclose()


@pytest.mark.parametrize("life_s_max", [0.0, 1000.0])
async def test_a_world_grows_only_so_old_and_is_not_kept_for_nobody(
    world: ExecutionWorld, life_s_max: float
) -> None:
    async def play(guest: ScriptedGuest, _say: Say) -> None:
        await guest.call(*sql(ACCOUNTS))

    original = await record(world, play)
    guests = world.backing.guests
    async with open_keeper(guests, world.backing.token, "public", life_s_max=life_s_max) as keeper:
        for _ in range(2):
            async with keeper.lend(original) as lent:
                assert await ask_again(lent, original) == 1
        assert keeper.built == 2 or life_s_max
        # Nobody asks for another, and it goes all the same.
        await world.settle()
        holding = (
            "select count(*) from pg_stat_activity where backend_xmin is not null "
            "and datname = current_database() and usename like 'flux_guest%'"
        )
        with trio.fail_after(180):
            while world.database.psql(holding) != "0":  # noqa: ASYNC110 - another process is asked
                await trio.sleep(0.05)


async def test_of_many_groups_the_latest_are_remembered(
    world: ExecutionWorld, keeper: WorldKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(guest: ScriptedGuest, _say: Say) -> None:
        await guest.call(*sql(ACCOUNTS))

    monkeypatch.setattr(world_keeper, "GROUPS_MAX", 1)
    originals = [await record(world, play) for _ in range(2)]
    for original in [*originals, *originals]:
        async with keeper.lend(original) as lent:
            assert await ask_again(lent, original) == 1
