"""The Debug Adapter Protocol over executions that really ran, spoken by a client of our own (`tests.dap_client`)."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux.cli.dap_serve import StrangerError, check_peer, converse, find_owner
from flux.cli.dap_session import Session
from flux.cli.debug_clock import Clock
from flux.cli.debug_walk import Ask, Walk
from flux.cli.record import Record
from flux.dap_frames import BODY_BYTES_MAX, BadFrameError
from flux.execution import Execution
from tests.dap_client import DapClient
from tests.debugging import use
from tests.followed import Followed, open_followed

SHOP = '''\
from collections import OrderedDict

from flux_guest import function

TOUCHED = []


def touch(self, *_):
    TOUCHED.append(1)
    raise RuntimeError("looked at")


class Endless:
    __str__ = __eq__ = __len__ = __iter__ = __getattr__ = touch
    __hash__ = None
    price = property(touch)

    def __init__(self):
        self.kept = 7

    def __repr__(self):
        TOUCHED.append(1)
        while True:
            pass


class Pairs(dict):
    __iter__ = __repr__ = items = keys = __len__ = __getitem__ = touch


def price(line):
    cents = line["cents"]
    if cents < 0:
        raise ValueError(cents)
    return cents * line["count"]


@function
def charge(ctx, input):
    total = 0
    for line in input["lines"]:
        total += price(line)
    return {"total": total}


DEEP = []
for _ in range(5000):
    DEEP = [DEEP]


@function
def hostile(ctx, input):
    deep = DEEP
    endless, pairs = Endless(), Pairs(a=1)
    large, many = "\\x1b[31m" + "x" * 10_000_000, list(range(1000))
    some, keyed = {3}, OrderedDict(a={"b": (1, 2)})
    nested = {"a": {"b": {"c": {"d": {"e": {"f": {"g": "found"}}}}}}}
    TOUCHED.clear()
    done = True
    return {"touched": TOUCHED}
'''
LINES = b'{"lines": [{"cents": 5, "count": 2}, {"cents": 7, "count": 1}, {"cents": -1, "count": 1}]}'


async def edit(
    followed: Followed, execution: Execution, root: Path, script: Callable[[DapClient], None], at: int | None = None
) -> None:
    """Have a client follow ``script``, over a socket, with an adapter that asks about ``execution``."""

    def work(ask: Ask) -> None:
        ours, theirs = socket.socketpair()
        clock = Clock(Record({"calls": [], "mutations": [], "elapsed_ms": 1.0}))
        session = Session(lambda at: Walk(ask, at), lambda: clock, root, at)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                client = DapClient(lambda: theirs.recv(65_536), theirs.sendall)
                script(client)
                client.ask("disconnect")
            except BaseException as error:
                failed.append(error)
            finally:
                theirs.close()

        editor = threading.Thread(target=run)
        editor.start()
        with ours:
            converse(session, lambda: ours.recv(65_536), ours.sendall)
        editor.join()
        if failed:
            raise failed[0]

    await use(followed, execution, work)


def begin(client: DapClient, **arguments: Any) -> dict[str, Any]:
    """Say who one is and that all breakpoints are set; return how it stands."""
    able = client.ask("initialize", adapterID="flux", linesStartAt1=True)
    assert able["supportsStepBack"] is True
    client.ask("launch", **arguments)
    client.wait("initialized")
    client.ask("configurationDone")
    return client.wait("stopped")


async def test_an_editor_goes_both_ways_through_a_failed_execution(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"shop.py": SHOP}) as followed:
        failed = await followed.record("charge", LINES, {})
        root = tmp_path / "project"
        file = root / "functions" / "shop.py"

        def script(client: DapClient) -> None:
            assert "before initialize" in client.refused("threads")
            client.ask("initialize", adapterID="flux")
            assert "comes first" in client.refused("stackTrace", threadId=1)
            assert "knows no request" in client.refused("haunt")
            client.ask("attach")
            client.wait("initialized")
            source = {"path": str(file)}
            wanted = [{"line": 42, "condition": "line['cents'] == 7"}, {"line": 1}, {"line": 42, "condition": "f()"}]
            told = client.ask("setBreakpoints", source=source, breakpoints=wanted)["breakpoints"]
            assert [each["verified"] for each in told] == [True, False, False]
            assert "did not run" in told[1]["message"]
            assert "nothing is run to look" in told[2]["message"]
            assert client.ask("setExceptionBreakpoints", filters=[]) is None
            elsewhere = client.ask("setBreakpoints", source={"path": "/etc/passwd"}, breakpoints=[{"line": 1}])
            assert elsewhere["breakpoints"][0]["verified"] is False
            client.ask("configurationDone")
            stopped = client.wait("stopped")
            assert (stopped["reason"], stopped["text"]) == ("exception", "ValueError: -1")

            (thread,) = client.ask("threads")["threads"]
            assert failed.name in thread["name"] and "event" in thread["name"]
            stack = client.ask("stackTrace", threadId=1)
            assert [(each["name"], each["line"]) for each in stack["stackFrames"]] == [("price", 34), ("charge", 42)]
            assert stack["stackFrames"][0]["source"]["path"] == str(file), "the file here is what ran"
            assert client.ask("stackTrace", threadId=1, startFrame=1, levels=1)["stackFrames"][0]["name"] == "charge"
            assert client.names()["cents"]["value"] == "-1"
            caller = client.names(2)
            assert caller["total"]["value"] == "17"
            inside = client.inside(caller["line"]["variablesReference"])
            assert {each["evaluateName"] for each in inside} == {"line['count']", "line['cents']"}
            assert client.ask("evaluate", expression="total > 16", frameId=2)["result"] == "True"
            assert client.ask("evaluate", expression="line", frameId=2, context="hover")["variablesReference"] > 0
            assert "no total" in client.refused("evaluate", expression="total", frameId=1)
            assert "nothing is run" in client.refused("evaluate", expression="__import__('os')", frameId=1)
            assert "no frame 3" in client.refused("scopes", frameId=3)
            old = caller["line"]["variablesReference"]

            assert client.stops("stepBack")["reason"] == "step"
            assert client.top() == ("price", 34)
            assert "of another event" in client.refused("variables", variablesReference=old)
            client.stops("stepBack", granularity="instruction")
            assert client.top() == ("price", 33)
            client.stops("stepOut")
            assert client.top() == ("charge", 42)
            hit = client.stops("reverseContinue")
            assert (hit["reason"], hit["hitBreakpointIds"]) == ("breakpoint", [told[0]["id"]])
            assert client.top() == ("charge", 42)
            assert client.ask("evaluate", expression="line['cents']", frameId=1)["result"] == "7"
            client.stops("stepIn")
            assert client.top() == ("price", 32)
            client.stops("next")
            assert client.top() == ("price", 33)

            info = client.ask("dataBreakpointInfo", name="total")
            assert info["dataId"] == "total"
            client.ask("setDataBreakpoints", breakpoints=[{"dataId": "total"}])
            client.ask("setBreakpoints", source=source, breakpoints=[])
            changed = client.stops("reverseContinue")
            assert (changed["reason"], changed["text"]) == (
                "data breakpoint", "total was changed by functions/shop.py:42 in charge()",
            )
            assert client.names()["total"]["value"] == "10"
            client.ask("setDataBreakpoints", breakpoints=[])
            assert client.stops("reverseContinue")["description"] == "it begins here"
            assert client.stops("continue")["description"] == "it ends here"
            assert client.stops("stepBack")["reason"] == "step", "the end is no end"
            assert client.stops("pause")["reason"] == "pause"

        await edit(followed, failed, root, script)

        # The file has changed since: what is shown is the one that ran, by its number.
        file.write_text("# now\n" + SHOP)

        def script_after(client: DapClient) -> None:
            assert begin(client, at=3)["reason"] == "entry"
            source = client.ask("stackTrace", threadId=1)["stackFrames"][0]["source"]
            assert "path" not in source
            assert client.ask("source", sourceReference=source["sourceReference"])["content"] == SHOP
            now = client.ask("setBreakpoints", source={"path": str(file)}, breakpoints=[{"line": 43}])
            assert "has changed since" in now["breakpoints"][0]["message"]
            then = client.ask("setBreakpoints", source=source, breakpoints=[{"line": 34}])
            assert then["breakpoints"][0]["verified"] is True
            client.stops("continue")
            assert client.top() == ("price", 34)
            assert "no such source" in client.refused("source", sourceReference=9)
            assert "FLX671" in client.refused("launch", at=10_000)

        await edit(followed, failed, root, script_after)


async def test_hostile_values_unfold_without_running_anything(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"shop.py": SHOP}) as followed:
        hostile = await followed.record("hostile", b"{}", {})

        def script(client: DapClient) -> None:
            begin(client)
            assert client.events == [], "nothing is amiss, so nothing is said"
            returned = client.names()["(returned)"]
            (touched,) = client.inside(returned["variablesReference"])
            assert (touched["name"], touched["value"]) == ('["touched"]', "[]"), "looking has touched nothing"
            names = client.names()
            (kept,) = client.inside(names["endless"]["variablesReference"])
            assert (kept["name"], kept["value"], kept["evaluateName"]) == ("kept", "7", "endless.kept")
            (pair,) = client.inside(names["pairs"]["variablesReference"])
            assert (pair["name"], pair["value"]) == ("a", "1")
            assert "\x1b" not in names["large"]["value"]
            assert "10,000,005 characters" in names["large"]["value"]
            assert len(names["large"]["value"]) < 1_100
            many = names["many"]
            assert many["indexedVariables"] == 1000
            page = client.inside(many["variablesReference"], start=990, count=10)
            assert [each["value"] for each in page] == [str(n) for n in range(990, 1000)]
            page = client.inside(many["variablesReference"], start=15, count=10)
            assert [(each["name"], each["value"]) for each in page] == [(f"[{n}]", str(n)) for n in range(15, 25)]
            assert len(client.inside(many["variablesReference"])) == 100
            (item,) = client.inside(names["some"]["variablesReference"])
            assert "evaluateName" not in item, "a set has no order"
            (keyed,) = client.inside(names["keyed"]["variablesReference"])
            assert client.ask("evaluate", expression=keyed["evaluateName"], frameId=1)["result"] == '{"b": (1, 2)}'
            value = names["nested"]
            for name in "abcdefg":
                (value,) = client.inside(value["variablesReference"])
                assert value["name"] == f'["{name}"]'
            assert value["value"] == '"found"', "what was cut is asked for"
            value = names["deep"]
            for _ in range(30):
                (value,) = client.inside(value["variablesReference"])
            assert value["type"] == "list"
            assert "is computed" in client.refused("evaluate", expression="endless.price", frameId=1)

        await edit(followed, hostile, tmp_path / "project", script)


def carried(data: bytes) -> tuple[list[dict[str, Any]], str]:
    """Send bytes; return the messages that answer them, and why the connection was closed."""
    sent, waiting = [], [data, b""]

    def refuse(*_: object) -> Any:
        raise AssertionError("nobody is asked")

    session = Session(refuse, refuse, None)
    try:
        converse(session, lambda: waiting.pop(0), sent.append)
    except BadFrameError as error:
        return [json.loads(each.partition(b"\r\n\r\n")[2]) for each in sent], str(error)
    return [json.loads(each.partition(b"\r\n\r\n")[2]) for each in sent], ""


INITIALIZE = b'{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}'
GOOD = b"Content-Length: %d\r\n\r\n%s" % (len(INITIALIZE), INITIALIZE)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1:4711\r\nContent-Length: 79\r\n\r\n" + INITIALIZE,
        b"GET / HTTP/1.1\r\n\r\n" + GOOD,
        b"\r\n" + GOOD,
        b"P",
        b"Content-Length: 79\r\nHost: x\r\n\r\n" + INITIALIZE + GOOD,
        b"Content-Length: -1\r\n\r\n" + INITIALIZE + GOOD,
        b"Content-Length: 0x4f\r\n\r\n" + INITIALIZE + GOOD,
        "Content-Length: ７９\r\n\r\n".encode() + INITIALIZE,
        b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1),
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"Content-Length:" + b" " * 100,
        GOOD[:-1],
    ],
)
def test_bytes_that_are_no_frame_are_refused_and_nothing_behind_them_is_done(data: bytes) -> None:
    (answer,), why = carried(data)
    assert (answer["type"], answer["success"]) == ("response", False)
    assert answer["message"].startswith("FLX675")
    assert why


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"seq": ' + b"9" * 5000 + b"}", b"{}",
        b'{"type": "request"}', b'{"type": "event", "event": "stopped"}', b'{"type": "request", "command": ["next"]}',
        b'{"seq": "1", "type": "request", "command": "initialize", "arguments": [1]}',
    ],
)  # fmt: skip
def test_a_message_that_is_wrong_is_answered_and_the_next_one_is_done(body: bytes) -> None:
    answers, why = carried(b"content-length:%d\r\n\r\n%s" % (len(body), body) + GOOD)
    assert [(each["success"], each["request_seq"]) for each in answers] == [(False, 0), (True, 1)]
    assert why == ""


def test_only_ones_own_connection_is_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            connection, peer = listener.accept()
            with connection:
                assert peer == client.getsockname()
                check_peer(peer, port)
                assert find_owner((peer[0], port), peer[1]) is not None, "the other way it is our own end"
        with pytest.raises(StrangerError, match="not known"):
            check_peer(("127.0.0.1", 1), port)
