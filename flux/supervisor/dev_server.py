"""``flux dev``: the whole of Flux on one machine, for one project.

The project's migrations are applied and its folder is deployed; then the files are watched. What a migration takes
away is said, and in a database that is not Flux's own it is not applied. A change makes a new
deployment beside the old one and switches; when the new code is no good, that is told and the old one goes on. What
``flux deploy`` or ``flux rollback`` put in its place is held until a file is saved. Code that is no good may be good
for another database: after ``flux db reset`` or ``migrate`` it is tried again.
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime

import trio

from flux.deploy_history import Cause
from flux.errors import FluxError
from flux.project import Project, read_project
from flux.supervisor.database_migrate import list_applied_at
from flux.supervisor.deploy import Switch
from flux.supervisor.server import Running, Server, open_server
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.server_start import migrate, read_secrets, tell_short_secrets
from flux.supervisor.story import Story, list_routes
from flux.supervisor.watch import watch_project
from flux.tenant import Tenant

RELOAD_QUIET_S = 0.02
LOOK_S = 0.5
"""How often it is seen, while code is no good, whether the database is another one by now."""
ANSWER_S = 5.0
"""How long that is waited for."""
SLOW_S = 3
"""When whoever saved something is told that it is on its way."""


async def serve_dev(options: ServerOptions, story: Story, stop: trio.Event) -> None:
    """Serve the project's folder until ``stop`` is set; raise what keeps it from starting."""
    async with open_server(options, story) as server:
        await migrate(server.project, server.backing, Tenant(), story, is_own=server.is_embedded)
        dev = _Dev(server)
        await server.run(dev.deploy_forever, stop, told=dev.tell)


class _Dev:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._story = server.story
        self._root = server.root
        self._project = server.project
        self._is_ready = False
        self._failed_on: Mapping[str, datetime] | None = None
        """The migrations that the database had had when code was no good, or None when it did not answer."""

    def tell(self, running: Running, switch: Switch) -> None:
        """Say what somebody deployed; what was saved is told by whoever takes it in."""
        current = running.deployments.current
        if switch.cause in (Cause.DEPLOY, Cause.ROLLBACK) and current is not None:
            self._story.switched(switch, list_routes(current), held=True)
            self._tell_ready(running)

    async def deploy_forever(self, running: Running) -> None:
        """Deploy the project as it is, and again whenever its files change.

        Code that is no good at the start ends nothing either: it is told, and looked at again when it is saved.
        """
        send, receive = trio.open_memory_channel[tuple[str, ...]](64)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_project, self._root, self._project.config.project.functions, send)
            nursery.start_soon(self._watch_database, running, send.clone())
            began = trio.current_time()
            if await self._deploy(running, self._project, "the functions", Cause.START):
                self._server.tell_sandbox(running, trio.current_time() - began)
                self._tell_ready(running)
            async for first in receive:
                reload_began = trio.current_time()
                changed = set(first)
                await trio.sleep(RELOAD_QUIET_S)
                with contextlib.suppress(trio.WouldBlock):
                    while True:
                        changed.update(receive.receive_nowait())
                if await self._reload(running, sorted(changed), reload_began):
                    self._tell_ready(running)

    async def _watch_database(self, running: Running, changed: trio.MemorySendChannel[tuple[str, ...]]) -> None:
        """Say that there is something to look at, once the database is another than that for which code was no good."""
        while True:
            await trio.sleep(LOOK_S)
            if running.host.failure is None:
                continue
            applied = await self._find_applied()
            if applied is not None and applied != self._failed_on:
                self._failed_on = applied
                await changed.send(("migrations",))

    async def _find_applied(self) -> Mapping[str, datetime] | None:
        """Return what tells a database that is made anew from what it was; None while it does not answer."""
        with trio.move_on_after(ANSWER_S):
            try:
                async with self._server.backing.owner.acquire() as connection:
                    return await list_applied_at(connection, Tenant())
            except FluxError:  # Others tell of it, and it is asked again.
                return None
        return None

    def _tell_ready(self, running: Running) -> None:
        """Say, once, that requests are taken: from the first code that is served, however it came."""
        if self._is_ready:
            return
        self._is_ready = True
        watched = [f"{self._project.config.project.functions}/", "flux.toml", "migrations/"]
        self._server.tell_ready(running, watched, tells_console=True)

    async def _deploy(self, running: Running, project: Project, what: str, cause: Cause) -> bool:
        """Make the project's code current; when it is no good, tell and leave what is.

        Say whether there is news: other code, or the same as is served after some that was no good.
        """
        was_failing = running.host.failure is not None
        try:
            switch = await running.deployer.serve(project, cause)
        except FluxError as error:
            await self._tell_problem(running, what, error)
            return False
        finally:
            self._project = project
        running.host.failure = None
        return switch.is_news or was_failing

    async def _tell_problem(self, running: Running, what: str, error: FluxError) -> None:
        running.host.failure, self._failed_on = error, await self._find_applied()
        self._story.problem(what, error, is_serving=running.deployments.current is not None)

    async def _reload(self, running: Running, changed: Sequence[str], began: float) -> bool:
        """Take in what has changed on disk; say whether new code is served."""
        # An editor's temporary file is gone by now; files that were removed are told if that is all there is.
        told = [path for path in changed if (self._root / path).exists()] or changed
        what = told[0] if len(told) == 1 else f"{len(told)} files"
        try:
            project = read_project(self._root)
            if any(path.startswith("migrations") for path in changed):
                await migrate(
                    project, self._server.backing, Tenant(), self._story, is_own=self._server.is_embedded
                )
        except FluxError as error:
            await self._tell_problem(running, what, error)
            return False
        if (
            project.config.database != self._project.config.database
            or project.config.dev != self._project.config.dev
            or project.config.queue != self._project.config.queue
        ):
            self._story.note(
                "[database], [dev] and [queue] are read at the start only: stop flux dev and start it again"
            )
        if ".env.local" in changed and not self._reload_secrets():
            return False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_slow, what)
            is_news = await self._deploy(running, project, what, Cause.SAVE)
            nursery.cancel_scope.cancel()
        if not is_news:
            return False
        current = running.deployments.current
        assert current is not None
        code = current.deployment.sha.removeprefix("nogit-")[:7] + "+" * current.deployment.dirty
        self._story.reload(told, code, list_routes(current), trio.current_time() - began)
        return True

    async def _tell_slow(self, what: str) -> None:
        await trio.sleep(SLOW_S)
        text = f"{what} changed: its code is still imported, or its packages installed, after {SLOW_S} s"
        self._story.note(f"{text}; what is saved meanwhile is taken up behind that")

    def _reload_secrets(self) -> bool:
        """Take in the secrets as they are now; say whether they can be read."""
        try:
            found = read_secrets(self._root)
        except FluxError as error:
            self._story.problem(".env.local", error, is_serving=True)
            return False
        self._server.vault.set_local(found)
        self._story.note(f".env.local is read again: {len(found)} secrets")
        tell_short_secrets(self._story, self._server.backing)
        return True
