"""Which part of a commit a request ran.

A commit changes many lines, and a request runs few of them. What is on record of a run are lines: those of its stack,
of its calls and of what it logged. A *hunk* of the commit's diff that has one of them was run; of the parent's run, the
lines are those that the commit took away. Where no hunk has such a line, those in a file that has one are the next
best, and are said to be that. That nothing can be named is an answer too.

Nothing here asks git: a diff comes in as text, as ``git diff-tree -p -U0`` writes it.
"""

import re
from collections.abc import Collection, Iterable

import attrs

HUNKS_MAX = 5
LINES_MAX = 12
"""Of one hunk, so many lines are shown."""
CHARACTERS_MAX = 400


@attrs.frozen
class Hunk:
    """Lines that stand together and were changed together."""

    path: str
    old_start: int
    """First of the lines that went, as the parent counts; of a hunk that only adds, the line before it."""
    old_count: int
    new_start: int
    """First of the lines that came; of a hunk that only takes away, the line before it."""
    new_count: int
    lines: tuple[str, ...]
    """As in the diff, each with its ``+`` or ``-``."""

    def has_new(self, line: int) -> bool:
        """Whether it wrote this line of the new file."""
        return self.new_start <= line < self.new_start + self.new_count

    def has_old(self, line: int) -> bool:
        """Whether it took this line of the old file away."""
        return self.old_start <= line < self.old_start + self.old_count


@attrs.frozen
class RunHunks:
    """The hunks of a commit that say most about a request."""

    hunks: tuple[Hunk, ...]
    was_run: bool
    """True: the request ran a line of each. False: it ran lines of the files that they are in."""
    left_out: int
    """How many more there are of the kind."""


Line = tuple[str, int]
"""A file, relative to the project's folder, and a line of it."""

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def parse_diff(text: str) -> tuple[Hunk, ...]:
    """Return the hunks of a diff without context."""
    hunks: list[Hunk] = []
    lines = text.split("\n")
    path = ""
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("diff --git "):
            path = ""
        elif line.startswith(("--- a/", "+++ b/")):
            # A tab follows a name with spaces in it.
            path = line[6:].partition("\t")[0]
        elif (found := _HUNK.match(line)) is not None:
            old_start, old_count, new_start, new_count = (
                int(number) if number is not None else 1 for number in found.groups()
            )
            begin = at
            # Counted, not guessed: a line that was removed may look like the head of a file.
            wanted = old_count + new_count
            while at < len(lines) and wanted:
                wanted -= lines[at].startswith(("+", "-"))
                at += 1
            body = tuple(line for line in lines[begin:at] if line.startswith(("+", "-")))
            hunks.append(Hunk(path, old_start, old_count, new_start, new_count, body))
    return tuple(hunks)


def choose_hunks(
    hunks: Iterable[Hunk], failing: Collection[Line], passing: Collection[Line]
) -> RunHunks | None:
    """Return the hunks that the request ran: ``failing`` lines on the commit, ``passing`` ones on its parent.

    None when nothing can be named.
    """
    hunks = list(hunks)
    ran = [hunk for hunk in hunks if _was_run(hunk, failing, passing)]
    files = {path for path, _ in (*failing, *passing)}
    chosen = ran or [hunk for hunk in hunks if hunk.path in files]
    if not chosen:
        return None
    shown = tuple(_cut(hunk) for hunk in chosen[:HUNKS_MAX])
    return RunHunks(shown, bool(ran), len(chosen) - len(shown))


def changed_any(hunks: Iterable[Hunk], failing: Collection[Line], passing: Collection[Line]) -> bool:
    """Whether one of the ``failing`` lines was written by a hunk, or one of the ``passing`` ones taken away."""
    return any(_was_run(hunk, failing, passing) for hunk in hunks)


def _was_run(hunk: Hunk, failing: Collection[Line], passing: Collection[Line]) -> bool:
    return any(path == hunk.path and hunk.has_new(line) for path, line in failing) or any(
        path == hunk.path and hunk.has_old(line) for path, line in passing
    )


def _cut(hunk: Hunk) -> Hunk:
    """Return a hunk of a length that can be shown."""
    lines = tuple(line[:CHARACTERS_MAX] for line in hunk.lines[:LINES_MAX])
    more = len(hunk.lines) - len(lines)
    return attrs.evolve(hunk, lines=(*lines, f" … {more} more lines") if more else lines)
