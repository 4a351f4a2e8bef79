"""An application that ``flux eject`` wrote, as people run it: a process of its own, which can't import Flux.

It gets the packages that are installed here, and of these Flux is barred: to import it fails, however it is installed.
And ``flux_guest`` is the one that the application brings along. Both is checked in the process itself before it starts.
"""

import contextlib
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import DevServer, database_url, environment, run_flux, start_process

WITHOUT_FLUX = """
import runpy, sys
folder, packages, kind, name, *arguments = sys.argv[1:]
sys.path[:0] = [folder]
sys.path.append(packages)
sys.modules["flux"] = None
try:
    import flux.errors
except ImportError:
    pass
else:
    raise SystemExit("flux can be imported")
import flux_guest
assert flux_guest.__file__ == folder + "/flux_guest/__init__.py", flux_guest.__file__
sys.argv = [name, *arguments]
(runpy.run_path if kind == "path" else runpy.run_module)(name, run_name="__main__")
"""
COMMAND_S_MAX = 120.0


def eject(project: Path, folder: Path, *arguments: str) -> Path:
    """Run ``flux eject`` in ``project``; return the application's folder."""
    done = run_flux(project, "eject", str(folder), *arguments)
    assert done.returncode == 0, done.stderr
    return folder


def make_command(folder: Path, kind: str, name: str, *arguments: str) -> list[str]:
    """Return how a ``path`` or ``module`` is run there; -I and -S leave out the environment and all .pth files."""
    packages = sysconfig.get_path("purelib")
    return [sys.executable, "-I", "-S", "-c", WITHOUT_FLUX, str(folder), packages, kind, name, *arguments]


def make_environment(database: Database, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an application on ``database``."""
    return {**environment(), "DATABASE_URL": database_url(database), "PYTHONDONTWRITEBYTECODE": "1", **more}


def migrate(folder: Path, database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``migrate.py``."""
    return subprocess.run(
        make_command(folder, "path", str(folder / "migrate.py"), *arguments), env=make_environment(database, {}),
        capture_output=True, text=True, check=False, timeout=COMMAND_S_MAX,
    )  # fmt: skip


@contextlib.contextmanager
def running_application(
    folder: Path, database: Database, more: Mapping[str, str] | None = None, target: str = "main:application"
) -> Iterator[DevServer]:
    """Serve it with uvicorn, on a free port of loopback, for as long as the block lasts."""
    command = make_command(
        folder, "module", "uvicorn", target, "--port", "0", "--no-proxy-headers"
    )
    with _running(command, folder, make_environment(database, more or {})) as server:
        line = server.wait_story("Uvicorn running on")
        port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert port is not None, line
        server.port = int(port[1])
        yield server


@contextlib.contextmanager
def running_worker(
    folder: Path, database: Database, more: Mapping[str, str] | None = None
) -> Iterator[DevServer]:
    """Run ``worker.py`` for as long as the block lasts."""
    command = make_command(folder, "path", str(folder / "worker.py"))
    with _running(command, folder, make_environment(database, more or {})) as server:
        yield server


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Iterator[DevServer]:
    server = start_process(command, folder, environ)
    try:
        yield server
        if server.process.poll() is None:
            assert server.stop() in (0, -15), "\n".join(server.story)
    finally:
        server.kill()
