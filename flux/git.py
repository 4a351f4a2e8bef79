"""Asking ``git``, without letting it run anything else.

A repository may be configured to start programs on almost every command:
hooks, file-system monitors, pagers, credential helpers, signers. Flux only
reads history, or writes one that it made up itself, so each command here
switches those off, never prompts, and has a time limit.

`run_git` waits for a short-lived child process and is plain blocking code:
commands answer within milliseconds. Code that serves requests calls it before
it starts to serve, or from a process of its own.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flux.errors import OperatorError

GIT_TIMEOUT_S = 30.0
"""How long one command may take; ``status`` on a cold disk is the slowest that Flux asks."""

_QUIET = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "core.pager=cat",
    "-c", "commit.gpgSign=false",
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
)  # fmt: skip


class GitMissingError(OperatorError):
    """There is no ``git`` on PATH."""

    code = "FLX506"


class GitFailedError(OperatorError):
    """``git`` said no, or took too long."""

    code = "FLX511"


def run_git(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Standard output of ``git`` with these arguments, run in ``folder``.

    Raises `GitMissingError` when there is no git and `GitFailedError`, with
    git's own last words, when it exits with anything but 0.
    """
    command = ["git", "--no-pager", *_QUIET, *arguments]
    try:
        finished = subprocess.run(
            command,
            cwd=folder,
            env={**_clean_environment(), **(environment or {})},
            input=stdin,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise
        raise GitMissingError(
            "git is not on PATH",
            remedy="install it (Debian, Ubuntu: apt-get install git) and run the command again",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise GitFailedError(
            f"git {arguments[0]} in {folder} gave no answer in {GIT_TIMEOUT_S:g} s",
            remedy=f"try it by hand: git -C {folder} {arguments[0]}",
        ) from error
    if finished.returncode != 0:
        told = finished.stderr.decode("utf-8", "replace").strip()
        raise GitFailedError(
            f"git {arguments[0]} in {folder} exited with {finished.returncode}: {told or 'it said nothing'}",
            remedy=_advise(told, folder),
        )
    return finished.stdout


def find_git_folder(folder: Path) -> Path | None:
    """The nearest folder, from this one up, that git would take for a repository's; None outside of one.

    A look at the file system and no more, so that it works without git and
    tells "no repository" from "a repository that git refuses to read".
    """
    for candidate in (folder, *folder.parents):
        # A folder in a plain clone; a file in a worktree or a submodule.
        if (candidate / ".git").exists():
            return candidate
    return None


def _clean_environment() -> dict[str, str]:
    """Our environment, less what points git elsewhere: as inside a hook, where GIT_DIR is set."""
    # The one that stays only makes git stricter, and lets a test see what it does then.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name == "GIT_TEST_ASSUME_DIFFERENT_OWNER"
    }
    return {
        **kept,
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
    }


def _advise(told: str, folder: Path) -> str:
    if "dubious ownership" in told:
        # To trust someone else's repository is not ours to decide: its configuration names programs to run.
        owned = find_git_folder(folder) or folder
        return f"it is another user's; if you trust it: git config --global --add safe.directory {owned}"
    return f"try it by hand: git -C {folder} status"
