"""Ways out through the sockets that functions have, each in a fresh worker: none leads out, and each is on record.

``sockets/functions/ways.py`` is the list. The host is the real one, with grants for a few servers of ours; beside
them stand servers that nobody may reach, and a resolver that tells which names were asked for. An attempt that the
host refuses has the refusal on record, under the name that stands here.
"""

import json
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from flux.execution import Killed, Outcome, Returned
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_network import Network
from flux.limits import Limits
from flux.sandbox.process import ProcessSandbox
from tests.conftest import Database
from tests.guests.record_and_replay import Lab, Program, Run
from tests.postgres_server import PostgresServer
from tests.stub_http import Names, Peer, serving

HERE = Path(__file__).parent
HOST = "shop.test"
ATTEMPTS_MIN = 60

ON_RECORD = {
    "GrantRefused": {
        "connect_to_another_port", "connect_to_another_port_by_address", "connect_to_another_name",
        "ask_dns_with_a_message_in_the_name", "connect_to_a_name_that_leads_inside",
        "connect_to_a_name_with_one_good_address", "rebind_a_name", "connect_to_the_metadata_of_a_cloud",
        "connect_to_a_name_of_the_metadata", "follow_a_redirect_inside", "ask_a_server_for_another_name",
        "send_in_the_open_where_tls_is_granted", "bring_a_tls_of_ones_own", "send_before_a_tls_that_failed",
        *(f"connect_to_an_address_spelled_{name}" for name in (
            "mapped", "mapped_in_hexadecimal", "loopback_6", "unspecified", "documentation", "localhost",
        )),
    },
    "NetInvalidAddress": {
        "connect_to_no_port",
        *(f"connect_to_an_address_spelled_{name}" for name in (
            "decimal", "octal", "hexadecimal", "short", "with_a_zone", "other_digits", "with_a_user", "with_a_path",
            "with_a_line_break", "with_a_null", "with_a_space", "endless", "empty",
        )),
    },
    "NetTlsError": {
        "not_verify", "not_verify_with_requests", "take_what_came_in_the_open_for_what_came_under_tls",
    },
    "InvalidArguments": {
        "trust_junk", "trust_more_than_there_may_be", "switch_verification_off_by_an_option", "begin_tls_twice",
        "send_too_much_at_once", "receive_too_much_at_once", "receive_a_negative_number", "receive_twice_at_once",
        "wait_for_thousands", "wait_for_ever_and_a_day", "give_arguments_of_other_kinds",
    },
    "NetTooMuch": {"open_thousands_of_connections", "send_too_much_in_all"},
    "NetBroken": {
        "use_a_handle_that_is_nobodys", "use_the_handle_of_another_execution", "use_a_handle_that_was_closed",
    },
    "NetSecretMisplaced": {"have_a_secret_put_into_a_body", "have_a_secret_put_into_anything"},
}  # fmt: skip
"""Name of the error that the host answered, which is on record with the call."""

IN_THE_GUEST = {
    "ask_for_an_absolute_target": "EACCES",
    "look_up_more_names_than_there_are_addresses": "gaierror",
    "make_a_socket_of_the_wire": "EPERM",
    "make_a_socket_of_the_wire_by_fromfd": "EPERM",
    "read_a_detached_descriptor": "EBADF",
    "write_to_a_sockets_number": "EBADF",
    "send_descriptors": "EPERM",
    "send_descriptors_by_the_helper": "EPERM",
    **dict.fromkeys(
        ("bind_to_a_device", "attach_a_filter", "mark_packets", "ask_for_credentials", "share_a_port",
         "be_transparent", "give_ip_options", "make_a_pair", "listen", "bind_to_an_address", "send_to_an_address"),
        "EPERM",
    ),
    **{f"make_a_socket_of_kind_{kind}": "EPERM" for kind in ("udp", "raw", "unix", "netlink", "packet", "sctp")},
}  # fmt: skip
"""What there is no call for: the host is not asked, and the refusal is in the execution's answer."""

KILLED = {"write_to_the_wire"}
"""What breaks the protocol, and ends with its execution."""


@attrs.frozen
class Tried:
    """What came of the attempts."""

    runs: dict[str, Run]
    control: Run
    """One of them, with a grant for what it wants."""
    forbidden: list[int]
    """Connections that the server which nobody may reach has had, before and after the control."""
    asked_names: set[str]
    bytes_in_the_open: bytes
    """What came to a server of TLS before any TLS."""


def refusal_of(outcome: Outcome | None) -> str | None:
    assert isinstance(outcome, Returned), outcome
    answer = json.loads(outcome.body)
    return "it worked: " + answer["got"] if answer["refused"] is None else answer["refused"]


async def answer(peer: Peer) -> None:
    while True:
        request = await peer.read()
        method, path = request.line.split(" ")[:2]
        status, more = "200 OK", ""
        if path == "/redirect":
            status, more = "302 Found", f"location: http://127.0.0.1:{FORBIDDEN_PORT[0]}/secret\r\n"
        if method == "CONNECT":
            status = "405 Method Not Allowed"
        await peer.write(f"HTTP/1.1 {status}\r\n{more}content-length: 0\r\n\r\n".encode())


FORBIDDEN_PORT: list[int] = []


async def swallow(peer: Peer) -> None:
    while True:
        await peer.more()
        peer.buffer = b""


async def speak_too_early(peer: Peer) -> None:
    await peer.write(b"go")
    await trio.sleep(0.05)
    await peer.write(b"and this under TLS, as it seems")
    await peer.more()


class Rebinding(Names):
    """Names of which one leads elsewhere each second time."""

    async def __call__(self, host: str, port: int, limiter: trio.CapacityLimiter) -> list[str]:
        addresses = await super().__call__(host, port, limiter)
        if host == "rebinding.test" and self.asked.count(host) > 1:
            return ["10.0.0.5"]
        return addresses


async def try_all(database: Database, folder: Path) -> Tried:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    contexts = []
    for issuer in (authority, other):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer.issue_cert(HOST).configure_cert(context)
        contexts.append(context)
    shutil.copytree(HERE / "sockets" / "functions", folder / "functions")
    names = Rebinding(
        shop_test=["127.0.0.1"], inside_test=["10.0.0.5"], mixed_test=["127.0.0.1", "10.0.0.5"],
        rebinding_test=["127.0.0.1"], metadata_test=["169.254.169.254"], localhost=["127.0.0.1"],
    )  # fmt: skip
    in_the_open = bytearray()

    async def listen_for_plain(peer: Peer) -> None:
        # The server's end of a TLS connection, looked at before it is one.
        data = await peer.stream.receive_some(65536)
        in_the_open.extend(data if data[:2] != b"\x16\x03" else b"")

    pool = database.pool()
    sandbox = ProcessSandbox(folder, "functions", idle_target=2)
    async with trio.open_nursery() as nursery:
        with HttpClient(network=Network(names), ca_file=str(folder / "ca.pem")) as http:
            await nursery.start(sandbox.run)
            async with (
                serving(answer) as plain,
                serving(swallow) as forbidden,
                serving(listen_for_plain) as open_tls,
                serving(swallow, tls=contexts[0]) as tls,
                serving(swallow, tls=contexts[1]) as wrong_tls,
                serving(speak_too_early) as early,
                serving(swallow) as sink,
            ):
                FORBIDDEN_PORT[:] = [forbidden.port]
                grants = [
                    *(f"127.0.0.1:{port}" for port in (plain.port, early.port, sink.port)),
                    *(f"https://127.0.0.1:{port}" for port in (tls.port, wrong_tls.port, open_tls.port)),
                    *(f"https://{HOST}:{port}" for port in (tls.port, wrong_tls.port, open_tls.port)),
                    *(f"{HOST}:{port}" for port in (plain.port, early.port, sink.port)),
                    *(f"{name}.test:{plain.port}" for name in ("inside", "mixed", "rebinding")),
                    "metadata.test:80", f"*.names.test:{plain.port}",
                ]  # fmt: skip
                more = {
                    "host": HOST, "port": plain.port, "forbidden_port": forbidden.port, "tls_port": tls.port,
                    "wrong_tls_port": wrong_tls.port, "early_port": early.port, "sink_port": sink.port,
                    "foreign_handle": f"{HOST}:{plain.port}#1",
                }  # fmt: skip
                lab = Lab(pool, http, grants, more)
                await lab.prepare()
                listed = await record(lab, sandbox, "names", {})
                assert isinstance(listed.driven.outcome, Returned)
                runs = {}
                for name in json.loads(listed.driven.outcome.body):
                    ports = {}
                    if name in ("send_in_the_open_where_tls_is_granted", "bring_a_tls_of_ones_own"):
                        ports = {"tls_port": open_tls.port}
                    lab = Lab(pool, http, grants, {**more, **ports})
                    runs[name] = await record(lab, sandbox, "attempt", {"name": name})
                assert http.held == {}, "every connection was given back"
                counted = [forbidden.connections]
                granted = Lab(pool, http, [*grants, f"127.0.0.1:{forbidden.port}"], more)
                control = await record(granted, sandbox, "attempt", {"name": "connect_to_another_port_by_address"})
                counted.append(forbidden.connections)
        nursery.cancel_scope.cancel()
    await pool.aclose()
    return Tried(runs, control, counted, set(names.asked), bytes(in_the_open))


async def record(lab: Lab, sandbox: ProcessSandbox, function: str, inputs: dict[str, object]) -> Run:
    program = Program(
        function=function, file="ways.py", outcome="", calls={}, more=set(), log_count=0, input=inputs,
        limits=Limits(timeout_s=60), atomic=True, middleware=(),
    )  # fmt: skip
    run, _document, _seed = await lab.record(sandbox, program)
    return run


@pytest.fixture(scope="module")
def tried(
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tried:
    return trio.run(try_all, make_database(postgres18), tmp_path_factory.mktemp("ways"))


def test_every_attempt_is_refused_and_on_record_with_its_refusal(tried: Tried) -> None:
    expected = {name: error for error, names in ON_RECORD.items() for name in names}
    assert len(tried.runs) >= ATTEMPTS_MIN
    assert tried.runs.keys() == expected.keys() | IN_THE_GUEST.keys() | KILLED
    found, recorded = {}, {}
    early = "take_what_came_in_the_open_for_what_came_under_tls"
    for name, run in tried.runs.items():
        if name in KILLED:
            assert isinstance(run.driven.outcome, Killed) and run.driven.outcome.limit == "protocol"
            continue
        assert isinstance(run.driven.outcome, Returned), (name, run.driven.outcome)
        found[name] = refusal_of(run.driven.outcome)
        errors = [call.result.error.name for call in run.calls if call.result and call.result.error]
        if name == early and not errors:
            # It had come to the guest already, whose SDK then does not ask.
            assert "net.tls" not in [call.request.name for call in run.calls] and found[name] == "EPERM"
            recorded[name] = expected[name]
        elif name in expected:
            recorded[name] = errors[-1] if errors else None
        else:
            assert errors == [], name
    assert {name: text for name, text in found.items() if text is None or text.startswith("it worked")} == {}
    assert recorded == expected
    assert {name: found[name] for name in IN_THE_GUEST} == IN_THE_GUEST


def test_nobody_reached_what_stood_beside(tried: Tried) -> None:
    assert tried.forbidden == [0, 1], "it could be reached, by whom it is granted to"
    assert (refusal_of(tried.control.driven.outcome) or "").startswith("it worked")
    assert tried.bytes_in_the_open == b""


def test_no_name_without_a_grant_was_ever_resolved(tried: Tried) -> None:
    assert tried.asked_names <= {HOST, "inside.test", "mixed.test", "rebinding.test", "metadata.test"}
    assert "stolen-data.evil.test" not in tried.asked_names


def test_a_secret_that_was_refused_was_not_sent_and_is_not_on_record(tried: Tried) -> None:
    for run in tried.runs.values():
        for call in run.calls:
            assert b"sk_live_4242" not in call.request.arguments
