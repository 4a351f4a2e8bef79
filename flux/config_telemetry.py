"""The table ``[telemetry]`` of ``flux.toml``: what is told to programs that watch, and to whom."""

import attrs

from flux.config_values import RefusedValueError, ValueReader, list_of, name_type, read_host
from flux.grants import Grants
from flux.trace_context import OWN_NETWORK, Propagation


@attrs.frozen
class TelemetryConfig:
    """The table ``[telemetry]``."""

    propagate: Propagation = OWN_NETWORK
    """Which hosts are sent ``traceparent`` with the requests of functions."""


def read_propagation(value: object) -> Propagation:
    """True, false, "private" or a list of hosts."""
    match value:
        case True:
            return Propagation("all")
        case False:
            return Propagation("listed")
        case "private":
            return Propagation("private")
        case list():
            return Propagation("listed", Grants.parse(list_of(read_host)(value)))
    said = f'"{value}"' if isinstance(value, str) else name_type(value)
    raise RefusedValueError(f"is {said}", 'allowed: "private", true, false or a list of hosts')


TELEMETRY_KEYS: dict[str, ValueReader] = {"propagate": read_propagation}
