"""The program that installs a project's packages, with its hands tied.

``python -m flux.sandbox.install_main JOB``, started by the supervisor
(`flux.supervisor.environment_build`). What it installs was written by strangers, so before it
looks at any of it there are two walls around it, for good:

- Landlock: nothing can be written but below the folder of the environment that is being
  built, and in the installer's own cache. A wheel that unpacks into ``../..`` meets the
  installer's own check first, and this behind it.
- No program can be started. A package that comes as source would have to be built, by
  running its code; a wheel may ask for such a package among its dependencies, and what
  installers call "only binary" has exceptions. Here it can't happen, whatever was asked for:
  by seccomp for pip, which runs in this process; for uv, which is a program, by Landlock, as
  the one that can be.

For a tenant there is a third: only the tenant's project, Python, the installer and what a system has
for all programs can be read. An index, or a package in its list of what it needs, may name a file,
and it could be somebody else's package.

With ``--allow-sdist`` somebody wants code to be run. Then the second wall is not put up, and
the cache, from which other projects are served, can't be written.

It imports no module of a package: pip runs in this process, from Flux's own Python, and
what is compiled in the end is compiled and not run.
"""

import compileall
import json
import os
import py_compile
import runpy
import sys
from dataclasses import asdict, dataclass

from flux.sandbox.jail_landlock import restrict_to_writing
from flux.sandbox.jail_linux import LayerRefusedError, check_machine, die_with_parent
from flux.sandbox.jail_seccomp import install, make_no_programs_filter

REFUSED_STATUS = 71
"""A wall could not be put up: the last line of output says which."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to do, and where it may write."""

    parent: int
    """Process id of the supervisor: the job ends with it."""
    writable: list[str]
    """Files and folders that can be written; they are there."""
    program: str
    """``pip``, ``compile``, or the path of uv."""
    arguments: list[str]
    """Of pip or uv; for ``compile`` the folder, and the name that it will have."""
    programs: list[str] | None
    """Which programs can be started; None for all: builds, and whatever they start."""
    readable: list[str] | None = None
    """Files and folders that can be read; None for all. Indexes and packages may name any file of the machine."""

    def encode(self) -> str:
        """Return the job as one line."""
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str) -> "Job":
        """Return the job that `encode` wrote."""
        return Job(**json.loads(text))


def main(arguments: list[str]) -> int:
    """Do the job that ``arguments`` describe."""
    job = Job.decode(arguments[0])
    die_with_parent(job.parent)
    os.umask(0o022)
    try:
        check_machine()
        restrict_to_writing(job.writable, programs=job.programs, readable=job.readable)
        if job.programs == []:
            install(make_no_programs_filter())
    except LayerRefusedError as error:
        told = {"layer": error.layer, "call": error.call, "errno": error.number, "detail": error.detail}
        print(json.dumps(told), flush=True)
        return REFUSED_STATUS
    if job.program == "compile":
        _compile(*job.arguments)
    elif job.program == "pip":
        # pip looks into each of these for what is installed, and ends where it may not: Flux's own folder, if it is
        # installed in place.
        sys.path[:] = [place for place in sys.path if _can_be_read(place)]
        sys.argv = ["pip", *job.arguments]
        runpy.run_module("pip", run_name="__main__", alter_sys=True)
    else:
        os.execve(job.program, [job.program, *job.arguments], os.environ)
    return 0


def _can_be_read(place: str) -> bool:
    try:
        os.close(os.open(place, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _compile(folder: str, name: str) -> None:
    """Compile every module below ``folder``, which will be called ``name``.

    Nobody can do so later: in the jail nothing is written. Files that don't compile (templates, tests of
    another Python) are left: importing them says what is wrong.
    """
    compileall.compile_dir(
        folder,
        quiet=2,
        stripdir=folder,
        prependdir=name,
        # The files never change: that is for the environment's own list of hashes to say, not for each import.
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
