"""What a tenant's server tells, on the terminal of the installation: each line says whose it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from flux.errors import FluxError
from flux.project import Project
from flux.supervisor.deploy import Switch
from flux.supervisor.story import Route, Story


class TenantStory:
    """A `flux.supervisor.story.Story` that passes on what an operator wants to hear of a tenant."""

    def __init__(self, story: Story, tenant: str) -> None:
        self._story = story.named(tenant=tenant)
        self._tenant = tenant

    def begin(self, project: Project, branch: str | None, sha: str, changed_files: int) -> None:
        """Its start is told once it is up."""

    def step(self, name: str, detail: str, elapsed_s: float) -> None:
        """See `begin`."""

    def note(self, text: str) -> None:
        """See `Story.note`."""
        self._story.note(text)

    def ready(
        self, url: str, routes: Sequence[Route], elapsed_s: float, watched: Sequence[str], _console: str = "", /
    ) -> None:
        """See `Story.ready`."""
        assert not watched, "files of tenants are not watched"
        count = f"{len(routes)} function{'s' * (len(routes) != 1)}"
        self._story.step("tenant", f"{self._tenant} · {url} · {count}", elapsed_s)

    def remember(self, routes: Sequence[Route]) -> None:
        """Its deploys are its own affair."""

    def reload(self, changed: Sequence[str], code: str, routes: Sequence[Route], elapsed_s: float) -> None:
        """No files are watched."""

    def switched(self, switch: Switch, routes: Sequence[Route], *, held: bool) -> None:
        """Its deploys are its own affair."""

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """See `Story.problem`."""
        self._story.problem(what, error, is_serving=is_serving)

    def crash(self, error: BaseException) -> None:
        """See `Story.crash`."""
        self._story.note("Flux itself failed")
        self._story.crash(error)

    def output(self, text: str) -> None:
        """What its code prints while it is imported belongs to it, and not on the installation's terminal."""

    def executed(self, summary: Mapping[str, Any]) -> None:
        """See `Story.executed`."""
        self._story.executed(summary)

    def named(self, **who: str | int) -> Story:
        """See `Story.named`."""
        return self._story.named(**who)

    def stopping(self) -> None:
        """The installation says so for all."""
