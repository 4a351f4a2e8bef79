"""Who else the installation serves: how each stands, and what it uses of what it may.

The page is there where the API's list is: on the server of an installation, for a token that may see it. A tenant's own
console has neither.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.page import Asked, Page

REFUSALS = {
    "turns": "no turn was free", "memory": "its memory limit is above the quota", "requests": "too many in a minute",
    "cpu": "the processor time was used up", "storage": "the storage was used up", "stopped": "its server had ended",
}  # fmt: skip
"""What a request was refused for, by quota."""


@attrs.frozen
class Use:
    """What is used of a quota."""

    what: str
    used: str
    """``?``: it is not measured yet; empty: the tenant is not served."""
    most: str
    """Empty: there is no quota."""


@attrs.frozen
class Tenant:
    """A tenant."""

    name: str
    url: str
    also: str
    """Its other hosts."""
    folder: str
    database: str
    added: str
    is_up: bool
    problem: str
    """Why it is not served."""
    uses: list[Use]
    refused: list[str]


def build_tenants(documents: Mapping[str, Any], asked: Asked) -> Page:
    """All tenants, those that are not up first."""
    found = sorted(documents["tenants"]["tenants"], key=lambda tenant: bool(tenant["up"]))
    return Page(
        title="Tenants",
        template="tenants.html",
        area="tenants",
        context={
            "tenants": [_make_tenant(tenant, asked.now) for tenant in found],
            "down": sum(not tenant["up"] for tenant in found),
        },
        command="flux tenant list",
    )


def _make_tenant(tenant: Mapping[str, Any], now: datetime) -> Tenant:
    use = tenant["use"]
    refused = {} if use is None else use["refused"]
    return Tenant(
        name=words.cut(str(tenant["name"])),
        url=words.cut(str(tenant["url"])),
        also=words.cut(", ".join(map(str, tenant["hosts"][1:])), 1000),
        folder=words.cut(str(tenant["folder"]), 1000),
        database=words.cut(str(tenant["database"]), 20),
        added=words.clock(tenant["added_at"], now),
        is_up=bool(tenant["up"]),
        problem=words.cut(str(tenant["problem"] or ""), 1000),
        uses=_list_uses(tenant["quotas"], use),
        refused=[f"{refused[quota]:,} refused: {why}" for quota, why in REFUSALS.items() if refused.get(quota)],
    )


def _list_uses(quotas: Mapping[str, Any], use: Mapping[str, Any] | None) -> list[Use]:
    """Return what is used beside what may be. Without a quota a minute's use is not counted, and is not shown."""

    def used(key: str, write: Any = str) -> str:
        if use is None:
            return ""
        return "?" if use[key] is None else write(use[key])

    def seconds(ms: float) -> str:
        return f"{ms / 1000:,.1f} s"

    uses = [
        Use("executions at once", used("running"), str(quotas["concurrency"])),
        Use("that wait for a turn", used("waiting"), ""),
        Use("memory", used("memory_bytes", words.size), words.size(quotas["memory_bytes"])),
    ]
    if (requests := quotas["requests_per_minute"]) is not None:
        uses.append(Use("requests in a minute", used("requests"), f"{requests:,}"))
    if (cpu := quotas["cpu_ms_per_minute"]) is not None:
        uses.append(Use("processor time in a minute", used("cpu_ms", seconds), seconds(cpu)))
    storage = quotas["storage_bytes"]
    uses += [
        Use("processor time in all", used("cpu_ms_total", seconds), ""),
        Use("storage", used("storage_bytes", words.size), "" if storage is None else words.size(storage)),
        Use("weight", "", str(quotas["weight"])),
    ]
    return uses
