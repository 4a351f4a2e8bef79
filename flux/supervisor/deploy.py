"""The one way by which code becomes current.

A deploy goes through the same steps, whoever asks for it, and until the last one nothing of what is served changes::

    prepare         the code is copied, its packages are there, it is imported, its workers wait
    look            what its migrations would take away refuses it, unless whoever asks has said that they may
    before_switch   whoever has a say in it looks at it: what it finds can refuse
    migrate         the code's own migrations are applied
    switch          the deploy is written down, and the next request takes the new code

Requests that are under way stay on the code that they began on. What a deploy replaces stands by for a while, so that a
rollback to it has nothing to prepare. Any other rollback prepares code that is kept. Neither migrates anything: what
migrations did is not undone, and the answer says so.

Two at once: whoever asked last is served in the end. Each takes a number when it begins. One that comes to its switch
and finds that a later one has switched is refused (`OvertakenError`), so that a slow deploy never takes back what
somebody did meanwhile.
"""

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.commit import find_branch, write_commit
from flux.deploy_history import Cause, Deploy, Deployed, find_named, find_previous, read_name
from flux.errors import OperatorError
from flux.migration_plan import Loss
from flux.project import Migration, Project, SourceVersion, list_migrations, read_project
from flux.store.deployments import (
    add_deploy,
    find_last_deploy,
    list_deployments_to_keep,
    list_deploys,
    list_deploys_named,
)
from flux.store.migrate import apply_user_migrations
from flux.store.postgres import Connection
from flux.supervisor.artifacts import ARTIFACTS_KEPT
from flux.supervisor.database_migrate import check_losses, plan_migrations
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.execute import Backing
from flux.supervisor.runtime import compare_runtimes, describe_runtime
from flux.supervisor.shelf import HELD, Shelf
from flux.tenant import Tenant

WRITE_S = 30.0
"""How long writing a deploy down may take."""


class OvertakenError(OperatorError):
    """Something else became current while this was made ready."""

    code = "FLX543"
    exit_code = 1


class NotWrittenDownError(OperatorError):
    """The database did not take a deploy down."""

    code = "FLX544"
    exit_code = 5


@attrs.frozen
class Candidate:
    """Code that is ready to be switched to, and is not served yet."""

    live: LiveDeployment
    """Its functions and workers. Whoever runs something on it does so between ``enter`` and ``leave``, or replays on
    what `on` says: the shelf holds it."""
    migrations: tuple[Migration, ...]
    """Those of the code, applied or not: they are applied between `before_switch` and the switch."""
    cause: Cause
    current: LiveDeployment | None
    """What was served when it was asked for."""

    @property
    def on(self) -> str:
        """Its name as code to replay on: for `flux.supervisor.replay.Replayer.replay`."""
        return f"{HELD}{self.live.deployment.id}"


@attrs.frozen
class Gate:
    """What somebody found who has a say in a deploy."""

    passes: bool
    """False: it is not deployed, and what is served stays."""
    report: Mapping[str, Any]
    """What was found, as JSON: it becomes part of the answer, under the key ``gate``."""


@attrs.frozen
class _Turn:
    """Somebody's wish for other code."""

    number: int
    """Later wishes have higher ones."""
    began: float
    """When it was made, by trio's clock."""


BeforeSwitch = Callable[[Candidate], Awaitable[Gate]]
"""Looks at a candidate before the switch, for as long as it likes. What it raises refuses the deploy too."""


@attrs.frozen
class Switch:
    """How a deploy ended."""

    live: LiveDeployment
    """The code that was asked for."""
    cause: Cause
    before: Deployed | None
    """What was served before."""
    deployed: bool = True
    """False: a `Gate` refused it."""
    is_news: bool = True
    """False: it was served already, so nothing was switched."""
    elapsed_s: float = 0.0
    """From when it was asked for until it was done."""
    migrations: tuple[str, ...] = ()
    """Paths of the migrations that were applied for it."""
    losses: tuple[Loss, ...] = ()
    """What these took away, as whoever asked had allowed."""
    notes: tuple[str, ...] = ()
    """What people should know, a sentence each."""
    gate: Mapping[str, Any] | None = None
    """What was found before the switch; None where nobody looked."""

    @property
    def code(self) -> Deployed:
        """The code that was asked for, as records name it."""
        return _name_live(self.live)


class Deployer:
    """Switches from one deployment to the next. See the module."""

    def __init__(
        self,
        deployments: Deployments,
        shelf: Shelf,
        backing: Backing,
        root: Path,
        *,
        probe: Callable[[Project], Awaitable[None]],
        told: Callable[[Switch], None],
    ) -> None:
        """``root`` is the project's folder. ``probe`` tries the walls that a project wants; ``told`` hears of each
        switch right after it."""
        self._deployments = deployments
        self._shelf = shelf
        self._backing = backing
        self._root = root
        self._probe = probe
        self._told = told
        self._numbers = itertools.count(1)
        self._switched = 0
        """Number of whoever asked last of those that have switched."""
        self._switching = trio.Lock()
        self._preparing = trio.Lock()
        """One deploy is made ready at a time: they are heavy. Rollbacks and saved files don't wait for them."""

    async def keep_recorded(self) -> None:
        """Take note of the artifacts that deploys on record name, so that none is taken away."""
        found = await list_deployments_to_keep(self._backing.owner, self._backing.tenant, ARTIFACTS_KEPT)
        self._deployments.artifacts.keep(found)

    async def serve(self, project: Project, cause: Cause) -> Switch:
        """Serve the project's folder as it is; its migrations are whoever calls' to apply."""
        turn = self._take_turn()
        await self._probe(project)
        async with self._ready(await self._deployments.prepare(project), (), cause) as candidate:
            return await self._switch(candidate, turn)

    async def deploy(
        self, on: str | None, before_switch: BeforeSwitch | None = None, *, allow_destructive: bool = False
    ) -> Switch:
        """Serve commit ``on``, or with None the project's folder as it is.

        Raises what is wrong with the code or its migrations, what they would take away unless it is allowed, and
        `OvertakenError`: then what is served stays.
        """
        turn = self._take_turn()
        async with self._preparing, self._prepare(on) as candidate:
            # Before anybody looks at it for minutes; once more when they are applied, to what the tables are then.
            async with self._backing.owner.acquire() as connection:
                await self._find_losses(connection, candidate.migrations, allowed=allow_destructive)
            gate = None if before_switch is None else await before_switch(candidate)
            if gate is not None and not gate.passes:
                before = name_code(self._deployments.current)
                elapsed_s = trio.current_time() - turn.began
                return Switch(
                    candidate.live, candidate.cause, before, deployed=False, elapsed_s=elapsed_s, gate=gate.report
                )
            switch = await self._switch(candidate, turn, allow_destructive=allow_destructive)
        return attrs.evolve(switch, gate=None if gate is None else gate.report)

    async def roll_back(self, to: str | None) -> Switch:
        """Serve code again that was served before: the one before what is current, or the one that ``to`` begins.

        Raises `NoEarlierDeployError`, `NoSuchDeployError`, `CodeGoneError` and what keeps it from being run.
        """
        turn = self._take_turn()
        owner, tenant = self._backing.owner, self._backing.tenant
        if to is None:
            target = find_previous(await list_deploys(owner, tenant), name_code(self._deployments.current))
        else:
            target = find_named(await list_deploys_named(owner, tenant, read_name(to)), to)
        async with self._restore(target, Cause.ROLLBACK) as candidate:
            switch = await self._switch(candidate, turn)
        notes = [*compare_runtimes(dict(target.runtime), describe_runtime())]
        if switch.is_news:
            notes.append("migrations are not undone: the database stays as it is")
        return attrs.evolve(switch, notes=tuple(notes))

    async def resume(self) -> Switch | None:
        """Serve what was served last, also before a restart; None when nothing is on record."""
        turn = self._take_turn()
        last = await find_last_deploy(self._backing.owner, self._backing.tenant)
        if last is None:
            return None
        async with self._restore(last, Cause.START) as candidate:
            switch = await self._switch(candidate, turn)
        return attrs.evolve(switch, notes=tuple(compare_runtimes(dict(last.runtime), describe_runtime())))

    async def follow(self, code: Deployed, branch: str | None) -> Switch:
        """Serve what another process of this server has deployed, and has written down."""
        turn = self._take_turn()
        async with self._restore_code(code, branch, Cause.DEPLOY) as candidate:
            return await self._switch(candidate, turn, is_ours=False)

    # --- making ready ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _prepare(self, on: str | None) -> AsyncIterator[Candidate]:
        with contextlib.ExitStack() as stack:
            version: SourceVersion | None = None
            folder = self._root
            if on is not None:
                sha = await self._shelf.find_commit(on)
                branch = await trio.to_thread.run_sync(find_branch, self._root, on)
                version = SourceVersion(sha, branch)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-commit-")))
                await trio.to_thread.run_sync(write_commit, self._root, sha, folder)
            project = await trio.to_thread.run_sync(read_project, folder)
            migrations = await trio.to_thread.run_sync(list_migrations, project)
            await self._probe(project)
            live = await self._deployments.prepare(project, version)
            async with self._ready(live, migrations, Cause.DEPLOY) as candidate:
                yield candidate

    @contextlib.asynccontextmanager
    async def _restore(self, target: Deploy, cause: Cause) -> AsyncIterator[Candidate]:
        async with self._restore_code(target.code, target.branch, cause) as candidate:
            yield candidate

    @contextlib.asynccontextmanager
    async def _restore_code(self, code: Deployed, branch: str | None, cause: Cause) -> AsyncIterator[Candidate]:
        # Workers that stand by read late imports from these files, and don't see a folder that is made again.
        is_whole = await trio.to_thread.run_sync(self._deployments.artifacts.is_whole, code.deployment)
        project = await trio.to_thread.run_sync(self._deployments.find_kept, code.deployment, code.sha)
        await self._probe(project)
        live = None
        if is_whole:
            live = self._deployments.take_standby(code.deployment, code.sha, dirty=code.dirty)
        if live is None:
            live = await self._deployments.prepare_kept(
                code.deployment, code.sha, dirty=code.dirty, branch=branch
            )
        async with self._ready(live, (), cause) as candidate:
            yield candidate

    @contextlib.asynccontextmanager
    async def _ready(
        self, live: LiveDeployment, migrations: Sequence[Migration], cause: Cause
    ) -> AsyncIterator[Candidate]:
        """Give a candidate; what is not current at the end of the block ends."""
        try:
            with self._shelf.hold(live, migrations):
                yield Candidate(live, tuple(migrations), cause, self._deployments.current)
        finally:
            if live is not self._deployments.current:
                live.retire()

    # --- the switch --------------------------------------------------------------------------------

    def _take_turn(self) -> _Turn:
        return _Turn(next(self._numbers), trio.current_time())

    async def _switch(
        self, candidate: Candidate, turn: _Turn, *, is_ours: bool = True, allow_destructive: bool = False
    ) -> Switch:
        """Switch. What is not ours was written down, and is told, by whoever deployed it."""
        live, cause = candidate.live, candidate.cause
        async with self._switching:
            before = name_code(self._deployments.current)
            if turn.number < self._switched:
                assert before is not None, "something was switched to"
                raise OvertakenError(
                    f"{_name_live(live).text} is not deployed: {before.text} became current while it was made ready",
                    remedy="flux deployments shows what is served; ask again if that is to be replaced",
                )
            applied, losses = await self._migrate(candidate.migrations, allow_destructive=allow_destructive)
            is_news = not self._deployments.is_current(live)
            if is_news:
                # Whoever asked may go away: what is written down is switched to all the same.
                with trio.CancelScope(shield=True):
                    if is_ours:
                        await self._write_down(live, cause)
                    self._deployments.activate(live, keeps_before=cause is Cause.DEPLOY)
                if cause in (Cause.DEPLOY, Cause.ROLLBACK):
                    self._deployments.artifacts.keep([live.deployment.id])
                else:
                    self._deployments.artifacts.note_served(live.deployment.id)
            self._switched = turn.number
        elapsed_s = trio.current_time() - turn.began
        switch = Switch(
            live, cause, before, is_news=is_news, elapsed_s=elapsed_s, migrations=tuple(applied), losses=losses
        )
        if is_news and is_ours:
            self._told(switch)
        return switch

    async def _write_down(self, live: LiveDeployment, cause: Cause) -> None:
        backing = self._backing
        with trio.move_on_after(WRITE_S) as scope:
            await add_deploy(
                backing.owner, backing.tenant, live.deployment, live.artifact_hash, cause, describe_runtime()
            )
        if scope.cancelled_caught:
            raise NotWrittenDownError(
                f"{_name_live(live).text} is not deployed: the database did not take the deploy down in {WRITE_S:g} s",
                remedy="see flux doctor; flux deployments shows what is served",
            )

    async def _migrate(
        self, migrations: tuple[Migration, ...], *, allow_destructive: bool
    ) -> tuple[list[str], tuple[Loss, ...]]:
        if not migrations:
            return [], ()
        async with self._backing.owner.acquire() as connection:
            losses = await self._find_losses(connection, migrations, allowed=allow_destructive)
            applied = await apply_user_migrations(connection, self._backing.tenant, migrations)
        self._backing.tables.forget()
        return applied, losses

    async def _find_losses(
        self, connection: Connection, migrations: tuple[Migration, ...], *, allowed: bool
    ) -> tuple[Loss, ...]:
        if not migrations:
            return ()
        plan = await plan_migrations(connection, Tenant(self._backing.tenant), migrations)
        if not allowed:
            check_losses(plan.losses, "if that is meant, --allow-destructive: of flux deploy, or of flux db migrate")
        return plan.losses


def name_code(live: LiveDeployment | None) -> Deployed | None:
    """Return which code ``live`` is, as records name it."""
    return None if live is None else _name_live(live)


def _name_live(live: LiveDeployment) -> Deployed:
    return Deployed(live.deployment.id, live.deployment.sha, live.deployment.dirty)
