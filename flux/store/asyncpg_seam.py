"""The seam to asyncpg: its inner parts, named once and checked at import.

Flux uses what asyncpg keeps to itself, its protocol core, and drives it with
trio (`flux.store.postgres_wire`). Inner parts change without notice, so this is
the only module that imports asyncpg: it refuses a version that it was not
written against, takes out the one place that needs asyncio's loop, and hands
the rest on. What is not in ``__all__`` is not used.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import asyncpg
import asyncpg.compat
import asyncpg.protocol.protocol as core
from asyncpg import (
    ConnectionDoesNotExistError,
    DataError,
    InterfaceError,
    InternalClientError,
    InvalidCachedStatementError,
    InvalidSQLStatementNameError,
    OutdatedSchemaCacheError,
    PostgresError,
    Range,
    Record,
    UnsupportedClientFeatureError,
)

from flux.store.database_errors import DriverMismatch

__all__ = [
    "ConnectionDoesNotExistError", "DataError", "InterfaceError", "InternalClientError",
    "InvalidCachedStatementError", "InvalidSQLStatementNameError", "OutdatedSchemaCacheError",
    "PostgresError", "ProtocolCore", "Range", "Record", "UnsupportedClientFeatureError",
]  # fmt: skip

ProtocolCore = core.Protocol
"""The state machine: statements to bytes, bytes to rows. It wants a transport, a loop and a connection."""


class _TimeoutScope(Protocol):
    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *exc_info: object) -> Any: ...


def _check_driver() -> None:
    """Refuse an asyncpg whose inner parts are not those that this module was written against."""
    wanted = {
        core.Protocol: "prepare bind_execute query copy_in close_statement set_connection get_settings "
        "is_in_transaction is_connected abort data_received connection_made connection_lost "
        "backend_pid backend_secret _wait_for_cancellation _request_cancel",
        core.PreparedStatementState: "_init_types _init_codecs _get_attributes mark_unprepared",
        core.ConnectionSettings: "get_data_codec register_data_types add_python_codec "
        "set_builtin_type_codec clear_type_cache remove_python_codec",
        asyncpg.compat: "timeout",
    }
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in wanted.items()
        for name in names.split()
        if not hasattr(owner, name)
    ]
    if missing or not asyncpg.__version__.startswith("0.32."):
        raise DriverMismatch(
            f"asyncpg {asyncpg.__version__} is installed, and Flux builds on the inner parts of 0.32"
            + (f"; not found: {', '.join(missing)}" if missing else ""),
            remedy="pip install 'asyncpg>=0.32,<0.33'",
        )


def _timeout_without_asyncio(
    original: Callable[[float | None], _TimeoutScope],
) -> Callable[..., _TimeoutScope]:
    """asyncpg enters ``timeout(None)`` around a wait, which means no limit and yet needs asyncio's loop.

    Deadlines are trio's here, so None is all we ever pass; who passes more gets the original.
    """

    def timeout(delay: float | None) -> _TimeoutScope:
        return contextlib.nullcontext() if delay is None else original(delay)

    return timeout


_check_driver()
asyncpg.compat.timeout = _timeout_without_asyncio(asyncpg.compat.timeout)
