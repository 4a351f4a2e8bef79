"""The console's questions about tenants: who else is served, and what each uses. Only the installation's own."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from flux.errors import OperatorError
from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, show_moment
from flux.supervisor.tenant_order import TenantChange, TenantOrder, read_change, read_order

if TYPE_CHECKING:  # A tenant's server is one like ours, so the module that serves tenants stands above this one.
    from flux.supervisor.tenants import TenantSeen, TenantUse


QUOTAS = ("turns", "memory", "requests", "cpu", "storage", "stopped")
"""What a request may have been refused for; the last is no quota: its tenant's server was ending."""


class NoTenantsHereError(OperatorError):
    """This server can have no tenants."""

    code = "FLX815"


class TenantsKeeper(Protocol):
    """Who serves them."""

    def list(self) -> "Sequence[TenantSeen]":
        """Return all, by name."""

    def show(self, name: str) -> "TenantSeen":
        """Return one."""

    async def set(self, name: str, change: TenantChange) -> "TenantSeen":
        """Change what one may use."""

    async def add(self, order: TenantOrder) -> "TenantSeen":
        """Add one and serve it."""

    async def remove(self, name: str, *, drops_data: bool) -> "TenantSeen":
        """Stop serving one."""


class TenantsHost(Protocol):
    """Who knows whether there can be any."""

    def tenants_keeper(self) -> TenantsKeeper | None:
        """Return who serves them, or None."""


class _Removal(msgspec.Struct, forbid_unknown_fields=True):
    drop_data: bool = False


class TenantsDesk:
    """Answers them."""

    def __init__(self, host: TenantsHost) -> None:
        self._host = host

    async def list_tenants(self, _query: Query) -> Document:
        """Return all."""
        return _document(self._keeper().list())

    async def show(self, name: str) -> Document:
        """Return one."""
        return _document([self._keeper().show(name)])

    async def set(self, name: str, body: bytes) -> Document:
        """Change what one may use."""
        keeper = self._keeper()
        return _document([await keeper.set(name, read_change(body))])

    async def add(self, body: bytes) -> Document:
        """Add one."""
        keeper = self._keeper()
        return _document([await keeper.add(read_order(body))])

    async def remove(self, name: str, body: bytes) -> Document:
        """Remove one."""
        keeper = self._keeper()
        try:
            said = msgspec.json.decode(body, type=_Removal)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadQueryError(f"the body is not what it should be: {error}", remedy='{"drop_data": false}') from error
        return _document([await keeper.remove(name, drops_data=said.drop_data)])

    def _keeper(self) -> TenantsKeeper:
        keeper = self._host.tenants_keeper()
        if keeper is None:
            raise NoTenantsHereError(
                "this server has no tenants", remedy="flux serve can have some; flux dev has none, nor has a tenant"
            )
        return keeper


def _document(found: "Sequence[TenantSeen]") -> Document:
    return {
        "schema": "flux.tenants/1",
        "tenants": [
            {
                "name": each.name,
                "url": each.url,
                "hosts": list(each.hosts),
                "folder": each.folder,
                "up": each.is_up,
                "problem": each.problem or None,
                "database": "made" if each.is_made else "given",
                "quotas": {
                    "weight": each.quotas.weight,
                    "concurrency": each.quotas.concurrency,
                    "memory_bytes": each.quotas.memory_bytes,
                    "requests_per_minute": each.quotas.requests_per_minute,
                    "storage_bytes": each.quotas.storage_bytes,
                    "cpu_ms_per_minute": each.quotas.cpu_ms_per_minute,
                },
                "use": None if each.use is None else _show_use(each.use),
                "added_at": None if each.added_at is None else show_moment(each.added_at),
            }
            for each in found
        ],
    }


def _show_use(use: "TenantUse") -> Document:
    return {
        "running": use.turns.turns,
        "waiting": use.turns.waiting,
        "turns_kept": use.turns.kept,
        "memory_bytes": use.turns.memory_bytes,
        "requests": None if use.requests_spent is None else math.ceil(use.requests_spent),
        "storage_bytes": use.storage_bytes,
        "cpu_ms": use.cpu_ms_spent,
        "cpu_ms_total": use.cpu_ms,
        "refused": {quota: use.refused.get(quota, 0) for quota in QUOTAS},
    }
