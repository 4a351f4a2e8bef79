"""Guests that compute without end, hoard, flood, crash and lie: each ends alone, is on record as it ended, and again.

The guests are in ``hostile/``. A kind is run once (`tests.hostile_world.run_kind`): all of its guests, their
neighbours, and a replay of each record. What that showed is asked here, guest by guest.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from flux.execution import Killed, Returned
from tests.conftest import Database
from tests.hostile_world import (
    KINDS,
    QUESTIONS_MIN,
    Guest,
    Kind,
    Report,
    describe_end,
    list_recorded,
    run_kind,
)
from tests.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def databases() -> dict[str, Database]:
    """The database of each kind that was run."""
    return {}


@pytest.fixture(scope="module")
def report_of(
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    databases: dict[str, Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Kind], Report]:
    """Runs a kind when it is first asked for."""
    reports: dict[str, Report] = {}

    def get(kind: Kind) -> Report:
        if kind.name not in reports:
            databases[kind.name] = make_database(postgres18)
            folder = tmp_path_factory.mktemp(kind.name)
            reports[kind.name] = trio.run(run_kind, kind, databases[kind.name], folder)
        return reports[kind.name]

    return get


by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
by_guest = pytest.mark.parametrize(
    ("kind", "guest"),
    [
        pytest.param(kind, guest, id=f"{kind.name}:{guest.function}")
        for kind in KINDS
        for guest in kind.guests
    ],
)


@by_guest
def test_a_hostile_guest_ends_as_it_must_and_is_on_record(
    kind: Kind, guest: Guest, report_of: Callable[[Kind], Report], databases: dict[str, Database]
) -> None:
    seen = report_of(kind).seen[guest.function]
    assert describe_end(seen.executed.outcome) in guest.expected, seen.executed.outcome
    assert describe_end(seen.recorded.outcome) == describe_end(seen.executed.outcome)
    if kind.name in ("javascript", "typescript", "wasi"):
        assert seen.recorded.fuel is not None, "its process did not say in time where it was ended"
    told = list_recorded(databases[kind.name])[seen.recorded.id]
    assert told == (guest.function, describe_end(seen.executed.outcome).split(" ")[0])
    if isinstance(seen.recorded.outcome, Killed):
        assert seen.recorded.outcome.allowed and seen.recorded.outcome.origin
    if guest.answer is not None:
        assert isinstance(seen.recorded.outcome, Returned)
        assert json.loads(seen.recorded.outcome.body) == guest.answer


@by_guest
def test_its_record_is_repeated_to_the_same_end(
    kind: Kind, guest: Guest, report_of: Callable[[Kind], Report]
) -> None:
    seen = report_of(kind).seen[guest.function]
    driven = seen.replayed.driven
    assert driven.divergence is None, driven.divergence
    if driven.outcome is None and any(call.result is None for call in seen.recorded.calls):
        # It waited for answers when it broke a rule; the replay comes to where it waits and stops there.
        assert isinstance(seen.recorded.outcome, Killed) and seen.recorded.outcome.limit != "timeout"
        return
    if kind.warm:
        # It had what others had left, and its replay is fresh: where things lie in memory may differ.
        assert describe_end(driven.outcome) == describe_end(seen.executed.outcome)
        return
    assert driven.outcome == seen.executed.outcome
    assert seen.replayed.missing is None or not guest.repeats_its_way, seen.replayed.missing
    # Where a kind counts, it is the same count: not only the same end, but the same way there.
    assert driven.fuel == seen.recorded.fuel


@by_kind
def test_neighbours_of_hostile_guests_are_all_served(
    kind: Kind, report_of: Callable[[Kind], Report], databases: dict[str, Database]
) -> None:
    report = report_of(kind)
    assert report.neighbours.wrong == []
    assert report.neighbours.questions >= QUESTIONS_MIN
    count = "select count(*) from flux.execution where function = 'neighbour' and outcome = 'returned' and status = 200"
    assert int(databases[kind.name].psql(count)) == report.neighbours.questions


@by_kind
def test_no_hostile_guest_takes_its_sandbox_or_flux_along(
    kind: Kind, report_of: Callable[[Kind], Report]
) -> None:
    report = report_of(kind)
    assert (report.restarts, report.reports) == (0, ())


def test_no_guest_is_left_out() -> None:
    counts = {kind.name: len(kind.guests) for kind in KINDS}
    folder = Path(__file__).parent / "hostile"
    python = "".join(path.read_text() for path in (folder / "python").glob("*.py")).count("\n@function")
    assert counts["process"] == python - 1  # The neighbour is no hostile guest.
    assert counts["process"] > counts["warm"] > counts["process"] / 2
    for name in ("javascript", "typescript"):
        text = "".join(path.read_text() for path in (folder / name).glob("*.[jt]s"))
        assert counts[name] == text.count("\nexport const") - 1
    assert min(counts.values()) >= 10
