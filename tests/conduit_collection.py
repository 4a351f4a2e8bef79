"""The RealWorld project's own requests against the example application, and all of them replayed without a database.

Its Postman collection is data of that project's and not part of this one; newman, which runs it, comes from npm::

    npm install newman
    python -m tests.conduit_collection --collection Conduit.postman_collection.json --newman node_modules/.bin/newman

A copy of ``examples/conduit`` is served by ``flux dev``; newman sends the collection and judges the answers. The server
replays each execution, which has to be identical. Then each is exported as a case file, and the server is ended, its
database with it. Each case is replayed where there is no network. That has to be identical too, but for those of the
four routes that sign a token: a case has no secrets, and its replay has to say that this is why.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flux.case_file import decode_case
from tests.conduit_app import copy_conduit, replay_all
from tests.dev_process import NETLESS, DevServer, run_flux, running_dev

COLLECTION_S_MAX = 600
AT_ONCE = 2
IDENTICAL = "identical"
LACKS = "lacks its secret, by name"
SIGNING = {"POST /api/users", "POST /api/users/login", "GET /api/user", "PUT /api/user"}
"""What answers with a token. No other function asks for the secret, so no other replay may lack it."""


def run_collection(server: DevServer, newman: str, collection: Path, name: str) -> Any:
    """Send the collection as a user of this name; return newman's own counts: {"assertions": {"total", "failed"}}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        told = {
            "APIURL": f"http://127.0.0.1:{server.port}/api", "USERNAME": name, "EMAIL": f"{name}@example.org",
            "PASSWORD": f"the word of {name}",
        }  # fmt: skip
        globals_ = [part for key, value in told.items() for part in ("--global-var", f"{key}={value}")]
        reporter = ["--reporters", "json", "--reporter-json-export", str(report)]
        command = [newman, "run", str(collection), *globals_, *reporter]
        done = subprocess.run(command, timeout=COLLECTION_S_MAX, capture_output=True, text=True, check=False)
        if not report.exists():
            raise SystemExit(f"newman made no report:\n{done.stdout}\n{done.stderr}")
        return json.loads(report.read_text())["run"]["stats"]


def export_all(server: DevServer, folder: Path) -> list[Path]:
    """Write a case file of each execution on record."""
    names = [one["name"] for one in server.json("trace", "list", "-n", "1000")["executions"]]
    for name in names:
        done = server.command("export", name, "--case", "--output", str(folder / f"{name}.fluxcase"))
        assert done.returncode == 0, done.stderr
    return sorted(folder.glob("*.fluxcase"))


def replay_case(case: Path) -> tuple[str, str]:
    """Replay one case without any network; return its method and route, and its verdict or `LACKS`."""
    trigger = decode_case(case.read_bytes()).execution.trigger
    via = [sys.executable, str(NETLESS), "own"]
    done = run_flux(case.parent, "replay", case.name, "--json", via=via)
    replay = json.loads(done.stdout)
    is_lacking = replay["verdict"] == "diverged" and "secret JWT_KEY" in replay["synthetic"]
    return f"{trigger.method} {trigger.route}", LACKS if is_lacking else str(replay["verdict"])


def judge_cases(replayed: Sequence[tuple[str, str]]) -> list[str]:
    """Return what is wrong with what `replay_case` gave of all cases, a sentence each."""
    wrong = [
        f"{route}: {verdict}"
        for route, verdict in replayed
        if verdict != IDENTICAL and not (verdict == LACKS and route in SIGNING)
    ]
    if not any(verdict == IDENTICAL and route not in SIGNING for route, verdict in replayed):
        wrong.append("no case was identical")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; exit 1 when an assertion fails or a replay is not what it has to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.conduit_collection", description=__doc__.partition("\n")[0])
    parser.add_argument("--collection", type=Path, required=True, help="Conduit.postman_collection.json")
    parser.add_argument("--newman", default="newman", help="the program; default: newman on the path")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="flux-conduit-") as folder:
        project, cases = copy_conduit(Path(folder) / "conduit"), Path(folder) / "cases"
        cases.mkdir()
        with running_dev(project) as server:
            stats = run_collection(server, asked.newman, asked.collection.resolve(), "jake")
            by_server = {verdict: len(names) for verdict, names in replay_all(server).items()}
            exported = export_all(server, cases)
        print(f"{stats['requests']['total']} requests, {stats['assertions']['total']} assertions,"
              f" {stats['assertions']['failed']} failed", flush=True)  # fmt: skip
        with ThreadPoolExecutor(AT_ONCE) as pool:
            replayed = list(pool.map(replay_case, exported))
        print(f"replayed by the server: {by_server}")
        print(f"replayed with the server ended and no network: {dict(Counter(verdict for _, verdict in replayed))}")
        wrong = judge_cases(replayed)
        print("".join(f"wrong: {sentence}\n" for sentence in wrong), end="")
    passes = stats["assertions"]["failed"] == 0 and stats["assertions"]["total"] > 0
    repeats = set(by_server) == {IDENTICAL} and not wrong
    return 0 if passes and repeats and len(exported) >= stats["requests"]["total"] else 1


if __name__ == "__main__":
    sys.exit(main())
