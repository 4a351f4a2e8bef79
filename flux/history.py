"""A repository's history, read by git's plumbing.

What is asked here is answered from git's own store of objects: nobody's checkout, index, HEAD or stash has any
part in it, and nothing is written. Names of commits are those that `flux.commit.find_commit` returns, 40 hexadecimal
digits, so none of them can be taken for an option; paths are taken literally.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import attrs

from flux.bisect_graph import Graph
from flux.errors import OperatorError
from flux.git import GitFailedError, run_git

COMMITS_MAX = 100_000
DIFF_BYTES_MAX = 4 * 2**20
_LITERAL = {"GIT_LITERAL_PATHSPECS": "1"}


class TooManyCommitsError(OperatorError):
    """Between two commits there are more than can be searched."""

    code = "FLX558"


@attrs.frozen
class CommitHead:
    """What a commit says of itself; its author wrote all of it."""

    sha: str
    author: str
    """Name, without the address."""
    authored_at: datetime
    subject: str
    """First line of its message."""


@attrs.frozen
class ChangedFile:
    """A file that a commit changed."""

    path: str
    """Relative to the project's folder."""
    added: int
    """Lines; 0 in a file that is no text."""
    removed: int


def is_ancestor(root: Path, older: str, newer: str) -> bool:
    """Whether commit ``newer`` is ``older`` or comes from it."""
    return not run_git(["rev-list", "--max-count=1", older, f"^{newer}"], folder=root).strip()


def find_merge_base(root: Path, one: str, other: str) -> str | None:
    """Return the latest commit that both come from; None where git names none."""
    try:
        return run_git(["merge-base", one, other], folder=root).decode().strip() or None
    except GitFailedError:
        # It only makes an advice more exact: histories without a common commit end like this, silently.
        return None


def read_graph(root: Path, good: str, bad: str, *, first_parent: bool = False) -> Graph:
    """Return the commits that ``bad`` has and ``good`` has not, with their parents."""
    options = ["--first-parent"] if first_parent else []
    told = run_git(
        ["rev-list", "--topo-order", "--reverse", "--parents", *options, bad, f"^{good}"], folder=root
    )
    lines = told.decode().splitlines()
    if len(lines) > COMMITS_MAX:
        raise TooManyCommitsError(
            f"between {good[:7]} and {bad[:7]} there are {len(lines):,} commits; {COMMITS_MAX:,} are the most",
            remedy="name a later --good, or --first-parent",
        )
    return Graph.read(lines, first_parent=first_parent)


def list_touching(
    root: Path, good: str, bad: str, paths: Collection[str], *, first_parent: bool = False
) -> list[str]:
    """Return the commits between two that changed one of these files or folders of the project."""
    options = ["--first-parent"] if first_parent else []
    told = run_git(
        ["rev-list", "--full-history", *options, bad, f"^{good}", "--", *sorted(paths)],
        folder=root, environment=_LITERAL,
    )  # fmt: skip
    return told.decode().split()


def get_tree(root: Path, sha: str) -> str:
    """Return git's hash of all that is in the project's folder as of a commit: equal hashes, equal files."""
    prefix = run_git(["rev-parse", "--show-prefix"], folder=root).decode("utf-8", "surrogateescape").strip()
    return run_git(["rev-parse", "--verify", f"{sha}:{prefix}"], folder=root).decode().strip()


def find_first_commits(root: Path, bad: str, word: str = "", path: str = "") -> list[str]:
    """Return the first commits behind ``bad``, the oldest first.

    With ``word`` and ``path``: those in which the file has, for the first time, that word in it.
    """
    if not path:
        return run_git(["rev-list", "--max-parents=0", bad], folder=root).decode().split()[::-1]
    told = run_git(
        ["log", "--format=%H", "--reverse", "--no-ext-diff", "--no-textconv", f"-S{word}", bad, "--", path],
        folder=root, environment=_LITERAL,
    )  # fmt: skip
    return told.decode().split()


def read_heads(root: Path, shas: Sequence[str]) -> Mapping[str, CommitHead]:
    """Return what commits say of themselves."""
    content = run_git(
        ["cat-file", "--batch"], folder=root, stdin="".join(f"{sha}\n" for sha in shas).encode()
    )
    heads: dict[str, CommitHead] = {}
    position = 0
    for sha in shas:
        head_end = content.index(b"\n", position)
        begin = head_end + 1
        end = begin + int(content[position:head_end].rpartition(b" ")[2])
        heads[sha] = _read_head(sha, content[begin:end])
        position = end + 1
    return heads


def _read_head(sha: str, raw: bytes) -> CommitHead:
    head, _, message = raw.partition(b"\n\n")
    author = next((line for line in head.split(b"\n") if line.startswith(b"author ")), b"author ")
    who, _, when = author.removeprefix(b"author ").rpartition(b"> ")
    name = who.partition(b" <")[0].decode("utf-8", "replace").strip()
    seconds, _, zone = when.decode("ascii", "replace").partition(" ")
    at = datetime.fromtimestamp(0, UTC)
    if seconds.isdecimal() and len(seconds) < 12:
        minutes = 0
        if len(zone) == 5 and zone[1:].isdecimal() and int(zone[1:3]) < 24:
            minutes = (int(zone[1:3]) * 60 + int(zone[3:])) * (-1 if zone[0] == "-" else 1)
        at = datetime.fromtimestamp(int(seconds), timezone(timedelta(minutes=minutes)))
    subject = message.strip().partition(b"\n")[0].decode("utf-8", "replace").strip()
    return CommitHead(sha, name, at, subject)


def list_changed_files(root: Path, parent: str, commit: str) -> tuple[ChangedFile, ...]:
    """Return the files of the project that ``commit`` changed."""
    told = run_git(
        ["diff-tree", "-r", "-z", "--numstat", "--no-renames", "--relative", parent, commit], folder=root
    )
    files = []
    for line in told.decode("utf-8", "surrogateescape").split("\0"):
        if line:
            added, removed, path = line.split("\t", 2)
            # A file that is no text has dashes there.
            files.append(ChangedFile(path, *(int(n) if n.isdecimal() else 0 for n in (added, removed))))
    return tuple(files)


def read_diff(root: Path, parent: str, commit: str, paths: Collection[str]) -> str | None:
    """Return what ``commit`` changed in some files of the project, without context; None when it is too long."""
    told = run_git(
        ["diff-tree", "-p", "-U0", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--relative",
         "--src-prefix=a/", "--dst-prefix=b/", parent, commit, "--", *sorted(paths)],
        folder=root, environment=_LITERAL,
    )  # fmt: skip
    return None if len(told) > DIFF_BYTES_MAX else told.decode("utf-8", "replace")
