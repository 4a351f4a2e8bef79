"""The benchmarks can be started: what they measure is nobody's to assert, that they run is."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Its packages are the `bench` extra's, which tests do without.
PEERS = {"peer_dbos.py", "peer_fastapi.py", "peer_pgqueuer.py"}
SCRIPTS = [
    path.name
    for path in sorted(BENCHMARKS.glob("*.py"))
    if path.name not in PEERS and "ArgumentParser(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_says_how_it_is_run(name: str) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}" in done.stdout


def test_each_benchmark_is_in_the_readme_with_its_command() -> None:
    told = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"python benchmarks/{name}" not in told] == []
