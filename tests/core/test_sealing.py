"""Sealed values open with their key in their place, and in no other way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.sealing import KEY_BYTES, NONCE_BYTES, CannotOpenError, open_sealed, seal

KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
NONCES = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)


@given(KEYS, NONCES, st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_with_its_key_in_its_place(key: bytes, nonce: bytes, value: bytes, place: str) -> None:
    sealed = seal(key, nonce, value, place)
    assert open_sealed(key, sealed, place) == value
    assert len(value) < 8 or value not in sealed[1 + NONCE_BYTES :]


@given(st.data(), KEYS, NONCES, st.binary(max_size=40))
def test_one_changed_bit_or_another_place_or_key_opens_nothing(
    data: st.DataObject, key: bytes, nonce: bytes, value: bytes
) -> None:
    sealed = bytearray(seal(key, nonce, value, "secret/main/A"))
    for place in ("secret/main/B", "secret/acme/A", "key/main"):
        with pytest.raises(CannotOpenError):
            open_sealed(key, bytes(sealed), place)
    with pytest.raises(CannotOpenError):
        open_sealed(bytes(byte ^ 1 for byte in key), bytes(sealed), "secret/main/A")
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CannotOpenError):
        open_sealed(key, bytes(sealed), "secret/main/A")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + bytes(12), b"\x02" + bytes(40)])
def test_what_nobody_sealed_is_refused_by_name(sealed: bytes) -> None:
    with pytest.raises(CannotOpenError, match="secret/main/A"):
        open_sealed(bytes(KEY_BYTES), sealed, "secret/main/A")
