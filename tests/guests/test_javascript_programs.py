"""Programs in JavaScript and TypeScript do what their comments say, and do it again from their recordings.

They are in ``javascript/``, each under a comment as those in Python are. The replays run in another process.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from flux.execution import Raised, Returned
from flux.limits import Limits
from flux.sandbox.javascript import load_scripts
from flux.sandbox.wasm import WasmSandbox, default_folder
from tests.conftest import Database
from tests.guests.record_and_replay import HERE, SECRETS, Program, Result, describe, record_and_replay
from tests.guests.test_programs import compared
from tests.postgres_server import PostgresServer
from tests.wasm_worlds import make_interpreter

FOLDER = HERE / "javascript"
PROGRAM = re.compile(r"// Expect: (?P<expect>.*)\n(?P<notes>(?://.*\n)*)export const (?P<name>\w+) = defineFunction")


def read_file(path: Path) -> Iterator[Program]:
    for found in PROGRAM.finditer(path.read_text(encoding="utf-8")):
        outcome, *parts = found["expect"].split("; ")
        logs = [part for part in parts if part.endswith(" log lines")]
        calls = [one.split(" ") for part in parts if part not in logs for one in part.split(", ")]
        notes = dict(re.findall(r"// (Input|Limits|Middleware): (.*)\n", found["notes"]))
        yield Program(
            function=found["name"],
            file=path.name,
            outcome=outcome,
            calls={name: int(count) for name, count in calls},
            more=set(),
            log_count=int(logs[0].split(" ")[0]) if logs else 0,
            input=json.loads(notes.get("Input", "{}")),
            limits=Limits(**json.loads(notes.get("Limits", "{}"))),
            atomic=True,
            middleware=tuple(notes["Middleware"].split(", ")) if "Middleware" in notes else (),
        )


PROGRAMS = [program for path in sorted(FOLDER.glob("*.[jt]s")) for program in read_file(path)]
by_name = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.file}:{program.function}")


def make_sandbox(_idle: int, say: Callable[[str], None]) -> WasmSandbox:
    return WasmSandbox(HERE, "javascript", cache=default_folder(), on_output=say)


@pytest.fixture(scope="module")
def results(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> dict[str, Result]:
    return trio.run(record_and_replay, make_database(postgres18), PROGRAMS, print, make_sandbox)


@by_name
def test_a_program_does_what_its_comment_says(program: Program, results: dict[str, Result]) -> None:
    recorded = results[program.function].recorded
    assert describe(recorded.driven.outcome) == program.outcome, recorded.driven.outcome
    assert Counter(call.request.name for call in recorded.calls) == program.calls, recorded.driven.outcome
    assert len(recorded.logs) == program.log_count, recorded.logs


@by_name
def test_a_replay_in_another_process_does_the_same(program: Program, results: dict[str, Result]) -> None:
    recorded = results[program.function].recorded
    for replayed in results[program.function].replayed:
        assert replayed.driven.divergence is None
        assert replayed.driven.outcome == recorded.driven.outcome
        assert recorded.driven.fuel in (replayed.driven.fuel, None), "None: it heard what is stored redacted"
        assert list(map(compared, replayed.calls)) == list(map(compared, recorded.calls))
        shown = [(line.level, line.message, line.fields, line.position) for line in replayed.logs]
        assert shown == [(line.level, line.message, line.fields, line.position) for line in recorded.logs]
        assert replayed.missing is None


def test_no_program_is_left_out() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.[jt]s"))
    assert len(PROGRAMS) == len(re.findall(r"^export const \w+ = defineFunction", text, re.MULTILINE))
    assert len(PROGRAMS) >= 50


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
            assert users and users[-1].file == f"javascript/{program.file}", (program.function, outcome)
            source = (FOLDER / program.file).read_text(encoding="utf-8").splitlines()[users[-1].line - 1]
            assert users[-1].source == source.strip()


def test_the_line_of_a_typescript_failure_is_the_one_in_the_file(results: dict[str, Result]) -> None:
    outcome = results["fails_at_its_own_line"].recorded.driven.outcome
    assert isinstance(outcome, Raised)
    assert outcome.frames[-1].source == 'if (items.length < 2) throw new RangeError("too few");'


def test_every_call_says_where_it_was_made(results: dict[str, Result]) -> None:
    for program in PROGRAMS:
        for call in results[program.function].recorded.calls:
            assert call.request.position is not None, (program.function, call)
            assert call.request.position.file == f"javascript/{program.file}"


def test_two_executions_draw_different_numbers(results: dict[str, Result]) -> None:
    bodies = [results[name].recorded.driven.outcome for name in ("draws", "draws_again")]
    assert all(isinstance(outcome, Returned) for outcome in bodies)
    assert bodies[0] != bodies[1]


def test_every_violation_of_a_schema_is_told_at_once(results: dict[str, Result]) -> None:
    told = {
        name: {one["path"]: one["message"] for one in json.loads(outcome.violations)}
        for name in ("fits_it_nowhere", "repeats_itself", "is_refused_by_it")
        if isinstance(outcome := results[name].recorded.driven.outcome, Raised)
    }
    assert told["fits_it_nowhere"] == {
        "input.lines": "expected an array of length <= 3",
        "input.lines[0].sku": "expected text of length >= 1",
        "input.lines[0].count": "expected a multiple of 2",
        "input.lines[0].odd": "is not allowed",
        "input.lines[1].sku": "is required",
        "input.lines[2]": "expected object, got a number",
        "input.lines[3].sku": "expected text of length <= 8",
        "input.plan": 'expected one of "free", "pro", got "gold"',
        "input.pay.number": "expected text that matches ^[0-9]+$",
        "input.at": "expected text of format date-time",
        "input.tree.children[0].children": "expected array, got a number",
        "input.page": "expected integer, got text",
        "input.more.a": "expected integer or null, got text",
    }
    assert told["repeats_itself"] == {
        "input.lines": "expected an array without repetitions", "input.pay": "fits none of 3 kinds",
    }  # fmt: skip
    assert told["is_refused_by_it"] == {"input.items[0].n": "must be there", "input": "no"}


BAD_SCHEMAS = {
    "5": "input is JSON Schema",
    '{ propertys: {} }': 'there is no word "propertys" of JSON Schema here',
    '{ properties: { a: { type: "text" } } }': 'input.properties.a.type: there is no type "text"',
    '{ properties: { a: { items: 5 } } }': "input.properties.a.items is no schema",
    '{ properties: { a: { pattern: "(" } } }': "input.properties.a.pattern: ",
    '{ properties: { a: { format: "phone" } } }': 'there is no format "phone"',
    '{ $ref: "https://example.com/x" }': "input.$ref leads nowhere",
    '{ $ref: "#/$defs/a", $defs: { a: { $ref: "#/$defs/a" } } }': "leads nowhere",
    '{ enum: [] }': "input.enum is a list of values",
    '{ anyOf: [{ minimum: "1" }] }': "input.anyOf.0.minimum is a number",
    '{ required: "a" }': "input.required is a list of names",
}


async def test_a_schema_whose_words_would_not_be_checked_is_refused_when_it_is_loaded() -> None:
    _, interpreter = make_interpreter()
    files = {
        f"functions/bad{number}.js": 'import { defineFunction } from "@flux/guest";\n'
        f"export default defineFunction({{ input: {schema}, handler: () => 1 }});\n"
        for number, schema in enumerate(BAD_SCHEMAS)
    }
    failures = await load_scripts(
        interpreter, {path: text.encode() for path, text in files.items()}, list(files),
        on_module=lambda _path: None, on_output=print,
    )  # fmt: skip
    assert isinstance(failures, list) and len(failures) == len(files)
    for failure, file, says in zip(failures, files, BAD_SCHEMAS.values(), strict=True):
        assert says in failure["message"], failure
        assert (failure["file"], failure["line"]) == (file, 2)
