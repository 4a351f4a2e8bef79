"""Values that a database may hold and not know: sealed with AES-256-GCM.

How to think about it: a *master key* stays on the machines that serve; it seals the key of a tenant, and that key
seals the tenant's values. What is sealed is bound to its *place*, a text such as ``secret/main/STRIPE_KEY``: moved to
another row it can't be opened, so whoever can write the database can't give one tenant the value of another, nor one
name the value of a second. What he can do is to put back an older value of the same place.

The nonce is the caller's to draw, 96 bits at random. NIST SP 800-38D, section 8.3, allows 2**32 of these for a key;
each seals one change of one secret.
"""

import contextlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flux.errors import OperatorError

KEY_BYTES = 32
NONCE_BYTES = 12
_VERSION = b"\x01"
"""The form of what is sealed: this byte, the nonce, the ciphertext with its tag."""


class CannotOpenError(OperatorError):
    """What is sealed was not sealed with this key for this place."""

    code = "FLX801"


def seal(key: bytes, nonce: bytes, value: bytes, place: str) -> bytes:
    """Return ``value`` sealed for ``place``."""
    assert len(key) == KEY_BYTES and len(nonce) == NONCE_BYTES
    return _VERSION + nonce + AESGCM(key).encrypt(nonce, value, place.encode())


def open_with_any(keys: Sequence[bytes], sealed: bytes, place: str) -> bytes:
    """Return the value, sealed with one of ``keys``: while one takes the place of another there are two."""
    for key in keys[:-1]:
        with contextlib.suppress(CannotOpenError):
            return open_sealed(key, sealed, place)
    return open_sealed(keys[-1], sealed, place)


def open_sealed(key: bytes, sealed: bytes, place: str) -> bytes:
    """Return the value; raise `CannotOpenError` when the key is another, or it was changed or moved."""
    assert len(key) == KEY_BYTES
    nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    if sealed[:1] != _VERSION or len(nonce) != NONCE_BYTES:
        raise CannotOpenError(
            f"{place} is not sealed in a form that this Flux knows", remedy="a newer Flux was here: upgrade this one"
        )
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, place.encode())
    except InvalidTag:
        raise CannotOpenError(
            f"{place} can't be opened: it was sealed with another master key, or changed since",
            remedy="give this server the master key that it was sealed with: flux explain FLX801",
        ) from None
