"""Floors, types, lint and dependencies: the gates, run in one place so that ``pytest`` is the one command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
GATES = {
    "the floors are kept": ["-c", LINT_IMPORTS],
    "types are sound": ["-m", "mypy"],
    "lint is clean": ["-m", "ruff", "check", "."],
    "dependencies are those that are declared": ["-m", "deptry", "."],
}


@pytest.mark.parametrize("arguments", GATES.values(), ids=GATES.keys())
def test_the_gate_holds(arguments: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert finished.returncode == 0, finished.stdout
