"""Writing a history down as a git repository, a thousand commits in about a second.

``git fast-import`` takes all of it as one stream, so nothing is checked out on the way. Names, dates and messages
follow from the history, and nothing is read of the configuration of whoever runs this: the same history has the
same commit ids everywhere.
"""

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from tests.histories.model import BEGAN_AT, HOUR_S, Commit, History
from tests.histories.shop import Kit, list_files

ALONE = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0",
}  # fmt: skip
"""What git sees of its surroundings: no configuration of somebody's, and it writes nothing that it only might."""
_FIRST_BLOB = 1_000_000
"""Marks from here on are files; those below are commits, by their number and one."""


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """What ``git`` says with these arguments, run in ``folder`` with nobody's configuration."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ALONE, input=stdin,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="surrogateescape").strip()


def write_history(
    history: History, folder: Path, kit: Kit, *, branch: str = "main", check_out: bool = True
) -> History:
    """Write ``history`` into the repository in ``folder``, made if there is none; return it with its commit ids.

    Another history in the same repository needs another ``branch``; the two have no commit in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--template=", f"--initial-branch={branch}")
    marks = folder / ".git" / "flux-history-marks"
    stream = b"".join(_stream(history, kit, branch))
    git(folder, "fast-import", "--quiet", f"--export-marks={marks}", stdin=stream)
    named = dict(line.split() for line in marks.read_text().splitlines())
    marks.unlink()
    if check_out:
        git(folder, "checkout", "--quiet", "--force", branch)
    return attrs.evolve(history, shas=tuple(named[f":{commit.number + 1}"] for commit in history.commits))


def _stream(history: History, kit: Kit, branch: str) -> Iterator[bytes]:
    blobs: dict[bytes, int] = {}
    for commit in history.commits:
        files = list_files(commit.state, kit)
        for content in files.values():
            if content not in blobs:
                blobs[content] = _FIRST_BLOB + len(blobs)
                yield b"blob\nmark :%d\ndata %d\n%s\n" % (blobs[content], len(content), content)
        yield _head(commit, branch)
        yield b"deleteall\n"
        for path, content in files.items():
            yield b"M 100644 :%d %s\n" % (blobs[content], path.encode())
        yield b"\n"


def _head(commit: Commit, branch: str) -> bytes:
    name = commit.author
    person = f"{name} <{name.split()[0].lower()}@shop.example> {BEGAN_AT + commit.number * HOUR_S} +0000"
    message = commit.subject.encode()
    lines = [
        f"commit refs/heads/{branch}", f"mark :{commit.number + 1}", f"author {person}", f"committer {person}",
        f"data {len(message)}",
    ]  # fmt: skip
    text = "\n".join(lines).encode() + b"\n" + message + b"\n"
    for word, parent in zip(("from", "merge"), commit.parents, strict=False):
        text += f"{word} :{parent + 1}\n".encode()
    return text


def list_untouched(folder: Path) -> Mapping[str, str]:
    """All of a checkout that Flux must leave alone, to be compared before and after."""
    told = {
        name: git(folder, *arguments)
        for name, arguments in {
            "head": ("rev-parse", "HEAD"),
            "branch": ("symbolic-ref", "-q", "HEAD"),
            "status": ("status", "--porcelain=v2", "--branch", "--ignored=no"),
            "reflog": ("reflog", "--all"),
            "stash": ("stash", "list"),
            "refs": ("for-each-ref",),
            "index": ("ls-files", "--stage", "--debug"),
            "worktrees": ("worktree", "list", "--porcelain"),
        }.items()
    }
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".git", ".flux"} & set(path.relative_to(folder).parts)
    ]
    told["files"] = "\n".join(
        f"{path.relative_to(folder)} {path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
    )
    return told
