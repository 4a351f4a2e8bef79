"""How a tenant's database is reached: what the installation's list of tenants has sealed with the master key.

It is the URL that was given for it, or the password of the owner that Flux made for a database of its own making. Who
has the installation's database alone reaches no tenant's with it.
"""

from secrets import token_bytes

import attrs

from flux.limits import MIB
from flux.sealing import NONCE_BYTES, open_with_any, seal
from flux.store import tenant_database
from flux.store.postgres import ConnectOptions, parse_url
from flux.store.tenants import TenantRow
from flux.supervisor.master_key import MasterKey

ANSWER_BYTES_MAX = 128 * MIB
"""What one answer of its database may take. Its migrations own every table that Flux reads there, and may have put a
view of any size in the place of one; the process that holds the answer serves everybody. Records of ordinary size, some
hundred in a page, are far below: the larger ones keep their bodies apart."""
ANSWER_S_MAX = 3600.0
"""How long one answer may take; building an index on a large table is among what has to fit."""


def place_of_database(tenant: str) -> str:
    """Where a URL or password is sealed for."""
    return f"database/{tenant}"


def seal_database(tenant: str, master_key: bytes, hidden: str) -> bytes:
    """Return a URL or password, sealed."""
    return seal(master_key, token_bytes(NONCE_BYTES), hidden.encode(), place_of_database(tenant))


def bounded(database: ConnectOptions) -> ConnectOptions:
    """Return ``database`` with bounds on what it answers."""
    return attrs.evolve(database, answer_bytes_max=ANSWER_BYTES_MAX, answer_s_max=ANSWER_S_MAX)


def open_database(row: TenantRow, master_key: MasterKey, installation: ConnectOptions) -> ConnectOptions:
    """Return how the owner of a tenant's database connects. In a `flux.store.vault.holding_keys` block."""
    opened = open_with_any(master_key.get_all(), row.database_sealed, place_of_database(row.name)).decode()
    if not row.is_made:
        return bounded(parse_url(opened))
    # Where the server is may have changed since: an embedded one has its socket where it can.
    return bounded(
        attrs.evolve(
            installation, user=tenant_database.name_owner(row.name), password=opened,
            database=tenant_database.name_database(row.name),
        )
    )  # fmt: skip
