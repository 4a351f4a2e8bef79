"""The log of a bisect, line by line as it goes: for ``git bisect replay``, and to go on from.

What git reads are its own commands. Beside them stand comments for people, and one for ourselves: what the search was
about, so that marks are never taken over into another question.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flux.bisect import Mark
from flux.cli.failures import UsageError
from flux.sanitize import sanitize

_QUESTION = "# flux: "
_MARK = re.compile(r"git bisect (good|bad|skip) ([0-9a-f]{40,64})")


class BisectLog:
    """A file that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where it is."""

    def start(self, question: Mapping[str, Any], bad: str, good: str, *, first_parent: bool) -> None:
        """Begin anew, with both ends proved."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        option = " '--first-parent'" if first_parent else ""
        self.path.write_text(
            f"# flux bug bisect {question['executions'][0]}\n{_QUESTION}{json.dumps(question)}\n"
            f"git bisect start{option}\ngit bisect bad {bad}\ngit bisect good {good}\n",
            encoding="utf-8",
        )

    def add(self, mark: Mark, sha: str, subject: str, reason: str) -> None:
        """Write down a mark. Subject and reason were written by others."""
        # With the line feeds of both escaped, nothing in them can become a command of git's.
        self._append(f"# {sanitize(f'{mark.value}: [{sha}] {subject}: {reason}')}\ngit bisect {mark.value} {sha}\n")

    def end(self, sha: str) -> None:
        """Write down the first bad commit."""
        self._append(f"# first bad commit: [{sha}]\n")

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def read(self, question: Mapping[str, Any]) -> dict[str, Mark]:
        """Return the marks of an earlier search for the same; refuse those of another."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise UsageError(
                f"flux bug bisect: there is no {self.path} to go on from", remedy="leave out --resume"
            ) from error
        said = next((line.removeprefix(_QUESTION) for line in lines if line.startswith(_QUESTION)), "")
        if said != json.dumps(question):
            raise UsageError(
                f"flux bug bisect: {self.path} is of a search with other ends or options",
                remedy="leave out --resume, or say what was said then",
            )
        found = (_MARK.fullmatch(line) for line in lines)
        return {mark[2]: Mark(mark[1]) for mark in found if mark is not None}


def find_log(name: str) -> BisectLog | None:
    """Return the log of an execution's bisect in the project that this folder is in; None outside of any.

    Only a folder that Flux has made is written to: it is none of git's.
    """
    folder = Path.cwd()
    for parent in (folder, *folder.parents):
        if (parent / ".flux").is_dir():
            return BisectLog(parent / ".flux" / "bisect" / f"{name}.log")
    return None
