"""How long people wait: for `flux dev`, for a reload, for a command.

    python benchmarks/start.py [--quick] [--rounds 7]

``flux dev`` is timed from its start as a process to the first answer of a function, as a client that tries
again and again sees it: the first time in a project (the database cluster is made, Flux's schema and the
project's migrations are applied) and a second time. A reload is timed from the moment a function's file is
saved to the first answer of the new code. Commands are timed as a shell would, on an execution that
failed, interleaved with ``python -c pass`` and ``python -c "import click"``; medians, lowest and highest.
All of it happens offline, in a new folder, with the embedded Postgres.
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import print_machine, print_table, spread
from tests.dev_process import DevServer, environment, start_dev, wait_ready, write_project

ANSWER_S_MAX = 60.0
FUNCTION = """\
from flux_guest import Context, function


@function("GET /version")
async def get_version(ctx: Context, input: dict) -> dict:
    await ctx.db.query("select 1")
    return {"version": VERSION}


@function("POST /fail")
async def fail(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into seen (note) values ($1)", "about to fail")
    return {"plan": input["plan"]}
"""
SCHEMA = "create table seen (id bigint generated always as identity primary key, note text not null);\n"


def write_version(project: Path, version: int) -> None:
    """Save the function's file with another answer."""
    path = project / "functions" / "service.py"
    unfinished = path.with_suffix(".new")
    unfinished.write_text(FUNCTION.replace("VERSION", str(version)))
    unfinished.rename(path)


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Send one request on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S_MAX)
    try:
        connection.request(
            method, path, b"{}" if method == "POST" else None, {"content-type": "application/json"}
        )
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_version(port: int, version: int) -> None:
    """Ask until the function answers, with this version."""
    deadline = time.monotonic() + ANSWER_S_MAX
    answer: object = None
    while time.monotonic() < deadline:
        try:
            status, body = ask(port, "/version")
        except OSError as error:  # Not listening yet.
            answer = error
        else:
            if status == 200 and json.loads(body)["version"] == version:
                return
            answer = body
        time.sleep(0.005)
    raise TimeoutError(f"no answer with version {version}: {answer!r}")


def start(project: Path, port: int) -> tuple[DevServer, float]:
    """Start ``flux dev``; return it, and the seconds to the first answer."""
    began = time.perf_counter()
    server = start_dev(project, port=port)
    wait_version(port, 0)
    elapsed_s = time.perf_counter() - began
    wait_ready(server)
    return server, elapsed_s


def stop(server: DevServer) -> float:
    """End it as ctrl-c does; return the seconds that took."""
    began = time.perf_counter()
    if server.stop():
        raise RuntimeError("flux dev did not end well:\n" + "\n".join(server.story))
    return time.perf_counter() - began


def measure_command(project: Path, command: list[str]) -> float:
    """Return the milliseconds of one command."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    elapsed_ms = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return elapsed_ms


def measure_starts(rounds: int, folder: Path) -> list[tuple[str, list[float]]]:
    """Return what the starts, ends and reloads took, in seconds."""
    first, second, ends, reloads = [], [], [], []
    for number in range(rounds):
        project = folder / f"shop{number}"
        project.mkdir()
        write_project(project, {"service.py": ""}, migrations={"001.sql": SCHEMA})
        write_version(project, 0)
        port = get_free_port()
        server, elapsed_s = start(project, port)
        first.append(elapsed_s)
        for version in range(1, 4):
            time.sleep(0.3)
            write_version(project, version)
            began = time.perf_counter()
            wait_version(port, version)
            reloads.append(time.perf_counter() - began)
        ends.append(stop(server))
        write_version(project, 0)
        server, elapsed_s = start(project, port)
        second.append(elapsed_s)
        ends.append(stop(server))
    return [
        ("first start to first answer", first),
        ("second start to first answer", second),
        ("file saved to new code's answer", reloads),
        ("ctrl-c to its end", ends),
    ]


def measure_commands(rounds: int, folder: Path) -> list[tuple[str, list[float]]]:
    """Return what commands took, in milliseconds."""
    project = folder / "commands"
    project.mkdir()
    write_project(project, {"service.py": ""}, migrations={"001.sql": SCHEMA})
    write_version(project, 0)
    port = get_free_port()
    server, _ = start(project, port)
    try:
        for _ in range(20):
            ask(port, "/fail", "POST")
        flux = [sys.executable, "-m", "flux"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            'python -c "import click"': [sys.executable, "-c", "import click"],
            "flux --version": [*flux, "--version"],
            "flux --help": [*flux, "--help"],
            "flux why @last-error": [*flux, "why", "@last-error"],
            "flux trace @last-error": [*flux, "trace", "@last-error"],
            "flux trace list": [*flux, "trace", "list"],
            "flux tail --no-follow --since 1h": [*flux, "tail", "--no-follow", "--since", "1h"],
            "flux state history seen 1": [*flux, "state", "history", "seen", "1"],
            "flux errors": [*flux, "errors"],
        }
        found: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                elapsed_ms = measure_command(project, command)
                if number:  # The first one compiles modules and fills the disk's cache.
                    found[name].append(elapsed_ms)
    finally:
        stop(server)
    return list(found.items())


def get_free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two rounds: to see that it works")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rounds = 2 if options.quick else options.rounds
    print_machine()
    with tempfile.TemporaryDirectory(prefix="fluxbench") as folder:
        starts = measure_starts(rounds, Path(folder))
        print_table(("flux dev", "s"), [(name, spread(figures, 2)) for name, figures in starts])
        print(flush=True)
        commands = measure_commands(2 * rounds, Path(folder))
        print_table(("command", "ms"), [(name, spread(figures, 0)) for name, figures in commands])


if __name__ == "__main__":
    main()
