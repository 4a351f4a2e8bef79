"""Hostile functions of every kind under one ``flux dev``, asked by clients while others are served.

All of it is seen from outside: what clients are answered, what ``flux why`` and a second ``psql`` say, and which
processes are there afterwards.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.test_isolation import list_descendants, wait_until
from tests.conftest import Database
from tests.dev_process import Answer, DevServer, running_dev, write_project
from tests.faults.hostile.modules import MODULES, NEIGHBOUR
from tests.postgres_server import PostgresServer
from tests.wasm_guests import assemble_text

PYTHON = """
import ctypes
import os
from flux_guest import Context, function


@function("POST /py/neighbour")
async def py_neighbour(ctx: Context, input):
    return await ctx.db.query_one("select $1::int * 2 as doubled", input["number"])


@function("POST /py/spin", timeout="2s")
def py_spin(ctx: Context, input):
    while True:
        pass


@function("POST /py/memory")
def py_memory(ctx: Context, input):
    eaten = []
    while True:
        eaten.append(bytearray(1_000_000))


@function("POST /py/flood", timeout="2s")
def py_flood(ctx: Context, input):
    while True:
        os.write(2, b"x" * 99 + b"\\n")


@function("POST /py/calls")
async def py_calls(ctx: Context, input):
    while True:
        await ctx.clock.fresh()


@function("POST /py/fork", timeout="2s")
def py_fork(ctx: Context, input):
    while True:
        ctypes.CDLL(None).fork()


@function("POST /py/crash")
def py_crash(ctx: Context, input):
    ctypes.string_at(0)
"""
SCRIPT = """
import {{ defineFunction }} from "@flux/guest";

export const {kind}_neighbour = defineFunction({{
  route: "POST /{kind}/neighbour",
  handler: async ({{ input, ctx }}{type}) => ctx.db.queryOne("select $1::int * 2 as doubled", input.number),
}});
export const {kind}_spin = defineFunction({{
  route: "POST /{kind}/spin", timeout: "2s", handler: async () => {{ for (;;); }},
}});
export const {kind}_memory = defineFunction({{
  route: "POST /{kind}/memory",
  handler: async () => {{ const eaten = []; for (;;) eaten.push(new Uint8Array(1 << 20).fill(1)); }},
}});
export const {kind}_flood = defineFunction({{
  route: "POST /{kind}/flood", timeout: "2s", handler: async ({{ ctx }}{type}) => {{ for (;;) ctx.log.info("x"); }},
}});
export const {kind}_calls = defineFunction({{
  route: "POST /{kind}/calls", handler: async ({{ ctx }}{type}) => {{ for (;;) await ctx.clock.fresh(); }},
}});
"""
MODULE_OF = {
    "neighbour": (NEIGHBOUR, ""),
    "spin": (MODULES["spins"].body, ', "timeout": "2s"'),
    "memory": (MODULES["eats_memory"].body, ""),
    "flood": (MODULES["prints_without_end"].body, ', "timeout": "2s"'),
    "calls": (MODULES["asks_and_asks"].body, ""),
    "crash": (MODULES["aborts"].body, ""),
}
TOML = """
[limits]
memory = "96MiB"
host_calls = 60
"""
EXPECTED = {
    "spin": (504, "timeout"),
    "flood": (504, "timeout"),
    "fork": (504, "timeout"),
    "memory": (500, "memory"),
    "calls": (500, "host_calls"),
    "crash": (500, "exited"),
}
"""Status, and the limit; or the outcome when it was none."""
NEIGHBOURS = 3


def write_functions(folder: Path, kinds: tuple[str, ...], toml: str) -> tuple[Path, list[str]]:
    """Write the project; return it and the paths of hostile functions."""
    project = write_project(folder, {"py.py": PYTHON}, toml=toml + TOML)
    paths = [f"/py/{name}" for name in EXPECTED]
    for kind, name, of_type in (("js", "js.js", ""), ("ts", "ts.ts", ": any")):
        if kind in kinds:
            (project / "functions" / name).write_text(SCRIPT.format(kind=kind, type=of_type))
            paths += [f"/{kind}/{name}" for name in ("spin", "memory", "flood", "calls")]
    if "wasm" in kinds:
        for name, (body, more) in MODULE_OF.items():
            section = f'{{"name": "wasm_{name}", "route": "POST /wasm/{name}"{more}}}'
            (project / "functions" / f"wasm_{name}.wasm").write_bytes(assemble_text(body, section))
        paths += [f"/wasm/{name}" for name in MODULE_OF if name != "neighbour"]
    return project, paths


@pytest.fixture(params=["fresh", "warm"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[tuple[DevServer, Database, tuple[str, ...], list[str]]]:  # fmt: skip
    """A server, its database, the kinds that it has, and where its hostile functions are."""
    kinds = ("py", "js", "ts", "wasm") if request.param == "fresh" else ("py",)
    toml = "[sandbox]\nwarm = 1000\n" if request.param == "warm" else ""
    project, paths = write_functions(tmp_path, kinds, toml)
    database = make_database(postgres18)
    with running_dev(project, database) as dev:
        yield dev, database, kinds, paths


def ask_until_it_runs(dev: DevServer, path: str) -> Answer:
    """Ask as a client does: one who is told that no worker was free asks again."""
    while (answer := dev.request("POST", path, {})).status == 503:
        assert answer.json["code"] == "OVERLOADED", answer.body
    return answer


def test_hostile_functions_of_every_kind_harm_nobody_but_themselves(
    server: tuple[DevServer, Database, tuple[str, ...], list[str]],
) -> None:
    dev, database, kinds, paths = server
    over = threading.Event()
    wrong: list[tuple[str, int, bytes]] = []
    asked: list[tuple[str, int, bytes]] = []

    def be_neighbourly(kind: str, first: int) -> None:
        number = first
        while not over.is_set():
            answer = dev.request("POST", f"/{kind}/neighbour", {"number": number})
            body = answer.json if answer.status == 200 else None
            doubled = body[2]["rows"][0][0] if body and kind == "wasm" else body and body["doubled"]
            (asked if doubled == 2 * number else wrong).append((kind, number, answer.body))
            number += 1

    with ThreadPoolExecutor(NEIGHBOURS * len(kinds) + 8) as threads:
        served = [
            threads.submit(be_neighbourly, kind, 1_000_000 * each)
            for kind in kinds
            for each in range(NEIGHBOURS)
        ]
        answers: dict[str, Answer] = dict(
            zip(paths, threads.map(partial(ask_until_it_runs, dev), paths), strict=True)
        )
        over.set()
        for one in served:
            one.result()
    assert wrong == []
    assert {kind for kind, _, _ in asked} == set(kinds)

    # Each was answered and is on record as what it was.
    ended = dict(
        line.split("|")
        for line in database.psql(
            "select name, outcome || ' ' || coalesce(error_message, '') from flux.execution "
            "where function !~ 'neighbour'"
        ).splitlines()
    )
    for path, answer in answers.items():
        status, limit = EXPECTED[path.split("/")[2]]
        assert answer.status == status, (path, answer.body)
        if limit == "exited":
            assert ended[answer.flux_id].startswith("exited"), (path, ended[answer.flux_id])
        else:
            assert ended[answer.flux_id].startswith("killed"), (path, ended[answer.flux_id])
            trace = dev.json("trace", answer.flux_id) if path.endswith("memory") else None
            assert trace is None or trace["outcome"] == "killed"

    # Nothing of them is left, and the server goes on as before.
    guests = len(list_descendants(dev.process.pid))
    for kind in kinds:
        assert dev.request("POST", f"/{kind}/neighbour", {"number": 21}).status == 200
    # Its zygote with what watches over it, workers in waiting, and the host of the wasm guests.
    wait_until(lambda: len(list_descendants(dev.process.pid)) <= 16, f"processes stayed behind: {guests}")
    shown = dev.command("why", answers["/py/spin"].flux_id).stdout
    assert "POST /py/spin" in shown and "it ran longer than its" in shown
