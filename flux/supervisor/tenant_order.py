"""What is asked of ``flux tenant add``, read strictly: a name, a folder, hosts, a database, quotas."""

import re
from pathlib import Path

import attrs
import msgspec

from flux.config import CONFIG_NAME
from flux.errors import OperatorError
from flux.grants import parse_grant
from flux.limits import UnreadableQuantityError, parse_size_bytes
from flux.store.tenants import Quotas
from flux.supervisor.console_query import BadQueryError
from flux.tenant import NAME, Tenant

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z", re.ASCII)
_LAST_IS_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\Z")
HOSTS_MAX = 50


class BadTenantError(OperatorError):
    """What is asked for can't be a tenant."""

    code = "FLX810"


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    folder: str
    hosts: list[str] = []
    database_url: str = ""
    weight: int | None = None
    concurrency: int | None = None
    memory: str | None = None
    requests: int | None = None
    storage: str | None = None
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
        said.name, folder.resolve(), hosts, said.database_url, _read_quotas(said), tuple(said.allow)
    )


def _read_quotas(said: _Body) -> Quotas:
    default = Quotas()
    quotas = Quotas(
        weight=default.weight if said.weight is None else said.weight,
        concurrency=default.concurrency if said.concurrency is None else said.concurrency,
        memory_bytes=default.memory_bytes if said.memory is None else _read_size("memory", said.memory),
        requests_per_minute=said.requests,
        storage_bytes=None if said.storage is None else _read_size("storage", said.storage),
    )
    for name, value, most in (
        ("weight", quotas.weight, 1000),
        ("concurrency", quotas.concurrency, 10_000),
        ("requests", quotas.requests_per_minute, 10**9),
    ):
        if value is not None and not 1 <= value <= most:
            raise BadTenantError(f"{name} is {value}", remedy=f"write a number from 1 to {most:,}")
    return quotas


def _read_size(name: str, text: str) -> int:
    try:
        size = parse_size_bytes(text)
    except UnreadableQuantityError as error:
        raise BadTenantError(f"{name} {error.message}", remedy=error.remedy) from error
    if not 2**20 <= size < 2**60:
        raise BadTenantError(f'{name} is "{text}"', remedy="write 1MiB or more")
    return size
