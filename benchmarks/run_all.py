"""All benchmarks, one after the other, and their figures into README.md.

    pip install -e '.[test,bench]'
    python benchmarks/run_all.py [--quick] [--only parts start] [--write] [--loaded]

Each script runs as a process of its own, so that none meets what another left in memory. What it prints goes to
stdout; with ``--write`` it also replaces the figures between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in README.md.
A script that fails leaves the figures that are there, and the exit code is 1.

Figures that are written belong to a commit: ``--write`` refuses a tree with changes. And the machine should have
nothing else to do: before each script, ``--write`` waits until the load average is at most 0.7 (what the script
before it left takes a minute or two to fade), and gives up after ten minutes. ``--loaded`` neither waits nor gives
up; each section then says by itself which load it met, and that it ran beside other work.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import attrs

from benchmarks.figures import QUIET, describe_code, describe_machine

HERE = Path(__file__).parent
README = HERE / "README.md"
PATIENCE_S = 600


@attrs.frozen
class Script:
    """A benchmark and how it is run."""

    name: str
    quick: tuple[str, ...] = ("--quick",)
    whole: tuple[str, ...] = ()


SCRIPTS = (
    Script("peers"),
    Script("parts"),
    Script("host_call", ("--rounds", "2", "--executions", "20", "--calls", "200")),
    Script("sandboxes"),
    Script("driver", ("--rounds", "2", "--seconds", "0.5")),
    Script("gateway", ("--rounds", "2", "--round-s", "0.5")),
    Script("outbound_http", ("--rounds", "2")),
    Script("journal", ("--rounds", "2", "--executions", "300")),
    Script("capture", ("--rows", "1", "50")),
    Script("why_store"),
    Script("start"),
    Script("replay"),
    Script("culprit"),
    Script("history"),
    Script("jobs"),
    Script("processes"),
    Script("console"),
    Script("tracing"),
    Script("neighbours"),
)


def put_figures(readme: str, name: str, figures: str) -> str:
    """Return ``readme`` with new figures for the script called ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(readme):
        raise LookupError(f"README.md has no place for the figures of {name}")
    return pattern.sub(lambda found: f"{found[1]}{figures.strip()}\n{found[2]}", readme)


def lay_out(printed: str) -> str:
    """Return what a script printed as Markdown: tables as they are, anything else in a block."""
    return printed if "\n| " in printed else f"```\n{printed.strip()}\n```"


def wait_for_quiet(patience_s: float = PATIENCE_S) -> bool:
    """Wait until nothing else is at work, and return whether that came to be."""
    end = time.monotonic() + patience_s
    while (load := os.getloadavg()[0]) > QUIET:
        if time.monotonic() >= end:
            print(f"load average {load:.2f} is above {QUIET}: end what else runs, or say --loaded", file=sys.stderr)
            return False
        time.sleep(5)
    return True


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short rounds: to see that all of it works")
    parser.add_argument("--only", nargs="+", choices=[script.name for script in SCRIPTS], help="these alone")
    parser.add_argument("--write", action="store_true", help="put the figures into README.md")
    parser.add_argument("--loaded", action="store_true", help="with --write: although other work is going on")
    options = parser.parse_args()
    if options.write and (code := describe_code()).endswith("-dirty"):
        print(f"{code}: commit first, as figures that are written name the code they are of", file=sys.stderr)
        return 1
    failed = []
    for script in SCRIPTS:
        if options.only and script.name not in options.only:
            continue
        arguments = script.quick if options.quick else script.whole
        print(f"\n## python benchmarks/{script.name}.py {' '.join(arguments)}\n", flush=True)
        command = [sys.executable, f"benchmarks/{script.name}.py", *arguments]
        if options.write and not options.loaded and not wait_for_quiet():
            return 1
        machine = describe_machine()
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(script.name)
            print(f"{script.name} failed:\n{done.stdout}\n{done.stderr}", file=sys.stderr, flush=True)
            continue
        printed = done.stdout
        if "load average" not in printed:
            printed = f"{machine}\ncommand: python {' '.join(command[1:])}\n\n{printed}"
        print(printed, flush=True)
        if options.write:
            readme = README.read_text(encoding="utf-8")
            README.write_text(put_figures(readme, script.name, lay_out(printed)), encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
