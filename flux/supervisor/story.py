"""What a server tells while it lives: the words, without how they look.

A server does things and says so to a `Story`; whoever started it decides what becomes of that. ``flux dev`` and
``flux serve`` write it on a terminal.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from flux.deployment import Function
from flux.errors import FluxError
from flux.project import Project
from flux.supervisor.deploy import Switch
from flux.supervisor.deployments import LiveDeployment, list_schedules
from flux.supervisor.host import list_grants


@attrs.frozen
class Route:
    """A line of the list of what is served."""

    trigger: str
    """``POST``, ``GET`` ..., ``cron`` or empty."""
    path: str
    """Path, schedule or empty."""
    function: str
    """``functions.signup:create_user``."""
    grants: tuple[str, ...]


class Story(Protocol):
    """Who is told what happens."""

    def begin(self, project: Project, branch: str | None, sha: str, changed_files: int) -> None:
        """The project is read."""

    def step(self, name: str, detail: str, elapsed_s: float) -> None:
        """A step is done."""

    def note(self, text: str) -> None:
        """Something that people should know and that stops nothing."""

    def ready(
        self, url: str, routes: Sequence[Route], elapsed_s: float, watched: Sequence[str], console: str = "", /
    ) -> None:
        """Requests are taken. ``watched`` is empty where no file is; ``console`` is where the pages are, if at all."""

    def remember(self, routes: Sequence[Route]) -> None:
        """These are served, and somebody else has told so."""

    def reload(self, changed: Sequence[str], code: str, routes: Sequence[Route], elapsed_s: float) -> None:
        """New code is served; ``code`` names it as records do."""

    def switched(self, switch: Switch, routes: Sequence[Route], *, held: bool) -> None:
        """Somebody deployed or rolled back; ``held``: until a file is saved."""

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """Something failed and the server goes on, with the last good code if ``is_serving``."""

    def crash(self, error: BaseException) -> None:
        """Something in Flux itself failed; a request got a 500 for it."""

    def output(self, text: str) -> None:
        """Code printed something while it was imported."""

    def executed(self, summary: Mapping[str, Any]) -> None:
        """An execution has ended; told only where that was asked for."""

    def stopping(self) -> None:
        """The server drains."""

    def named(self, **who: str | int) -> "Story":
        """Return who is told what happens to a tenant, or in one process of several: each line says whose it is."""


def list_routes(live: LiveDeployment) -> list[Route]:
    """Return what a deployment serves, routes first, in their order."""
    schedules = list_schedules(live.config, (runnable.function for runnable in live.runnables.values()))
    scheduled = {schedule.function for schedule in schedules}
    routes = []
    for runnable in live.runnables.values():
        function = runnable.function
        method, _, path = (function.route or " ").partition(" ")
        if function.route is not None or function.name not in scheduled:
            routes.append(Route(method, path, _name(function), tuple(list_grants(runnable))))
    for schedule in schedules:
        runnable = live.runnables[schedule.function]
        when = schedule.expression + (f" {schedule.time_zone}" if schedule.time_zone != "UTC" else "")
        routes.append(Route("cron", when, _name(runnable.function), tuple(list_grants(runnable))))
    return sorted(
        routes, key=lambda each: (not each.path, each.trigger == "cron", each.path, each.trigger, each.function)
    )


def _name(function: Function) -> str:
    module = function.position.file.removesuffix(".py").replace("/", ".")
    return f"{module}:{function.name}"
