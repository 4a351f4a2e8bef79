"""What ``flux.toml`` says of the gateway's own checks: proxies, other sites' pages, rates, tokens.

`flux.config` walks the document and knows lines; here is which keys these tables have, what their values
become, and which of them do not go together. Each check is off unless it is configured, and refuses what it was
not told to allow.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs

from flux.bearer import KINDS, PUBLIC_KEY_ALGORITHMS, SECRET_ALGORITHMS, AuthConfig
from flux.caller import ProxyRules, read_network
from flux.config_values import (
    RefusedValueError,
    ValueReader,
    integer_between,
    list_of,
    name_type,
    one_of,
    read_duration_s,
    read_text,
)
from flux.cors import CorsRules, normalise_origin, read_field_name
from flux.grants import InvalidGrantError, parse_grant
from flux.rate_limit import RateLimit, parse_rate
from flux.toml_lines import KeyPath


@attrs.frozen
class GateConfig:
    """What stands between a client and the functions, for the whole project."""

    proxies: ProxyRules = attrs.field(factory=ProxyRules)
    """Whose word on a client's address is believed."""

    cors: CorsRules | None = None
    """Which pages may read answers; None: the functions' own headers are passed on as they are."""

    rate_limit: RateLimit | None = None
    """How often a client may ask for anything; None: as often as it likes."""

    auth: AuthConfig = attrs.field(factory=AuthConfig)
    """Who may ask, and how that is checked."""


class TableReader(Protocol):
    """What `flux.config` does for us."""

    def read_table(
        self, path: KeyPath, keys: Mapping[str, ValueReader], *, defaults: bool = True, tables: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the values of one table that could be read; the others are reported."""

    def has_table(self, path: KeyPath) -> bool:
        """Whether there is such a table."""

    def report_wrong(self, path: KeyPath, problem: str, remedy: str) -> None:
        """Add a problem."""

    def report_missing(self, path: KeyPath, key: str, example: str) -> None:
        """Add a problem: the table at ``path`` lacks ``key``."""


def read_gate(reader: TableReader, http: Mapping[str, Any]) -> GateConfig:
    """Return what the tables below ``[http]`` say; ``http`` holds that table's own values."""
    return GateConfig(
        proxies=ProxyRules(http.get("proxies", ()), http.get("proxy_headers", "x-forwarded")),
        cors=_read_cors(reader),
        rate_limit=read_rate_limit(reader, ("http", "rate_limit")),
        auth=_read_auth(reader),
    )


def check_function(
    reader: TableReader, gate: GateConfig, path: KeyPath, auth: str | None, scopes: tuple[str, ...]
) -> None:
    """Report what the table of a function asks for that can't be checked."""
    asked = auth if auth is not None else gate.auth.require
    if asked in ("none", "jwt_optional") and scopes:
        remedy = 'write auth = "jwt" or "api_key" beside them'
        reader.report_wrong((*path, "scopes"), "ask for something of nobody", remedy)
    elif asked in ("jwt", "jwt_optional") and not gate.auth.has_key:
        reader.report_wrong((*path, "auth"), f'is "{asked}", and there is no key to check one with', _KEY_REMEDY)


def read_rate_limit(reader: TableReader, path: KeyPath) -> RateLimit | None:
    """Return the limit in the table at ``path``, None when there is no such table."""
    if not reader.has_table(path):
        return None
    values = reader.read_table(path, RATE_KEYS, defaults=False)
    if "rate" not in values:
        reader.report_missing(path, "rate", 'rate = "100/min"')
        return None
    (count, per_s) = values.pop("rate")
    return RateLimit(count, per_s, **values)


def _read_auth(reader: TableReader) -> AuthConfig:
    path = ("http", "auth")
    if not reader.has_table(path):
        return AuthConfig()
    values = reader.read_table(path, AUTH_KEYS, defaults=False)
    if "leeway" in values:
        values["leeway_s"] = values.pop("leeway")
    config = AuthConfig(**values)
    if not values.keys() - {"require"} and not config.require.startswith("jwt"):
        return config
    keys = [name for name in ("jwks", "public_key", "secret") if getattr(config, name)]
    if not keys:
        reader.report_missing(path, "jwks", 'jwks = "https://login.example.com/.well-known/jwks.json"')
    for name in keys[1:]:
        reader.report_wrong((*path, name), f"stands beside {keys[0]}", "keep the one that the issuer signs with")
    # A token that was meant for somebody else opens nothing here, unless that is said in so many words.
    for name, example in (("issuer", '"https://login.example.com"'), ("audience", '["shop"]')):
        if name not in values:
            reader.report_missing(path, name, f"{name} = {example}")
    safe = SECRET_ALGORITHMS if config.secret else PUBLIC_KEY_ALGORITHMS
    for algorithm in config.algorithms:
        if algorithm not in safe:
            problem = f'has "{algorithm}", which is none for {keys[0] if keys else "such keys"}'
            reader.report_wrong((*path, "algorithms"), problem, f"allowed: {', '.join(safe)}")
    return config


def _read_cors(reader: TableReader) -> CorsRules | None:
    path = ("http", "cors")
    if not reader.has_table(path):
        return None
    values = reader.read_table(path, CORS_KEYS, defaults=False)
    if "origins" not in values:
        reader.report_missing(path, "origins", 'origins = ["https://app.example.com"]')
        return None
    if "max_age" in values:
        values["max_age_s"] = values.pop("max_age")
    rules = CorsRules(**values)
    if rules.credentials:
        # Browsers refuse such answers; and what the two together would mean is that any site may act as our users.
        for key in ("origins", "headers", "expose"):
            if "*" in getattr(rules, key):
                reader.report_wrong(
                    (*path, key), 'has "*" beside credentials = true', "name each, or leave credentials away"
                )
    return rules


def read_network_value(value: object) -> Any:
    """An address, or a network of them."""
    text = read_text(value, _NETWORK_REMEDY)
    try:
        return read_network(text)
    except ValueError as error:
        raise RefusedValueError(f'has "{text}": {error}', _NETWORK_REMEDY) from error


def read_origin(value: object) -> str:
    """An origin, with a wildcard or without."""
    text = read_text(value, _ORIGIN_REMEDY)
    if text == "*":
        return text
    normal = normalise_origin(text)
    if normal is None:
        raise RefusedValueError(f'has "{text}", which is no origin', _ORIGIN_REMEDY)
    return normal


def read_header_name(value: object) -> str:
    """A header field's name, or ``*``."""
    text = read_text(value, _HEADER_REMEDY)
    name = read_field_name(text)
    if name is None:
        raise RefusedValueError(f'has "{text}", which is no header field', _HEADER_REMEDY)
    return name


def read_method(value: object) -> str:
    """A method, in capitals."""
    text = read_text(value, _METHOD_REMEDY)
    if read_field_name(text) is None or text != text.upper() or text == "*":
        raise RefusedValueError(f'has "{text}", which is no method', _METHOD_REMEDY)
    return text


def read_rate(value: object) -> tuple[int, float]:
    """Requests in a time."""
    remedy = 'allowed: a number and one of s, min, h, d in quotes, such as "100/min"'
    text = read_text(value, remedy)
    try:
        return parse_rate(text)
    except ValueError as error:
        raise RefusedValueError(f'is "{text}"', remedy) from error


def read_counted_by(value: object) -> str:
    """Who is counted."""
    remedy = 'allowed: "client" or "subject", or "claim:NAME"'
    text = read_text(value, remedy)
    kind, colon, name = text.partition(":")
    if text not in ("client", "subject") and not (kind == "claim" and colon and name.strip()):
        raise RefusedValueError(f'is "{text}"', remedy)
    return text


def read_keys_url(value: object) -> str:
    """Where keys are: only over https, except on this machine, since who changes them on the way lets himself in."""
    text = read_text(value, _URL_REMEDY)  # Never repeated: it may hold a password.
    try:
        parts = urlsplit(text)
        host, is_plain = parts.hostname, not (parts.query or parts.fragment or parts.username or parts.password)
        grant = parse_grant(f"{parts.scheme}://{parts.netloc}")
    except (ValueError, InvalidGrantError) as error:
        raise RefusedValueError("is no URL of keys", _URL_REMEDY) from error
    is_local = host in ("localhost", "127.0.0.1", "::1")
    if not is_plain or grant.wildcard or not (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
        raise RefusedValueError("is no URL of keys", _URL_REMEDY)
    return text


def read_secret_name(value: object) -> str:
    """The name of a secret, which is not its value."""
    remedy = 'allowed: the name of a secret, such as "JWT_SECRET"'
    text = read_text(value, remedy)
    if _SECRET_NAME.fullmatch(text) is None:
        raise RefusedValueError("is no name of a secret", remedy)  # It may be one, and is not repeated.
    return text


def read_scheme(value: object) -> str:
    """The name of an authentication scheme."""
    text = read_text(value, _SCHEME_REMEDY)
    if read_field_name(text) is None or text == "*":  # A token, as header fields are: RFC 9110, section 11.1.
        raise RefusedValueError(f'is "{text}", which is no word for a header', _SCHEME_REMEDY)
    return text


def read_some_text(value: object) -> str:
    """Any text."""
    return read_text(value)


def read_scope(value: object) -> str:
    """One word."""
    text = read_text(value, _SCOPE_REMEDY)
    if _SCOPE.fullmatch(text) is None:
        raise RefusedValueError(f'has "{text}"', _SCOPE_REMEDY)
    return text


def read_boolean(value: object) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise RefusedValueError(f"is {name_type(value)}", "allowed: true or false")
    return value


_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
# RFC 6749, section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_SCOPE_REMEDY = 'allowed: scopes in quotes, such as "orders:write"'
_URL_REMEDY = 'allowed: a URL, such as "https://login.example.com/keys"; http only on this machine'
_SCHEME_REMEDY = 'allowed: the word in front of the token, such as "Bearer" or "Token"'
_KEY_REMEDY = "write jwks, public_key or secret under [http.auth]"
_NETWORK_REMEDY = 'allowed: addresses and networks in quotes, such as "10.0.0.0/8" or "127.0.0.1"'
_ORIGIN_REMEDY = 'allowed: "https://app.example.com", "https://*.example.com", or "*" for any'
_HEADER_REMEDY = 'allowed: names of header fields, such as "content-type", or "*"'
_METHOD_REMEDY = 'allowed: methods in capitals, such as "POST"'

HTTP_KEYS: Mapping[str, ValueReader] = {
    "proxies": list_of(read_network_value),
    "proxy_headers": one_of("x-forwarded", "forwarded"),
}
"""Keys of ``[http]`` that are the gateway's."""

HTTP_TABLES = ("cors", "rate_limit", "auth")
"""Tables below ``[http]``."""

CORS_KEYS: Mapping[str, ValueReader] = {
    "origins": list_of(read_origin),
    "methods": list_of(read_method),
    "headers": list_of(read_header_name),
    "expose": list_of(read_header_name),
    "credentials": read_boolean,
    "max_age": read_duration_s,
}

AUTH_KEYS: Mapping[str, ValueReader] = {
    "require": one_of(*KINDS),
    "scheme": read_scheme,
    "jwks": read_keys_url,
    "public_key": read_some_text,
    "secret": read_secret_name,
    "issuer": read_some_text,
    "audience": list_of(read_some_text),
    "algorithms": list_of(one_of(*PUBLIC_KEY_ALGORITHMS, *SECRET_ALGORITHMS)),
    "leeway": read_duration_s,
}

FUNCTION_KEYS: Mapping[str, ValueReader] = {
    "auth": one_of(*KINDS),
    "scopes": list_of(read_scope),
}
"""Keys of a function's table that are the gateway's."""

RATE_KEYS: Mapping[str, ValueReader] = {
    "rate": read_rate,
    "by": read_counted_by,
    "burst": integer_between(1, 1_000_000_000),
}
