"""What a bearer token says, and whether that is enough: all of a JSON Web Token but its signature.

A token is hostile until its signature is checked, and only its header is read before that. The header may choose
among the algorithms that ``flux.toml`` allows for the kind of key there is, and may name a key by its ``kid``. It can't
bring a key, nor say where one is (``jwk``, ``jku``, ``x5u``, ``x5c`` are not looked at), nor ask for rules that we do
not know (``crit`` is refused: RFC 7515, section 4.1.11). And what a signed token says counts only when it is of this
issuer, for us, and for now.

Pure: who calls says what time it is. The signature is `flux.supervisor.token_keys`'.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs

from flux.message import RequestHead

BEARER = "Bearer"
"""The scheme of RFC 6750."""

TOKEN_BYTES_MAX = 16 * 1024
"""Longer ones are refused before they are decoded."""

KID_CHARACTERS_MAX = 256

KINDS = ("none", "jwt", "jwt_optional", "api_key")
"""What may be asked of a request. ``jwt_optional``: who brings a token needs a good one, and nobody needs to."""

PUBLIC_KEY_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
"""Never beside those: who may check an HMAC may make one, and a public key taken for a secret is one for all."""


class TokenRefused(Exception):
    """A token that is not believed; says why, in words that hold nothing of it."""


@attrs.frozen
class AuthConfig:
    """The table ``[http.auth]``."""

    require: str = "none"
    """What functions ask of a request unless they say otherwise: one of `KINDS`."""

    scheme: str = BEARER
    """The word in front of a JSON Web Token in ``Authorization``."""

    jwks: str = ""
    """URL of the issuer's keys; empty when they are given otherwise."""

    public_key: str = ""
    """The issuer's key in PEM; empty when it is given otherwise."""

    secret: str = ""
    """Name of the secret that issuer and server share; empty when there is none."""

    issuer: str = ""
    """What ``iss`` has to be; empty: anything."""

    audience: tuple[str, ...] = ()
    """What ``aud`` has to name one of; empty: anything."""

    algorithms: tuple[str, ...] = ()
    """Algorithms that are taken; empty: all that are safe with the kind of key there is."""

    leeway_s: float = 30.0
    """Seconds by which clocks may differ."""

    @property
    def has_key(self) -> bool:
        """Whether there is something to check a token with."""
        return bool(self.jwks or self.public_key or self.secret)

    @property
    def takes(self) -> tuple[str, ...]:
        """Algorithms that are taken."""
        return self.algorithms or (SECRET_ALGORITHMS if self.secret else PUBLIC_KEY_ALGORITHMS)


@attrs.frozen
class TokenHeader:
    """What a token's header may say."""

    algorithm: str
    key_id: str | None
    """Name of the key that has signed it; None when it names none."""


def find_bearer(head: RequestHead, scheme: str = BEARER) -> str | None:
    """Return the token of a request, None when it has none; raise `TokenRefused` for what could be read twice."""
    given = [value for name, value in head.headers if name == "authorization"]
    if not given:
        return None
    if len(given) > 1:
        # Which of them counts is a question that two programs answer differently.
        raise TokenRefused("there is more than one authorization header")
    said, _, token = given[0].partition(" ")
    if said.lower() != scheme.lower():
        return None
    token = token.strip()
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenRefused("the token is too long")
    return token or None


def read_token_header(token: str, algorithms: tuple[str, ...]) -> TokenHeader:
    """Return what the header of a signed token says; raise `TokenRefused`."""
    parts = token.split(".")
    if len(parts) != 3 or not all(parts[:2]):
        raise TokenRefused("this is no signed token")
    header = _read_object(_decode(parts[0]))
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenRefused("the token is signed in a way that is not taken")
    if "crit" in header:
        raise TokenRefused("the token has a header that must be understood, and is not")
    key_id = header.get("kid")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > KID_CHARACTERS_MAX):
        raise TokenRefused("the token names no key")
    return TokenHeader(algorithm, key_id)


def read_claims(payload: bytes, config: AuthConfig, now_s: float) -> Mapping[str, Any]:
    """Return what a token says whose signature is good; raise `TokenRefused` when it is not said to us, now."""
    claims = _read_object(payload)
    expires = _read_time(claims, "exp")
    if expires is None:
        raise TokenRefused("the token never expires")
    if now_s >= expires + config.leeway_s:
        raise TokenRefused("the token has expired")
    begins = _read_time(claims, "nbf")
    if begins is not None and now_s + config.leeway_s < begins:
        raise TokenRefused("the token is not valid yet")
    if config.issuer and claims.get("iss") != config.issuer:
        raise TokenRefused("the token is of another issuer")
    if config.audience:
        said = claims.get("aud")
        audience = [said] if isinstance(said, str) else said
        if not isinstance(audience, list) or not any(name in audience for name in config.audience):
            raise TokenRefused("the token is for somebody else")
    if not isinstance(claims.get("sub", ""), str):
        raise TokenRefused("the token's subject is no text")
    return claims


def list_scopes(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a token may be used for: its ``scope`` (RFC 8693, section 4.2), or ``scp`` where that is absent."""
    said = claims.get("scope", claims.get("scp"))
    if isinstance(said, str):
        return tuple(said.split())
    return tuple(scope for scope in said if isinstance(scope, str)) if isinstance(said, list) else ()


def _decode(part: str) -> bytes:
    if "=" in part:
        raise TokenRefused("this is no signed token")
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenRefused("this is no signed token") from error


def _read_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TokenRefused("the token holds no JSON object that can be read") from error
    if not isinstance(document, dict):
        raise TokenRefused("the token holds no JSON object that can be read")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 7519, section 4: claim names are unique, or the token is refused; else two readers see two tokens."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _read_time(claims: Mapping[str, Any], name: str) -> float | None:
    said = claims.get(name)
    if said is None:
        return None
    try:
        value = math.nan if isinstance(said, bool) or not isinstance(said, int | float) else float(said)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise TokenRefused(f"the token's {name} is no time")
    return value
