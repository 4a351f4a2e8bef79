"""Which tokens are believed: forged ones, keys that change, an issuer that is gone.

Tokens are put together by `tests.token_issuer`, keys come from a stub that counts who asks for them.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio

from flux.bearer import AuthConfig, TokenRefused
from flux.hostcalls.http import HttpClient
from flux.supervisor.signing_keys import UnusableKeyError, check_public_key, read_key_set, read_public_key
from flux.supervisor.token_keys import AGAIN_S, KEEP_FRESH_S, KEEP_S, KeysUnreachableError, TokenKeys
from tests.stub_http import Peer, Stub, serving
from tests.token_issuer import AUDIENCE, ISSUER, b64_int, claims, jwk, make_key, public_pem, sign

NOW_S = 1_800_000_000.0
RSA, EC, ED, P384, OTHER = (make_key(kind) for kind in ("RSA", "P-256", "Ed25519", "P-384", "RSA"))
KEYS = [jwk(RSA, kid="rsa"), jwk(EC, kid="ec", alg="ES256", use="sig"), jwk(ED, kid="ed"), jwk(P384, kid="p384")]
GOOD = claims(exp=NOW_S + 60)
SECRET = "a secret of exactly thirty-two b"


@attrs.define
class World:
    """An issuer, and who believes it."""

    stub: Stub
    http: HttpClient
    answer: bytes
    status: int = 200
    now: float = 0.0
    notes: list[str] = attrs.field(factory=list)

    def keys(self, **config: object) -> TokenKeys:
        known: dict[str, object] = {"jwks": self.stub.url("/keys"), "issuer": ISSUER, "audience": (AUDIENCE,)}
        if "secret" in config or "public_key" in config:
            del known["jwks"]
        made = AuthConfig(**{**known, **config})  # type: ignore[arg-type]
        find: Callable[[str], str | None] = {"SHARED": SECRET, "SHORT": "hunter2"}.get
        return TokenKeys(made, self.http, find, self.notes.append, lambda: self.now)


@contextlib.asynccontextmanager
async def issuing(*keys: dict[str, object]) -> AsyncIterator[World]:
    world: World

    async def answer(peer: Peer) -> None:
        while True:
            await peer.read()
            head = f"HTTP/1.1 {world.status} X\r\ncontent-length: {len(world.answer)}\r\n\r\n"
            await peer.write(head.encode() + world.answer)

    with HttpClient() as http:
        async with serving(answer) as stub:
            world = World(stub, http, json.dumps({"keys": keys or KEYS}).encode())
            yield world


async def refusal(keys: TokenKeys, token: str) -> str:
    with pytest.raises(TokenRefused) as refused:
        await keys.verify(token, NOW_S)
    return str(refused.value)


async def test_a_token_that_its_issuer_has_signed_says_who_it_is_for() -> None:
    async with issuing() as world:
        keys = world.keys()
        for key, algorithm, key_id in [
            (RSA, "RS256", "rsa"), (RSA, "RS512", "rsa"), (RSA, "PS384", "rsa"), (EC, "ES256", "ec"),
            (P384, "ES384", "p384"), (ED, "EdDSA", "ed"), (RSA, "RS256", None),
        ]:  # fmt: skip
            named = {} if key_id is None else {"kid": key_id}
            assert (await keys.verify(sign(key, algorithm, GOOD, **named), NOW_S))["sub"] == "ada"
        assert len(world.stub.received) == 1, "the keys are fetched once"


def tampered(token: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{sign(EC, 'ES256', claims(exp=NOW_S + 60, sub='root')).split('.')[1]}.{signature}"


FORGED = {
    "alg none": f"{sign(EC, 'none', GOOD, kid='ec').rpartition('.')[0]}.",
    "alg none with a signature": sign(EC, "none", GOOD, kid="ec"),
    "alg NONE": sign(EC, "nOnE", GOOD, kid="ec"),
    "a public key as the secret of an HMAC": sign(public_pem(RSA).encode(), "HS256", GOOD, kid="rsa"),
    "an empty secret": sign(b"", "HS256", GOOD),
    "another key under its name": sign(OTHER, "RS256", GOOD, kid="rsa"),
    "another kind of key under its name": sign(RSA, "RS256", GOOD, kid="ec"),
    "a key that the token brings": sign(OTHER, "RS256", GOOD, jwk=jwk(OTHER), kid="rsa"),
    "a place for keys that the token names": sign(OTHER, "RS256", GOOD, jku="http://127.0.0.1:1/keys", x5u="file:///etc"),
    "a key id that is a path": sign(OTHER, "RS256", GOOD, kid="../../../../dev/null"),
    "a key id that is SQL": sign(OTHER, "RS256", GOOD, kid="x' union select 'secret"),
    "a key id of another type": sign(RSA, "RS256", GOOD, kid=["rsa"]),
    "an algorithm of another type": sign(RSA, "RS256", GOOD).replace(
        sign(RSA, "RS256", GOOD).split(".")[0], "eyJhbGciOlsiUlMyNTYiXX0"),
    "a curve's algorithm on another curve": sign(P384, "ES256", GOOD, kid="p384"),
    "a header that must be understood": sign(RSA, "RS256", GOOD, kid="rsa", crit=["b64"], b64=False),
    "another body": tampered(sign(EC, "ES256", GOOD, kid="ec")),
    "no signature": sign(RSA, "RS256", GOOD, kid="rsa").rpartition(".")[0],
    "an encrypted token": "a.b.c.d.e",
    "a header with two algorithms": "eyJhbGciOiJSUzI1NiIsImFsZyI6Im5vbmUifQ.e30.AA",
    "a header that is deep": "W1tb" * 4000 + ".e30.AA",
    "nothing": "..",
    "no text": "\xff\xfe.\xff.\xff",
}  # fmt: skip


async def test_a_forged_token_is_not_believed_and_no_key_is_looked_for_where_it_says() -> None:
    async with issuing() as world:
        keys = world.keys()
        for what, token in FORGED.items():
            said = await refusal(keys, token)
            assert said, what
            assert not any(len(part) > 8 and part in said for part in token.split(".")), "nothing of a token is told"
        assert {line.split()[1] for line in world.stub.lines} == {"/keys"}


CLAIMS = {
    "has expired": {"exp": NOW_S - 31}, "never expires": {"exp": None}, "is no time": {"exp": "9999999999"},
    "is no time ": {"exp": True}, "is no time  ": {"exp": 10**400}, "is not valid yet": {"nbf": NOW_S + 31},
    "is of another issuer": {"iss": "https://login.example.evil"}, "is of another issuer ": {"iss": None},
    "is for somebody else": {"aud": "bank"}, "is for somebody else ": {"aud": None},
    "is for somebody else  ": {"aud": {"shop": 1}}, "is for somebody else   ": {"aud": ["shops"]},
    "subject is no text": {"sub": 7},
}  # fmt: skip


async def test_a_signed_token_counts_for_its_issuer_for_us_and_for_now() -> None:
    async with issuing() as world:
        keys = world.keys(leeway_s=30.0)
        for said, change in CLAIMS.items():
            token = sign(EC, "ES256", claims(**{"exp": NOW_S + 60, **change}), kid="ec")
            assert said.strip() in await refusal(keys, token), change
        for change in ({"exp": NOW_S - 29}, {"nbf": NOW_S + 29}, {"aud": ["bank", "shop"]}, {"sub": None}):
            await keys.verify(sign(EC, "ES256", claims(**{"exp": NOW_S + 60, **change}), kid="ec"), NOW_S)
        for body in (b"[]", b'{"exp":NaN}', b'{"sub":"ada","sub":"root","exp":9999999999}', b"\xff", b"[" * 5000):
            assert await refusal(keys, sign(EC, "ES256", body, kid="ec"))


async def test_a_new_key_is_found_and_whoever_invents_keys_makes_nobody_ask_for_them() -> None:
    async with issuing(jwk(EC, kid="old")) as world:
        keys = world.keys()
        await keys.verify(sign(EC, "ES256", GOOD, kid="old"), NOW_S)
        world.answer = json.dumps({"keys": [jwk(RSA, kid="new")]}).encode()
        for number in range(20):
            await refusal(keys, sign(RSA, "RS256", GOOD, kid=f"invented{number}"))
        assert len(world.stub.received) == 1, "it has only just been asked"
        world.now += AGAIN_S
        await keys.verify(sign(RSA, "RS256", GOOD, kid="new"), NOW_S)
        assert "not of a key that is known" in await refusal(keys, sign(EC, "ES256", GOOD, kid="old"))
        assert len(world.stub.received) == 2


async def test_many_who_come_at_once_ask_the_issuer_once() -> None:
    async with issuing() as world, trio.open_nursery() as nursery:
        keys = world.keys()
        for _ in range(20):
            nursery.start_soon(keys.verify, sign(EC, "ES256", GOOD, kid="ec"), NOW_S)
    assert len(world.stub.received) == 1


async def test_an_issuer_that_is_gone_is_believed_for_a_day_and_no_longer() -> None:
    async with issuing() as world:
        keys, token = world.keys(), sign(EC, "ES256", GOOD, kid="ec")
        world.status = 500
        with pytest.raises(KeysUnreachableError):
            await keys.verify(token, NOW_S)
        world.now += AGAIN_S
        world.status = 200
        await keys.verify(token, NOW_S)
        world.answer = b"<html>"
        world.now += KEEP_FRESH_S
        await keys.verify(token, NOW_S)
        world.now += KEEP_S - KEEP_FRESH_S - 1
        await keys.verify(token, NOW_S)
        world.now += 2
        with pytest.raises(KeysUnreachableError):
            await keys.verify(token, NOW_S)
        assert "it answers 500" in world.notes[0] and "no set of keys" in world.notes[-1]


async def test_a_shared_secret_checks_hmacs_and_nothing_else() -> None:
    async with issuing() as world:
        keys = world.keys(secret="SHARED")
        await keys.verify(sign(SECRET.encode(), "HS256", GOOD), NOW_S)
        assert await refusal(keys, sign(SECRET.encode(), "HS512", GOOD)), "it is too short for that"
        assert await refusal(keys, sign(b"x" * 32, "HS256", GOOD))
        assert await refusal(keys, sign(RSA, "RS256", GOOD))
        for name, said in (("SHORT", "can be guessed"), ("ABSENT", "is not there")):
            with pytest.raises(UnusableKeyError, match=said):
                await world.keys(secret=name).verify(sign(b"hunter2", "HS256", GOOD), NOW_S)
        assert not world.stub.received


async def test_a_key_in_the_file_checks_what_it_is_good_for() -> None:
    async with issuing() as world:
        keys = world.keys(public_key=public_pem(EC), algorithms=("ES256",))
        await keys.verify(sign(EC, "ES256", GOOD, kid="any"), NOW_S)
        assert await refusal(keys, sign(public_pem(EC).encode(), "HS256", GOOD))
        assert await refusal(keys, sign(RSA, "RS256", GOOD))


def test_only_keys_that_can_check_a_signature_safely_are_taken() -> None:
    weak = jwk(make_key("RSA-1024"), kid="weak")
    odd = [weak, {"kty": "oct", "k": "AAAA"}, jwk(RSA, use="enc"), jwk(RSA, key_ops=["encrypt"]), {"kty": "EC"},
           jwk(EC, kid=3), jwk(EC, alg="RS256"), {**jwk(ED), "d": "AAAA"}, jwk(EC, crv="P-384"), {"kty": []},
           7]  # fmt: skip
    assert [key.id for key in read_key_set(json.dumps({"keys": [*odd, jwk(EC, kid="good")]}).encode())] == ["good"]
    for data in (b"", b"[]", b'{"keys":{}}', b'{"keys":[]}', json.dumps({"keys": odd}).encode(), b"[" * 9000):
        with pytest.raises(UnusableKeyError):
            read_key_set(data)
    for pem in ("", "hello", public_pem(make_key("RSA-1024")), public_pem(EC).replace("PUBLIC", "PRIVATE")):
        with pytest.raises(UnusableKeyError):
            read_public_key(pem)
    check_public_key(AuthConfig(public_key=public_pem(EC)))
    with pytest.raises(UnusableKeyError, match="ES256"):
        check_public_key(AuthConfig(public_key=public_pem(EC), algorithms=("RS256",)))


@pytest.mark.parametrize("exponent", [2**32 + 1, 2**2047 + 1])
def test_a_key_that_takes_long_to_check_with_is_passed_over(exponent: int) -> None:
    slow = {**jwk(RSA), "e": b64_int(exponent)}
    with pytest.raises(UnusableKeyError, match="none of the 1 keys"):
        read_key_set(json.dumps({"keys": [slow]}).encode())


async def test_a_token_that_names_no_key_is_not_tried_on_a_hundred() -> None:
    token = sign(RSA, "RS256", GOOD)
    async with issuing(*[jwk(OTHER)] * 7, jwk(RSA)) as world:
        assert await world.keys().verify(token, NOW_S)
    async with issuing(*[jwk(OTHER)] * 8, jwk(RSA)) as world:
        assert "does not say (kid) of which" in await refusal(world.keys(), token)
