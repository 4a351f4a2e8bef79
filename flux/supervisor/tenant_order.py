"""What is asked of ``flux tenant add`` and ``set``, read strictly: a name, a folder, hosts, a database, quotas."""

import re
from pathlib import Path
from typing import Any

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from flux.config import CONFIG_NAME
from flux.errors import OperatorError
from flux.grants import parse_grant
from flux.limits import UnreadableQuantityError, parse_duration_s, parse_size_bytes
from flux.store.tenants import Quotas
from flux.supervisor.console_query import BadQueryError
from flux.tenant import NAME, Tenant

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z", re.ASCII)
_LAST_IS_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\Z")
HOSTS_MAX = 50
CPU_S_MAX = 60_000.0
"""A thousand processors."""


class BadTenantError(OperatorError):
    """What is asked for can't be a tenant."""

    code = "FLX810"


class _Quotas(msgspec.Struct, forbid_unknown_fields=True):
    weight: int | UnsetType = UNSET
    concurrency: int | UnsetType = UNSET
    memory: str | UnsetType = UNSET
    requests: int | UnsetType | None = UNSET
    storage: str | UnsetType | None = UNSET
    cpu: str | UnsetType | None = UNSET


class _Body(_Quotas, kw_only=True):
    name: str
    folder: str
    hosts: list[str] = []
    database_url: str = ""
    allow: list[str] = []


@attrs.frozen
class TenantOrder:
    """A tenant that is to be added."""

    name: str
    folder: Path
    """Of its project."""
    hosts: tuple[str, ...]
    """Names of its own, beside the one below ``localhost``."""
    database_url: str
    """Empty: Flux makes one beside its own."""
    quotas: Quotas
    allow: tuple[str, ...]
    """Private addresses that its ``flux.toml`` may grant."""


@attrs.frozen
class TenantChange:
    """What is to be otherwise with a tenant."""

    said: _Quotas = attrs.field(repr=False)
    """As it was said: what was not stays as it is."""

    def apply(self, quotas: Quotas) -> Quotas:
        """Return what it may use from now on; raise `BadTenantError`."""
        return _read_quotas(self.said, quotas)


def name_local_host(tenant: str) -> str:
    """Return the name by which the machine that serves reaches a tenant."""
    return f"{tenant.replace('_', '-')}.localhost"


def read_order(body: bytes) -> TenantOrder:
    """Return what is asked for; raise `BadTenantError` where it has no meaning."""
    try:
        said = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):  # Its words might quote a password.
        raise BadQueryError("the body is no order of a tenant", remedy="see docs/console-api.md") from None
    if not NAME.match(said.name) or said.name == Tenant().name:
        raise BadTenantError(
            f'"{said.name[:100]}" can\'t be a tenant\'s name',
            remedy=f"lower-case letters, digits and _, 41 at most, a letter first; not {Tenant().name}",
        )
    named = dict.fromkeys(host.lower().rstrip(".") for host in said.hosts)
    named.pop(name_local_host(said.name), None)  # It has that one anyway.
    hosts = tuple(named)
    for host in hosts:
        if not _HOST.match(host) or _LAST_IS_NUMBER.match(host) or host == "localhost" or len(hosts) > HOSTS_MAX:
            raise BadTenantError(
                f'"{host[:200]}" can\'t be a tenant\'s host', remedy="a name without port, such as api.example.com"
            )
    for text in said.allow:
        parse_grant(text)
    folder = Path(said.folder)
    if not folder.is_absolute() or not (folder / CONFIG_NAME).is_file():
        raise BadTenantError(
            f"{said.folder[:1000]} is no project's folder on the machine that serves: it has no {CONFIG_NAME}",
            remedy="make one there: flux init DIR",
        )
    return TenantOrder(
        said.name, folder.resolve(), hosts, said.database_url, _read_quotas(said, Quotas()), tuple(said.allow)
    )


def read_change(body: bytes) -> TenantChange:
    """Return what is asked for; raise `BadQueryError` where it has no meaning."""
    try:
        said = msgspec.json.decode(body, type=_Quotas)
    except (msgspec.DecodeError, UnicodeDecodeError):  # As above.
        raise BadQueryError("the body is no change of a tenant", remedy="see docs/console-api.md") from None
    if said == _Quotas():
        raise BadTenantError("nothing is said that is to be otherwise", remedy="name a quota: --cpu 30s")
    return TenantChange(said)


def _read_quotas(said: _Quotas, before: Quotas) -> Quotas:
    """Return ``before`` with what was said in its place."""
    new: dict[str, Any] = {}
    if said.weight is not UNSET:
        new["weight"] = _check_number("weight", said.weight, 1000)
    if said.concurrency is not UNSET:
        new["concurrency"] = _check_number("concurrency", said.concurrency, 10_000)
    if said.memory is not UNSET:
        new["memory_bytes"] = _read_size("memory", said.memory)
    if said.requests is not UNSET:
        new["requests_per_minute"] = None if said.requests is None else _check_number("requests", said.requests, 10**9)
    if said.storage is not UNSET:
        new["storage_bytes"] = None if said.storage is None else _read_size("storage", said.storage)
    if said.cpu is not UNSET:
        new["cpu_ms_per_minute"] = None if said.cpu is None else _read_cpu(said.cpu)
    return attrs.evolve(before, **new)


def _check_number(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise BadTenantError(f"{name} is {value}", remedy=f"write a number from 1 to {most:,}")
    return value


def _read_cpu(text: str) -> int:
    """Return milliseconds of processor time."""
    try:
        seconds = parse_duration_s(text)
    except UnreadableQuantityError as error:
        raise BadTenantError(f"cpu {error.message}", remedy=error.remedy) from error
    if not 0.1 <= seconds <= CPU_S_MAX:
        raise BadTenantError(
            f'cpu is "{text[:100]}"', remedy="write processor time in a minute, 100ms or more: 60s is one processor"
        )
    return round(seconds * 1000)


def _read_size(name: str, text: str) -> int:
    try:
        size = parse_size_bytes(text)
    except UnreadableQuantityError as error:
        raise BadTenantError(f"{name} {error.message}", remedy=error.remedy) from error
    if not 2**20 <= size < 2**60:
        raise BadTenantError(f'{name} is "{text}"', remedy="write 1MiB or more")
    return size
