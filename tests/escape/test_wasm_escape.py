"""Ways out of WebAssembly: by what its host offers a guest, and past it, as machine code in its host's process.

The first are modules of `wasi_attempts`, run through the real server beside neighbours, each on record as what it came
to. The second are the attempts that Python functions make in ``guest/functions/attempts.py``, made where somebody would
stand who had got out of a guest: in the jail of the process that runs them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from flux.sandbox.wasm_engine import Engine
from tests.acceptance.test_isolation import wait_until
from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.escape.targets import lay_out, list_what_was_reached
from tests.escape.test_escape import ATTEMPTS_MIN, run, who
from tests.escape.wasi_attempts import ATTEMPTS
from tests.postgres_server import PostgresServer

NEIGHBOUR = """
import { defineFunction } from "@flux/guest";
export const echo = defineFunction({ route: "POST /echo", handler: async ({ input }) => input.text });
"""
HOSTILE_SCRIPTS = """
import { defineFunction } from "@flux/guest";
const attempt = (name, handler) => defineFunction({ route: `POST /${name}`, timeout: "1s", handler });
const loop = () => { for (;;); };

// What is thrown has code of its own, which runs when somebody wants to say what it was.
export const throw_what_computes = attempt("throw_what_computes", async () => {
  throw { get stack() { loop(); }, get message() { loop(); }, get name() { loop(); }, toString: loop };
});
export const break_what_tells = attempt("break_what_tells", async () => {
  JSON.stringify = Promise.prototype.then = Array.prototype.map = Array.prototype.push = () => {
    throw { get stack() { loop(); }, toString: loop };
  };
  Object.defineProperty(Object.prototype, "toJSON", { get: loop });
  throw new Error("gone");
});
export const import_a_file = attempt("import_a_file", async () => {
  const found = [];
  for (const name of ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "std", "os", "./link.txt"]) {
    await import(name).then(() => found.push(name), () => {});
  }
  return found;
});
"""
SCRIPTS = {"throw_what_computes": "killed timeout", "break_what_tells": "", "import_a_file": "200 []"}
"""What they come to; empty where any failure does."""
TIMEOUT, LONG_TIMEOUT = "1s", "30s"

# Native code

OF_THE_HOST = {
    # Guests that compute have threads, and their sockets come from the supervisor.
    *("start_a_thread", "receive_descriptors_from_the_host"),
    # A guest reserves 4 GiB of addresses, so there is no limit on those. Its time is the supervisor's to end.
    *("reserve_all_addresses", "raise_limit_as", "raise_limit_cpu"),
}
WHILE_LOADING = {
    # Images of memories are kept in files without a name, and compiled code is handed over in one.
    *("create_in_memory", "send_a_descriptor_to_the_host"),
    # Trio does that, to the pair of sockets with which it wakes itself.
    "enlarge_the_buffer_of_the_wire",
}
REFUSALS = {
    *("EPERM", "EACCES", "ENOENT", "ENOSYS", "ENOMEM", "EMFILE", "ESRCH", "EBADF", "refused"),
    *("there is none", "nothing was left", "MemoryError: ", "ValueError: not allowed to raise maximum limit"),
    "ModuleNotFoundError: No module named 'flux.store'",
    # Those that bring machine code of their own: no memory for it is to be had.
    "signal 11",
}
CASES = [("strict", "same"), ("core", "same")]
if os.geteuid() == 0:
    CASES = [("strict", "own"), ("strict", "nobody"), ("core", "same")]


@pytest.mark.parametrize(("level", "user"), CASES)
def test_machine_code_in_the_process_of_wasm_guests_gets_out_of_nothing(level: str, user: str) -> None:
    done = run("run_in_host.py", level, who(user), "serving", user=user)
    results = done["results"]
    assert len(results) >= ATTEMPTS_MIN
    assert {name for name, result in results.items() if result["refused"] is None} == OF_THE_HOST
    assert {result["refused"] for result in results.values()} - {None} <= REFUSALS
    assert done["reached"] == []


@pytest.mark.parametrize(("level", "user"), CASES[:1])
def test_while_it_loads_it_may_keep_images_and_hand_over_code_and_no_more(level: str, user: str) -> None:
    done = run("run_in_host.py", level, who(user), "loading", user=user)
    results = done["results"]
    assert {name for name, result in results.items() if result["refused"] is None} == OF_THE_HOST | WHILE_LOADING
    assert {result["refused"] for result in results.values()} - {None} <= REFUSALS
    assert done["reached"] == []


# Imports


@attrs.frozen
class Served:
    """A server with the attempts, and what an escape would reach."""

    dev: DevServer
    database: Database
    list_reached: Callable[[], list[str]]


@pytest.fixture
def served(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[Served]:
    database, engine = make_database(postgres18), Engine()
    project, outside = tmp_path / "project", tmp_path / "outside"
    outside.mkdir()
    write_project(
        project, {"echo.js": NEIGHBOUR, "hostile.js": HOSTILE_SCRIPTS}, toml='[limits]\nmemory = "64MiB"\n'
    )
    for name, attempt in ATTEMPTS.items():
        timeout = TIMEOUT if attempt.expect == "killed timeout" else LONG_TIMEOUT
        said = f'{{"name": "{name}", "route": "POST /{name}", "timeout": "{timeout}"}}'
        section = "".join(f"\\{byte:02x}" for byte in said.encode())
        binary = engine.assemble(f'(module (@custom "flux" "{section}") {attempt.write()})')
        (project / "functions" / f"{name}.wasm").write_bytes(binary)
    with lay_out(outside) as laid, running_dev(project, database) as dev:
        (artifact,) = (project / ".flux" / "artifacts").iterdir()
        before = laid.look(artifact)
        yield Served(dev, database, lambda: list_what_was_reached(laid, before, artifact))


def find_host(dev: DevServer) -> set[int]:
    """Return the processes of the wasm guests."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b'"program": "wasm"' in command and f'"parent": {dev.process.pid},'.encode() in command:
                found.add(int(folder.name))
    return found


def test_no_module_gets_out_and_each_attempt_is_on_record(served: Served) -> None:
    dev, names = served.dev, [*ATTEMPTS, *SCRIPTS]
    hosts, over, wrong = find_host(dev), threading.Event(), []

    def be_neighbourly(first: int) -> int:
        number = first
        while not over.is_set():
            answer = dev.request("POST", "/echo", {"text": str(number)})
            if answer.body.decode() != str(number):
                wrong.append((number, answer.status, answer.body))
            number += 1
        return number - first

    with ThreadPoolExecutor(10) as threads:
        neighbours = [threads.submit(be_neighbourly, 1_000_000 * each) for each in range(2)]
        answers = dict(
            zip(names, threads.map(lambda name: dev.request("POST", f"/{name}", {}), names), strict=True)
        )
        over.set()
        asked = sum(one.result() for one in neighbours)
    assert wrong == [] and asked > 20
    assert hosts and find_host(dev) == hosts, "no attempt ended the process that the others are in"
    assert served.list_reached() == []
    # Nothing in there can be written and then run. (Its keepers only wait; they have read nothing of a guest's.)
    (serving,) = [pid for pid in hosts if is_in_the_jail(pid)]
    assert not [line for line in Path(f"/proc/{serving}/maps").read_text().splitlines() if "rwx" in line]

    # Records of what wrote nothing are stored a moment later.
    wait_until(lambda: len(read_records(served.database)) >= len(answers), "some are not on record")
    recorded = read_records(served.database)
    assert recorded.keys() == {answer.flux_id for answer in answers.values()}
    came_to = {}
    for name, answer in answers.items():
        came_to[name] = f"200 {answer.body.decode()}" if answer.status == 200 else recorded[answer.flux_id]
    expected = {name: attempt.expect for name, attempt in ATTEMPTS.items()} | SCRIPTS
    assert {name: end for name, end in came_to.items() if not end.startswith(expected[name])} == {}
    assert not came_to["break_what_tells"].startswith("200")
    trace = dev.json("trace", answers["climb_out_of_its_files"].flux_id)
    assert trace["sandbox"] == {
        "kind": "wasm", "isolation": "strict", "clock": "wasm", "served_before": 0
    }  # fmt: skip
    checks = {check["name"]: check for check in dev.json("doctor")["checks"]}
    assert checks["code"]["ok"] and "executable memory is answered EPERM" in checks["code"]["detail"]


def is_in_the_jail(pid: int) -> bool:
    """Whether a process is the second of a PID namespace: the first only waits for it."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split() for line in status if line.startswith("NSpid:"))[2:] == ["2"]


def read_records(database: Database) -> dict[str, str]:
    """Return the end on record of each execution but the neighbours', by its name."""
    rows = database.psql(
        "select name, outcome, case when outcome = 'killed' then error_message else error_type end "
        "from flux.execution where function <> 'echo'"
    )
    return {
        name: f"{outcome} {more}" for name, outcome, more in (row.split("|")[:3] for row in rows.splitlines())
    }
