"""Commits that a bisect asks, made ready to be replayed on.

A commit's files are read from git and made a deployment that never becomes current. Those that were asked last wait
for more runs. Where functions are laid over (``functions_from``), the candidate gets ``flux.toml`` and the file of
the function from another commit, and what else that one's functions folder and lists of packages have and it lacks:
so code can be asked that is older than the function that shows its fault. Files that it has itself stay its own.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import attrs
import trio

from flux.commit import NoSuchCommitError, write_commit
from flux.config import CONFIG_NAME
from flux.git import GitFailedError
from flux.history import get_tree
from flux.project import (
    Migration,
    Project,
    SourceVersion,
    hash_artifact,
    list_artifact_files,
    list_migrations,
    read_project,
)
from flux.supervisor.deployments import Deployments, LiveDeployment

KEPT = 3
"""Candidates whose workers wait: a culprit, its parent, and one to go on from."""


@attrs.frozen
class Overlay:
    """What is laid over each candidate."""

    sha: str
    """The commit that it comes from."""
    function_file: str
    """The file of the function that is asked, relative to the project's folder."""


@attrs.frozen
class Source:
    """The files of a candidate."""

    sha: str
    overlay: Overlay | None
    key: str
    """Equal for equal files of the project's folder."""


@attrs.frozen
class Written:
    """A candidate's files, written out."""

    project: Project
    migrations: Sequence[Migration]
    artifact_hash: str

    @property
    def code(self) -> str:
        """Equal for candidates that do the same to the same recording: what is deployed, and its migrations."""
        digest = hashlib.sha256(self.artifact_hash.encode())
        for migration in self.migrations:
            digest.update(
                b"\0%s\0%s" % (migration.path.encode(errors="surrogateescape"), migration.sql.encode())
            )
        return digest.hexdigest()


@attrs.frozen
class Ready:
    """A candidate that can be replayed on."""

    live: LiveDeployment
    migrations: Sequence[Migration]
    code: str
    """See `Written.code`."""


class Candidates:
    """See the module."""

    def __init__(self, deployments: Deployments, root: Path) -> None:
        """``root`` is the project's folder."""
        self._deployments = deployments
        self._root = root
        self._kept: OrderedDict[str, Ready] = OrderedDict()
        self._lock = trio.Lock()
        """One is made ready at a time: to build two takes both processors from whoever is served."""

    async def identify(self, sha: str, overlay: Overlay | None) -> Source:
        """Say which files a commit has; raise `NoSuchCommitError` where it has none of the project's."""

        def read() -> str:
            try:
                tree = get_tree(self._root, sha)
                if overlay is None:
                    return tree
                return f"{tree} under {get_tree(self._root, overlay.sha)} {overlay.function_file}"
            except GitFailedError as error:
                raise NoSuchCommitError(
                    f"commit {sha[:7]} has no folder of the project's", remedy="name a later commit"
                ) from error

        return Source(sha, overlay, await trio.to_thread.run_sync(read))

    @contextlib.asynccontextmanager
    async def write(self, source: Source) -> AsyncIterator[Written]:
        """Write a candidate's files out for as long as the block lasts; raise what is wrong with them."""
        with tempfile.TemporaryDirectory(prefix="flux-bisect-") as folder:
            yield await trio.to_thread.run_sync(_write, self._root, source, Path(folder))

    @contextlib.contextmanager
    def borrow_kept(self, source: Source) -> Iterator[Ready | None]:
        """Give a candidate that waits for more runs; None when there is none of these files."""
        ready = self._kept.get(source.key)
        if ready is None:
            yield None
            return
        self._kept.move_to_end(source.key)
        ready.live.enter()
        try:
            yield ready
        finally:
            ready.live.leave()

    @contextlib.asynccontextmanager
    async def borrow(self, source: Source, written: Written) -> AsyncIterator[Ready]:
        """Give a candidate that can be replayed on; raise what is wrong with its code."""
        async with self._lock:
            ready = self._find_served(source, written) or self._kept.get(source.key)
            if ready is None:
                live = await self._deployments.prepare(written.project, SourceVersion(sha=source.sha))
                ready = self._kept[source.key] = Ready(live, written.migrations, written.code)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)[1].live.retire()
            if source.key in self._kept:
                self._kept.move_to_end(source.key)
            ready.live.enter()
        try:
            yield ready
        finally:
            ready.live.leave()

    def _find_served(self, source: Source, written: Written) -> Ready | None:
        """Return what is served, if it is this commit. It is not kept here: whoever switches retires it."""
        current = self._deployments.current
        if current is None or current.deployment.id != written.artifact_hash[:16]:
            return None
        if (current.deployment.sha, current.deployment.dirty) != (source.sha, False):
            return None
        return Ready(current, written.migrations, written.code)


def _write(root: Path, source: Source, folder: Path) -> Written:
    overlay = source.overlay
    write_commit(root, source.sha, folder, needs_project=overlay is None)
    if overlay is not None:
        with tempfile.TemporaryDirectory(prefix="flux-bisect-") as above:
            write_commit(root, overlay.sha, Path(above))
            _lay_over(read_project(Path(above)), overlay.function_file, folder)
    project = read_project(folder)
    return Written(project, list_migrations(project), hash_artifact(project))


def _lay_over(above: Project, function_file: str, folder: Path) -> None:
    for path in list_artifact_files(above):
        target = folder / path
        if path in (CONFIG_NAME, function_file) or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # It may be a link to another file of the candidate's.
            shutil.copyfile(above.root / path, target)
