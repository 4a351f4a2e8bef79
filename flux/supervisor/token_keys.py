"""The keys that tokens are signed with, and the check of a signature.

Where the keys are at a URL, they are fetched when they are first needed, kept for `KEEP_FRESH_S`, and fetched again
when a token names one that is not among them, since issuers change keys without a word: but not more often than every
`AGAIN_S`, whatever tokens come. An issuer that can't be reached is an issuer whose last keys are still good,
for `KEEP_S`. After that nobody is let in, because a key that was taken back in the meantime would go on opening.

PyJWT and cryptography are imported by whoever needs this, and most servers don't: it takes a third of a second.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import trio

from flux.bearer import AuthConfig, TokenRefused, read_claims, read_token_header
from flux.errors import OperatorError
from flux.grants import Grants
from flux.hostcalls.http import HttpClient
from flux.hostcalls.http_outbound import OutboundError, OutboundPolicy, OutboundRequest
from flux.supervisor.signing_keys import Key, UnusableKeyError, read_key_set, read_public_key, read_secret

KEEP_FRESH_S = 600.0
AGAIN_S = 10.0
KEEP_S = 24 * 3600.0
FETCH_S = 5.0
KEYS_BYTES_MAX = 1024 * 1024
KEYS_TRIED_MAX = 8
"""Of a set in which a token names no key; every one costs time in which nobody else is served."""


class KeysUnreachableError(OperatorError):
    """The keys that tokens are signed with can't be had."""

    code = "FLX241"


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
