"""The files of an execution, as an editor shows them.

A file whose text here is what ran is named by its path, and the editor shows it as its own. One that has changed since
is given by a number, and its text is that of then: an arrow in the file of now would point at another line.
"""

from pathlib import Path
from typing import Any

from flux.cli.debug_walk import Walk
from flux.sanitize import sanitize

FILE_BYTES_MAX = 4 * 2**20


class Sources:
    """See the module."""

    def __init__(self, walk: Walk, root: Path | None) -> None:
        """``root`` is the project's folder; None where one is in no project."""
        self._walk = walk
        self._root = None if root is None else root.resolve()
        self._files: list[str] = []
        """By the number, from 1, by which the client asks for their text."""

    def describe(self, file: str) -> dict[str, Any]:
        """Return a frame's ``source``, or nothing where its code is not known."""
        if not file:
            return {}
        lines = self._walk.source(file)
        name = sanitize(file.rpartition("/")[2])
        if lines is None:
            return {"source": {"name": name, "origin": "its code is not kept", "presentationHint": "deemphasize"}}
        if (path := self._find_same(file, lines)) is not None:
            return {"source": {"name": name, "path": str(path)}}
        if file not in self._files:
            self._files.append(file)
        number = self._files.index(file) + 1
        return {"source": {"name": name, "sourceReference": number, "origin": "as it ran; it has changed here since"}}

    def read(self, number: object) -> str | None:
        """Return the text behind a number."""
        if type(number) is not int or not 1 <= number <= len(self._files):
            return None
        lines = self._walk.source(self._files[number - 1])
        return None if lines is None else "\n".join(lines)

    def find(self, source: dict[str, Any]) -> tuple[str, str | None, str]:
        """Return a key for a ``source`` of the client's, the file that it is in the execution, and why it is none."""
        number, path = source.get("sourceReference"), source.get("path")
        if type(number) is int and number:
            file = self._files[number - 1] if 1 <= number <= len(self._files) else None
            return f"#{number}", file, "there is no such source"
        if not isinstance(path, str):
            return "", None, "the source has neither a path nor a number"
        if self._root is None:
            return path, None, "this is no project's folder, so no file here is known to be one of the execution's"
        try:
            here = Path(path).resolve()
        except (OSError, ValueError):
            return path, None, "this is no path"
        if not here.is_relative_to(self._root):
            return path, None, f"it is no file of the project at {self._root}"
        file = here.relative_to(self._root).as_posix()
        if not file.endswith(".py"):
            return path, None, "breakpoints are for lines of Python"
        lines = self._walk.source(file)
        if lines is None:
            return path, None, "there was no such file in the code that ran"
        if self._find_same(file, lines) is None:
            return path, None, "the file has changed since: set it in what ran, which a frame of the stack opens"
        return path, file, ""

    def _find_same(self, file: str, lines: list[str]) -> Path | None:
        """Return the file here whose text is what ran."""
        if self._root is None:
            return None
        try:
            path = (self._root / file).resolve()
            if not path.is_relative_to(self._root) or not path.is_file() or path.stat().st_size > FILE_BYTES_MAX:
                return None
            return path if path.read_text(encoding="utf-8", errors="replace").split("\n") == lines else None
        except (OSError, ValueError):
            return None
