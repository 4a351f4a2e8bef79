"""The table ``[telemetry]`` of ``flux.toml``: what is told to programs that watch, and to whom."""

import re

import attrs

from flux.config_values import RefusedValueError, ValueReader, list_of, name_type, read_host, read_text
from flux.grants import Grants, InvalidGrantError, parse_grant
from flux.trace_context import OWN_NETWORK, Propagation


@attrs.frozen
class TelemetryConfig:
    """The table ``[telemetry]``."""

    propagate: Propagation = OWN_NETWORK
    """Which hosts are sent ``traceparent`` with the requests of functions."""

    otlp: str = ""
    """Address of a collector that is sent the spans of executions; empty: none is."""


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


def read_collector(value: object) -> str:
    """The address of a collector; nothing in it may be a secret."""
    remedy = 'allowed: "http://collector:4318", or https://; a token goes into OTEL_EXPORTER_OTLP_HEADERS'
    text = read_text(value, remedy)
    if not text:
        return text
    match = re.fullmatch(r"(https?://[A-Za-z0-9._\[\]:-]+)(?:/[A-Za-z0-9._~/-]*)?", text, re.ASCII)
    if match is None:
        raise RefusedValueError("is no address of a collector", remedy)  # Not repeated: it may hold a password.
    try:
        parse_grant(match[1])
    except InvalidGrantError as error:
        raise RefusedValueError("is no address of a collector: its host or port is none", remedy) from error
    return text


TELEMETRY_KEYS: dict[str, ValueReader] = {"propagate": read_propagation, "otlp": read_collector}
