"""Python functions that read clocks, draw, go through sets and race: the same in other processes.

What can't be promised, the order of objects that hash by their addresses, is brought out on purpose here:
it must be told from everything else, with its line. ``python -m tests.guests.repeat`` does thousands.
"""

import json

import pytest
import trio

from flux import escapes
from flux.execution import Returned
from tests.guests import repeat
from tests.guests.repeat_kinds import HERE, KINDS, PROGRAMS

KIND = KINDS["process"]
FUNCTIONS = 31
"""How many there are; each runs once."""
BY_ADDRESSES = {
    "compares_addresses_as_tasks_end": None,  # It tells nobody before it ends.
    "goes_through_sets_of_objects": 'insert into plans values ($1)", _names(plans)',
    "goes_through_weak_references": 'insert into plans values ($1)", _names(weak)',
    "goes_through_what_a_module_made": 'insert into plans values ($1)", _names(KEPT)',
    "shows_addresses": 'ctx.log.info(f"made',
}
"""Functions that depend on where objects lie, each with the line that shows it first."""
OTHERS = {"goes_through_sets_of_text", "draws_with_numpy", "fails_in_a_group"}


@pytest.fixture(scope="module")
def recordings() -> dict[str, repeat.Recording]:
    recorded = trio.run(repeat.record, KIND, FUNCTIONS)
    return {recording.read().function: recording for recording in recorded}


def test_replays_in_other_zygotes_are_identical(recordings: dict[str, repeat.Recording]) -> None:
    assert len(recordings) == FUNCTIONS, "each function takes part"
    tally = trio.run(repeat.replay, KIND, list(recordings.values()))
    # Where the system lets nobody fix addresses, what depends on them may differ, and is told.
    assert tally.identical + tally.by_addresses == tally.executions == FUNCTIONS, (tally.different, tally.told)


def test_what_depends_on_addresses_is_told_from_all_else_with_its_line(
    recordings: dict[str, repeat.Recording],
) -> None:
    names = [*BY_ADDRESSES, *OTHERS]
    found = dict(zip(names, trio.run(repeat.find_escapes, KIND, [recordings[name] for name in names]), strict=True))
    causes = {name: escape.cause for name, escape in found.items() if escape}
    assert set(causes.values()) == {"addresses"}
    assert causes.keys() == BY_ADDRESSES.keys()
    lines = (PROGRAMS / "process" / "orders.py").read_text(encoding="utf-8").splitlines()
    for name, text in BY_ADDRESSES.items():
        escape = found[name]
        assert escape is not None
        if text is None:
            assert (escape.position, escape.divergence.kind) == (None, "outcome")
        else:
            assert escape.position is not None
            assert escape.position.file == "repeated/process/orders.py"
            assert text in lines[escape.position.line - 1]


def test_numpy_draws_other_numbers_in_each_execution_except_from_what_is_seeded() -> None:
    async def record_twice() -> list[repeat.Recording]:
        async with repeat.running(KIND.make_sandbox(HERE, 1)) as sandbox:
            return [await repeat.record_one(sandbox, "draws_with_numpy", 1) for _ in range(2)]

    drawn = []
    for recording in trio.run(record_twice):
        outcome = recording.read().outcome
        assert isinstance(outcome, Returned)
        drawn.append(json.loads(outcome.body)[:-1])  # The last is the time, in seconds.
    same = [index for index, (one, other) in enumerate(zip(*drawn, strict=True)) if one == other]
    assert same == [2], "numpy.random.default_rng(4) of the module"


def test_there_are_orders_enough_to_tell() -> None:
    counts = [escapes.ORDERS.count(order) for order in set(escapes.ORDERS)]
    assert len(counts) >= 4
    assert min(counts) >= 2
    assert 0 in escapes.ORDERS
