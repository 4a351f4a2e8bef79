"""A project's folder, as it stands on disk.

A *project* is the folder that holds ``flux.toml``. This module finds it, reads
it and names what it holds: the function files, the migrations, the packages that
it needs, the commit it stands on and the hash of its *artifact* (``flux.toml``, the
files that name packages and every file under the functions folder: what a deployment
consists of).

It reads files and asks ``git``, and changes nothing. All of it blocks for
milliseconds; it is meant for the start of a command and for reloads, not for
the path of a request.
"""

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs

from flux.config import CONFIG_NAME, Config, UnreadableConfigError, parse_config
from flux.errors import OperatorError
from flux.git import find_git_folder, run_git
from flux.requirements import (
    PYPROJECT_NAME,
    REQUIREMENTS_NAME,
    Requirements,
    RequirementsError,
    parse_pyproject,
    parse_requirements,
)

RUNTIMES = {".py": "python", ".ts": "typescript", ".js": "javascript", ".wasm": "wasm"}
"""The runtime that loads each kind of function file, by suffix."""

FILE_BYTES_MAX = 512 * 2**20
"""Of any file of a project: each is held whole while it is read."""
CONFIG_BYTES_MAX = 2**20
"""Of ``flux.toml``, and of ``.env.local``."""

_IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules"})


class NoProjectError(OperatorError):
    """There is no ``flux.toml`` in this folder or above it."""

    code = "FLX505"


class UnnumberedMigrationError(OperatorError):
    """Migrations have no order: a file without a number, or two with the same."""

    code = "FLX510"


class UnreadableProjectError(OperatorError):
    """A file or folder of the project is missing, or can't be read."""

    code = "FLX512"


@attrs.frozen
class FunctionFile:
    """One file in the functions folder that a runtime loads."""

    path: str
    """Relative to the project's folder, with ``/``: what stack traces and records name."""

    module: str
    """The same as Python would import it: ``functions.billing.nightly``."""

    runtime: str
    """A value of `RUNTIMES`."""


@attrs.frozen
class Migration:
    """One file in ``migrations/``."""

    number: int
    """Place in the order, from the start of the file's name."""

    path: str
    """Relative to the project's folder."""

    sql: str
    """What it does to the database."""


@attrs.frozen
class SourceVersion:
    """Which code stands in the project's folder."""

    sha: str
    """Commit, 40 hexadecimal digits; ``nogit-`` and 12 digits of the artifact's hash where there is none."""

    branch: str | None = None
    """Branch that is checked out; None without git, and on a detached HEAD."""

    changed_files: int = 0
    """Files of the project, git-ignored ones aside, that are not as the commit has them."""

    @property
    def dirty(self) -> bool:
        """Whether the folder differs from the commit."""
        return self.changed_files > 0


@attrs.frozen
class Project:
    """A project's folder and what its ``flux.toml`` says."""

    root: Path
    """The folder, absolute."""

    config: Config
    """What ``flux.toml`` said when it was read."""


def find_project(start: Path) -> Path:
    """The nearest folder, from ``start`` up, that holds ``flux.toml``; raise `NoProjectError` without one."""
    folder = start.absolute()
    for candidate in (folder, *folder.parents):
        if (candidate / CONFIG_NAME).is_file():
            return candidate
    raise NoProjectError(
        f"no {CONFIG_NAME} in {folder} or in a folder above it",
        remedy='start a project with "flux init shop", or make this folder one with "flux init --here"',
    )


def read_project(root: Path) -> Project:
    """The project in ``root``, which holds ``flux.toml``."""
    return Project(root=root, config=parse_config(read_config_text(root), CONFIG_NAME))


def read_config_text(root: Path) -> str:
    """The text of ``flux.toml`` in ``root``, as `parse_config` takes it."""
    content = read_inside(root, CONFIG_NAME, CONFIG_BYTES_MAX)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableConfigError(
            f"{CONFIG_NAME}:{line}  is not UTF-8 text: byte 0x{content[error.start]:02x}",
            remedy="save the file as UTF-8",
        ) from error
    # tomllib reads \r\n as \n; so must whoever counts lines.
    return text.replace("\r\n", "\n")


def list_function_files(project: Project) -> tuple[FunctionFile, ...]:
    """Every file under the functions folder that a runtime loads, in order of path."""
    files = []
    for path in _walk(project.root, project.config.project.functions):
        runtime = RUNTIMES.get(Path(path).suffix)
        # Declarations hold types only, and a package's __init__ is loaded with the package's modules.
        if runtime is None or path.endswith((".d.ts", "/__init__.py")):
            continue
        module = path[: path.rindex(".")].replace("/", ".")
        files.append(FunctionFile(path=path, module=module, runtime=runtime))
    return tuple(files)


def list_migrations(project: Project) -> tuple[Migration, ...]:
    """The files ``migrations/NNN….sql``, in the order of their numbers; none when there is no such folder."""
    if not (project.root / "migrations").is_dir():
        return ()
    migrations: dict[int, Migration] = {}
    for path in _walk(project.root, "migrations"):
        if not path.endswith(".sql"):
            continue
        number = re.match(r"[0-9]{1,18}", Path(path).name, re.ASCII)
        if number is None:
            raise UnnumberedMigrationError(
                f"{path} has no number, so its place among the migrations is unknown",
                remedy="start its name with one, such as migrations/002_add_plan.sql",
            )
        migration = Migration(
            number=int(number[0]), path=path, sql=_read_text_file(project.root, path)
        )
        if migration.number in migrations:
            raise UnnumberedMigrationError(
                f"{migrations[migration.number].path} and {path} have the same number, {migration.number}",
                remedy="give the later one the next free number",
            )
        migrations[migration.number] = migration
    return tuple(migrations[number] for number in sorted(migrations))


def find_requirements(root: Path) -> Requirements | None:
    """The packages that the project's functions need, None when they need none; raise `RequirementsError`.

    ``requirements.txt`` goes before ``pyproject.toml``: where there are both, it is the more exact.
    """
    if (root / REQUIREMENTS_NAME).is_file():
        found = parse_requirements(partial(_read_inside, root))
        return found if found.packages else None
    if (root / PYPROJECT_NAME).is_file():
        return parse_pyproject(_read_inside(root, PYPROJECT_NAME))
    return None


def check_inside(root: Path, path: str) -> None:
    """Refuse a file of the project that is a link to one outside; raise `RequirementsError`.

    Whoever wrote the project is not whoever installs for it, and an installer's words show what it has read.
    """
    if not (root / path).resolve().is_relative_to(root.resolve()):
        raise RequirementsError(
            f"{path}: a link leads out of the project's folder", remedy="put the file itself there"
        )


def _read_inside(root: Path, path: str) -> str:
    check_inside(root, path)
    return _read_text_file(root, path)


def _list_requirement_files(root: Path) -> tuple[str, ...]:
    """The files that say which packages there are to be, wheels of the project's included.

    What is wrong with them is said elsewhere. With the wheels an environment can be built again from the artifact.
    """
    try:
        found = find_requirements(root)
    except (RequirementsError, UnreadableProjectError):
        # Correcting it has to make another artifact, so the file that people edit belongs to it.
        return tuple(name for name in (REQUIREMENTS_NAME, PYPROJECT_NAME) if (root / name).is_file())[:1]
    if found is None:
        return ()
    wheels = (package.wheel for package in found.packages if package.wheel is not None)
    return (*found.files, *(path for path in wheels if (root / path).is_file()))


def list_artifact_files(project: Project) -> tuple[str, ...]:
    """Paths, relative to the project's folder, of all that a deployment consists of."""
    functions = _walk(project.root, project.config.project.functions)
    return tuple(dict.fromkeys((CONFIG_NAME, *_list_requirement_files(project.root), *functions)))


def hash_artifact(project: Project) -> str:
    """SHA-256, in hexadecimal, of names and content of the artifact's files: same files, same hash."""
    digest = hashlib.sha256()
    for path in list_artifact_files(project):
        content = read_inside(project.root, path)
        # Lengths first, so that no two lists of files write the same bytes.
        name = path.encode("utf-8", "surrogateescape")
        digest.update(b"%d %d\n" % (len(name), len(content)))
        digest.update(name)
        digest.update(content)
    return digest.hexdigest()


def read_source_version(project: Project) -> SourceVersion:
    """The commit, branch and cleanliness of the project's folder.

    Without a repository, or before its first commit, the artifact's hash
    stands in for a commit. A repository that git refuses to read is an error:
    to call its code "nogit" would hide the history that bisect needs.
    """
    root = project.root
    if find_git_folder(root) is None:
        return _without_commit(project, branch=None)
    # -z: names as they are. HEAD is asked of the same command, so that both belong to one moment.
    answer = run_git(
        ["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames", "--", "."],
        folder=root,
    )
    sha, branch, changed_files = "(initial)", None, 0
    for line in answer.decode("utf-8", "surrogateescape").split("\0"):
        if line.startswith("# branch.oid "):
            sha = line.removeprefix("# branch.oid ")
        elif line.startswith("# branch.head "):
            name = line.removeprefix("# branch.head ")
            branch = None if name == "(detached)" else name
        elif line and not line.startswith("#") and not _is_own_data(line):
            changed_files += 1
    if sha == "(initial)":
        return _without_commit(project, branch=branch)
    return SourceVersion(sha=sha, branch=branch, changed_files=changed_files)


def _is_own_data(status_line: str) -> bool:
    """Whether a line of ``git status`` is about ``.flux/``, where Flux itself writes."""
    return status_line.startswith("? ") and (status_line[2:].startswith(".flux/") or "/.flux/" in status_line)


def _without_commit(project: Project, *, branch: str | None) -> SourceVersion:
    return SourceVersion(sha=f"nogit-{hash_artifact(project)[:12]}", branch=branch)


def _walk(root: Path, folder: str) -> Iterator[str]:
    """Files under a folder of the project in order of path, hidden and generated ones left out."""
    top = root / folder
    if not top.is_dir():
        raise UnreadableProjectError(
            f"there is no folder {folder}/ in {root}",
            remedy=f'make it, or name another one in {CONFIG_NAME}: functions = "..." under [project]',
        )
    if not top.resolve().is_relative_to(root.resolve()):
        raise _leads_out(folder, top.resolve())
    found = []
    for path in top.rglob("*"):
        inside = path.relative_to(top).parts
        if any(part.startswith(".") or part in _IGNORED_FOLDERS for part in inside) or path.suffix == ".pyc":
            continue
        if path.is_file():
            name = path.relative_to(root).as_posix()
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                # What is copied from there would run, and be readable, as the project's own.
                raise _leads_out(name, path.resolve())
            found.append(name)
    yield from sorted(found)


def read_inside(root: Path, name: str, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """The content of a file of the project; raise `UnreadableProjectError`.

    Whoever wrote the project is not always whoever reads it, and may do so with the rights of a server. So a link
    that leads out of ``root`` is refused, and what is no regular file: it could give bytes without end, or none ever.
    Where the file is that was opened is asked of the system afterwards, as names may change in between.
    """
    path = root / name
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # To open a device may do something already.
            raise UnreadableProjectError(f"{name} is no regular file", remedy=f"put one there: ls -l {path}")
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            opened = Path(f"/proc/self/fd/{file.fileno()}").readlink()
            if not opened.is_relative_to(root.resolve()):
                raise _leads_out(name, opened)
            content = file.read(bytes_max + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError as error:
        raise UnreadableProjectError(
            f"{path} can't be read: {error.strerror}", remedy=f"look at it: ls -l {shlex.quote(str(path))}"
        ) from error
    if content is None:
        raise UnreadableProjectError(f"{name} is no regular file", remedy=f"put one there: ls -l {path}")
    if len(content) > bytes_max:
        raise UnreadableProjectError(
            f"{name} is larger than {bytes_max >> 20:,} MiB", remedy="keep what is so large elsewhere"
        )
    return content


def _leads_out(name: str, place: Path) -> UnreadableProjectError:
    return UnreadableProjectError(
        f"{name} is a link that leads out of the project, to {place}",
        remedy="copy it into the project, or remove the link",
    )


def _read_text_file(root: Path, name: str) -> str:
    try:
        return read_inside(root, name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableProjectError(f"{name} is not UTF-8 text", remedy="save the file as UTF-8") from error
