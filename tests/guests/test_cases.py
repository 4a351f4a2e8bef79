"""Guest programs of every kind, replayed from case files while nothing that they had talked to is there.

A part of the programs, once each; ``python -m tests.guests.cases`` replays all of them, as often as one likes and under
load.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from flux.case_file import encode_case
from tests.conftest import Database
from tests.guests.cases import Recorded, digest, list_programs, record, replay
from tests.postgres_server import PostgresServer

KINDS = ("python", "javascript", "wasi")
EVERY = 5


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Recorded:
    root: Path = tmp_path_factory.mktemp("guests")
    root.chmod(0o755)
    return trio.run(record, KINDS, root, make_database(postgres18), EVERY)


def test_programs_of_every_kind_replay_to_the_same_digest_with_everything_else_gone(
    recorded: Recorded,
) -> None:
    tally = trio.run(replay, recorded.cases, 1)
    assert tally.different == {}
    assert tally.identical == tally.replays == len(recorded.cases)


def test_every_program_became_a_case_or_was_refused_for_what_its_record_lacks(recorded: Recorded) -> None:
    names = {program.function for some in list_programs(KINDS, EVERY).values() for program in some}
    assert {case.execution.function for case in recorded.cases} | recorded.refused.keys() == names
    assert set(recorded.refused.values()) <= {"FLX312"}
    assert len(recorded.cases) > 25 and {case.execution.level.kind for case in recorded.cases} == {
        "process",
        "wasm",
    }


def test_a_digest_tells_two_executions_apart(recorded: Recorded) -> None:
    assert len({digest(case.execution) for case in recorded.cases}) == len(recorded.cases)
    assert encode_case(recorded.cases[0]) == encode_case(recorded.cases[0])
