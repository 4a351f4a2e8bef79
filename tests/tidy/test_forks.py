"""``flux`` that tests fork is as ``flux`` that people type: in what it writes, how it ends and what it has open."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dev_process import environment
from tests.forks import Forked, Forker

TYPED = [sys.executable, "-m", "flux"]


@pytest.mark.parametrize(
    "arguments", [["--version"], ["trace", "--help"], ["no-such"], ["doctor"], ["secrets", "set", "KEY"]], ids=" ".join
)
def test_a_forked_command_writes_and_ends_as_the_typed_one(
    arguments: list[str], tmp_path: Path, flux_is_forked: Forker
) -> None:
    typed = subprocess.run(
        [*TYPED, *arguments], cwd=tmp_path, env=environment(), input="päß\n", capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip
    forked = flux_is_forked.run(tmp_path, arguments, environment(), "päß\n", 180)
    assert (forked.returncode, forked.stdout, forked.stderr) == (typed.returncode, typed.stdout, typed.stderr)


def test_a_forked_server_has_its_own_session_folder_and_streams_and_nothing_of_anybody_else(
    tmp_path: Path, flux_is_forked: Forker
) -> None:
    (tmp_path / "flux.toml").write_text('[project]\nname = "test"\n')
    read, write = os.pipe()
    with open(os.devnull, "r+b") as nothing:
        # It waits for what is typed: for ever.
        child = flux_is_forked.start(
            tmp_path, ["secrets", "set", "KEY"], environment(), stdin=read, stdout=nothing.fileno(),
            stderr=nothing.fileno(), own_session=True,
        )  # fmt: skip
    os.close(read)
    process = Path(f"/proc/{child.pid}")
    wait_until(lambda: (process / "cwd").readlink() == tmp_path, "it is in its folder")
    wait_until(lambda: {file.name for file in (process / "fd").iterdir()} == set("012"), "it has its streams alone")
    assert os.getsid(child.pid) == child.pid
    assert child.poll() is None
    child.terminate()
    assert (child.wait(60), child.poll()) == (-signal.SIGTERM, -signal.SIGTERM)
    os.close(write)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_what_has_ended_is_nobody_who_could_be_killed_again(tmp_path: Path, flux_is_forked: Forker) -> None:
    with open(os.devnull, "r+b") as nothing:
        child = flux_is_forked.start(
            tmp_path, ["--version"], environment(), stdin=nothing.fileno(), stdout=nothing.fileno(),
            stderr=nothing.fileno(),
        )  # fmt: skip
    assert isinstance(child, Forked) and child.wait(60) == 0
    child.kill()
    assert child.returncode == 0
