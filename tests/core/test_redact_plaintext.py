"""What is stored of connections: credentials hidden, messages still messages, and a replay hides the same."""

import base64
import json

import pytest

from flux import values
from flux.hostcall import HostCallRequest, HostCallResult
from flux.redact import RedactionRules, Redactor

RULES = RedactionRules.parse(["json:$.password", "json:$.users[*].ssn", "header:x-key", "json:$.age"])
HANDLE = "flux-secret:KEY:0123456789abcdef0123456789abcdef"
SECRETS = [("sk_live_4242", HANDLE)]


def make(rules: RedactionRules = RULES) -> Redactor:
    return Redactor(rules, b"seed", SECRETS)


def sent(redactor: Redactor, data: bytes, handle: str = "x:80#1") -> bytes:
    arguments = values.encode_canonical([handle, values.text_or_bytes(data), None])
    kept = redactor.request(HostCallRequest(1, "net.send", arguments)).arguments
    return as_bytes(values.decode(kept)[1])  # type: ignore[index]


def received(redactor: Redactor, data: bytes, handle: str = "x:80#1") -> bytes:
    request = HostCallRequest(2, "net.recv", values.encode_canonical([handle, 100, None]))
    result = redactor.result(request, HostCallResult(values.encode(values.text_or_bytes(data))))
    return as_bytes(values.decode(result.value))


def as_bytes(content: object) -> bytes:
    return content.encode() if isinstance(content, str) else content  # type: ignore[return-value]


def head(*lines: bytes) -> bytes:
    return b"GET /a?password=hunter22&b=1 HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_credentials_in_the_head_of_a_request_are_hidden() -> None:
    kept = sent(
        make(), head(b"Authorization: Bearer t0p-s3cret", b"Cookie: sid=abcdef; b=uvwxyz", b"X-Key: kkkkkk")
    )
    for value in (b"t0p-s3cret", b"abcdef", b"uvwxyz", b"kkkkkk", b"hunter22"):
        assert value not in kept
    assert kept.startswith(b"GET /a?password=redacted:") and b"&b=1 HTTP/1.1\r\n" in kept
    assert b"Authorization: Bearer redacted:" in kept


@pytest.mark.parametrize("place", range(40, 75))
def test_credentials_torn_between_two_chunks_are_hidden(place: int) -> None:
    secret = b"t0p-s3cret-XYZ"
    redactor, whole = make(), head(b"Authorization: Bearer " + secret)
    kept = [sent(redactor, whole[:place]), sent(redactor, whole[place:])]
    assert not any(secret[start : start + 3] in part for part in kept for start in range(len(secret) - 2))


def test_what_was_met_is_hidden_everywhere_from_then_on() -> None:
    redactor = make()
    received(redactor, b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=abcdefgh; Path=/\r\n\r\n")
    assert b"abcdefgh" not in sent(redactor, b"anything abcdefgh", "other:80#2")


def test_bodies_that_are_sent_follow_the_rules() -> None:
    redactor = make()
    sent(redactor, head())
    assert b"hunter22" not in sent(redactor, b'{"password": "hunter22", "item": "tea"}')
    assert b"hunter22" not in sent(redactor, b"password=hunter22&item=tea")
    assert b"tea" in sent(redactor, b'{"item": "tea"}')
    assert sent(redactor, b'{"password": "hunt') == b"redacted:unexamined"


def test_bodies_that_are_received_keep_their_length() -> None:
    body = json.dumps(
        {"password": "hunter22", "users": [{"ssn": "123-45-6789", "name": "ana"}], "age": 42}
    ).encode()
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nset-cookie: sid=abcdef\r\n\r\n" % len(body) + body
    kept = received(make(), whole)
    kept_body = kept.partition(b"\r\n\r\n")[2]
    assert len(kept_body) == len(body)
    document = json.loads(kept_body)
    assert document["users"][0]["name"] == "ana" and document["age"] == 99
    for value in (b"hunter22", b"123-45-6789", b"abcdef"):
        assert value not in kept


def test_a_value_that_was_heard_and_is_sent_again_is_the_same_in_a_replay() -> None:
    redactor = make()
    heard = received(redactor, b'HTTP/1.1 200 OK\r\n\r\n{"password":"hunter22"}')
    value = json.loads(heard.partition(b"\r\n\r\n")[2])["password"].encode()
    kept = sent(redactor, head(b"X-Other: hunter22", b"Authorization: Bearer hunter22"))
    assert sent(make(), head(b"X-Other: " + value, b"Authorization: Bearer " + value)) == kept


def test_a_secret_that_was_revealed_is_its_handle_in_recording_and_replay() -> None:
    def request(value: bytes) -> bytes:
        basic = base64.b64encode(b"ana:" + value)
        return head(
            b"X-A: " + value, b"Authorization: Bearer " + value, b"Proxy-Authorization: Basic " + basic
        )

    kept = sent(make(), request(b"sk_live_4242"))
    assert b"sk_live_4242" not in kept and kept.count(HANDLE.encode()) == 3
    assert sent(make(), request(HANDLE.encode())) == kept


def test_a_secret_that_a_server_repeats_leaves_the_message_as_long_as_it_was() -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nyour key is sk_live_4242."
    kept = received(make(), answer)
    assert len(kept) == len(answer) and b"sk_live_4242" not in kept


def test_passwords_of_postgres_are_hidden() -> None:
    redactor = make()
    startup = (18).to_bytes(4) + (3 << 16).to_bytes(4) + b"user\0app\0\0"
    assert sent(redactor, startup) == startup
    for content in (b"hunter22\0", b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abcdef", b"md5" + b"0" * 32 + b"\0"):
        kept = sent(redactor, b"p" + (len(content) + 4).to_bytes(4) + content)
        assert content not in kept and kept[5:].startswith(b"redacted:")
    query = b"Q" + (13).to_bytes(4) + b"select 1\0"
    assert sent(redactor, query) == query


def test_bytes_that_are_no_text_are_looked_through_too() -> None:
    assert b"sk_live_4242" not in sent(make(), b"\xff\xfe sk_live_4242")
    assert b"sk_live_4242" not in received(make(), b"\xff\xfe sk_live_4242")


@pytest.mark.parametrize(
    "arguments", [[], ["x"], [1, "GET / HTTP/1.1\r\n", None], ["x", {"$bytes": "?"}, None], ["x", 5, None]]
)
def test_malformed_arguments_are_left_to_who_refuses_them(arguments: list[object]) -> None:
    data = values.encode_json_canonical(arguments)
    assert make().request(HostCallRequest(1, "net.send", data)).arguments == data
