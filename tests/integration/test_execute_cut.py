"""The connection to the database is cut at each step of an execution, before and after the server has done it.

Whatever the executor then says, in its answer, to its audience and in the record, has to be what a second
client finds: rows are there if and only if the execution returned, and there is exactly one record.
"""

from pathlib import Path
from typing import Any

import pytest

from flux.execution import Returned
from flux.sandbox.scripted import ScriptedGuest
from tests.conftest import Database
from tests.execution_world import CuttingProxy, cutting_proxy, open_world, sql

SCHEMA = "create table notes (id int primary key, text text); grant all on notes to flux_guest_main"
MANY = 40
"""More exchanges than an execution of these has."""


async def write_two(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
    """Two rows, the second in a block, and a look at them."""
    await guest.call(*sql("insert into notes values (1, 'one')"))
    depth = await guest.call("db.begin", None)
    await guest.call(*sql("insert into notes values (2, 'two')"))
    await guest.call("db.commit", depth)
    await guest.call(*sql("select * from notes"))
    return "done"


async def write_two_and_shrug(guest: ScriptedGuest, document: dict[str, Any]) -> str:
    """The same by a function that catches every error."""
    try:
        return await write_two(guest, document)
    except RuntimeError:
        return "shrugged"


@pytest.mark.parametrize("script", [write_two, write_two_and_shrug])
@pytest.mark.parametrize("after", [False, True])
async def test_an_atomic_function_returned_if_and_only_if_its_rows_are_there(
    database: Database, tmp_path: Path, script: Any, after: bool
) -> None:
    async with (
        cutting_proxy(database.server) as proxy,
        open_world(database, tmp_path / "journal", guests=proxy.options) as world,
    ):
        database.psql(SCHEMA)
        cuts = 0
        for n in range(1, 2 * MANY):
            database.psql("truncate notes; delete from flux.execution")
            # Each exchange as a whole, and in the middle: COMMIT travels with the record, and may be done without its
            # end.
            _arm(proxy, (n + 1) // 2, after, in_part=n % 2 == 0)
            executed = await world.run(script)
            await world.settle()
            rows = database.psql("select count(*) from notes")
            returned = isinstance(executed.outcome, Returned)
            ((outcome, kind, message),) = world.records()
            # A function may go on without a database that was never there.
            worked = any(call.result and not call.result.error for call in executed.execution.calls)
            assert rows == ("2" if returned and worked else "0"), f"cut at {n}: {executed.outcome}"
            assert outcome == ("returned" if returned else "raised"), (
                f"cut at {n}: {outcome} {kind} {message}"
            )
            assert executed.execution.outcome.kind == outcome
            assert world.heard.done_[-1][0].outcome.kind == outcome
            assert _mutations_are_true(database, executed.execution.name)
            if not proxy.was_cut:
                break
            cuts += 1
        assert returned and cuts > 15, cuts


@pytest.mark.parametrize("after", [False, True])
async def test_each_statement_of_a_function_that_is_not_atomic_is_told_as_it_is(
    database: Database, tmp_path: Path, after: bool
) -> None:
    async with (
        cutting_proxy(database.server) as proxy,
        open_world(database, tmp_path / "journal", guests=proxy.options) as world,
    ):
        database.psql(SCHEMA)
        cuts = 0
        for n in range(1, MANY):
            database.psql("truncate notes; delete from flux.execution; delete from flux.transaction")
            _arm(proxy, n, after)
            executed = await world.run(write_two_and_shrug, atomic=False)
            await world.settle()
            rows = database.psql("select id from notes order by id").split()
            execution = executed.execution
            assert len(world.records()) == 1
            # What the record says of each row: not rolled back, if it is there.
            undone = {mutation.key for mutation in execution.mutations if not mutation.committed}
            present = {f'{{"id":{row}}}' for row in rows}
            assert not undone & present, f"cut at {n}: {undone} are there"
            marked = database.psql("select count(distinct xid) from flux.transaction")
            written = [one for one in execution.transactions if one.committed and one.xid is not None]
            assert len(written) == int(marked) == len(rows), f"cut at {n}: {execution.transactions}"
            assert _mutations_are_true(database, execution.name)
            if not proxy.was_cut:
                break
            cuts += 1
        assert not proxy.was_cut and cuts > 8, cuts


def _arm(proxy: CuttingProxy, n: int, after: bool, *, in_part: bool = False) -> None:
    proxy.exchanges, proxy.cut_at, proxy.after, proxy.was_cut, proxy.in_part = 0, n, after, False, in_part


def _mutations_are_true(database: Database, name: str) -> bool:
    """Whether no row is told to be rolled back that is there, and none to be committed that is not."""
    return (
        database.psql(
            "select count(*) from flux.mutation m join flux.execution e on e.id = m.execution "
            f"where e.name = '{name}' and not m.committed and exists "
            "(select from notes n where n.id = (m.key::json ->> 'id')::int)"
        )
        == "0"
    )
