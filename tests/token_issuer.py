"""Somebody who signs tokens, well or badly: put together by hand from RFC 7515, with no library for tokens."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER, AUDIENCE = "https://login.example", "shop"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64_int(number: int) -> str:
    return b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def make_key(kind: str) -> PrivateKey:
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "RSA-1024":
            return rsa.generate_private_key(65537, 1024)
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: PrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def jwk(key: PrivateKey, **more: object) -> dict[str, object]:
    """The public half, as RFC 7517 has it."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": b64_int(numbers.n), "e": b64_int(numbers.e), **more}
    if isinstance(public, ec.EllipticCurvePublicKey):
        point, size = public.public_numbers(), (public.key_size + 7) // 8
        curve = "P-256" if public.key_size == 256 else "P-384"
        x, y = (b64(number.to_bytes(size, "big")) for number in (point.x, point.y))
        return {"kty": "EC", "crv": curve, "x": x, "y": y, **more}
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw()), **more}


def claims(**more: object) -> dict[str, Any]:
    """What a good token says; None takes a claim away."""
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 3600, **more}
    return {name: value for name, value in said.items() if value is not None}


def sign(
    key: PrivateKey | bytes, algorithm: str, payload: Mapping[str, Any] | bytes, **header: object
) -> str:
    """A token whose header says ``algorithm`` and ``header``; an HMAC for a key that is bytes."""
    said = {"typ": "JWT", "alg": algorithm, **header}
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{b64(json.dumps(said).encode())}.{b64(body)}"
    return f"{text}.{b64(_sign(key, algorithm, text.encode()))}"


def _sign(key: PrivateKey | bytes, algorithm: str, text: bytes) -> bytes:
    digest = {"256": "sha256", "384": "sha384", "512": "sha512"}.get(algorithm[-3:], "sha256")
    if isinstance(key, bytes):
        return hmac.new(key, text, digest).digest()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(text)
    chosen = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}[digest]()
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm.startswith("PS"):
            size = hashlib.new(digest).digest_size
            return key.sign(text, padding.PSS(padding.MGF1(chosen), size), chosen)
        return key.sign(text, padding.PKCS1v15(), chosen)
    size = (key.key_size + 7) // 8
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(key.sign(text, ec.ECDSA(chosen))))
