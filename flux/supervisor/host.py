"""What the console asks of the running functions: which there are, run one, how are you."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.brought import BroughtAnswer
from flux.config import Config
from flux.deploy_history import Deployed
from flux.errors import FluxError, OperatorError
from flux.execution import Execution, Returned, Trigger
from flux.message import HttpResponse
from flux.openapi import make_openapi
from flux.store.deployments import DeploymentSeen, list_deployments
from flux.supervisor.bisect import Bisector
from flux.supervisor.console import Invoked, NoSuchFunctionError
from flux.supervisor.console_deploy import DeployOrder
from flux.supervisor.console_tenants import TenantsKeeper
from flux.supervisor.deploy import Deployer, Switch, name_code
from flux.supervisor.deployments import Deployments
from flux.supervisor.execute import Backing, Executor
from flux.supervisor.front_door import FrontDoor
from flux.supervisor.guard import Guard, Progress
from flux.supervisor.inputs import parse_json
from flux.supervisor.interleave import Interleaved, Interleaver
from flux.supervisor.isolation import describe_warm
from flux.supervisor.live import Live
from flux.supervisor.present import logs_of_execution, summary_of_execution
from flux.supervisor.prove import Prover
from flux.supervisor.pytest_export import WrittenTest, write_smallest_test
from flux.supervisor.replay import Replay, Replayer
from flux.supervisor.replay_record import keep_replay, to_replay
from flux.supervisor.runnable import Runnable
from flux.supervisor.server_metrics import ReplayCounts
from flux.supervisor.vault import Vault
from flux.travel import Tap

READY_S = 10.0
"""How long an invoke waits for code that can be run."""


class FunctionsNotReadyError(OperatorError):
    """No code of the project could be loaded yet."""

    code = "FLX723"


class Publisher:
    """Tells the live streams of executions that have ended. An `flux.supervisor.execute.Audience`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def done(self, execution: Execution, *, stored: bool) -> None:
        """See `flux.supervisor.execute.Audience.done`."""
        self._live.publish(summary_of_execution(execution), logs_of_execution(execution), stored=stored)

    def stored(self, execution_id: object) -> None:
        """See `flux.supervisor.execute.Audience.stored`."""
        self._live.mark_stored(str(execution_id))


class FunctionHost:
    """See `flux.supervisor.console.ConsoleHost`."""

    def __init__(
        self,
        deployments: Deployments,
        deployer: Deployer,
        guard: Guard,
        executor: Executor,
        replayer: Replayer,
        interleaver: Interleaver,
        bisector: Bisector,
        backing: Backing,
        vault: Vault,
        checks: Callable[[], Sequence[Mapping[str, Any]]],
        replays: ReplayCounts,
    ) -> None:
        self._deployments = deployments
        self._deployer = deployer
        self._guard = guard
        self._executor = executor
        self._replayer = replayer
        self._interleaver = interleaver
        self._bisector = bisector
        self._backing = backing
        self._vault = vault
        self._checks = checks
        self._replays = replays
        self.front_door: FrontDoor | None = None
        """Turns outcomes into answers; set once it exists, as it needs the console first."""
        self.tenants: TenantsKeeper | None = None
        """Who else is served here; None where nobody can be."""
        self.failure: FluxError | None = None
        """Why the code in the project's folder is not what is served; None when it is."""
        self.spread: Callable[[Switch], Awaitable[Sequence[str]]] | None = None
        """Has the other processes of this server serve what was deployed; None where there are none."""

    def functions(self) -> Sequence[Mapping[str, Any]]:
        """See `flux.supervisor.console.ConsoleHost.functions`."""
        current = self._deployments.current
        if current is None:
            return []
        return [
            {
                "name": runnable.function.name,
                "route": runnable.function.route,
                "runtime": runnable.function.runtime,
                "grants": list_grants(runnable),
                "auth": _show_auth(current.config, runnable),
                "middleware": list(runnable.chain.list_for("http")),
                "sha": current.deployment.sha,
                "error": None if self.failure is None else f"serving the last good code: {self.failure}",
            }
            for runnable in sorted(current.runnables.values(), key=lambda one: one.function.name)
        ]

    def openapi(self) -> Mapping[str, Any]:
        """See `flux.supervisor.console.ConsoleHost.openapi`."""
        current = self._deployments.current
        if current is None:
            raise self._not_ready("described")
        code = current.deployment
        version = code.sha[:12] + ("-dirty" if code.dirty else "")
        return make_openapi(current.config, version, code.functions)

    async def invoke(self, name: str, data: bytes) -> Invoked:
        """See `flux.supervisor.console.ConsoleHost.invoke`."""
        current = None
        with trio.move_on_after(READY_S):
            current = await self._deployments.wait_current()
        if current is None:
            raise self._not_ready("run")
        runnable = current.runnables.get(name)
        if runnable is None:
            known = ", ".join(sorted(current.runnables)) or "none"
            raise NoSuchFunctionError(
                f'no function is named "{name}"; there is {known}', remedy="flux function list"
            )
        current.enter()
        try:
            executed = await self._executor.execute(
                runnable, Trigger(kind="invoke", body=data), parse_json(data)
            )
        finally:
            current.leave()
        assert self.front_door is not None
        response: HttpResponse = self.front_door.respond(executed)
        assert isinstance(response.body, bytes)
        content_type = next((value for key, value in response.headers if key.lower() == "content-type"), "")
        body = executed.outcome.body if isinstance(executed.outcome, Returned) else response.body
        return Invoked(response.status, body, content_type, summary_of_execution(executed.execution))

    def _not_ready(self, what: str) -> FunctionsNotReadyError:
        why = f": {self.failure.message}" if self.failure is not None else ""
        return FunctionsNotReadyError(
            f"the functions can't be {what}{why}", remedy="see what the server says on its terminal, and mend it"
        )

    async def deploy(self, order: DeployOrder, progress: Progress) -> Switch:
        """See `flux.supervisor.console_deploy.DeployHost.deploy`."""
        gate = None if order.guard is None else self._guard.make_gate(order.on, order.guard, progress)
        switch = await self._deployer.deploy(order.on, gate, allow_destructive=order.allow_destructive)
        return await self._spread(switch)

    async def roll_back(self, to: str | None) -> Switch:
        """See `flux.supervisor.console_deploy.DeployHost.roll_back`."""
        return await self._spread(await self._deployer.roll_back(to))

    async def _spread(self, switch: Switch) -> Switch:
        if self.spread is None or not switch.deployed:
            return switch
        return attrs.evolve(switch, notes=(*switch.notes, *await self.spread(switch)))

    async def list_deployments(self, limit: int) -> Sequence[DeploymentSeen]:
        """See `flux.supervisor.console_deploy.DeployHost.list_deployments`."""
        return await list_deployments(self._backing.owner, self._backing.tenant, limit)

    def current(self) -> Deployed | None:
        """See `flux.supervisor.console_deploy.DeployHost.current`."""
        return name_code(self._deployments.current)

    def is_kept(self, deployment: str) -> bool:
        """See `flux.supervisor.console_deploy.DeployHost.is_kept`."""
        return self._deployments.artifacts.is_kept(deployment)

    def expect(self, originals: Sequence[Execution]) -> None:
        """See `flux.supervisor.console_replay.ReplayHost.expect`."""
        self._replayer.expect(originals)

    async def replay(
        self,
        original: Execution,
        on: str | None,
        answers: Mapping[int, BroughtAnswer],
        live: frozenset[str],
    ) -> Replay:
        """See `flux.supervisor.console.ConsoleHost.replay`."""
        now = await to_replay(self._backing, self._replayer, original.id)
        replay = await self._replayer.replay(now.execution, on, answers, live)
        self._replays.count(replay.judgement.verdict)
        return await keep_replay(self._backing, replay, now.erasures)

    async def follow(self, original: Execution, tap: Tap) -> Replay:
        """See `flux.supervisor.console_debug.DebugHost.follow`. Nobody asked for a replay, so it is not stored."""
        return await self._replayer.follow(original, tap)

    async def find_code(self, original: Execution) -> Path:
        """See `flux.supervisor.console_debug.DebugHost.find_code`."""
        return (
            await trio.to_thread.run_sync(self._deployments.find_kept, original.deployment, original.sha)
        ).root

    async def interleave(
        self, executions: Sequence[Execution], on: str | None, *, check: str | None, in_turn: bool
    ) -> Interleaved:
        """See `flux.supervisor.console_interleave.InterleaveHost.interleave`."""
        return await self._interleaver.interleave(executions, on, check=check, in_turn=in_turn)

    async def rehearse(self, original: Execution) -> Replay:
        """See `flux.supervisor.console_diff.DiffHost.rehearse`. Nobody asked to see it, so it is not stored."""
        return await self._replayer.replay(original, None, {}, rehearses=True)

    async def export(self, original: Execution) -> bytes:
        """See `flux.supervisor.console.ConsoleHost.export`."""
        return await self._replayer.export(original)

    async def write_test(self, original: Execution) -> WrittenTest:
        """See `flux.supervisor.console.ConsoleHost.write_test`."""
        return await write_smallest_test(original, self._replayer.without_backing())

    def bisector(self) -> Bisector:
        """See `flux.supervisor.console.ConsoleHost.bisector`."""
        return self._bisector

    def prover(self) -> Prover:
        """See `flux.supervisor.console.ConsoleHost.prover`."""
        return Prover(self._replayer, self._backing)

    def vault(self) -> Vault:
        """See `flux.supervisor.console_secrets.SecretsHost.vault`."""
        return self._vault

    def tenants_keeper(self) -> TenantsKeeper | None:
        """See `flux.supervisor.console_tenants.TenantsHost.tenants_keeper`."""
        return self.tenants

    def checks(self) -> Sequence[Mapping[str, Any]]:
        """See `flux.supervisor.console.ConsoleHost.checks`."""
        current = self._deployments.current
        if current is None:
            return [self._check_deployment(), *self._checks()]
        warm = {
            runnable.function.name: runnable.warm
            for runnable in current.runnables.values()
            if runnable.warm > 1
        }
        warmth = describe_warm(max(warm.values(), default=1), warm)
        return [self._check_deployment(), *self._checks(), warmth]

    def _check_deployment(self) -> Mapping[str, Any]:
        code = self.current()
        detail = "nothing is served" if code is None else f"{code.text} is served, deployment {code.deployment}"
        if self.failure is not None:
            detail += f"; the code in the project's folder is not: {self.failure.message}"
        is_ok = code is not None and self.failure is None
        remedy = "" if is_ok else "mend it and save, or deploy a commit: flux deploy --on REF"
        return {"name": "deployment", "ok": is_ok, "detail": detail, "remedy": remedy}

    def ready(self) -> bool:
        """See `flux.supervisor.console.ConsoleHost.ready`."""
        return self._deployments.current is not None


def _show_auth(config: Config, runnable: Runnable) -> Mapping[str, Any] | None:
    """Return what the gateway asks of a request; None where it asks nothing, or none can come."""
    name = runnable.function.name
    kind = config.get_auth(name)
    if runnable.function.route is None or kind == "none":
        return None
    return {"kind": kind, "scopes": list(config.get_function(name).scopes)}


def list_grants(runnable: Runnable) -> list[str]:
    """Return what a function may reach, as people read it: ``db``, ``http:api.stripe.com``."""
    return ["db", *(f"http:{grant.text}" for grant in runnable.grants.grants)]
