"""A commit's files, taken out of the repository without touching the checkout.

Nobody's working tree, index or HEAD has any part in it: names and content are read from
git's own store, file by file, and written into a folder that the caller gives. Filters and
attributes of the repository are not applied: what was committed is what is written. Links
are written where they stay inside.
"""

import contextlib
import os
from pathlib import Path

import attrs

from flux.config import CONFIG_NAME
from flux.errors import OperatorError
from flux.git import GitFailedError, find_git_folder, run_git

FILES_MAX = 50_000
BYTES_MAX = 512 * 2**20
LINK = "120000"
"""The mode of a symbolic link, whose content is where it leads."""


class NoSuchCommitError(OperatorError):
    """A name is no commit of this repository, or one without the project."""

    code = "FLX525"
    exit_code = 3


class UnusableCommitError(OperatorError):
    """A commit has files that can't be written out."""

    code = "FLX526"


@attrs.frozen
class _Entry:
    mode: str
    object: str
    path: str
    size_bytes: int


def find_commit(root: Path, ref: str) -> str:
    """Return the commit that ``ref`` names in the repository of the project in ``root``: 40 hexadecimal digits."""
    if find_git_folder(root) is None:
        raise NoSuchCommitError(
            f"{root} is in no git repository, so {ref} names no commit", remedy="git init"
        )
    try:
        # What begins with a dash is an option to git wherever it stands; no ref begins so.
        told = run_git(
            ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"], folder=root
        )
    except GitFailedError as error:
        raise NoSuchCommitError(
            f'"{ref}" names no commit of this repository', remedy="git log --oneline shows what there is"
        ) from error
    return told.decode().strip()


def find_branch(root: Path, ref: str) -> str | None:
    """Return the branch that ``ref``, the name of a commit, is or stands on; None where it says no branch."""
    told = run_git(
        ["rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", ref], folder=root
    )
    name = told.decode("utf-8", "surrogateescape").strip()
    return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None


def read_commit_file(root: Path, sha: str, name: str) -> bytes | None:
    """Return a file of the project's folder as commit ``sha`` has it; None where it has none of this name."""
    prefix = run_git(["rev-parse", "--show-prefix"], folder=root).decode("utf-8", "surrogateescape").strip()
    listed = run_git(["ls-tree", "-z", "--long", "--full-tree", f"{sha}:{prefix}", name], folder=root)
    entries = [_read_entry(line) for line in listed.decode("utf-8", "surrogateescape").split("\0") if line]
    if not entries or entries[0].mode not in ("100644", "100755"):
        return None
    return run_git(["cat-file", "blob", entries[0].object], folder=root)


def write_commit(root: Path, sha: str, target: Path, *, needs_project: bool = True) -> None:
    """Write the files of the project in ``root`` as they are in commit ``sha`` into ``target``, an empty folder.

    A commit from before there was a project is refused, unless ``needs_project`` is false.
    """
    prefix = run_git(["rev-parse", "--show-prefix"], folder=root).decode("utf-8", "surrogateescape").strip()
    listed = run_git(["ls-tree", "-r", "-z", "--long", "--full-tree", f"{sha}:{prefix}"], folder=root)
    entries = [_read_entry(line) for line in listed.decode("utf-8", "surrogateescape").split("\0") if line]
    if needs_project and not any(entry.path == CONFIG_NAME for entry in entries):
        where = f"{prefix.rstrip('/')}/" if prefix else "its folder"
        raise NoSuchCommitError(
            f"commit {sha[:7]} has no {CONFIG_NAME} in {where}: the project begins later",
            remedy="name a later commit",
        )
    # Links come last: nothing is written through one.
    files = sorted(
        (entry for entry in entries if entry.mode in ("100644", "100755", LINK)),
        key=lambda entry: entry.mode == LINK,
    )
    if len(files) > FILES_MAX or sum(entry.size_bytes for entry in files) > BYTES_MAX:
        raise UnusableCommitError(
            f"commit {sha[:7]} has {len(files):,} files of {sum(entry.size_bytes for entry in files):,} bytes in the "
            f"project's folder; {FILES_MAX:,} and {BYTES_MAX:,} are the most",
            remedy="move what no function needs out of the project's folder",
        )
    content = run_git(
        ["cat-file", "--batch"], folder=root, stdin="".join(f"{entry.object}\n" for entry in files).encode()
    )
    position = 0
    for entry in files:
        # Each object: a line that names it, its bytes, a newline.
        head_end = content.index(b"\n", position)
        if content[position:head_end].endswith(b" missing"):
            raise UnusableCommitError(
                f"commit {sha[:7]} is not whole here: git has no content of {entry.path!r}",
                remedy="fetch it: the clone is partial or damaged",
            )
        begin = head_end + 1
        end = begin + int(content[position:head_end].rpartition(b" ")[2])
        path = target / entry.path
        if not path.resolve().is_relative_to(target.resolve()):
            raise UnusableCommitError(
                f"commit {sha[:7]} has a file named {entry.path!r}", remedy="no project needs it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode == LINK:
            _write_link(path, content[begin:end], target)
        else:
            path.write_bytes(content[begin:end])
        position = end + 1
    if needs_project and not (target / CONFIG_NAME).is_file():
        raise UnusableCommitError(
            f"commit {sha[:7]} has a link to another place as its {CONFIG_NAME}", remedy="commit the file itself"
        )


def _write_link(path: Path, content: bytes, target: Path) -> None:
    """Write a link that stays inside of ``target``; what leads out, or nowhere that there can be, is left out."""
    with contextlib.suppress(OSError, ValueError):  # Empty, too long, or with a byte that no path has.
        leads_to = os.fsdecode(content)
        if (path.parent / leads_to).resolve().is_relative_to(target.resolve()):
            path.symlink_to(leads_to)


def _read_entry(line: str) -> _Entry:
    head, _, path = line.partition("\t")
    mode, _, object_id, size = head.split()
    return _Entry(mode, object_id, path, int(size) if size.isdigit() else 0)
