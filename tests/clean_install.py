"""README's two commands, typed in a fresh clone that has nothing but a Python.

Anybody can run it; it needs the network, as whoever types them does, and as long as all tests take::

    python -m tests.clean_install --python 3.12
    python -m tests.clean_install --python 3.13 tests/core      # of the tests, these alone

What is committed here is cloned, so that nothing of this folder helps: no ``.venv``, no file that somebody forgot to
add. ``./demo`` has to come to serve a failing request that ``flux why`` explains, and to end at ctrl-c; then ``./test``
has to pass. The commands are read from README.md.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.shell_blocks import ROOT, read_steps

READY_S_MAX = 3600.0
STOP_S_MAX = 120.0
SIGNUP = b'{"email": "ana@shop.example"}'
"""What the tutorial's function fails on."""


def find_python(wanted: str) -> str:
    """The program of a version, ``3.12``, or of a path: from PATH, else from pyenv."""
    candidates = [wanted, f"python{wanted}"]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(versions.glob(f"{wanted}.*/bin/python3"))]
    for candidate in candidates:
        path = shutil.which(candidate)
        if path is not None and ask_version(path) is not None:
            return path
    raise SystemExit(f"there is no Python {wanted}: neither on PATH nor in {versions}")


def ask_version(path: str) -> str | None:
    """What a Python says it is; None where it can't be started, as a shim of pyenv without its version."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def try_demo(clone: Path, line: str, environ: dict[str, str]) -> None:
    """Type ``./demo``, have its function fail, ask why, and end it; whatever goes otherwise raises."""
    log = clone.parent / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {line} --port 0"], cwd=clone, env=environ, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_S_MAX
        while not re.search(r"^ready in", told := log.read_text(errors="replace"), re.MULTILINE):
            assert demo.poll() is None and time.monotonic() < deadline, told
            time.sleep(0.5)
        found = re.search(r"^ *api +(http://127\.0\.0\.1:\d+)", told, re.MULTILINE)
        assert found is not None, told
        try:
            urllib.request.urlopen(urllib.request.Request(f"{found[1]}/signup", data=SIGNUP, method="POST"))
            raise AssertionError("the tutorial's function did not fail")
        except urllib.error.HTTPError as answer:
            assert answer.code == 500, answer.code
        why = subprocess.run(
            [clone / ".venv" / "bin" / "flux", "why", "@last-error"], cwd=clone / "demo-shop", env=environ,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert why.returncode == 0 and "KeyError: None" in why.stdout, why.stdout + why.stderr
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(STOP_S_MAX) == 0, log.read_text(errors="replace")
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clean_install", description=__doc__.partition("\n")[0])
    parser.add_argument("--python", required=True, metavar="VERSION", help="3.12, or the path of a Python")
    parser.add_argument("tests", nargs="*", help="arguments of ./test; without any, all tests are run")
    asked = parser.parse_args()
    python = find_python(asked.python)
    demo, test = (step.line for step in read_steps("README.md") if step.section == "Two commands")
    # Of this environment the clone has what programs need and nothing of Python's.
    ours = ("FLUXRT_", "PYTHON", "VIRTUAL_ENV", "PG", "DEMO_DIR")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"PYTHON": python}
    with tempfile.TemporaryDirectory(prefix="flux-clean-") as folder:
        Path(folder).chmod(0o755)  # Some tests are of users who own nothing, and who have to be able to read the clone.
        clone = Path(folder) / "flux"
        subprocess.run(["git", "clone", "--quiet", "--no-local", ROOT, clone], check=True)
        began = time.monotonic()
        try_demo(clone, demo, environ)
        took_s = time.monotonic() - began
        print(f"{ask_version(python)}: {demo} served, failed, explained and ended, {took_s:.0f} s", flush=True)
        began = time.monotonic()
        done = subprocess.run([clone / test, *asked.tests], env=environ, check=False)
        print(f"{ask_version(python)}: {test} ended with {done.returncode}, {time.monotonic() - began:.0f} s")
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
