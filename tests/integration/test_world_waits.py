"""What a statement of READ COMMITTED does when it has waited for a row is done again by a world.

Each case has a client that holds rows, and a statement that has to wait for them. What comes of it was said by
PostgreSQL twice: in the case, and in the record.
"""

from pathlib import Path

import attrs
import trio

from flux import values
from flux.sandbox.scripted import ScriptedGuest
from flux.store.postgres import connect
from flux.supervisor.world_keeper import open_keeper
from tests.asked_again import Say, ask_again, commit_once_waited_for, record
from tests.conftest import Database
from tests.execution_world import open_world, sql

SCHEMA = """
create table rows (id int primary key, a int, n int);
create table others (id int primary key, n int);
insert into rows select a * 10 + i, a, i from generate_series(1, 9) a, generate_series(0, 4) i;
insert into others select id, 50 from rows;
grant select, insert, update, delete on all tables in schema public to flux_guest_main;
"""


@attrs.frozen
class Case:
    """Rows of one ``a`` have n = 0 to 4, and ids in the same order."""

    holds: str
    """What the other client has done."""
    asks: str
    """What waits for it."""
    tag: str
    rows: list[list[int]] = attrs.field(factory=list)


CASES = (
    # Neither the row that was even, nor the one that is.
    Case(
        "update rows set n = n + 1 where id in (10, 11)",
        "delete from rows where id in (10, 11) and n % 2 = 0", "DELETE 0",
    ),
    Case(
        "update rows set n = n + 1 where id in (20, 21)",
        "update rows set n = n + 50 where a = 2 and n % 2 = 0 returning id, n", "UPDATE 2", [[22, 52], [24, 54]],
    ),
    Case(
        "update rows set n = n + 1 where id in (30, 31)",
        "select id, n from rows where a = 3 and n % 2 = 0 order by id for update", "SELECT 2", [[32, 2], [34, 4]],
    ),
    # The first is not it any more, nor is the next.
    Case(
        "update rows set n = n + 1 where id in (40, 41, 42)",
        "select id from rows where a = 4 and n % 2 = 0 order by id limit 1 for update", "SELECT 1", [[44]],
    ),
    Case(
        "update rows set n = n + 1 where id in (50, 51)",
        "insert into rows select id, 5, 0 from rows where a = 5 and n % 2 = 0 and id < 52 "
        "on conflict (id) do update set n = 77 where rows.n % 2 = 0",
        "INSERT 0 0",
    ),
    Case(
        "update rows set n = n + 1 where id in (60, 61)",
        "merge into rows using (values (6)) v (a) on rows.a = v.a and rows.n % 2 = 0 and rows.id < 62 "
        "when matched then delete when not matched then do nothing",
        "MERGE 0",
    ),
    # Under another key it is still the row that was waited for; one that came to look like it is not.
    Case(
        "update rows set id = 970 where id = 70; update rows set n = 0 where id = 71",
        "delete from rows where a = 7 and n = 0", "DELETE 1",
    ),
    # The row as it is now, joined with the other table as it was.
    Case(
        "update rows set n = n + 10 where id = 80; update others set n = 60 where id = 80",
        "update rows set n = rows.n + others.n from others where others.id = rows.id and rows.id = 80 returning rows.n",
        "UPDATE 1", [[60]],
    ),
    # What the other one deleted is nobody's any more, and what it inserted is in the way.
    Case(
        "delete from rows where id = 90; insert into rows values (900, 9, 0)",
        "insert into rows select 900, 9, n from rows where a = 9 and n < 2 and id in (90, 91) on conflict do nothing",
        "INSERT 0 0",
    ),
)  # fmt: skip


async def test_a_statement_that_waited_for_rows_comes_out_as_it_did(database: Database, tmp_path: Path) -> None:
    async with open_world(database, tmp_path / "journal") as world, trio.open_nursery() as nursery:
        database.psql(SCHEMA)
        other = await connect(database.options())

        async def play(guest: ScriptedGuest, _say: Say) -> None:
            for case in CASES:
                await other.begin()
                await other.execute(case.holds)
                nursery.start_soon(commit_once_waited_for, world, other)
                await guest.call(*sql(case.asks))
                await guest.call(*sql("select * from rows order by id"))

        original = await record(world, play, isolation="read committed")
        await other.aclose()
        for case, call in zip(CASES, original.calls[::2], strict=True):
            assert call.result is not None
            answer = values.decode(call.result.value)
            assert isinstance(answer, dict)
            assert (answer["tag"], answer["rows"]) == (case.tag, case.rows), case
        guests, token = world.backing.guests, world.backing.token
        async with open_keeper(guests, token, "public") as keeper, keeper.lend(original) as lent:
            assert await ask_again(lent, original) == 2 * len(CASES)
