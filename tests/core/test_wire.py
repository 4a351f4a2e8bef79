"""The host's side of the wire between guest and host."""

import msgspec
import pytest

from flux.hostcall import HostCallError, HostCallRequest, HostCallResult, Position
from flux.wire import (
    CallReceived,
    CancelReceived,
    GuestConnection,
    GuestFrameTooLargeError,
    GuestProtocolError,
    RaiseReceived,
    ReturnReceived,
    encode_reply,
    encode_start,
)


def test_a_conversation_is_read_frame_by_frame() -> None:
    connection = GuestConnection()
    events = connection.receive(
        b'[1,"db.query",["select 1",[]],{"at":["functions/a.py",3,"f"],"task":2}]\n'
        b'[0,"log.write",["info","hi",{"b":1,"a":2}]]\n[2,"clock.now",[]]\n["cancel",1]\n'
    )
    assert events == [
        CallReceived(
            HostCallRequest(1, "db.query", b'["select 1",[]]', 2, Position("functions/a.py", 3, "f"))
        ),
        CallReceived(HostCallRequest(0, "log.write", b'["info","hi",{"a":2,"b":1}]', one_way=True)),
        CallReceived(HostCallRequest(2, "clock.now", b"[]")),
        CancelReceived(1),
    ]
    assert connection.outstanding == {1, 2}
    assert connection.reply(2, HostCallResult(b"7", now_ns=9)) == b"[2,null,7,9]\n"
    assert connection.outstanding == {1}
    assert not connection.ended
    assert connection.receive(b'["return", {"status": 200} ]\n') == [ReturnReceived(b'{"status": 200}')]
    assert connection.ended


def test_a_failure_tells_all_of_it() -> None:
    frame = (
        b'["raise",{"type":"KeyError","message":"plan","frames":[["a.py",3,"f",true,"x"],["b.py",1,"g"]],"status":404,'
        b'"code":"NOT_FOUND","violations":[{"path":"/a","message":"b"}],"call":3,"cause":"E: x"}]\n'
    )
    (event,) = GuestConnection().receive(frame)
    assert isinstance(event, RaiseReceived)
    report = event.report
    assert (report.type, report.message, report.status, report.code) == ("KeyError", "plan", 404, "NOT_FOUND")
    assert [(frame.file, frame.line, frame.function, frame.user) for frame in report.frames] == [
        ("a.py", 3, "f", True),
        ("b.py", 1, "g", False),
    ]
    assert (report.violations, report.call, report.cause) == ([{"path": "/a", "message": "b"}], 3, "E: x")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"null", b"1", b"[]", b"[1]", b'["return"]', b'["return",1,2]', b'["return",nope]',
        b'["return",NaN]',
        b'["return",1]]', b'["raise",1]', b'["raise",{}]',
        b'["raise",{"type":"a","message":"b","status":600}]', b'["cancel",0]',
        b'["cancel",1]', b'["cancel",-1]', b'["cancel",true]', b'["cancel",1.0]', b'["cancel",99999999999999999999]',
        b'["other",1]', b'["",1]', b'["ret\\u0075rn",1]', b'[2,"x",[]]', b'[-1,"x",[]]', b'[1.0,"x",[]]',
        b'[true,"x",[]]',
        b'[99999999999999999999,"x",[]]', b'["1","x",[]]', b'[1,"",[]]', b'[1,1,[]]', b'[1,"x",{}]',
        b'[1,"x",null]', b'[1,"x"]',
        b'[1,"x",[],null]', b'[1,"x",[],{"task":-1}]', b'[1,"x",[],{"task":2147483648}]', b'[1,"x",[],{"task":1.5}]',
        b'[1,"x",[],{"at":["f",-1,"g"]}]', b'[1,"x",[],{"at":["f",99999999999,"g"]}]', b'[1,"x",[],{"at":["f",1]}]',
        b'[1,"x",[],{"other":1}]', b'[1,"x",[],{},1]', b'[1,"x",[]]x', b'[1,"x",["\xff"]]', b'[1,"\xff",[]]',
        b'[1,"x",["\\ud800"]]', b'[1,"x",[1e999]]', b'[1,"x",[' + b"9" * 5000 + b"]]",
        b'[1,"x",' + b"[" * 5000 + b"]" * 5000 + b"]",
        b'["return",' + b"[" * 100_000 + b"]" * 100_000 + b"]", b'["raise",{"type":"a","message":"b","call":-1}]',
        b'["raise",{"type":"a","message":"b","call":9999999999}]', b"\x00", b"\xff\xfe", b'\xef\xbb\xbf[1,"x",[]]',
    ],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
def test_whatever_breaks_a_rule_is_an_error_that_names_it(line: bytes) -> None:
    with pytest.raises(GuestProtocolError) as caught:
        GuestConnection().receive(line + b"\n")
    assert str(caught.value)
    assert len(str(caught.value)) < 300


def test_white_space_between_the_parts_of_a_frame_means_nothing() -> None:
    connection = GuestConnection()
    assert connection.receive(b' [ 1 , "x" , [ ] ] \n')[0] == CallReceived(HostCallRequest(1, "x", b"[]"))
    assert connection.receive(b'\t[ "cancel" , 1 ]\r\n') == [CancelReceived(1)]
    assert connection.receive(b'[\t"return",1]\n') == [ReturnReceived(b"1")]


@pytest.mark.parametrize("end", [b'["return",1]\n', b'["raise",{"type":"E","message":"m"}]\n'])
@pytest.mark.parametrize("more", [b'[1,"x",[]]\n', b'["return",1]\n', b'["cancel",1]\n', b"\n"])
def test_nothing_comes_after_the_end(end: bytes, more: bytes) -> None:
    connection = GuestConnection()
    connection.receive(end)
    with pytest.raises(GuestProtocolError, match="after the function's end"):
        connection.receive(more)


def test_what_came_whole_before_a_broken_frame_is_not_lost() -> None:
    """However the bytes arrive, a guest's last moments are known."""
    good = b'[1,"db.query",[]]\n[2,"http.request",[]]\n'
    together = GuestConnection()
    with pytest.raises(GuestProtocolError) as caught:
        together.receive(good + b"nonsense\n" + b'[3,"x",[]]\n')
    apart = GuestConnection()
    assert tuple(apart.receive(good)) == caught.value.events
    with pytest.raises(GuestProtocolError) as second:
        apart.receive(b"nonsense\n")
    assert second.value.events == ()
    assert str(second.value) == str(caught.value)


def test_an_answer_stands_whatever_comes_after_it() -> None:
    with pytest.raises(GuestProtocolError) as caught:
        GuestConnection().receive(b'["return",1]\n["return",2]\n')
    assert caught.value.events == (ReturnReceived(b"1"),)


def test_a_frame_has_an_end() -> None:
    connection = GuestConnection(frame_bytes_max=20)
    assert connection.receive(b'["return","12345678"') == []
    with pytest.raises(GuestFrameTooLargeError) as caught:
        connection.receive(b"]")
    for data in (b"x" * 21, b"x" * 21 + b"\n"):
        with pytest.raises(GuestFrameTooLargeError) as again:
            GuestConnection(frame_bytes_max=20).receive(data)
        assert str(again.value) == str(caught.value)
    assert GuestConnection(frame_bytes_max=20).receive(b'["return","1234567"]\n')


def test_a_guest_has_only_so_many_questions_open() -> None:
    connection = GuestConnection(outstanding_max=2)
    connection.receive(b'[1,"x",[]]\n[2,"x",[]]\n[0,"log.write",[]]\n')
    connection.reply(1, HostCallResult())
    connection.receive(b'[3,"x",[]]\n')
    with pytest.raises(GuestProtocolError, match="more than 2 calls"):
        connection.receive(b'[4,"x",[]]\n')


def test_a_reply_is_one_line_that_says_all() -> None:
    error = HostCallError("DatabaseError", 'duplicate "key"\n→', "23505", b'{"table":"users"}')
    line = encode_reply(3, HostCallResult(error=error, now_ns=5))
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line) == [
        3,
        {
            "name": "DatabaseError",
            "message": 'duplicate "key"\n→',
            "code": "23505",
            "details": {"table": "users"},
        },
        None,
        5,
    ]


def test_a_start_document_is_one_line() -> None:
    document = encode_start({"function": "f", "body": b"\n"})
    assert b"\n" not in document
    assert msgspec.json.decode(document) == {"function": "f", "body": {"$bytes": "Cg=="}}


# --- guests whose fuel is counted ------------------------------------------------------------------


def test_what_the_sandbox_counts_stands_in_front_of_each_frame() -> None:
    connection = GuestConnection(is_metered=True)
    events = connection.receive(
        b'1500 [1,"x",[]]\n1500 [0,"log.write",[]]\n1777 ["cancel",1]\n19000000000 ["return",1]\n'
    )
    assert events == [
        CallReceived(HostCallRequest(1, "x", b"[]", fuel=500)),
        CallReceived(HostCallRequest(0, "log.write", b"[]", one_way=True, fuel=500)),
        CancelReceived(1, 777),
        ReturnReceived(b"1", 9_000_000_000),
    ]
    assert connection.fuel == 9_000_000_000
    (failed,) = GuestConnection(is_metered=True).receive(b'17 ["raise",{"type":"E","message":"m"}]\n')
    assert isinstance(failed, RaiseReceived) and failed.fuel == 7


@pytest.mark.parametrize(
    "line",
    [
        b'[1,"x",[]]',  # Without it.
        b'1 [1,"x",[]]',
        b'1499 [1,"x",[]]',  # Less than before.
        b'1-1 [1,"x",[]]',
        b'2500 [1,"x",[]]',
        b'19999999999999999999 [1,"x",[]]',
        b"",
    ],
)
def test_a_frame_without_a_count_that_can_be_is_refused(line: bytes) -> None:
    connection = GuestConnection(is_metered=True)
    connection.receive(b'1500 [0,"log.write",[]]\n')
    with pytest.raises(GuestProtocolError, match="fuel from 500 was due"):
        connection.receive(line + b"\n")


def test_no_guest_says_its_own_fuel() -> None:
    for connection, line in (
        (GuestConnection(), b'17 [1,"x",[]]\n'),
        (GuestConnection(), b'[1,"x",[],{"fuel":7}]\n'),
        (GuestConnection(is_metered=True), b'17 19 [1,"x",[]]\n'),
        (GuestConnection(is_metered=True), b'17 [1,"x",[],{"fuel":9}]\n'),
    ):
        with pytest.raises(GuestProtocolError, match="malformed"):
            connection.receive(line)


def test_the_count_is_no_part_of_a_frames_size() -> None:
    frame = b'["return","1234567"]'
    assert GuestConnection(frame_bytes_max=20, is_metered=True).receive(b"1123456 " + frame + b"\n")
    for data in (b"17 " + frame + b" \n", b"x" * 42):
        with pytest.raises(GuestFrameTooLargeError, match="more than 20 bytes"):
            GuestConnection(frame_bytes_max=20, is_metered=True).receive(data)
