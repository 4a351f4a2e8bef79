"""Every guest program does what its comment says, and its replays do the same, call for call."""

from collections import Counter
from collections.abc import Callable

import pytest
import trio

from flux.execution import Raised, Returned
from flux.hostcall import HostCall
from tests.conftest import Database
from tests.guests.record_and_replay import (
    HERE,
    SECRETS,
    Program,
    Result,
    describe,
    read_programs,
    record_and_replay,
)
from tests.postgres_server import PostgresServer

PROGRAMS = read_programs()


@pytest.fixture(scope="module")
def results(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> dict[str, Result]:
    return trio.run(record_and_replay, make_database(postgres18), PROGRAMS)


def compared(call: HostCall) -> tuple[object, ...]:
    """What a replay repeats of a call: everything but how long things took."""
    request = call.request
    return (request.seq, request.name, request.arguments, request.task, request.position, call.result, call.answered)


by_name = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.file}:{program.function}")


@by_name
def test_a_program_does_what_its_comment_says(program: Program, results: dict[str, Result]) -> None:
    recorded = results[program.function].recorded
    assert describe(recorded.driven.outcome) == program.outcome, recorded.driven.outcome
    counts = Counter(call.request.name for call in recorded.calls)
    for name in program.more:
        assert counts[name] >= program.calls[name]
        counts[name] = program.calls[name]
    assert counts == program.calls, recorded.driven.outcome
    assert len(recorded.logs) == program.log_count, recorded.logs


@by_name
def test_a_replay_in_another_process_does_the_same(program: Program, results: dict[str, Result]) -> None:
    result = results[program.function]
    recorded = result.recorded
    for replayed in result.replayed:
        assert replayed.driven.divergence is None
        assert replayed.driven.outcome == recorded.driven.outcome
        assert list(map(compared, replayed.calls)) == list(map(compared, recorded.calls))
        shown = [(line.level, line.message, line.fields, line.position) for line in replayed.logs]
        assert shown == [(line.level, line.message, line.fields, line.position) for line in recorded.logs]
        assert replayed.missing is None


def test_there_are_enough_programs_and_none_is_left_out() -> None:
    assert len(PROGRAMS) >= 80
    text = "".join(path.read_text(encoding="utf-8") for path in (HERE / "programs").glob("*.py"))
    assert len(PROGRAMS) == text.count("\n@function(")
    names = [program.function for program in PROGRAMS]
    assert len(names) == len(set(names))


def test_no_secrets_value_is_in_any_recording(results: dict[str, Result]) -> None:
    for result in results.values():
        for call in result.recorded.calls:
            for value in SECRETS.values():
                assert value.encode() not in call.request.arguments
                assert call.result is None or value.encode() not in call.result.value


def test_every_failure_names_a_line_of_the_program(results: dict[str, Result]) -> None:
    for program in PROGRAMS:
        outcome = results[program.function].recorded.driven.outcome
        if isinstance(outcome, Raised):
            users = [frame for frame in outcome.frames if frame.user]
            assert users and users[-1].file == f"programs/{program.file}", (program.function, outcome)


def test_every_call_of_a_program_says_where_it_was_made(results: dict[str, Result]) -> None:
    for program in PROGRAMS:
        for call in results[program.function].recorded.calls:
            if call.request.name == "clock.sleep" and call.request.position is None:
                continue  # A timer of the event loop's, asked for when no line of the program runs.
            assert call.request.position is not None, (program.function, call)
            assert call.request.position.file == f"programs/{program.file}"


def test_two_executions_draw_different_numbers(results: dict[str, Result]) -> None:
    bodies = [results[name].recorded.driven.outcome for name in ("draw_everything", "draw_everything_again")]
    assert all(isinstance(outcome, Returned) for outcome in bodies)
    assert bodies[0] != bodies[1]
