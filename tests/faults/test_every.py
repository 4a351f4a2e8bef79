"""Some operations fail, of every kind and in every way, and a database is exchanged for another.

``python -m tests.faults.every`` and ``python -m tests.faults.failover`` do this at length.
"""

import pickle
from pathlib import Path
from typing import Any

import pytest

from flux.execution import Trigger
from flux.sandbox.scripted import ScriptedGuest
from tests.conftest import Database
from tests.execution_world import open_world
from tests.faults.every import Part, PartError, Row, Tally, do_part, main, run
from tests.faults.failover import disturb
from tests.faults.ledger import ATOMIC, PATH, SCHEMA, Told, check, make_trade
from tests.faults.sites import stepping_clock


async def test_whatever_fails_records_and_tables_agree(database: Database, tmp_path: Path) -> None:
    tally = await run(database, tmp_path, 1, seed=20261126, harms=2)
    assert tally.is_good, tally.report()
    # Messages both ways and statements, of functions and of Flux's own; journal, worker, network, clock.
    assert len({row.site for row in tally.rows if row.failed}) == 10, tally.report()


def test_a_fault_that_never_strikes_shows_nothing() -> None:
    assert not Tally([Row("a site", "fails", failed=0)]).is_good and not Tally().is_good
    assert Tally([Row("a site", "fails", failed=1)]).is_good


def test_a_part_that_raises_is_named(database: Database) -> None:
    with pytest.raises(PartError, match=r"no such site, is late, atomic:\n(?s:.)*ValueError") as raised:
        do_part(database.server.to_values(), database.name, Part("no such site", "is late", ATOMIC))
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--operations", "all", "--seed", "0"], "--seed goes with a number of operations"),
        (["--operations", "all", "--harms", "2"], "--harms goes with a number of operations"),
        (["--operations", "3", "--jobs", "2"], "--jobs goes with --operations all"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


WRONG = {
    1: ("lost", "delete from transfer where id = 1; delete from flux.execution where path = '/trades/1'"),
    2: ("unrecorded", "delete from flux.execution where path = '/trades/2'"),
    3: ("phantom", "delete from transfer where id = 3"),
    4: (
        "doubled",
        "insert into flux.execution select (jsonb_populate_record(e, jsonb_build_object('id', gen_random_uuid()))).* "
        "from flux.execution e where path = '/trades/4'",
    ),
    5: ("unrecorded", "update flux.mutation set committed = false where key = '{\"id\":5}'"),
    6: ("phantom", "update flux.execution set outcome = 'returned', xid = '77' where path = '/trades/6'"),
    7: ("phantom", "delete from transfer where id = 7"),
}
"""What is done to a trade's rows and records, and what it then is."""

OFF = {
    "1 accounts that are not what the transfers say": "update account set cents = cents + 1 where id = 1",
    "1 orders beside their lines": "update orders set lines = 9 where trade = 1",
    "1 districts beside their orders": "update district set next_order = 99 where id = 2",
    "1 warehouses beside their districts": "update warehouse set takings = -1",
    "1 stock beside the lines": "update stock set ordered = 77 where item = 3",
    "1 trades that were made in part": "delete from payment where trade = 2",
}
"""What is done to the books, and what is said of them then."""


async def test_what_is_not_as_it_should_be_is_found(database: Database, tmp_path: Path) -> None:
    told = Told(done={1, 2, 3, 4, 5, 7}, failed={6}, refused={8})
    async with open_world(database, tmp_path / "journal") as world:
        database.psql(SCHEMA)
        for number in WRONG:
            script = make_trade(number, atomic=number != 7, raises=number == 6)
            await world.run(script, atomic=number != 7, trigger=Trigger("invoke", path=f"{PATH}{number}"))
        await world.settle()
    assert not (found := check(database, told)), found
    for said, sql in OFF.items():
        assert said not in check(database, told).books
        database.psql(sql)
        assert said in check(database, told).books
    for number, (what, sql) in WRONG.items():
        assert number not in getattr(check(database, told), what), what
        database.psql(sql)
        assert number in getattr(check(database, told), what), what


async def test_a_clock_that_was_ahead_is_right_for_later_executions_and_steady_for_each(
    database: Database, tmp_path: Path
) -> None:
    heard: list[int] = []

    async def look(guest: ScriptedGuest, _document: dict[str, Any]) -> None:
        heard.extend([await guest.call("clock.now") for _ in range(3)])

    with stepping_clock() as clock:
        async with open_world(database, tmp_path / "journal") as world:
            clock.arm("an hour on", 1)
            await world.run(look, trigger=Trigger("invoke", path="/1"))
            clock.arm("an hour back", 4)  # In the middle of it.
            await world.run(look, trigger=Trigger("invoke", path="/2"))
            assert clock.struck
            clock.disarm()
            await world.settle()
    ahead, right = heard[:3], heard[3:]
    assert ahead == sorted(ahead) and right == sorted(right) and ahead[0] > right[2] + 3000 * 10**9
    ahead_by = "round(extract(epoch from started_at - now()) / 3600)"
    assert database.psql(f"select path, {ahead_by} from flux.execution order by path") == "/1|1\n/2|0"


def test_a_database_that_ends_at_once_and_one_that_takes_its_place_lose_no_trade(tmp_path: Path) -> None:
    tally = disturb(1, 6, tmp_path)
    assert not tally.findings, tally.report()
    assert (tally.restarts, tally.failovers) == (1, 1)
    assert len(tally.told.done) >= 6
