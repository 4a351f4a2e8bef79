"""Building an environment: an installer is started with its hands tied, and its work is looked at.

`build_environment` makes a folder of packages that is ready to be used, under a name of its
own; whoever calls gives it its final one. The steps, each of which can end it::

    job          the lines for the installer are written down, and where it may write
    install      uv or pip, as a process (`flux.sandbox.install_main`), watched for its size
    check_tree   what lies there now
    compile      byte code, which nobody can write later
    seal_tree    modes and hashes, and the manifest

The installer's last lines are what people need when it fails, so the error ends with them.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import trio

from flux.errors import FluxError, OperatorError
from flux.requirements import Requirements
from flux.sandbox.install_main import REFUSED_STATUS, Job
from flux.sandbox.jail import make_refusal
from flux.sandbox.jail_plan import SDK_PACKAGES
from flux.supervisor.environment_installer import (
    Installer,
    SourcePackageError,
    check_sources,
    hide_passwords,
    list_sdk_pins,
    list_variables,
    make_jobs,
    name_python,
)
from flux.supervisor.environment_tree import (
    FORMAT,
    PACKAGES_NAME,
    Manifest,
    RefusedPackageError,
    check_tree,
    list_packages,
    measure_bytes,
    seal_tree,
    write_manifest,
)

LOG_LINES = 12
LOG_BYTES = 64 * 1024
WATCH_S = 0.5
"""How often the size of what is being installed is looked at."""


class InstallFailedError(OperatorError):
    """The installer could not install the packages."""

    code = "FLX532"


async def build_environment(
    requirements: Requirements,
    root: Path,
    work: Path,
    key: str,
    installer: Installer,
    *,
    allow_sdist: bool,
    for_tenant: bool = False,
    final: Path,
    bytes_max: int,
) -> Path:
    """Return a folder below ``work`` that holds the packages and the manifest; raise an `OperatorError`.

    ``root`` is the project's folder, ``final`` the name that the environment will have.
    """
    check_sources(requirements, allow_sdist=allow_sdist)
    folder = work / "environment"
    packages = folder / PACKAGES_NAME
    for path in (packages, work / "tmp"):
        path.mkdir(parents=True)
    jobs = make_jobs(
        requirements, root, work, installer, allow_sdist=allow_sdist, for_tenant=for_tenant
    )
    environ = list_variables(
        requirements, work, installer, allow_sdist=allow_sdist, for_tenant=for_tenant
    )
    log = work / "log"
    for job in jobs:
        status = await _run_watched(job, root, environ, log, work, bytes_max)
        if status != 0:
            told = _read_log(log, work)
            raise _explain(status, told, requirements, installer, may_run=allow_sdist)
    await trio.to_thread.run_sync(check_tree, packages)
    compiling = Job(os.getpid(), [str(packages)], "compile", [str(packages), str(final / PACKAGES_NAME)], [])
    status = await _run_watched(compiling, work, environ, log, work, bytes_max)
    if status != 0:
        raise InstallFailedError(
            f"the packages can't be compiled: {_name_status(status)}\n{_read_log(log, work)}".rstrip(),
            remedy="one of them has a file that Python's own compiler fails on: do without it",
        )
    files = await trio.to_thread.run_sync(seal_tree, packages)
    write_manifest(
        folder,
        Manifest(FORMAT, key, name_python(), installer.text, allow_sdist, list_packages(packages), files),
    )
    folder.chmod(0o755)
    return folder


# --- running it --------------------------------------------------------------------------------------


async def _run_watched(
    job: Job, folder: Path, environ: Mapping[str, str], log: Path, work: Path, bytes_max: int
) -> int:
    """Run ``job`` to its end and return its exit status, or end it when ``work`` grows too large."""
    failure: FluxError | None = None
    status = 0
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal failure
            while True:
                await trio.sleep(WATCH_S)
                if await trio.to_thread.run_sync(measure_bytes, work) > bytes_max:
                    failure = _too_large(bytes_max)
                    nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        status = await _run(job, folder, environ, log)
        nursery.cancel_scope.cancel()
    if failure is None and await trio.to_thread.run_sync(measure_bytes, work) > bytes_max:
        failure = _too_large(bytes_max)  # It was quicker than we looked.
    if failure is not None:
        raise failure
    return status


def _too_large(bytes_max: int) -> RefusedPackageError:
    return RefusedPackageError(
        f"what is being installed takes more than {bytes_max >> 20:,} MiB of disk",
        remedy="look for the package that brings so much, and do without it",
    )


async def _run(job: Job, folder: Path, environ: Mapping[str, str], log: Path) -> int:
    process = _start(job, folder, environ, log)
    handle = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        # Also what it started and left, in its process group. We have not waited for it: the number is its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(handle)
    return process.returncode


def _start(job: Job, folder: Path, environ: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    # From this thread, not from a short-lived one: the process dies with the thread that made it.
    try:
        with open(log, "wb") as output:
            return subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "flux.sandbox.install_main", job.encode()],
                env=dict(environ),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise InstallFailedError(
            f"the installer can't be started: {error.strerror}", remedy="see ulimit -a, and df -h"
        ) from error


def _read_log(log: Path, work: Path) -> str:
    """Return the installer's last lines. What it names in ``work`` is gone when they are read."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    lines = [
        line.rstrip() for line in hide_passwords(text).replace(f"{work}/", "").splitlines() if line.strip()
    ]
    told = [line for line in lines if not line.startswith(("[notice]", "WARNING: Location"))]
    return "\n".join(told[-LOG_LINES:])


# --- why it failed -----------------------------------------------------------------------------------

_NOT_RUN = re.compile(
    r"\[Errno 1\] Operation not permitted|building from source is disabled|`--no-build`"
    r"|Failed to run `[^`]+`\n *cause: Permission denied"
)
_NO_WHEEL = re.compile(
    r"No matching distribution found for (?P<pip>[^\s;]+)|no versions? of (?P<uv>[A-Za-z0-9._-]+)"
    r"|Because (?P<absent>[A-Za-z0-9._-]+) was not found in the|(?P<wheels>[A-Za-z0-9._-]+) has no wheels"
)
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolution|name resolution|Connection refused|ConnectTimeout|ReadTimeout"
    r"|error sending request|Network is unreachable|client error \(Connect\)|tcp connect error"
)


def _explain(
    status: int, log: str, requirements: Requirements, installer: Installer, *, may_run: bool
) -> OperatorError:
    if status == REFUSED_STATUS:
        with contextlib.suppress(ValueError, IndexError):
            return make_refusal("build", json.loads(log.splitlines()[-1]))
    if not may_run and _NOT_RUN.search(log):
        return SourcePackageError(
            f"{requirements.source}: a package comes as source only, and to build it is to run its code\n{log}",
            remedy="choose a version that has a wheel, or trust it: flux build --allow-sdist",
        )
    missing = _NO_WHEEL.search(log)
    if _UNREACHABLE.search(log):
        remedy = (
            "the index can't be reached. Without a network, put wheels into a folder and write --no-index and "
            f"--find-links FOLDER into {requirements.source}"
        )
    elif "No space left" in log:
        remedy = "the disk is full: df -h"
    elif "DO NOT MATCH THE HASHES" in log or "Hash mismatch" in log:
        remedy = "what the index serves is not what was pinned: find out why before you change the hash"
    elif any(f"{name}==" in log for name in SDK_PACKAGES):
        remedy = f"functions have {', '.join(list_sdk_pins())} from Flux: ask for what agrees with that"
    elif missing is not None:
        what = next(found for found in missing.groups() if found)
        remedy = (
            f"is the name right, and is there a wheel of {what} for {name_python()}? What is published as source "
            "only needs flux build --allow-sdist, which runs its code"
        )
    else:
        remedy = f"correct {requirements.source}, then: flux build"
    return InstallFailedError(
        f"{installer.text} can't install what {requirements.source} asks for ({_name_status(status)})\n{log}",
        remedy=remedy,
    )


def _name_status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"
