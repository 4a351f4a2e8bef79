"""Every setting, its value and whose it is: what ``flux config list`` shows.

A setting is a key of ``flux.toml``, or an environment variable that Flux reads. Its value is what one writes to have it
so: what stands in the file as it stands there, and a default as it would be written. `flux.config` has judged the file
before anything is listed of it.

Two kinds of tables. Those of the project have a value for each key, written or not; a check that is off unless its
table is there is one line while it is off. Tables for one function, schedule or path say what is otherwise than the
project's, so only what is written in them is listed.

What a secret may stand in is not shown: passwords in addresses, private keys, variables that are for secrets.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from flux.bearer import AuthConfig
from flux.config import CONFIG_NAME, DEFAULT_ORIGIN, LIMIT_KEYS, TABLES, Config, ProjectConfig, parse_config
from flux.config_gate import AUTH_KEYS, CORS_KEYS, HTTP_KEYS, RATE_KEYS
from flux.config_values import ValueReader, read_duration_s, read_size_bytes
from flux.cors import CorsRules
from flux.limits import format_duration, format_size
from flux.rate_limit import RateLimit
from flux.toml_lines import KeyPath, dotted
from flux.trace_context import Propagation

DEFAULT = "default"
ENVIRONMENT = "environment"
HIDDEN = "****"

VARIABLES: Mapping[str, bool] = {
    "FLUXRT_URL": False,
    "FLUXRT_TOKEN": True,
    "FLUXRT_MASTER_KEY": True,
    "FLUXRT_DATABASE_URL": False,
    "FLUXRT_PAGER": False,
    "OTEL_EXPORTER_OTLP_HEADERS": True,
}
"""Environment variables that Flux reads, and whether what stands in them is a secret."""


@attrs.frozen
class Setting:
    """One setting."""

    key: str
    """As one writes it: "limits.timeout", or a variable's name."""

    value: Any
    """As in the file, or as JSON; None where nothing is set and nothing is the default."""

    source: str
    """Where the value is from: "flux.toml:12", `DEFAULT` or `ENVIRONMENT`."""

    is_hidden: bool = False
    """The value, or a part of it, is not shown: `HIDDEN` stands there."""


def list_settings(text: str, environment: Mapping[str, str], filename: str = CONFIG_NAME) -> tuple[Setting, ...]:
    """Return every setting; raise `flux.config.ConfigError` for what is wrong with ``text``."""
    config = parse_config(text, filename)
    document = tomllib.loads(text)
    listed = [*_list_project(document), *_list_gate(document)]
    for name in ("functions", "cron", "routes"):
        listed += _list_written((name,), document.get(name, {}))
    settings = []
    for path, value in listed:
        key = dotted(path)
        origin = config.origins.get(key, DEFAULT_ORIGIN)
        shown = _hide(value)
        settings.append(Setting(key, shown, DEFAULT if origin == DEFAULT_ORIGIN else origin, shown != value))
    return (*settings, *_list_variables(environment))


def _list_project(document: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    defaults = Config(project=ProjectConfig(name=""))
    proxies = {"proxies": defaults.gate.proxies.networks, "proxy_headers": defaults.gate.proxies.headers}
    for name, keys in TABLES.items():
        for key, reader in keys.items():
            is_of_gate = name == "http" and key in HTTP_KEYS
            default = proxies[key] if is_of_gate else getattr(getattr(defaults, name), key)
            yield (name, key), document.get(name, {}).get(key, _write(default, reader))
    for key, (field, reader) in LIMIT_KEYS.items():
        default = getattr(defaults.limits, field)
        yield ("limits", key), document.get("limits", {}).get(key, _write(default, reader))


def _list_gate(document: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    http = document.get("http", {})
    for name, (keys, defaults) in _GATE_TABLES.items():
        if name not in http:
            yield ("http", name), None
            continue
        for key, reader in keys.items():
            # "rate" is no field, and stands in every table that it belongs to.
            default = getattr(defaults, key, getattr(defaults, f"{key}_s", None))
            yield ("http", name, key), http[name].get(key, _write(default, reader))


def _list_written(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _list_written((*path, key), inner)
    elif isinstance(value, list) and path in (("cron",), ("routes",)):
        for index, inner in enumerate(value):
            yield from _list_written((*path, index), inner)
    else:
        yield path, value


def _list_variables(environment: Mapping[str, str]) -> Iterator[Setting]:
    for name, is_secret in VARIABLES.items():
        said = environment.get(name)
        if said is None:
            yield Setting(name, None, DEFAULT)
            continue
        # What holds a password without being an address is not shown either.
        shown = HIDDEN if is_secret or ("@" in said and "://" not in said) else hide_password(said)
        yield Setting(name, shown, ENVIRONMENT, shown != said)


def _write(value: Any, reader: ValueReader) -> Any:
    """The value as one would write it in the file."""
    if isinstance(value, Propagation):
        return value.to
    if isinstance(value, tuple):
        return list(value)
    if reader is read_duration_s and value is not None:
        return format_duration(value)
    if reader is read_size_bytes:
        return format_size(value) if value else None  # Nothing of it at all is what no size in the file says.
    return value


def _hide(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if "PRIVATE KEY" in value:
        return HIDDEN
    return hide_password(value)


_GATE_TABLES: Mapping[str, tuple[Mapping[str, ValueReader], object]] = {
    "cors": (CORS_KEYS, CorsRules()),
    "rate_limit": (RATE_KEYS, RateLimit(count=1, per_s=1.0)),
    "auth": (AUTH_KEYS, AuthConfig()),
}
"""The keys of each table below ``[http]``, and the noun that has its defaults."""

_SHOWN_PARAMETERS = frozenset(
    {"host", "hostaddr", "port", "user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout",
     "application_name", "target_session_attrs"}
)  # fmt: skip
"""Of an address's query. Others may be secrets."""
_HOSTS = re.compile(r"(?:(?:\[[0-9A-Fa-f:.%]*\]|[^:@\[\],]*)(?::[0-9]*)?(?:,|$))*")


def hide_password(url: str) -> str:
    """Return an address without what in it may be a secret; all of it is, where it is not clear what is what.

    Text that is no address is returned as it is.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return url
    nothing = f"{scheme}://{HIDDEN}" if re.fullmatch(r"[a-z]+", scheme) else HIDDEN
    try:
        parts = urlsplit(url)
    except ValueError:
        return nothing
    who, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = who.partition(":")
    # A slash or a question mark in a password that was not escaped ends what is before the host too early.
    if "@" in parts.path + parts.query or parts.fragment or _HOSTS.fullmatch(hosts) is None:
        return nothing
    who = f"{user}:{HIDDEN}" if colon else user
    pairs = [pair.partition("=") for pair in parts.query.split("&")] if parts.query else []
    query = "&".join(
        f"{name}{sign}{said if name in _SHOWN_PARAMETERS else HIDDEN if said else ''}" for name, sign, said in pairs
    )
    return f"{scheme}://{who}{at}{hosts}{parts.path}{'?' * bool(query)}{query}"
