"""``flux init``: a new project, or a ``flux.toml`` for an existing folder.

It lists what it writes and never overwrites a file. With ``--tutorial`` the new
folder is a git repository with a history, one commit of which has a bug: the
tools that look back need a past to look at.
"""

import datetime
import re
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import click

from flux.cli.screen import Screen, json_text
from flux.cli.settings import settings
from flux.config import CONFIG_NAME
from flux.errors import OperatorError
from flux.git import GitFailedError, GitMissingError
from flux.tutorial.history import COMMITS, list_files, list_starter_files, write_files, write_repository

DESCRIPTIONS = {
    "flux.toml": "project, limits, what functions may reach",
    "functions/signup.py": "POST /signup",
    "functions/orders.py": "POST /orders, GET /orders/{id}",
    "functions/pricing.py": "what things cost; no route",
    "migrations/001.sql": "users, orders",
    "tests/": "pytest",
}
"""What is worth listing of a new project, in this order. Everything else is named below it."""


class OccupiedFolderError(OperatorError):
    """The folder for a new project has files in it already."""

    code = "FLX507"


class AlreadyProjectError(OperatorError):
    """``--here`` finds a ``flux.toml``: there is nothing to add."""

    code = "FLX513"


class UnwritableFolderError(OperatorError):
    """The folder for the project can't be made, or not be written to."""

    code = "FLX514"


@click.command()
@click.argument("folder", metavar="DIR", required=False, type=click.Path(path_type=Path))
@click.option("--tutorial", is_flag=True, help="A git repository with 12 commits, one of which has a bug.")
@click.option("--here", is_flag=True, help="Add only flux.toml, to a folder that exists.")
def command(folder: Path | None, *, tutorial: bool, here: bool) -> None:
    """Start a project in DIR, or make an existing folder one."""
    if tutorial and here:
        raise click.UsageError("--tutorial makes a new folder; --here adds to an existing one: choose one")
    if here:
        _init_here(folder or Path())
    elif folder is None:
        raise click.UsageError('say where: "flux init shop", or "flux init --here" for this folder')
    else:
        _init_new(folder, tutorial=tutorial)


def name_project(folder: Path) -> str:
    """A project name, as ``flux.toml`` allows them, made from the folder's own."""
    # An accent is taken off its letter: "läden" is "laden", and no hole.
    letters = unicodedata.normalize("NFKD", folder.absolute().name.lower())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^a-z0-9_-]+", "-", letters).strip("-_")[:63]
    return name if name[:1].isalpha() else f"project-{name}"[:63].rstrip("-")


def _init_new(folder: Path, *, tutorial: bool) -> None:
    made = not folder.exists()
    _make_empty_folder(folder)
    name = name_project(folder)
    files = list_files(COMMITS, name) if tutorial else list_starter_files(name)
    try:
        if tutorial:
            write_repository(folder, name, datetime.datetime.now(datetime.UTC))
        else:
            write_files(files, folder)
    except (GitMissingError, GitFailedError):
        # Half a tutorial would be in the way of the next try; without git nothing was written yet.
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
    except OSError as error:
        raise _unwritable(folder, error) from error
    if settings().json:
        _write_json(folder, files)
        return
    history = f" (git repository, {len(COMMITS)} commits)" if tutorial else ""
    screen = Screen.stdout()
    # "." is where one is: what was made there has the folder's own name.
    screen.line(f"Created {folder if folder != Path() else folder.absolute()}/{history}")
    if settings().quiet:
        return
    screen.line()
    for path, description in DESCRIPTIONS.items():
        buggy = tutorial and path == "functions/signup.py"
        marker = f"   ← has a bug, in one of the {len(COMMITS)} commits" if buggy else ""
        screen.line(f"  {path:<22}{description}{marker}")
    others = [path for path in sorted(files) if not any(path.startswith(listed) for listed in DESCRIPTIONS)]
    screen.line(f"  {'and':<22}{', '.join(others)}")
    _write_next(folder, "flux dev")


def _init_here(folder: Path) -> None:
    target = folder / CONFIG_NAME
    if target.exists():
        raise AlreadyProjectError(
            f"{target} exists already, and flux init overwrites nothing",
            remedy=f"this folder is a project: cd {folder} && flux dev",
        )
    told = not (settings().json or settings().quiet)
    screen = Screen.stdout()
    if told:
        screen.line(f"Will write, in {folder.absolute()}/ and nowhere else:")
        screen.line()
        screen.line(f"  {CONFIG_NAME:<22}{DESCRIPTIONS[CONFIG_NAME]}")
        screen.line()
    files = {CONFIG_NAME: list_files(COMMITS[:1], name_project(folder))[CONFIG_NAME]}
    try:
        # "x": a file that appeared since we looked is not overwritten either.
        with target.open("x", encoding="utf-8") as file:
            file.write(files[CONFIG_NAME])
    except OSError as error:
        raise _unwritable(folder, error) from error
    if settings().json:
        _write_json(folder, files)
        return
    screen.line(f"Created {target}")
    if told:
        has_functions = (folder / "functions").is_dir()
        _write_next(folder, "flux dev" if has_functions else "mkdir functions, and put a function into it")


def _write_json(folder: Path, files: Mapping[str, str]) -> None:
    answer = {"schema": "flux.init/1", "folder": str(folder.absolute()), "files": sorted(files)}
    Screen.stdout().write_raw_json(json_text(answer))


def _write_next(folder: Path, command_line: str) -> None:
    screen = Screen.stdout()
    screen.line()
    screen.line(f"  next   {'' if folder == Path() else f'cd {shlex.quote(str(folder))} && '}{command_line}")


def _make_empty_folder(folder: Path) -> None:
    """Make the folder, or accept one that exists and is empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = sorted(entry.name for entry in folder.iterdir())
    except (FileExistsError, NotADirectoryError) as error:
        raise OccupiedFolderError(
            f"{folder} is a file, not a folder", remedy="choose another name for the project"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    if occupied:
        more = f" and {len(occupied) - 3} more" if len(occupied) > 3 else ""
        raise OccupiedFolderError(
            f"{folder}/ is not empty: it holds {', '.join(occupied[:3])}{more}",
            remedy=f"choose another folder, or add only {CONFIG_NAME} to this one: flux init {folder} --here",
        )


def _unwritable(folder: Path, error: OSError) -> UnwritableFolderError:
    return UnwritableFolderError(
        f"{error.filename or folder} can't be written: {error.strerror}",
        remedy="choose a folder that is yours, or look at it: ls -ld " + shlex.quote(str(folder)),
    )
