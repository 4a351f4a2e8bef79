"""What it takes to find the commit that broke a request, beside ``git bisect run`` with a script.

    python benchmarks/culprit.py [--quick] [--commits 1000] [--rounds 3]

One history with a known culprit, two commits that can't be imported, a migration, a bumped dependency and merges
(`tests.histories`). Each round has a repository and a server (``flux dev``, real workers, Postgres with fsync on) of
its own, in which nothing is built yet, and takes turns::

    cold       flux bug bisect of the recorded failure
    again      the same once more: everything is known
    git        git bisect run in a clone, with the script that somebody would write by hand (tests/histories/alone.py)

The script stands in for the database and runs the handler in a plain Python; it asks each commit once and proves
nothing, where Flux replays in the database as it was, tries both ends twice and the culprit and its parent four times.
The time that it takes to write it is not in its figure. All three must name the culprit, or there are no figures.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from benchmarks.figures import print_machine, print_table, spread
from benchmarks.sides import SETTINGS, create_database
from tests.dev_process import DevServer, running_dev
from tests.histories import alone
from tests.histories.model import History, Plan, make_history
from tests.histories.shop import BODY, PATH, Kit
from tests.histories.write import git, write_history
from tests.postgres_server import running_postgres

SEED = 7


@attrs.frozen
class Search:
    """One search."""

    elapsed_s: float
    asked: int
    """Commits that were asked."""
    runs: int
    """Times that one was run, and not known from before."""


def search_with_flux(server: DevServer, history: History, name: str) -> Search:
    """Have Flux find the culprit."""
    began = time.perf_counter()
    done = server.command("bug", "bisect", name, "--good", history.good, "--json", timeout_s=3600)
    elapsed_s = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"flux bug bisect ended with {done.returncode}: {done.stdout}{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    check(history, answer["first_bad"])
    return Search(
        elapsed_s, len({step["sha"] for step in answer["steps"]}), answer["runs"] - answer["cached"]
    )


def search_with_git(history: History, clone: Path) -> Search:
    """Have git find it, with a script."""
    began = time.perf_counter()
    git(clone, "bisect", "start", history.bad, history.good)
    told = git(clone, "bisect", "run", sys.executable, alone.__file__)
    elapsed_s = time.perf_counter() - began
    found = re.search(r"([0-9a-f]{40}) is the first bad commit", told)
    check(history, None if found is None else found[1])
    asked = told.count("running ")
    git(clone, "bisect", "reset")
    return Search(elapsed_s, asked, asked)


def check(history: History, first_bad: str | None) -> None:
    """Raise unless it is the culprit."""
    if history.check(first_bad, ()) != "right":
        raise RuntimeError(f"{first_bad} was named, and it is another commit")


def run_round(folder: Path, postgres: Any, commits: int, number: int) -> dict[str, Search]:
    """One of each, from nothing."""
    history = write_history(make_history(SEED, Plan(commits=commits, at=0.6)), folder / "shop", Kit())
    git(folder, "clone", "--quiet", str(folder / "shop"), "clone")
    with running_dev(folder / "shop", create_database(postgres, f"culprit{number}")) as server:
        answer = server.request("POST", PATH, dict(BODY))
        if answer.status != 500:
            raise RuntimeError(f"the request does not fail: {answer.status}")
        return {
            "cold": search_with_flux(server, history, answer.flux_id),
            "again": search_with_flux(server, history, answer.flux_id),
            "git": search_with_git(history, folder / "clone"),
        }


LABELS = (
    ("cold", "`flux bug bisect`, nothing built yet"),
    ("again", "`flux bug bisect`, the same again"),
    ("git", "`git bisect run` with a script"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.commits, options.rounds = 40, 1
    print_machine()
    rounds: list[dict[str, Search]] = []
    with running_postgres(extra_settings=SETTINGS, on_disk=True) as postgres:
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="flux-bisect-") as folder:
                Path(folder).chmod(0o755)
                rounds.append(run_round(Path(folder), postgres, options.commits, number))
    rows = []
    for kind, label in LABELS:
        searches = [each[kind] for each in rounds]
        rows.append([
            label, spread([each.elapsed_s for each in searches], 2), f"{searches[0].asked}", f"{searches[0].runs}",
        ])  # fmt: skip
    print(f"\n### The culprit among {options.commits:,} commits\n")
    print_table(["search", "seconds", "commits asked", "runs"], rows)


if __name__ == "__main__":
    main()
