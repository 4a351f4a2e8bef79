"""Who is believed to have made a request."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.caller import Caller, ProxyRules, find_caller, read_address, read_network
from flux.message import RawPath, RequestHead

PROXIES = ("10.0.0.0/8", "fd00::/8")


def head(peer: str, *headers: tuple[str, str]) -> RequestHead:
    return RequestHead("GET", "/", "/", RawPath("/"), (), (("host", "shop.example"), *headers), "1.1", peer)


def rules(headers: str = "x-forwarded") -> ProxyRules:
    return ProxyRules(tuple(map(read_network, PROXIES)), headers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("192.0.2.9:5000", ["10.0.0.1"], "192.0.2.9"),  # No proxy: what it says of itself is nothing.
        ("10.0.0.1:5000", [], "10.0.0.1"),
        ("10.0.0.1:5000", ["192.0.2.9"], "192.0.2.9"),
        ("10.0.0.1:5000", ["1.1.1.1, 192.0.2.9"], "192.0.2.9"),  # The client wrote the first itself.
        ("10.0.0.1:5000", ["1.1.1.1", "192.0.2.9, 10.0.0.7"], "192.0.2.9"),
        ("10.0.0.1:5000", ["10.0.0.3, 10.0.0.7"], "10.0.0.3"),  # All are ours: the first of them.
        ("10.0.0.1:5000", ["192.0.2.9:4711"], "192.0.2.9"),
        ("10.0.0.1:5000", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("[fd00::1]:5000", ["2001:DB8::5"], "2001:db8::5"),
        ("[::ffff:10.0.0.1]:5000", ["192.0.2.9"], "192.0.2.9"),
        ("10.0.0.1:5000", ["::ffff:192.0.2.9"], "192.0.2.9"),
        ("10.0.0.1:5000", ["192.0.2.9, unknown"], "10.0.0.1"),  # Behind what can't be read nobody is believed.
        ("10.0.0.1:5000", ["192.0.2.9, 10.0.0.7, <script>"], "10.0.0.1"),
        ("10.0.0.1:5000", ["192.0.2.9,,"], "192.0.2.9"),
        ("unix", ["192.0.2.9"], ""),
    ],
)  # fmt: skip
def test_a_client_is_who_the_last_declared_proxy_has_seen(peer: str, forwarded_for: list[str], client: str) -> None:
    lines = [("x-forwarded-for", line) for line in forwarded_for]
    assert find_caller(head(peer, *lines), rules()).client == client


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["for=192.0.2.9;proto=https;host=shop.example"], Caller("192.0.2.9", "https", "shop.example")),
        (['for="[2001:db8::5]:4711"'], Caller("2001:db8::5", "http", "shop.example")),
        (["For=1.1.1.1", 'FOR = "192.0.2.9"; Proto=HTTPS'], Caller("10.0.0.1", "http", "shop.example")),
        (["for=1.1.1.1, for=192.0.2.9"], Caller("192.0.2.9", "http", "shop.example")),
        (["for=192.0.2.9;for=1.1.1.1"], Caller("10.0.0.1", "http", "shop.example")),
        (["for=_hidden"], Caller("10.0.0.1", "http", "shop.example")),
        # Quotes that a client left open do not take what the proxy appended with them.
        (['for="1.1.1.1', "for=192.0.2.9"], Caller("192.0.2.9", "http", "shop.example")),
        (['for="1.1.1.1, for="[2001:db8::5]"'], Caller("2001:db8::5", "http", "shop.example")),
        (['for="\\', 'for="[2001:db8::5]:1"'], Caller("2001:db8::5", "http", "shop.example")),
    ],
)
def test_the_other_notation_is_read_as_strictly(lines: list[str], expected: Caller) -> None:
    found = find_caller(head("10.0.0.1:5000", *(("forwarded", line) for line in lines)), rules("forwarded"))
    assert found == expected


def test_only_the_notation_that_is_declared_is_believed() -> None:
    """A proxy that writes one passes the other on as the client sent it."""
    asked = head("10.0.0.1:5000", ("forwarded", "for=1.1.1.1;proto=https"), ("x-forwarded-for", "192.0.2.9"))
    assert find_caller(asked, rules()) == Caller("192.0.2.9", "http", "shop.example")
    assert find_caller(asked, rules("forwarded")) == Caller("1.1.1.1", "https", "shop.example")


@pytest.mark.parametrize("notation", ["x-forwarded", "forwarded"])
def test_a_list_as_long_as_a_head_changes_nothing(notation: str) -> None:
    name, said = ("forwarded", "for=%s") if notation == "forwarded" else ("x-forwarded-for", "%s")
    long = ",".join([said % "10.0.0.1"] * 4000)
    asked = head("10.0.0.1:5000", (name, said % "1.1.1.1," + long), (name, said % "192.0.2.9"))
    assert find_caller(asked, rules(notation)).client == "192.0.2.9"
    # Of proxies alone it is the last that was looked at, which is one of them, and never what lies beyond.
    assert find_caller(head("10.0.0.1:5000", (name, said % "1.1.1.1," + long)), rules(notation)).client == "10.0.0.1"


def test_scheme_and_host_are_the_nearest_proxys() -> None:
    said = (("x-forwarded-proto", "http, https"), ("x-forwarded-host", "evil.example, api.shop.example:8443"))
    assert find_caller(head("10.0.0.1:1", *said), rules()) == Caller("10.0.0.1", "https", "api.shop.example:8443")
    assert find_caller(head("192.0.2.1:1", *said), rules()) == Caller("192.0.2.1", "http", "shop.example")
    odd = (("x-forwarded-proto", "javascript"), ("x-forwarded-host", "a b"))
    assert find_caller(head("10.0.0.1:1", *odd), rules()) == Caller("10.0.0.1", "http", "shop.example")


@given(st.text(max_size=200), st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_whatever_a_client_writes_it_does_not_become_another_one(text: str, name: str) -> None:
    """What a declared proxy appends is the client, whatever stands before it."""
    said = "192.0.2.9" if name == "x-forwarded-for" else 'for="192.0.2.9"'
    asked = head("10.0.0.1:5000", (name, text), (name, said))
    notation = "x-forwarded" if name == "x-forwarded-for" else "forwarded"
    assert find_caller(asked, rules(notation)).client == "192.0.2.9"


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_the_same_with_a_port_and_without(address: object, port: int) -> None:
    text = str(address)
    mapped = ipaddress.ip_address(text)
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None:
        mapped = mapped.ipv4_mapped
    with_port = f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
    assert read_address(text) == read_address(with_port) == mapped
