"""What a replay costs, beside the execution that it replays.

    python benchmarks/replay.py [--quick] [--rounds 5] [--rows 1000000] [--incident 1000]

A server like any other (``flux dev``, real workers, Postgres with fsync on) is asked for executions over HTTP and
for replays of them over the console's API, as ``flux replay`` asks, one after the other and interleaved::

    its own code     strictly from the record, without a database
    other code       the same functions with another line of comment: matched by content, in a world

Then a table of a million rows is changed, and what a world of before the changes costs is seen in the time of
one replay: one that reads a row of the table, and one that writes a row of it. Reads in a world are those of
executions that ask many times, less the same that ask once. Last, an incident: so many requests that fail,
replayed by ``flux incident replay`` with one and with two workers, and the server's memory before and after. A
replay is itself recorded, which is in its time.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import get_resident_mb, print_machine, print_table, spread
from benchmarks.sides import SETTINGS, create_database
from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, environment, running_dev, write_project
from tests.postgres_server import running_postgres

SCHEMA = """
create table big (id int primary key, region int not null, note text not null);
create index big_region on big (region);
create table people (id bigint generated always as identity primary key, email text not null, plan text);
"""
FUNCTIONS = """\
from flux_guest import Context, function

STUB = "http://127.0.0.1:PORT"


@function("POST /nothing")
async def nothing(ctx: Context, input: dict) -> dict:
    return {}


@function("POST /points")
async def points(ctx: Context, input: dict) -> dict:
    for number in range(input["count"]):
        await ctx.db.query("select note from big where id = $1", 1 + number * 7)
    return {}


@function("POST /ranges")
async def ranges(ctx: Context, input: dict) -> dict:
    for number in range(input["count"]):
        await ctx.db.query("select id, note from big where region = $1", number)
    return {}


@function("POST /write")
async def write(ctx: Context, input: dict) -> dict:
    return await ctx.db.query_one("update big set note = note || '.' where id = $1 returning id", input["id"])


@function("POST /signup")
async def sign_up(ctx: Context, input: dict) -> dict:
    found = await ctx.db.query_one("select count(*) as n from people where email = $1", input["email"])
    charge = await ctx.http.post(STUB + "/charge", json={"email": input["email"]})
    row = await ctx.db.query_one("insert into people (email) values ($1) returning id", input["email"])
    await ctx.db.execute("update people set plan = 'team' where id = $1", row["id"])
    return {"id": row["id"], "found": found["n"], "amount": charge.json()["amount"]}
"""
"""The stub's answers have no amount: a sign-up fails."""
TOML = """\
[http]
allow = ["127.0.0.1:PORT"]
[limits]
timeout = "60s"
[recording]
self_check_s = 0
"""
TIMEOUT_S = 600.0


class Server:
    """A running server, and its console."""

    def __init__(self, dev: DevServer, database: Database) -> None:
        self.dev = dev
        self.database = database
        told = json.loads((dev.project / ".flux" / "dev.json").read_text())
        self._headers = {"authorization": f"Bearer {told['token']}", "content-type": "application/json"}

    def execute(self, path: str, body: object) -> tuple[str, float]:
        """Send a request; return the execution's name and how many milliseconds its answer took."""
        began = time.perf_counter()
        answer = self.dev.request("POST", path, body)
        return answer.flux_id, (time.perf_counter() - began) * 1000

    def replay(self, name: str, on: str | None = None) -> tuple[Any, float]:
        """Replay an execution; return the answer and how many milliseconds it took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.dev.port, timeout=TIMEOUT_S)
        query = "" if on is None else f"?on={on}"
        began = time.perf_counter()
        try:
            connection.request("POST", f"/_flux/api/executions/{name}/replay{query}", b"{}", self._headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        elapsed_ms = (time.perf_counter() - began) * 1000
        if response.status != 200:
            raise RuntimeError(f"the replay of {name} was refused: {answer}")
        return answer, elapsed_ms

    def replay_changed(self, name: str) -> float:
        """Replay on the folder; return the milliseconds, once the world has answered all as it was."""
        answer, elapsed_ms = self.replay(name, ".")
        fidelity = answer["fidelity"]
        if fidelity["matched"] != fidelity["equal"] or any(
            "could not be rebuilt" in note for note in answer["notes"]
        ):
            raise RuntimeError(
                f"the replay of {name} was not answered as it was: {answer['reason']} {answer['notes']}"
            )
        return elapsed_ms


def write_functions(project: Path, stub: CountingStub, note: str = "") -> None:
    """Write the functions' file."""
    (project / "functions" / "service.py").write_text(FUNCTIONS.replace("PORT", str(stub.port)) + note)


def change_code(server: Server, stub: CountingStub, number: int) -> None:
    """Save a change that changes nothing, and wait until it is served."""
    told = len(server.dev.story)
    write_functions(server.dev.project, stub, f"\n# {number}\n")
    server.dev.wait_story("service.py", after=told)


def measure_kinds(server: Server, rounds: int) -> None:
    """Each workload and its replays, interleaved."""
    workloads: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("no-op", "/nothing", {}),
        ("point SELECT", "/points", {"count": 1}),
        ("20 point SELECTs", "/points", {"count": 20}),
        ("sign-up, fails", "/signup", {"email": "a@b.com"}),
    )
    rows = []
    for label, path, body in workloads:
        figures: dict[str, list[float]] = {"original": [], "own": [], "other": []}
        for _ in range(rounds):
            # What was executed before the change of code is other code's by now; a name for each side of a round.
            for _ in range(4):
                name, elapsed_ms = server.execute(path, body)
                figures["original"].append(elapsed_ms)
                figures["own"].append(server.replay(name)[1])
                figures["other"].append(server.replay_changed(recorded_before[label]))
        original = statistics.median(figures["original"])
        rows.append([
            label, spread(figures["original"]), spread(figures["own"]),
            f"{statistics.median(figures['own']) / original:.2f}", spread(figures["other"]),
            f"{statistics.median(figures['other']) / original:.2f}",
        ])  # fmt: skip
    print("\n### A replay and its original, milliseconds as asked over HTTP\n")
    print_table(
        ["workload", "execution", "replay, its own code", "ratio", "replay, other code", "ratio"], rows
    )


recorded_before: dict[str, str] = {}
"""Executions of each workload that were recorded on the code before the one that is served."""


def record_before(server: Server) -> None:
    """Record what `measure_kinds` replays on other code."""
    for label, path, body in (
        ("no-op", "/nothing", {}), ("point SELECT", "/points", {"count": 1}),
        ("20 point SELECTs", "/points", {"count": 20}), ("sign-up, fails", "/signup", {"email": "a@b.com"}),
    ):  # fmt: skip
        recorded_before[label] = server.execute(path, body)[0]


def measure_worlds(
    server: Server, stub: CountingStub, changes: list[int], rows_max: int, rounds: int
) -> None:
    """Worlds of before so many changes."""
    reading = server.execute("/points", {"count": 1})[0]
    writing = server.execute("/write", {"id": 2})[0]
    change_code(server, stub, 2)
    rows, made = [], 0
    for later in changes:
        while made < later:
            step = min(later - made, 10_000)
            server.database.psql(
                f"update big set note = 'changed' where id > {made * 7 % (rows_max - step)} "
                f"and id <= {made * 7 % (rows_max - step)} + {step}"
            )
            made += step
        server.database.psql("analyze flux.mutation")
        times: dict[str, list[float]] = {"read": [], "write": []}
        for _ in range(rounds):
            times["read"].append(server.replay_changed(reading))
            times["write"].append(server.replay_changed(writing))
        rows.append([f"{later:,}", spread(times["read"], 0), spread(times["write"], 0)])
    print(
        f"\n### A replay in a world of before later changes, in a table of {rows_max:,} rows, milliseconds\n"
    )
    print_table(["later changes", "that reads a row of it", "that writes a row of it"], rows)


def measure_reads(server: Server, stub: CountingStub, rounds: int) -> None:
    """Reads as they were, and in a world."""
    cases = (("point", "/points", 400), ("range of 100 rows", "/ranges", 100))
    names = {path: (server.execute(path, {"count": 1})[0], server.execute(path, {"count": count})[0])
             for _, path, count in cases}  # fmt: skip
    change_code(server, stub, 3)
    server.database.psql("update big set note = 'and again' where id % 100 = 3")
    rows = []
    for label, path, count in cases:
        live, world = [], []
        one, many = names[path]
        for _ in range(rounds):
            live.append(
                (server.execute(path, {"count": count})[1] - server.execute(path, {"count": 1})[1])
                / (count - 1)
            )
            world.append((server.replay_changed(many) - server.replay_changed(one)) / (count - 1))
        ratio = statistics.median(world) / statistics.median(live)
        rows.append([label, spread(live, 2), spread(world, 2), f"{ratio:.2f}"])
    print("\n### One read, its host call included, milliseconds\n")
    print_table(["read", "live", "in a world", "ratio"], rows)


def measure_incident(server: Server, stub: CountingStub, size: int) -> None:
    """An incident of ``size`` requests."""
    since = server.database.psql(
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    began = time.perf_counter()
    for number in range(size):
        server.execute("/signup", {"email": f"incident{number}@b.com"})
    original_s = time.perf_counter() - began
    change_code(server, stub, 4)
    rows = [["as it happened, one by one", f"{original_s:.1f}", f"{size / original_s:.0f}", "", ""]]
    for workers in (1, 2):
        before_mb = get_resident_mb(server.dev.process.pid)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "flux", "incident", "replay", f"{since}..2100-01-01",
             "-q", "route:/signup status:500", "--workers", str(workers), "--json"],
            cwd=server.dev.project, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        elapsed_s = time.perf_counter() - began
        if done.returncode != 1:
            raise RuntimeError(f"flux incident replay ended with {done.returncode}: {done.stderr}")
        told = json.loads(done.stdout)
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in told["verdicts"].items())
        after_mb = get_resident_mb(server.dev.process.pid)
        rows.append([
            f"replayed on other code, {workers} at once", f"{elapsed_s:.1f}", f"{told['total'] / elapsed_s:.0f}",
            verdicts, f"{before_mb:.0f} → {after_mb:.0f}",
        ])  # fmt: skip
    print(f"\n### An incident of {size:,} requests\n")
    print_table(["", "seconds", "a second", "verdicts", "MB, server and workers"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large table")
    parser.add_argument("--incident", type=int, default=1_000, help="requests of the incident")
    options = parser.parse_args()
    changes = [0, 10_000, 100_000]
    if options.quick:
        options.rounds, options.rows, options.incident, changes = 2, 20_000, 20, [0, 1_000]
    print_machine()
    with (
        tempfile.TemporaryDirectory(prefix="flux-replay-") as folder,
        running_postgres(extra_settings=SETTINGS, on_disk=True) as postgres,
        counting_stub() as stub,
    ):
        Path(folder).chmod(0o755)
        project = write_project(
            Path(folder) / "app",
            {"service.py": ""},
            toml=TOML.replace("PORT", str(stub.port)),
            migrations={"001.sql": SCHEMA},
        )
        write_functions(project, stub)
        database = create_database(postgres, "replay")
        with running_dev(project, database) as dev:
            server = Server(dev, database)
            database.psql(
                f"insert into big select n, n / 100, 'as it was' from generate_series(1, {options.rows}) n; analyze big"
            )
            record_before(server)
            change_code(server, stub, 1)
            measure: tuple[Callable[[], None], ...] = (
                lambda: measure_kinds(server, options.rounds),
                lambda: measure_worlds(server, stub, changes, options.rows, options.rounds),
                lambda: measure_reads(server, stub, options.rounds),
                lambda: measure_incident(server, stub, options.incident),
            )
            for part in measure:
                part()
                sys.stdout.flush()


if __name__ == "__main__":
    main()
