"""``flux doctor``: whether everything that Flux needs is here, and what is really in force.

Two parts. What this machine has is looked at here. What a running server does
(isolation, recording, capture) only the server knows, so it is asked; no server is
no failure, since the doctor is called most when nothing runs, and it is said. The
walls around functions are then tried from here, as a server would.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click

from flux.cli.failures import EXIT_FINDING, NoServer, ServerUnreachable
from flux.cli.screen import Line, Piece, Screen, pad, wrap
from flux.cli.settings import settings
from flux.errors import FluxError

PYTHON_MIN = (3, 11)
PACKAGES = ("trio", "asyncpg", "h11", "httpcore", "msgspec")
"""Worth naming with their versions: most surprises come from one of them."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@click.command()
def command() -> int:
    """Whether everything that Flux needs is here, and what is really in force."""
    said = settings()
    checks = [*_local(), *_of_server()]
    screen = Screen.stdout()
    wrong = [check for check in checks if not check.ok]
    if said.json:
        from flux.cli.screen import json_text

        document = {"schema": "flux.doctor/1", "checks": [asdict(check) for check in checks]}
        screen.write_raw_json(json_text(document))
    else:
        for check in checks:
            if not check.ok or not said.quiet:
                # Into a pipe nothing is broken: a program looks for whole lines.
                for line in _lines(check, screen.width if screen.is_terminal else None):
                    screen.line(*line)
    return EXIT_FINDING if wrong else 0


def _lines(check: Check, width: int | None) -> list[Line]:
    def broken(text: str) -> list[str]:
        return wrap(text, max(20, width - 18), keeps_words=True) if width is not None else [text]

    mark = Piece("✓", "green") if check.ok else Piece("!", "bold yellow")
    first, *rest = broken(check.detail)
    lines: list[Line] = [["  ", mark, " ", Piece(pad(check.name, 13), "bold"), " ", first]]
    lines += [[" " * 18, line] for line in rest]
    if check.remedy and not check.ok:
        lines += [[" " * 18, Piece(line, "cyan")] for line in broken(check.remedy)]
    return lines


def _local() -> Iterator[Check]:
    version = sys.version_info
    found = ".".join(map(str, version[:3]))
    packages = " · ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    yield Check(
        "python", version[:2] >= PYTHON_MIN, f"{found} · {packages}",
        f"Flux needs Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer",
    )  # fmt: skip
    yield _check_command_name()
    yield _check_git()
    yield _check_postgres()
    yield _check_project()
    yield from _check_packages()


def _check_command_name() -> Check:
    """Another program of the same name (Flux CD has one) may be the one that a shell finds."""
    import shutil

    first, ours = shutil.which("flux"), Path(sys.argv[0])
    if first is None:
        return Check("command", True, "flux is not on PATH; it runs as python -m flux")
    here = Path(sys.executable).parent
    if Path(first).resolve().parent in (here.resolve(), ours.resolve().parent):
        return Check("command", True, f"flux on PATH is this one: {first}")
    remedy = "use fluxrt: it is the same program as this one"
    return Check("command", False, f"another flux is first on PATH: {first}", remedy)


def _check_git() -> Check:
    from flux.git import run_git

    try:
        version = run_git(["--version"], folder=Path()).decode(errors="replace").strip()
    except FluxError as error:
        return Check("git", False, error.message, error.remedy or "install git: commits are how records name code")
    return Check("git", True, version)


def _check_postgres() -> Check:
    from flux.store.embedded_binaries import find_binaries

    try:
        binaries = find_binaries()
    except FluxError as error:
        return Check("postgres", False, error.message, error.remedy)
    return Check("postgres", True, f"programs for an embedded server in {binaries.postgres.parent}")


def _check_project() -> Check:
    from flux.project import NoProjectError, find_project, list_function_files, read_project

    try:
        root = find_project(Path())
        project = read_project(root)
        files = list_function_files(project)
    except NoProjectError:
        return Check("project", True, "this folder is no project; flux init DIR starts one")
    except FluxError as error:
        return Check("project", False, f"{error.code} {error.message}", error.remedy)
    return Check("project", True, f'"{project.config.project.name}" in {root}, {len(files)} function files')


def _check_warm() -> Iterator[Check]:
    """Say whose module state lasts, by file: which functions are in them only their import tells."""
    from flux.project import find_project, list_function_files, read_project
    from flux.supervisor.isolation import describe_warm

    try:
        project = read_project(find_project(Path()))
        files = [file.path for file in list_function_files(project) if file.runtime == "python"]
    except FluxError:
        return  # No project, or one that is no good; `_check_project` has told that.
    line = describe_warm(project.config.sandbox.warm, files)
    yield Check(str(line["name"]), bool(line["ok"]), str(line["detail"]), str(line["remedy"]))


def _check_packages() -> Iterator[Check]:
    """Look at the packages of the project as a start of ``flux dev`` would, and install nothing."""
    import trio

    from flux.project import NoProjectError, find_project, find_requirements
    from flux.supervisor.environments import FOLDER_NAME, Environments, count_packages

    try:
        root = find_project(Path())
        requirements = find_requirements(root)
        if requirements is None:
            return
        found = trio.run(Environments(root / ".flux" / FOLDER_NAME).find, root)
    except NoProjectError:
        return
    except FluxError as error:
        yield Check("packages", False, f"{error.code} {error.message}", error.remedy)
        return
    if found is None:
        yield Check(
            "packages", True, f"{requirements.source} asks for some that are not installed yet: flux build"
        )
        return
    how = ", which ran code of theirs" if found.ran_code else ""
    told = f"{count_packages(found.packages)} of {found.source}, as {found.installer} installed them{how}"
    yield Check("packages", True, told)


def _check_isolation() -> Iterator[Check]:
    """Build the jail that the project's functions would run in, and try it."""
    from flux.config import SandboxConfig
    from flux.project import find_project, read_project
    from flux.sandbox.cgroups import describe as describe_cgroups
    from flux.sandbox.cgroups import find_cgroups
    from flux.sandbox.jail import describe_findings, find_guest_uid, probe_jail
    from flux.supervisor.isolation import list_kinds
    from flux.tenant import Tenant

    level, kinds = SandboxConfig().isolation, [False]
    try:
        project = read_project(find_project(Path()))
        level, kinds = project.config.sandbox.isolation, list_kinds(project)
    except FluxError:
        pass  # No project, or one that is no good; `_check_project` has told that.
    try:
        uid = find_guest_uid(level, Tenant().name)
        findings = {runs_wasm: probe_jail(level, uid, runs_wasm=runs_wasm) for runs_wasm in kinds}
    except FluxError as error:
        yield Check("isolation", False, f"{error.code} {error.message}", error.remedy)
        return
    lines = describe_findings(level, findings.get(False, ()), findings.get(True, ()))
    for line in (*lines, describe_cgroups(find_cgroups())):
        yield Check(str(line["name"]), bool(line["ok"]), str(line["detail"]), str(line["remedy"]))


def _of_server() -> Iterator[Check]:
    from flux.cli.client import open_client

    try:
        answer = open_client().get("checks")
        checks = answer.record.records("checks")
    except (NoServer, ServerUnreachable) as error:
        yield Check("server", True, f"none is running here, so recording can't be told ({error.code})")
        yield from _check_isolation()
        yield from _check_warm()
        return
    except FluxError as error:
        yield Check("server", False, f"{error.code} {error.message}", error.remedy)
        return
    for check in checks:
        yield Check(check.text("name"), check.flag("ok"), check.text("detail"), check.maybe_text("remedy") or "")
