"""Code that replays run: of the deployment that made a record, of the folder as it is now, or of any commit.

What is served is taken as it is. Anything else is made ready beside it, never becomes current,
and stays on the shelf for a while, because replays come in groups. A candidate that somebody else
made ready, and wants replays on before it is served, is lent by its id for as long as he holds it.
"""

import contextlib
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import trio

from flux.commit import find_commit, write_commit
from flux.errors import OperatorError
from flux.execution import Execution
from flux.project import Migration, SourceVersion, hash_artifact, list_migrations, read_project
from flux.redact import RedactionRules
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.replay_redaction import RulesInForce

KEPT = 2
"""Deployments beside the served one whose workers wait for the next replay."""

HELD = "deployment:"
"""Before the id of a deployment that somebody holds: no commit is called that, as git takes what is before a colon for
a commit and what is behind it for a path."""


class NotHeldError(OperatorError):
    """No deployment of this id is being made ready."""

    code = "FLX545"
    exit_code = 3


class Shelf:
    """See the module."""

    def __init__(self, deployments: Deployments, root: Path) -> None:
        """``root`` is the project's folder."""
        self._deployments = deployments
        self._root = root
        self._kept: OrderedDict[str, LiveDeployment] = OrderedDict()
        self._held: dict[str, list[tuple[LiveDeployment, tuple[Migration, ...]]]] = {}
        self._rules: dict[str, RedactionRules] = {}
        """By the id of a deployment, which is a hash of its files: they never change."""
        self._lock = trio.Lock()
        """One is made ready at a time: the next replay wants the same one, most likely."""

    @property
    def deployments(self) -> Deployments:
        """Where the code is kept."""
        return self._deployments

    @contextlib.asynccontextmanager
    async def borrow_recorded(self, execution: Execution) -> AsyncIterator[LiveDeployment]:
        """Give the code that made ``execution``; raise `CodeGoneError` and what else keeps it from being run."""

        async def prepare() -> LiveDeployment:
            return await self._deployments.prepare_kept(
                execution.deployment, execution.sha, dirty=execution.dirty
            )

        async with self._borrow(execution.deployment, prepare) as live:
            yield live

    @contextlib.asynccontextmanager
    async def borrow_working_tree(self) -> AsyncIterator[LiveDeployment]:
        """Give the code of the project's folder as it is at this moment; raise what is wrong with it."""
        project = await trio.to_thread.run_sync(read_project, self._root)
        artifact_hash = await trio.to_thread.run_sync(hash_artifact, project)

        async def prepare() -> LiveDeployment:
            return await self._deployments.prepare(project)

        async with self._borrow(artifact_hash[:16], prepare) as live:
            yield live

    @contextlib.contextmanager
    def hold(self, live: LiveDeployment, migrations: Sequence[Migration] = ()) -> Iterator[None]:
        """Lend ``live`` to replays on ``deployment:ID`` for as long as the block lasts.

        It stays the caller's to retire. ``migrations`` are those of its code: a world in which it runs has them all.
        """
        id = live.deployment.id
        held = (live, tuple(migrations))
        # Two may hold the same code, and the first to end is not always the last that began.
        self._held.setdefault(id, []).append(held)
        try:
            yield
        finally:
            self._held[id].remove(held)
            if not self._held[id]:
                del self._held[id]

    @contextlib.asynccontextmanager
    async def borrow_held(self, on: str) -> AsyncIterator[LiveDeployment]:
        """Give a deployment that is held; ``on`` is `HELD` and its id."""
        await trio.lowlevel.checkpoint()
        live, _ = self._get_held(on)
        live.enter()
        try:
            yield live
        finally:
            live.leave()

    def list_held_migrations(self, on: str) -> tuple[Migration, ...]:
        """Return the migrations of a deployment that is held."""
        return self._get_held(on)[1]

    def _get_held(self, on: str) -> tuple[LiveDeployment, tuple[Migration, ...]]:
        found = self._held.get(on.removeprefix(HELD))
        if found is None:
            raise NotHeldError(
                f'nobody holds a deployment "{on.removeprefix(HELD)[:80]}" that is not served yet',
                remedy="replay on a commit, or on . for the project's folder",
            )
        return found[-1]

    async def find_rules(self, execution: Execution) -> RulesInForce:
        """Return the rules of redaction of what is served, and of the code that made ``execution``."""
        id, current = execution.deployment, self._deployments.current
        live = self._find(id)
        if id not in self._rules and live is not None:
            self._rules[id] = RedactionRules.parse(live.config.recording.redact)
        elif id not in self._rules:
            # Code that is gone, or whose flux.toml this version can't read, tells nobody its rules: then the record is
            # taken for one that was made without any, and redacted once more by all others.
            with contextlib.suppress(OperatorError):
                project = await trio.to_thread.run_sync(self._deployments.artifacts.find, id)
                self._rules[id] = RedactionRules.parse(project.config.recording.redact)
        served = () if current is None else current.config.recording.redact
        return RulesInForce(RedactionRules.parse(served), self._rules.get(id))

    async def find_commit(self, ref: str) -> str:
        """Return the commit that ``ref`` names; raise `NoSuchCommitError`."""
        return await trio.to_thread.run_sync(find_commit, self._root, ref)

    async def list_migrations(self, sha: str | None) -> tuple[Migration, ...]:
        """Return the migrations of a commit, or with None those of the folder as it is now."""
        if sha is None:
            return await trio.to_thread.run_sync(lambda: list_migrations(read_project(self._root)))

        def read() -> tuple[Migration, ...]:
            with tempfile.TemporaryDirectory(prefix="flux-commit-") as folder:
                write_commit(self._root, sha, Path(folder))
                return list_migrations(read_project(Path(folder)))

        return await trio.to_thread.run_sync(read)

    @contextlib.asynccontextmanager
    async def borrow_commit(self, sha: str) -> AsyncIterator[LiveDeployment]:
        """Give the code of a commit, as `find_commit` names it; raise `NoSuchCommitError` and its kin.

        Where its files are those of another deployment, that one is given.
        """
        with tempfile.TemporaryDirectory(prefix="flux-commit-") as folder:
            written = Path(folder)
            await trio.to_thread.run_sync(write_commit, self._root, sha, written)
            project = await trio.to_thread.run_sync(read_project, written)
            artifact_hash = await trio.to_thread.run_sync(hash_artifact, project)

            async def prepare() -> LiveDeployment:
                return await self._deployments.prepare(project, SourceVersion(sha=sha))

            async with self._borrow(artifact_hash[:16], prepare) as live:
                yield live

    @contextlib.asynccontextmanager
    async def _borrow(
        self, id: str, prepare: Callable[[], Awaitable[LiveDeployment]]
    ) -> AsyncIterator[LiveDeployment]:
        async with self._lock:
            live = self._find(id)
            if live is None:
                live = await prepare()
                # A file that is saved just now may make it another one than was looked for.
                self._keep(live)
            live.enter()
        try:
            yield live
        finally:
            live.leave()

    def _find(self, id: str) -> LiveDeployment | None:
        current = self._deployments.current
        if current is not None and current.deployment.id == id:
            return current
        live = self._kept.get(id)
        if live is not None:
            self._kept.move_to_end(id)
        return live

    def _keep(self, live: LiveDeployment) -> None:
        before = self._kept.pop(live.deployment.id, None)
        if before is not None:
            before.retire()
        self._kept[live.deployment.id] = live
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)[1].retire()
