"""What ``flux serve --bind`` takes, how a server is then called, and to which names its console answers."""

import pytest

from flux.message import RawPath, RequestHead
from flux.supervisor.console_door import Door
from flux.supervisor.server_address import BadAddressError, name_server, read_bind


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4000", "127.0.0.1", 4000),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("flux.internal:80", "flux.internal", 80),
    ],
)
def test_host_and_port_are_read(text: str, host: str, port: int) -> None:
    assert read_bind(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", ":", "4000", ":4000", "host:", "host:x", "host:65536", "host:-1", "::1:4000", "[::1]", "[a]:1", "a:²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadAddressError, match="is not HOST:PORT"):
        read_bind(text)


@pytest.mark.parametrize(
    ("host", "url", "answers_to", "refuses", "is_open"),
    [
        ("127.0.0.1", "http://127.0.0.1:4000", ["localhost", "127.0.0.1"], ["10.0.0.5", "evil.example"], False),
        ("localhost", "http://localhost:4000", ["localhost"], ["evil.example"], False),
        ("::1", "http://[::1]:4000", ["[::1]"], ["[::2]"], False),
        # Of all names that mean this machine then, none was given by the operator.
        ("0.0.0.0", "http://127.0.0.1:4000", ["127.0.0.1"], ["0.0.0.0", "10.0.0.5", "evil.example"], True),
        ("::", "http://[::1]:4000", ["[::1]"], ["[::]", "[2001:db8::1]"], True),
        ("10.0.0.5", "http://10.0.0.5:4000", ["10.0.0.5", "127.0.0.1"], ["10.0.0.6", "evil.example"], True),
        ("2001:DB8::1", "http://[2001:DB8::1]:4000", ["[2001:db8::1]"], ["[2001:db8::2]"], True),
        ("Flux.Internal.", "http://Flux.Internal.:4000", ["flux.internal"], ["internal", "x.flux.internal"], True),
    ],
)
def test_the_console_answers_to_what_the_operator_gave_and_to_loopback(
    host: str, url: str, answers_to: list[str], refuses: list[str], is_open: bool
) -> None:
    address = name_server(host, 4000)
    assert (address.url, address.is_open) == (url, is_open)
    door = Door("token", address.hosts)

    def is_refused(name: str) -> bool:
        headers = (("host", f"{name}:4000"), ("authorization", "Bearer token"))
        path = "/_flux/api/functions"
        head = RequestHead("GET", path, path, RawPath(path.encode()), (), headers, "1.1", "10.9.9.9:1234")
        return door.refuse_place(head) is not None

    assert [name for name in answers_to if is_refused(name)] == []
    assert [name for name in refuses if not is_refused(name)] == []
