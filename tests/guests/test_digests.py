"""The digest that executions begin with: that of the standard, and without the library that workers would pay for."""

import hashlib

from flux_guest._digests import sha256


def test_the_digest_is_the_one_that_openssl_computes() -> None:
    for length in (0, 1, 55, 56, 63, 64, 65, 1000):
        data = bytes(range(256)) * 4
        assert sha256(data[:length]).digest() == hashlib.sha256(data[:length]).digest()


def test_the_digest_is_pythons_own_where_python_has_it() -> None:
    assert type(sha256(b"")).__module__ in ("_sha256", "_sha2")
