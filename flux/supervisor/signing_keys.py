"""Keys that signatures are checked with: read from a set, from PEM, from a shared secret; and what each is good for.

A key decides by what it is which algorithms it is good for; a token's header only chooses among those. So a
public key is never taken for the secret of an HMAC, which anybody could then make. Nothing here waits: who fetches a
set, and how long it is believed, is `flux.supervisor.token_keys`'.
"""

import json
from typing import Any

import attrs
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from flux.bearer import AuthConfig
from flux.errors import OperatorError

KEYS_MAX = 100
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 8192
RSA_EXPONENT_MAX = 2**32
"""Such a signature is checked in a millisecond, one with an exponent as long as the key in a thousand times that."""

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class UnusableKeyError(OperatorError):
    """A key that tokens are to be checked with can't be used."""

    code = "FLX240"


@attrs.frozen
class Key:
    """A key, and what it is good for."""

    key: Any = attrs.field(repr=False)
    """What PyJWT checks with."""
    algorithms: tuple[str, ...]
    id: str | None = None
    """Its name; None when it has none."""


def read_key_set(data: bytes) -> tuple[Key, ...]:
    """Return the keys of a JWK set (RFC 7517) that signatures can be checked with; raise `UnusableKeyError`.

    Others that stand there are passed over: for encryption, of kinds that we don't know, secret ones.
    """
    try:
        listed = json.loads(data)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnusableKeyError("what it answers is no set of keys (JWKS)") from error
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise UnusableKeyError(f"what it answers is no set of at most {KEYS_MAX} keys (JWKS)")
    found = tuple(key for key in map(_read_jwk, listed) if key is not None)
    if not found:
        raise UnusableKeyError(f"none of the {len(listed)} keys it answers with can check a signature")
    return found


def read_public_key(pem: str) -> Key:
    """Return a key that stands in ``flux.toml``; raise `UnusableKeyError`."""
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise UnusableKeyError(
            "public_key of [http.auth] is no public key in PEM",
            remedy='it begins with "-----BEGIN PUBLIC KEY-----"; a certificate or a private key is none',
        ) from error
    algorithms = list_algorithms(key)
    if not algorithms:
        raise UnusableKeyError(
            "public_key of [http.auth] is of a kind that signs no tokens, or too short or too long",
            remedy=f"RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, P-256, P-384, P-521 or Ed25519",
        )
    return Key(key, algorithms)


def check_public_key(config: AuthConfig) -> None:
    """Raise `UnusableKeyError` when no token could be checked with the key in ``flux.toml``."""
    key = read_public_key(config.public_key)
    if not set(key.algorithms) & set(config.takes):
        raise UnusableKeyError(
            f"algorithms of [http.auth] has none that public_key is good for: {', '.join(key.algorithms)}",
            remedy="write one of these, or leave algorithms away",
        )


def read_secret(name: str, value: str | None) -> Key:
    """Return the shared secret as a key; raise `UnusableKeyError`."""
    if value is None:
        raise UnusableKeyError(f"the secret {name} of [http.auth] is not there", remedy=f"set {name}")
    secret = value.encode()
    # RFC 7518, section 3.2: "A key of the same size as the hash output [...] or larger MUST be used".
    algorithms = tuple(name for name, least in _HASH_BYTES.items() if len(secret) >= least)
    if not algorithms:
        raise UnusableKeyError(
            f"the secret {name} of [http.auth] has {len(secret)} bytes, and can be guessed",
            remedy="use 32 random bytes or more, such as those of: openssl rand -base64 48",
        )
    return Key(secret, algorithms)


def list_algorithms(key: object) -> tuple[str, ...]:
    """Return what a public key is good for; nothing when it is too weak, too slow, or of another kind."""
    if isinstance(key, RSAPublicKey):
        families = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
        is_sound = RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX and key.public_numbers().e < RSA_EXPONENT_MAX
        return families if is_sound else ()
    if isinstance(key, EllipticCurvePublicKey):
        algorithm = _CURVES.get(key.curve.name)
        return () if algorithm is None else (algorithm,)
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey) else ()


def _read_jwk(said: object) -> Key | None:
    if not isinstance(said, dict) or said.get("use", "sig") != "sig" or "d" in said:
        return None
    operations = said.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kind, id = said.get("kty"), said.get("kid")
    if kind not in ("RSA", "EC", "OKP") or not (id is None or isinstance(id, str)):
        return None
    try:
        # What the set says of the algorithm is looked at below: PyJWT would fail at a name that it does not know.
        key = jwt.PyJWK({name: value for name, value in said.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = list_algorithms(key)
    named = said.get("alg")
    if named is not None:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == named)
    return Key(key, algorithms, id) if algorithms else None
