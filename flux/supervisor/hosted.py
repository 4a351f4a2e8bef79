"""What a tenant's server is given by the installation's, and may not decide for itself.

Its ``flux.toml`` is the tenant's: so which database it is on, how strong the jail is, and what of the inner network may
be reached is said here. A `flux.supervisor.server.Server` that has none of this is the installation's own.
"""

from collections.abc import Awaitable, Callable

import attrs

from flux.store.postgres import ConnectOptions, Pool
from flux.supervisor.console_port import ConsolePlace
from flux.supervisor.debug_room import DebugPart
from flux.supervisor.hosts import Share as HostsShare
from flux.supervisor.master_key import MasterKey
from flux.supervisor.turns import Share as TurnsShare
from flux.tenant import Tenant

ISOLATION = "strict"
"""The jail around a tenant's code."""
CONNECTIONS = (4, 8)
"""To its database at most: Flux's own, and those of functions."""


@attrs.frozen
class Hosted:
    """See the module."""

    tenant: Tenant
    database: ConnectOptions
    """How the owner of its database connects; `flux.supervisor.tenant_seal.bounded`."""
    repair_guest: Callable[[str], Awaitable[None]] | None
    """Gives the guest's role a password, where the database's owner may not; None: he may."""
    hosts: HostsShare
    """Hands over its requests: another server has the port."""
    console: ConsolePlace | None
    """Where the pages of all are; None: nowhere."""
    turns: TurnsShare
    """In which its executions run."""
    debugs: DebugPart
    """What executions may take that are stepped through."""
    master_key: MasterKey
    """What opens its key."""
    installation: Pool
    """To the installation's own database, which tells whether that master key is the one in force."""
    spool_bytes_max: int
    """What its bodies that are too large to hold may take on the disk."""
    addresses_allowed: frozenset[str]
    """Addresses that its ``flux.toml`` may grant."""
