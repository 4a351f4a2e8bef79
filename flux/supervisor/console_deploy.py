"""The console's questions about deployments: what was deployed, deploy, roll back.

A deploy's body says what is to be served, ``{"on": "3f9c1e2"}``, or nothing for the project's folder as it is. With
``{"allow_destructive": true}`` its migrations may take tables, columns, rows or digits away. With
``{"guard": {"last": 200, "undecided": 0.2}}`` the last executions are replayed on it first; whoever wants to hear how
far that is, and to be able to end it, asks `flux.supervisor.console_guarded`. A rollback's body is
``{"to": "3f9c"}``, or nothing for the one before.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import msgspec
import trio

from flux.deploy_history import Deployed
from flux.guard import UNDECIDED_SHARE_MAX
from flux.store.deployments import DeploymentSeen
from flux.supervisor.console_query import BadQueryError, Query, number
from flux.supervisor.database_migrate import list_losses
from flux.supervisor.deploy import Switch
from flux.supervisor.guard import EXECUTIONS_MAX, GuardOrder, Progress
from flux.supervisor.present import Document, show_moment

LIST_DEFAULT = 20
LIST_MAX = 1000
NAME_MAX = 200


@attrs.frozen
class DeployOrder:
    """What is to be served, and what has a say in it."""

    on: str | None
    """A commit; None: the project's folder as it is."""
    guard: GuardOrder | None
    """Only if executions that are replayed on it do not get worse. None: whatever they do."""
    allow_destructive: bool
    """Its migrations may take data away."""

    @classmethod
    def read(cls, body: bytes) -> "DeployOrder":
        """Read it as it is sent."""
        said = _read_order(body, ("on", "guard", "allow_destructive"))
        allows = said.get("allow_destructive", False)
        if not isinstance(allows, bool):
            raise BadQueryError('"allow_destructive" is neither true nor false', remedy="leave it out, or write true")
        return cls(_read_name(said, "on"), _read_guard(said["guard"]) if "guard" in said else None, allows)


class DeployHost(Protocol):
    """Who deploys."""

    async def deploy(self, order: DeployOrder, progress: Progress) -> Switch:
        """Serve other code. See `flux.supervisor.deploy.Deployer.deploy`. ``progress`` hears how far the guard is."""

    async def roll_back(self, to: str | None) -> Switch:
        """Serve earlier code again. See `flux.supervisor.deploy.Deployer.roll_back`."""

    async def list_deployments(self, limit: int) -> Sequence[DeploymentSeen]:
        """Return what was served, the latest first."""

    def current(self) -> Deployed | None:
        """Return what is served just now."""

    def is_kept(self, deployment: str) -> bool:
        """Return whether its code is still here."""


class DeployDesk:
    """Answers them."""

    def __init__(self, host: DeployHost) -> None:
        self._host = host

    async def deployments(self, query: Query) -> Document:
        """List what was served, the latest first."""
        found = await self._host.list_deployments(number(query, "n", LIST_DEFAULT, LIST_MAX))
        current = self._host.current()
        return {
            "schema": "flux.deployments/1",
            "deployments": [self._deployment_json(seen, current) for seen in found],
        }

    async def deploy(self, body: bytes) -> Document:
        """Deploy."""

        async def progress(_judged: int, _total: int) -> None:
            await trio.lowlevel.checkpoint()  # Nobody is told: the answer has one document, at its end.

        return switch_json(await self._host.deploy(DeployOrder.read(body), progress), "flux.deploy/1")

    async def roll_back(self, body: bytes) -> Document:
        """Roll back."""
        order = _read_order(body, ("to",))
        return switch_json(await self._host.roll_back(_read_name(order, "to")), "flux.rollback/1")

    def _deployment_json(self, seen: DeploymentSeen, current: Deployed | None) -> Document:
        deploy = seen.deploy
        return {
            **_code_json(deploy.code),
            "branch": deploy.branch,
            "functions": list(deploy.functions),
            "current": deploy.code == current,
            "cause": deploy.cause.value,
            "at": show_moment(deploy.at),
            "deploys": seen.deploys,
            "executions": seen.executions,
            "failed": seen.failed,
            "runtime": dict(deploy.runtime),
            "kept": self._host.is_kept(deploy.code.deployment),
        }


def switch_json(switch: Switch, schema: str) -> Document:
    """Return how a deploy or a rollback ended."""
    deployment = switch.live.deployment
    return {
        "schema": schema,
        "deployment": deployment.id,
        "sha": deployment.sha,
        "dirty": deployment.dirty,
        "branch": deployment.branch,
        "functions": [function.name for function in deployment.functions],
        "deployed": switch.deployed,
        "unchanged": not switch.is_news,
        "before": None if switch.before is None else _code_json(switch.before),
        "elapsed_ms": round(switch.elapsed_s * 1000, 1),
        "migrations": list(switch.migrations),
        "destructive": list_losses(switch.losses),
        "notes": list(switch.notes),
        "gate": switch.gate,
    }


def _code_json(code: Deployed) -> Document:
    return {"deployment": code.deployment, "sha": code.sha, "dirty": code.dirty}


def _read_order(body: bytes, allowed: Sequence[str]) -> Mapping[str, Any]:
    try:
        order = msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body can't be read: {error}", remedy=f'send {{}}, or {{"{allowed[0]}": "..."}}'
        ) from error
    if unknown := sorted(order.keys() - set(allowed)):
        raise BadQueryError(f'the body has "{unknown[0][:80]}"', remedy=f"it takes {', '.join(allowed)}")
    return order


def _read_guard(said: object) -> GuardOrder:
    match said:
        case {"last": int(last), **more} if 1 <= last <= EXECUTIONS_MAX and not isinstance(last, bool):
            share = more.pop("undecided", UNDECIDED_SHARE_MAX)
            if not more and isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1:
                return GuardOrder(last, float(share))
    raise BadQueryError(
        '"guard" does not say how many executions are to be replayed',
        remedy=f'{{"guard": {{"last": 200, "undecided": 0.2}}}}, 1 to {EXECUTIONS_MAX:,}, and a share from 0 to 1',
    )


def _read_name(order: Mapping[str, Any], key: str) -> str | None:
    said = order.get(key)
    if said is not None and not (isinstance(said, str) and 0 < len(said) <= NAME_MAX):
        raise BadQueryError(
            f'"{key}" is no name', remedy=f"write up to {NAME_MAX} characters, or leave it out"
        )
    return said
