"""The console's guarded deploy: executions are replayed on new code, and it is served only if none gets worse.

It may take minutes, so it is a stream of JSON lines (`flux.supervisor.work_stream`)::

    {"schema": "flux.guarded/1", "asked": 200}
    {"judged": 17, "of": 200}
    {"end": {"deploy": {"schema": "flux.deploy/1", ...}, "problem": null}}

Whoever goes before the end has not deployed anything: replays are stopped, and the code that was made ready is
put away. Only who goes during the switch itself may have.
"""

from flux.supervisor.console_deploy import DeployHost, DeployOrder, switch_json
from flux.supervisor.present import Document
from flux.supervisor.work_stream import ServerStoppingError, Tell


class GuardedDeploy:
    """One of them. See `flux.supervisor.work_stream.Work`."""

    def __init__(self, host: DeployHost, order: DeployOrder) -> None:
        assert order.guard is not None, "somebody has a say in it"
        self._host = host
        self._order = order
        self._asked = order.guard.last
        self._deploy: Document | None = None

    def head(self) -> Document:
        """Say how many executions were asked for."""
        return {"schema": "flux.guarded/1", "asked": self._asked}

    async def do(self, tell: Tell) -> None:
        """Deploy."""

        async def progress(judged: int, total: int) -> None:
            await tell({"judged": judged, "of": total})

        self._deploy = switch_json(await self._host.deploy(self._order, progress), "flux.deploy/1")

    def stopped(self) -> ServerStoppingError:
        """Say that the server ends."""
        return ServerStoppingError(
            "the server is stopping: nothing was deployed", remedy="ask again when it is back"
        )

    def end(self) -> Document:
        """Return the deploy, as it ended."""
        return {"deploy": self._deploy}
