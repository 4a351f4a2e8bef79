"""The one door to Postgres: asyncpg's protocol core, driven by trio.

What the rest of Flux may use of the driver is named here, and nothing else is.
Behind the door, each module knows less than the one above it::

    postgres_pool        connections to share
    postgres_connect     opening one, and why that fails
    postgres_connection  statements, transactions, notifications
    postgres_messages    what the protocol core does not tell; COPY's two ends
    postgres_snapshots   between which two snapshots a statement ran
    postgres_bracket     more than one statement in a packet
    postgres_limits      how long a transaction may last
    postgres_types       which values are what in Python (column_values: how)
    postgres_wire        transport, loop and connection to the protocol core; cancellation
    postgres_socket      sockets and TLS
    asyncpg_seam         the only module that imports asyncpg

Three rules hold everywhere. A statement that is cancelled is ended before
``trio.Cancelled`` goes on, and the connection is usable afterwards. What went
wrong is one of `flux.store.database_errors`, never asyncpg's. A value read and
written back is the same value. docs/design/011-driver.md has the reasons.
"""

from flux.store.asyncpg_seam import Range
from flux.store.column_values import Interval
from flux.store.connect_options import BadDatabaseUrl, ConnectOptions, TlsMode, parse_url
from flux.store.database_errors import (
    AnswerTooLarge,
    BadQueryArgument,
    CannotConnect,
    CommitUnknown,
    ConnectionBusy,
    ConnectionLost,
    DatabaseError,
    DriverMismatch,
    Notice,
    PoolClosed,
    StatementRefused,
    UnreadableAnswer,
    is_away,
)
from flux.store.postgres_answers import Column, Isolation, Notification, Result, Row
from flux.store.postgres_connect import connect
from flux.store.postgres_connection import Connection, quote_identifier
from flux.store.postgres_limits import sending_s
from flux.store.postgres_pool import Pool, PoolCounts
from flux.store.postgres_snapshots import SnapshotBracket

__all__ = [
    "AnswerTooLarge", "BadDatabaseUrl", "BadQueryArgument", "CannotConnect", "Column", "CommitUnknown",
    "ConnectOptions", "Connection", "ConnectionBusy", "ConnectionLost", "DatabaseError", "DriverMismatch", "Interval",
    "Isolation", "Notice", "Notification", "Pool", "PoolClosed", "PoolCounts", "Range", "Result", "Row",
    "SnapshotBracket", "StatementRefused", "TlsMode", "UnreadableAnswer", "connect", "is_away",
    "parse_url", "quote_identifier", "sending_s",
]  # fmt: skip
