"""What a recorded call of a library's connection says: with whom, and whether somebody was waited for."""

import pytest

from flux import calls, values
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult

HANDLE = "db.example.com:5432#1"


def call(
    seq: int, name: str, *arguments: object, at_ms: int = 0, took_ms: int | None = 1, error: str = ""
) -> HostCall:
    request = HostCallRequest(seq, name, values.encode_canonical(list(arguments)))
    failure = HostCallError(error, "why") if error else None
    result = None if took_ms is None else HostCallResult(b'""', failure, took_ms * 1_000_000)
    return HostCall(request, result, at_ms * 1_000_000, seq)


@pytest.mark.parametrize(
    ("name", "arguments", "url", "host"),
    [
        ("net.open", ["db.example.com", 5432, 5], "db.example.com:5432", "db.example.com:5432"),
        ("net.open", ["api.example.com", 443, None], "api.example.com:443", "api.example.com"),
        ("net.open", ["::1", 80, None], "[::1]:80", "[::1]"),
        ("net.recv", [HANDLE, 10, None], "db.example.com:5432", "db.example.com:5432"),
        ("net.send", ["[::1]:9000#12", "x", 1], "[::1]:9000", "[::1]:9000"),
        ("net.poll", [["api.example.com:80#1", HANDLE], 1], "api.example.com:80", "api.example.com"),
        ("net.close", [HANDLE], "db.example.com:5432", "db.example.com:5432"),
    ],
)
def test_a_call_names_its_host_by_itself(name: str, arguments: list[object], url: str, host: str) -> None:
    read = calls.read_net(call(1, name, *arguments))
    assert read is not None
    assert (read.method, read.url, read.host, read.status) == (name, url, host, None)


@pytest.mark.parametrize("arguments", [[], [1], [[]], [[1]], ["\0"], ["#"], [""], ["a b:1#1"], ["x:99999999#1"]])
def test_what_a_guest_made_up_is_read_without_a_word(arguments: list[object]) -> None:
    for name in ("net.open", "net.recv", "net.poll"):
        read = calls.read_net(call(1, name, *arguments))
        assert read is None or isinstance(read.host, str)


def test_other_calls_are_no_connections() -> None:
    assert calls.read_net(call(1, "db.query", "select 1", [])) is None
    assert calls.read_outbound(call(1, "clock.now")) is None
    http = call(1, "http.request", "GET", "http://x/", {})
    assert calls.read_outbound(http) == calls.read_http(http)


def test_who_reads_ahead_on_an_idle_connection_waits_for_nobody() -> None:
    opened = call(1, "net.open", "db.example.com", 5432, 5)
    asked = call(2, "net.send", HANDLE, "x", None, at_ms=10)
    heard = call(3, "net.recv", HANDLE, 10, None, at_ms=5, took_ms=20)
    ahead = call(4, "net.recv", HANDLE, 10, None, at_ms=26, took_ms=None)
    again = call(5, "net.send", HANDLE, "y", None, at_ms=40)
    other = call(6, "net.send", "other:80#2", "y", None, at_ms=50)
    assert calls.awaits_answer(heard, [opened, asked, heard])
    assert not calls.awaits_answer(ahead, [opened, asked, heard, ahead])
    assert not calls.awaits_answer(ahead, [opened, asked, heard, ahead, other])
    assert calls.awaits_answer(ahead, [opened, asked, heard, ahead, again])


def test_who_waits_for_the_first_word_of_a_server_waits_for_somebody() -> None:
    opened = call(1, "net.open", "db.example.com", 5432, 5)
    greeting = call(2, "net.recv", HANDLE, 10, None, at_ms=1, took_ms=None)
    assert calls.awaits_answer(greeting, [opened, greeting])
    given_up = call(2, "net.recv", HANDLE, 10, None, at_ms=1, took_ms=50, error="Cancelled")
    assert calls.awaits_answer(given_up, [opened, given_up])
