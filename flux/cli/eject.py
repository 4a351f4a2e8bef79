"""``flux eject``: write the project as a plain ASGI application, which runs without Flux.

It reads the project's folder and asks no server. All is read and judged before anything is written, and what is written
appears at once or not at all. The project itself is not touched.
"""

import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flux.cli.screen import Line, Piece, Screen, json_text
from flux.cli.settings import settings
from flux.errors import OperatorError

if TYPE_CHECKING:
    from flux.eject import ProjectFiles
    from flux.project import Project


class CannotComeAlongError(OperatorError):
    """Something of the project has no place in a plain application."""

    code = "FLX636"


class EjectFolderError(OperatorError):
    """The folder for the application has files in it already, or can't be written."""

    code = "FLX637"


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Leave out what can't come along, and list it in the README.")
def command(folder: Path, *, partial: bool) -> None:
    """Write the project to DIR as an ASGI application that runs without Flux."""
    from flux import __version__
    from flux.eject import find_obstacles, make_files
    from flux.project import find_project, read_project

    _check_free(folder)
    project = read_project(find_project(Path()))
    _check_apart(folder, project)
    there = _read_files(project)
    obstacles = find_obstacles(project.config, there)
    final = [one for one in obstacles if one.is_final]
    if final or (obstacles and not partial):
        listed = "\n".join(f"  {one}" for one in obstacles)
        remedy = f"change them, or leave them behind: flux eject {folder} --partial"
        if final:
            remedy = f"{final[0].what} can't be left behind: rename it, and say so in flux.toml ([project] functions)"
        raise CannotComeAlongError(
            f"{len(obstacles)} of this project can't come along, so nothing was written\n{listed}", remedy=remedy
        )
    own, guest = _find_packages()
    files = make_files(
        project.config, there, obstacles, lambda name: (own / name).read_bytes(),
        lambda name: (guest / name).read_bytes(), _read_templates(own / "ejected"), flux_version=__version__,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
    )  # fmt: skip
    _write(folder, files)
    said, screen = settings(), Screen.stdout()
    if said.json:
        left_out = [{"what": one.what, "why": one.why} for one in obstacles]
        answer = {"schema": "flux.eject/1", "folder": str(folder.absolute()), "files": list(files)}
        screen.write_raw_json(json_text({**answer, "left_out": left_out}))
        return
    lines: list[Line] = [[f"Created {folder}/ ({len(files)} files)"]]
    if not said.quiet:
        lines += [[Piece("  ! left out  ", "yellow"), str(one)] for one in obstacles]
        following = f"  next   read {folder}/README.md: how to start it, what is as it was, and what is not"
        lines += [[], [Piece(following, "dim")]]
    screen.page(lines)


def _check_free(folder: Path) -> None:
    try:
        occupied = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise EjectFolderError(
            f"{folder} is no folder that can be read: {error.strerror}", remedy="choose another one"
        ) from error
    if occupied:
        raise EjectFolderError(
            f"{folder}/ is not empty: it holds {', '.join(occupied[:3])}{' and more' if len(occupied) > 3 else ''}",
            remedy="choose a folder that is new or empty: nothing is ever written over",
        )


def _check_apart(folder: Path, project: "Project") -> None:
    """Refuse a folder whose files would be the project's functions or migrations from then on."""
    target = folder.resolve()
    for name in (project.config.project.functions, "migrations"):
        if target.is_relative_to((project.root / name).resolve()):
            raise EjectFolderError(
                f"{folder} is inside of {name}/, so what is written there would be a part of the project",
                remedy="choose a folder beside the project",
            )


def _read_files(project: "Project") -> "ProjectFiles":
    from flux.eject import ProjectFiles
    from flux.project import (
        find_requirements,
        list_artifact_files,
        list_function_files,
        list_migrations,
        read_inside,
    )
    from flux.supervisor.server_start import read_secrets

    root, functions = project.root, project.config.project.functions
    needed = find_requirements(root)
    packages = () if needed is None else (*needed.packages, *needed.constraints)
    return ProjectFiles(
        functions={
            path: read_inside(root, path)
            for path in list_artifact_files(project)
            if path.startswith(f"{functions}/")
        },
        runtimes={file.path: file.runtime for file in list_function_files(project)},
        migrations={one.path: read_inside(root, one.path) for one in list_migrations(project)},
        packages={
            path: read_inside(root, path) for package in packages if (path := package.path) is not None
        },
        requirements=needed,
        local_secrets=frozenset(read_secrets(root)),
    )


def _find_packages() -> tuple[Path, Path]:
    """Return the folders of ``flux`` and of ``flux_guest``, which is read here and never imported."""
    from importlib.util import find_spec

    guest = find_spec("flux_guest")
    assert guest is not None and guest.origin is not None, "flux_guest is installed with Flux"
    return Path(__file__).parents[1], Path(guest.origin).parent


def _read_templates(folder: Path) -> Mapping[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write them beside ``folder`` and rename that: half an application would be in the way of the next try."""
    target = folder.absolute()
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()  # Nobody else's, nor a link that somebody has put there.
        for path, content in files.items():
            place = beside / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            if path.endswith(".sh"):
                place.chmod(0o755)
        beside.rename(target)  # Over an empty folder too; over one that is not empty any more it fails.
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise EjectFolderError(
            f"{error.filename or folder} can't be written: {error.strerror}; nothing was left behind",
            remedy="choose a folder that is yours and has room",
        ) from error
