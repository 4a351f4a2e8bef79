"""Every guest program recorded by a real ``flux dev``, exported as a case, and replayed with everything else gone.

Anybody can run it, on a machine as loaded as they like::

    python -m tests.guests.cases --kind python --runs 10 --load 8
    python -m tests.guests.cases --kind wasi
    python -m tests.guests.cases --file qk3f81xa.fluxcase --runs 10

The programs are those of ``programs/``, ``javascript/`` and ``repeated/wasi``. When they have run, the server ends, its
database is dropped and the stub is closed; then each case is replayed, in another sandbox, as often as ``--runs`` says.
What is compared is the digest of an execution: outcome, calls with their answers and places, log lines.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import trio

from flux import codec
from flux.case_file import Case, decode_case
from flux.config import describe_limit_key
from flux.execution import Execution
from flux.limits import Limits, format_duration, format_size
from flux.sandbox.wasm_engine import Engine
from flux.supervisor.offline import STRICT, open_offline
from tests import documents
from tests.conftest import Database
from tests.dev_process import API_TYPES, DevServer, running_dev, write_project
from tests.guests.record_and_replay import HERE, SCHEMA, Program, behave, read_programs
from tests.postgres_server import running_postgres
from tests.stub_http import serving

SECRETS = {"API_KEY": "sk_live_of_the_cases", "PEPPER": "ground_for_the_cases"}
AT_ONCE = 4


@attrs.frozen
class Recorded:
    """What a server left."""

    cases: tuple[Case, ...]
    refused: dict[str, str]
    """By function: the codes of those that could not be exported."""


@attrs.define
class Tally:
    """What the replays came to."""

    replays: int = 0
    calls: int = 0
    identical: int = 0
    different: dict[str, str] = attrs.field(factory=dict)
    """By function: what differed."""
    digests: dict[str, set[str]] = attrs.field(factory=dict)
    """By function: all that its runs came to."""


def digest(execution: Execution) -> str:
    """Return a digest of what an execution did: all but how long things took."""
    hashed = hashlib.sha256(codec.encode(execution.outcome))
    for call in execution.calls:
        # Fuel is compared by the replay itself, where it is on record.
        request = attrs.evolve(call.request, fuel=None)
        hashed.update(codec.encode(attrs.evolve(call, request=request, started_ns=0)))
    for line in execution.logs:
        hashed.update(codec.encode(attrs.evolve(line, at_ns=0)))
    return hashed.hexdigest()


# --- recording ---------------------------------------------------------------------------------------------


def list_python() -> list[Program]:
    return read_programs()


def list_javascript() -> list[Program]:
    from tests.guests.test_javascript_programs import PROGRAMS

    return list(PROGRAMS)


def list_wasi() -> list[Program]:
    return [
        Program(
            path.stem,
            path.name,
            "",
            {},
            set(),
            0,
            {"n": 3, "text": "case", "list": [1, 2]},
            Limits(),
            True,
            (),
        )
        for path in sorted((HERE / "repeated" / "wasi").glob("*.wat"))
    ]


KINDS: dict[str, Callable[[], list[Program]]] = {
    "python": list_python,
    "javascript": list_javascript,
    "wasi": list_wasi,
}
FOLDERS = {"python": "programs", "javascript": "javascript", "wasi": "repeated/wasi"}
FUNCTIONS = "guests"
"""Where a project has them, a folder a kind."""
ALONE = {"javascript": ("limits.js",), "wasi": ("asks_five_at_once.wat", "recurses_for_ever.wat")}
"""Files whose functions have the names of others of another kind: they are left out where both are there."""
REFUSED = {"python": ("with_middleware_missing.py",)}
"""Files that a server refuses to load."""


def list_programs(kinds: Sequence[str], every: int) -> dict[str, list[Program]]:
    """Return each ``every``-th program of the kinds, by kind."""
    found = {}
    for kind in kinds:
        left_out = list_left_out(kind, kinds)
        found[kind] = [program for program in KINDS[kind]() if program.file not in left_out][::every]
    return found


def list_left_out(kind: str, kinds: Collection[str]) -> tuple[str, ...]:
    """Return the files of a kind that are not in a project of ``kinds``."""
    return (*REFUSED.get(kind, ()), *(ALONE.get(kind, ()) if len(kinds) > 1 else ()))


def make_project(root: Path, programs: Mapping[str, Sequence[Program]], port: int) -> Path:
    """Write a project of all functions of some kinds; the given ones have their limits."""
    toml = f'functions = "{FUNCTIONS}"\n\n[http]\nallow = ["127.0.0.1:{port}"]\n\n[recording]\nredact = []\n'
    usual = Limits()
    for kind, some in programs.items():
        for program in some:
            limits = attrs.asdict(program.limits)
            own = {name: value for name, value in limits.items() if value != getattr(usual, name)}
            if kind == "wasi":
                own = {"timeout_s": 1.0, "memory_bytes_max": 24 * 2**20}
            if own:
                toml += f"\n[functions.{program.function}]\n"
                toml += "".join(
                    f"{describe_limit_key(name)} = {write_limit(name, value)}\n"
                    for name, value in own.items()
                )
    (root / "project").mkdir()
    project = write_project(root / "project", {}, toml=toml, migrations={"001.sql": SCHEMA})
    (project / ".env.local").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    for kind in programs:
        source, target = HERE / FOLDERS[kind], project / FUNCTIONS / kind
        left_out = list_left_out(kind, programs)
        if kind == "wasi":
            assemble(source, target, left_out)
            continue
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", *left_out))
    return project


def assemble(source: Path, target: Path, left_out: Sequence[str]) -> None:
    """Make modules of the programs in WebAssembly's text form."""
    engine = Engine()
    target.mkdir(parents=True)
    prelude = (source / "prelude.txt").read_text(encoding="utf-8")
    for path in sorted(path for path in source.glob("*.wat") if path.name not in left_out):
        module = engine.assemble(f"(module\n{prelude}\n{path.read_text(encoding='utf-8')})")
        (target / path.with_suffix(".wasm").name).write_bytes(module)


def write_limit(name: str, value: float) -> str:
    if name.endswith("_s"):
        return f'"{format_duration(value)}"'
    # Whole units only, which is near enough.
    return (
        f'"{format_size(max(1024, int(value) // 1024 * 1024))}"'
        if name.endswith("_bytes_max")
        else str(int(value))
    )


def ask(server: DevServer, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Ask the console of a server."""
    told = json.loads((server.project / ".flux" / "dev.json").read_text())
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        headers = {"authorization": f"Bearer {told['token']}", "content-type": "application/json"}
        connection.request(method, f"/_flux/api/{path}", body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.headers.get("content-type") in API_TYPES:
            documents.check_text(data.decode())
        return answer.status, data
    finally:
        connection.close()


def record_one(server: DevServer, program: Program, port: int) -> tuple[str, Any]:
    """Run a program and export it; return its name with the case, or with why there is none."""
    body = json.dumps({"data": {**program.input, "port": port}}).encode()
    status, answer = ask(server, "POST", f"invoke/{program.function}", body)
    assert status == 200, (program, answer)
    name = json.loads(answer)["execution"]["name"]
    status, answer = ask(server, "GET", f"executions/{name}/case")
    return program.function, decode_case(answer) if status == 200 else json.loads(answer)["code"]


def record_all(project: Path, database: Database, programs: Sequence[Program], port: int) -> Recorded:
    """Run a server and all programs on it; end it."""
    with running_dev(project, database) as server, ThreadPoolExecutor(AT_ONCE) as threads:
        found = dict(threads.map(lambda program: record_one(server, program, port), programs))
    cases = tuple(case for case in found.values() if isinstance(case, Case))
    return Recorded(cases, {name: code for name, code in found.items() if isinstance(code, str)})


async def record(kinds: Sequence[str], root: Path, database: Database, every: int = 1) -> Recorded:
    """Record programs of some kinds; nothing that they talked to is there afterwards."""
    programs = list_programs(kinds, every)
    flat = [program for some in programs.values() for program in some]
    async with serving(behave) as stub:
        project = make_project(root, programs, stub.port)
        recorded = await trio.to_thread.run_sync(record_all, project, database, flat, stub.port)
    database.server.psql(f"drop database {database.name} with (force)")
    shutil.rmtree(project)
    return recorded


# --- replaying ---------------------------------------------------------------------------------------------


async def replay(cases: Sequence[Case], runs: int) -> Tally:
    """Replay each case ``runs`` times, all of them once before any of them twice."""
    tally = Tally()
    async with open_offline(None, STRICT) as offline:
        for _ in range(runs):
            for case in cases:
                done = (await offline.replay(case)).replayed
                function, recorded = case.execution.function, digest(case.execution)
                found = digest(done.execution)
                tally.replays += 1
                tally.calls += len(case.execution.calls)
                tally.digests.setdefault(function, set()).add(found)
                if done.divergence is None and found == recorded:
                    tally.identical += 1
                else:
                    kind = done.divergence.kind if done.divergence is not None else "digest"
                    tally.different[function] = f"{kind}; synthetic: {', '.join(done.synthetic) or 'nothing'}"
    return tally


@contextlib.contextmanager
def loaded(processes: int) -> Iterator[None]:
    """Keep so many processors busy for as long as the block lasts."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


async def main() -> int:
    """Run what the command line says; return 1 where something differed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.guests.cases", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kind", choices=sorted(KINDS), default="python")
    parser.add_argument("--file", type=Path, help="this case, and no program")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="only each so-manieth program")
    parser.add_argument("--load", type=int, default=0, help="processes that only compute, beside it")
    said = parser.parse_args()
    refused: dict[str, str] = {}
    if said.file is not None:
        cases: tuple[Case, ...] = (decode_case(said.file.read_bytes()),)
    else:
        cases, refused = await record_on_a_server_of_its_own(said.kind, said.every)
    with loaded(said.load):
        tally = await replay(cases, said.runs)
    outcomes = Counter(case.execution.outcome.kind for case in cases)
    print(
        f"{len(cases)} cases ({', '.join(f'{count} {kind}' for kind, count in sorted(outcomes.items()))}), "
        f"{tally.replays:,} replays of {tally.calls:,} calls: {tally.identical:,} identical; "
        f"{sum(len(found) > 1 for found in tally.digests.values())} with more than one digest"
    )
    for function, code in sorted(refused.items()):
        print(f"  not exported: {function} ({code})")
    for function, what in sorted(tally.different.items()):
        print(f"  different: {function}: {what}")
    return int(bool(tally.different))


async def record_on_a_server_of_its_own(kind: str, every: int = 1) -> tuple[tuple[Case, ...], dict[str, str]]:
    """Record all programs of a kind with a PostgreSQL that is gone afterwards as well."""
    with running_postgres() as server, tempfile.TemporaryDirectory(prefix="flux-cases-") as folder:
        server.psql("create database cases")
        root = Path(folder)
        root.chmod(0o755)  # noqa: ASYNC240 - nobody waits for us
        recorded = await record([kind], root, Database(server, "cases"), every)
    return recorded.cases, recorded.refused


if __name__ == "__main__":
    sys.exit(trio.run(main))
