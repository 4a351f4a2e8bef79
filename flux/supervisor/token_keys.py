"""The keys that tokens are signed with, and the check of a signature.

Where the keys are at a URL, they are fetched when they are first needed, kept for `KEEP_FRESH_S`, and fetched again
when a token names one that is not among them, since issuers change keys without a word: but not more often than every
`AGAIN_S`, whatever tokens come. An issuer that can't be reached is an issuer whose last keys are still good,
for `KEEP_S`. After that nobody is let in, because a key that was taken back in the meantime would go on opening.

A key decides by what it is which algorithms it is good for; a token's header only chooses among those. So a
public key is never taken for the secret of an HMAC, which anybody could then make.

PyJWT and cryptography are imported by whoever needs this, and most servers don't: it takes a third of a second.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import jwt
import trio
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from flux.bearer import AuthConfig, TokenRefused, read_claims, read_token_header
from flux.errors import OperatorError
from flux.grants import Grants
from flux.hostcalls.http import HttpClient
from flux.hostcalls.http_outbound import OutboundError, OutboundPolicy, OutboundRequest

KEEP_FRESH_S = 600.0
AGAIN_S = 10.0
KEEP_S = 24 * 3600.0
FETCH_S = 5.0
KEYS_BYTES_MAX = 1024 * 1024
KEYS_MAX = 100
KEYS_TRIED_MAX = 8
"""Of a set in which a token names no key; every one costs time in which nobody else is served."""
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 8192
RSA_EXPONENT_MAX = 2**32
"""Such a signature is checked in a millisecond, one with an exponent as long as the key in a thousand times that."""

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class UnusableKeyError(OperatorError):
    """A key that tokens are to be checked with can't be used."""

    code = "FLX240"


class KeysUnreachableError(OperatorError):
    """The keys that tokens are signed with can't be had."""

    code = "FLX241"


@attrs.frozen
class Key:
    """A key, and what it is good for."""

    key: Any = attrs.field(repr=False)
    """What PyJWT checks with."""
    algorithms: tuple[str, ...]
    id: str | None = None
    """Its name; None when it has none."""


class TokenKeys:
    """The keys of one ``[http.auth]``."""

    def __init__(
        self,
        config: AuthConfig,
        http: HttpClient,
        find_secret: Callable[[str], str | None],
        note: Callable[[str], None],
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        """``find_secret`` gives a secret's value; ``note`` hears why keys can't be fetched; ``now`` never goes back."""
        self._config = config
        self._http = http
        self._find_secret = find_secret
        self._note = note
        self._now = now
        self._fixed = read_public_key(config.public_key) if config.public_key else None
        self._keys: tuple[Key, ...] = ()
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._fetching = trio.Lock()

    async def verify(self, token: str, now_s: float) -> Mapping[str, Any]:
        """Return what ``token`` says; raise `TokenRefused`, or `KeysUnreachableError` when that can't be known."""
        header = read_token_header(token, self._config.takes)
        keys = [key for key in await self._find(header.key_id) if header.algorithm in key.algorithms]
        if len(keys) > KEYS_TRIED_MAX:
            raise TokenRefused(f"the token could be of {len(keys)} keys, and does not say (kid) of which")
        for key in keys:
            try:
                payload = jwt.PyJWS().decode(token, key.key, algorithms=[header.algorithm])
            except jwt.InvalidTokenError:
                continue
            return read_claims(payload, self._config, now_s)
        raise TokenRefused("the token's signature is not of a key that is known")

    async def _find(self, key_id: str | None) -> tuple[Key, ...]:
        if self._config.secret:
            return (read_secret(self._config.secret, self._find_secret(self._config.secret)),)
        if self._fixed is not None:
            return (self._fixed,)
        now = self._now()
        is_known = self._has(key_id)
        is_fresh = now - self._fetched_at < KEEP_FRESH_S
        if not (is_known and is_fresh) and not (is_known and self._is_good(now) and self._fetching.locked()):
            await self._refresh(key_id)
        if not self._is_good(self._now()):
            raise KeysUnreachableError(
                f"the keys of {self._config.jwks} can't be had, so no token can be checked",
                remedy="see the note on the server's stderr for why; it is tried again every ten seconds",
            )
        return tuple(key for key in self._keys if key_id is None or key.id in (None, key_id))

    def _has(self, key_id: str | None) -> bool:
        return any(key_id is None or key.id in (None, key_id) for key in self._keys)

    def _is_good(self, now: float) -> bool:
        return now - self._fetched_at < KEEP_S

    async def _refresh(self, key_id: str | None) -> None:
        async with self._fetching:
            now = self._now()
            if self._has(key_id) and now - self._fetched_at < KEEP_FRESH_S:
                return  # Whoever held the lock has fetched them.
            if now - self._tried_at < AGAIN_S:
                return
            self._tried_at = now
            try:
                self._keys = await self._fetch()
            except (OutboundError, UnusableKeyError) as error:
                self._note(f"the keys of {self._config.jwks} can't be had: {error.message}")
                return
            self._fetched_at = self._now()

    async def _fetch(self) -> tuple[Key, ...]:
        url = self._config.jwks
        scheme, _, rest = url.partition("://")
        grants = Grants.parse([f"{scheme}://{rest.partition('/')[0]}"])
        policy = OutboundPolicy(
            "flux", grants, timeout_s=FETCH_S, response_bytes_max=KEYS_BYTES_MAX, ca_file=self._http.ca_file
        )
        answer = await self._http.request(OutboundRequest("GET", url, (("accept", "application/json"),)), policy)
        if answer.status != 200:
            raise UnusableKeyError(f"it answers {answer.status}")
        return read_key_set(answer.body)


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
