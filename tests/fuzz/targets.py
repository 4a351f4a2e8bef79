"""What bytes from outside may meet, each as a function of bytes: it returns, or it has found something.

A *target* reads the bytes as its part of Flux does, lets the one refusal pass that this part promises, and asserts what
must be true of all that is read: cut in any way it means the same, and what is written of it is read as the same. Any
other exception leaves the function, and is a finding; so is one that takes more than `TIMEOUT_S`.

`SEEDS` of a target are of the tests' own examples. `tests.fuzz.run` alters them, led by what they reach; the suite runs
them as they are, without any fuzzer.
"""

import contextlib
import datetime
import itertools
import json
import queue
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
import zstandard

from flux import codec, dap_frames, expression, fail_if, filter, values
from flux.case_file import CaseFileError, decode_case, encode_case, encode_content
from flux.execution import Outcome, Trigger
from flux.hostcall import HostCallRequest, HostCallResult
from flux.http_rules import HeadLimits, HttpRefusal, read_head
from flux.mutation import Mutation
from flux.supervisor import journal_format
from tests.conftest import Database
from tests.core.test_case_file import make_case, pack
from tests.failing_executions import FAILING
from tests.hostile_requests import TABLE
from tests.property.test_console_questions import PATHS, WORDS, ask, open_filled
from tests.property.test_http_rules import find_in_pieces, unchunk
from tests.property.test_wire import listen

TIMEOUT_S = 10
"""No input of a few kilobytes may take as long."""
ONE_BY_ONE_MAX = 400
"""Bytes of an input that is also fed byte by byte."""
NOW = datetime.datetime(2026, 11, 24, 14, 30, 15, tzinfo=datetime.UTC)
RECORDINGS = Path(__file__).parents[1] / "recordings"

Check = Callable[[bytes], None]


@attrs.frozen
class Target:
    """One part of Flux that reads what others wrote."""

    name: str
    open: Callable[[Database | None], contextlib.AbstractContextManager[Check]]
    """What to call with bytes; over a database where `needs_database`."""
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    """Of its grammar, for a fuzzer's dictionary."""
    needs_database: bool = False


def cut(data: bytes) -> list[list[bytes]]:
    """``data`` cut where its own bytes say, and byte by byte where it is short."""
    places = sorted({sum(data[: n + 1]) % (len(data) + 1) for n in range(0, min(len(data), 40), 7)})
    ways = [[data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])]]
    if len(data) <= ONE_BY_ONE_MAX:
        ways.append([data[n : n + 1] for n in range(len(data))])
    return ways


def check_wire(data: bytes) -> None:
    """What a guest's process writes."""
    whole = listen([data + b"\n"])
    for pieces in cut(data):
        assert listen([*pieces, b"\n"]) == whole


def check_dap(data: bytes) -> None:
    """What a debugger's client sends."""

    def read(pieces: Iterable[bytes]) -> tuple[list[object], str]:
        reader, found = dap_frames.FrameReader(), list[object]()
        try:
            for piece in pieces:
                reader.feed(piece)
                while (body := reader.next_body()) is not None:
                    message = read_message(body)
                    found.append(message)
                    if isinstance(message, dict):
                        again = dap_frames.FrameReader()
                        again.feed(dap_frames.write_frame(message))
                        assert repr(dap_frames.read_message(again.next_body() or b"")) == repr(message)
            reader.check_whole()
        except dap_frames.BadFrameError as error:
            return found, type(error).__name__
        return found, ""

    def read_message(body: bytes) -> dict[str, object] | None:
        try:
            return dap_frames.read_message(body)
        except dap_frames.BadFrameError:
            return None  # The frames behind it are read all the same.

    whole = read([data])
    for pieces in cut(data):
        assert repr(read(pieces)) == repr(whole)


def check_http(data: bytes) -> None:
    """A request's head, and a body in chunks."""
    found, body = find_in_pieces([data, b""]), unchunk([data])
    for pieces in cut(data):
        assert find_in_pieces([*pieces, b""]) == found
        assert unchunk(pieces) == body
    with contextlib.suppress(HttpRefusal):
        head, framing = read_head(data + b"\r\n\r\n", "peer", HeadLimits())
        assert head.version in ("1.0", "1.1")
        assert framing.length is None or framing.length >= 0
        for name, value in head.headers:
            assert name == name.lower()
            assert not set(value) & {"\r", "\n", "\0"}


def check_filter(data: bytes) -> None:
    """A filter of the list of executions."""
    try:
        found = filter.parse(_text(data), NOW)
    except filter.FilterError as error:
        assert error.remedy
        return
    assert filter.parse(str(found), NOW) == found
    filter.matches(found, SUMMARY)


SUMMARY = {
    "status": 404, "method": "GET", "path": "/a/b", "function": "f", "started_at": "2026-01-01T00:00:00Z",
    "error": "KeyError: a", "sha": "0f", "deployment": "0f1e", "trigger": "http", "outcome": "raised",
    "name": "qk9d81mt",
}  # fmt: skip
SUBJECT = dict.fromkeys(fail_if.NAMES, None) | {
    "status": 500,
    "body": {"a": [1, "x", {"b": None}]},
    "error": "E: 1",
}


def check_fail_if(data: bytes) -> None:
    """The expression that says what a failure is."""
    text = _text(data)
    try:
        found = fail_if.parse_expression(text)
    except fail_if.ExpressionError as error:
        if len(text) <= fail_if.CHARACTERS_MAX:
            column = int(error.message.split("\n")[0].rpartition(" ")[2])
            assert 1 <= column <= len(text) + 1
        return
    assert isinstance(fail_if.evaluate(found, SUBJECT), bool | fail_if.Unknown)


def check_expression(data: bytes) -> None:
    """The expressions that a debugger's user looks up."""
    try:
        found = expression.parse_expressions(_text(data))
    except expression.BadExpressionError as error:
        assert error.remedy
        return
    for each in found:
        if len(each.text) <= expression.CHARACTERS_MAX:
            assert expression.parse_expression(each.text) == each
        json.dumps(each.tree)


def check_case(data: bytes) -> None:
    """A case file whose checksum fits: it protects nobody from its author. Also these bytes as the whole file."""
    with contextlib.suppress(CaseFileError):
        decode_case(data)
    try:
        case = decode_case(pack(data))
    except CaseFileError:
        return
    assert decode_case(encode_case(case)) == case


def check_record(data: bytes) -> None:
    """A record as the database has it."""
    with contextlib.suppress(codec.CodecError):
        codec.list_blobs(data, codec.FORMAT_VERSION)
    try:
        found = codec.decode_execution(zstandard.compress(data), codec.FORMAT_VERSION, lambda _digest: None)
    except codec.CodecError:
        return
    encoded = codec.encode_execution(found)
    blobs = {blob.sha256: blob for blob in encoded.blobs}
    again = codec.decode_execution(encoded.body, encoded.format, blobs.get)
    assert repr(again) == repr(attrs.evolve(found, completeness=encoded.completeness))


NOUNS = (Outcome, Trigger, HostCallRequest, HostCallResult, Mutation)


def check_noun(data: bytes) -> None:
    """One event of the journal: its first byte says which noun the rest is to be."""
    noun = NOUNS[data[0] % len(NOUNS)] if data else Outcome
    try:
        found = codec.decode(noun, data[1:])  # type: ignore[arg-type]
    except codec.CodecError:
        return
    assert repr(codec.decode(noun, codec.encode(found))) == repr(found)  # type: ignore[arg-type]


def check_journal(data: bytes) -> None:
    """A segment of the journal, however it was damaged."""
    scan = journal_format.scan(data)
    parts = [(frame.offset, frame.body.stop) for frame in scan.frames]
    parts += [(hole.offset, hole.offset + hole.size_bytes) for hole in scan.holes]
    if scan.tail is not None:
        parts.append((scan.tail.offset, scan.tail.offset + scan.tail.size_bytes))
    parts.sort()
    # Each byte behind the header is in one of them, and in one only.
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts)), parts
    assert not parts or parts[-1][1] == len(data)
    for frame in scan.frames:
        assert len(data[frame.body]) == frame.body_bytes


def check_values(data: bytes) -> None:
    """A value in the form in which it travels."""
    try:
        found = values.decode(data)
    except values.ValueFormatError:
        return
    canonical = values.encode_canonical(found)
    assert values.encode_canonical(values.decode(canonical)) == canonical


def _text(data: bytes) -> str:
    """As the command line hands it over: bytes that are no text come as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def open_console(database: Database | None) -> Iterator[Check]:
    """The console's API: a line is the path, and each further one ``NAME=VALUE`` of its parameters.

    Who calls is no task of trio, so the console lives in a thread of its own until the block ends.
    """
    assert database is not None, "the console asks a database"
    opened: queue.SimpleQueue[tuple[Any, trio.Event, trio.lowlevel.TrioToken] | BaseException] = (
        queue.SimpleQueue()
    )

    async def live() -> None:
        async with open_filled(database) as world:
            over = trio.Event()
            opened.put((world, over, trio.lowlevel.current_trio_token()))
            await over.wait()

    def run() -> None:
        try:
            trio.run(live)
        except BaseException as error:
            opened.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    answer = opened.get()
    if isinstance(answer, BaseException):
        raise answer
    world, over, token = answer

    def check(data: bytes) -> None:
        path, *lines = data.decode("utf-8", "replace").split("\n")
        query = {
            name: value for name, _, value in (line.partition("=") for line in lines) if name != "follow"
        }
        trio.from_thread.run(ask, world, path.lstrip("/"), query, trio_token=token)

    try:
        yield check
    finally:
        trio.from_thread.run_sync(over.set, trio_token=token)
        thread.join()


def _always(check: Check) -> Callable[[Database | None], contextlib.AbstractContextManager[Check]]:
    return lambda _database: contextlib.nullcontext(check)


WIRE_SEEDS = (
    b'[1,"db.query",["select 1",[]],{"at":["functions/a.py",3,"f"],"task":2}]\n["cancel",1]\n["return",{"a":1.5}]',
    b'[0,"log.write",["info","hi",{"b":1,"a":2}]]\n[1,"clock.now",[]]\n["raise",{"type":"a","message":"b"}]',
)
CHUNKED_SEEDS = (
    b'5;a="b"\r\nhello\r\n0\r\nX: y\r\n\r\n',
    b"0\r\n\r\n",
    b"F\r\n" + b"x" * 15 + b"\r\n0\r\n\r\n",
)
FILTER_SEEDS = (
    b"status:>=500 -route:/a/* since:1h", b'error:"KeyError: \'a\'" until:2026-01-01T00:00:00+02:00', b"status:5xx",
    b"function:pay* sha:0f trigger:http outcome:raised name:qk9d since:14:00", b'route:"GET /a b" -deploy:1',
)  # fmt: skip
FAIL_IF_SEEDS = (
    b"status >= 500 and not (body.a[0] == 1)", b"error == 'KeyError' or body[\"a\"] != null", b"body.a[1] < -2.5",
)  # fmt: skip
LOOK_SEEDS = (
    b"plan, order.lines[0]['sku']", b"total > 100 and not len(lines) == 0", b"a is not None or -1.5 < b", b"x[-1]",
)  # fmt: skip
VALUE_SEEDS = (
    b'{"$bytes":"AAEC"}',
    b'{"$object":{"$int":1}}', b'[1,-2.5e10,null,true,"\\u00e9"]', b'{"a":{"$range":[1,null,"[)"]}}',
)  # fmt: skip
RECORDS = tuple(
    zstandard.ZstdDecompressor().decompress(codec.encode_execution(told.execution).body) for told in FAILING
)
NOUN_SEEDS = tuple(
    bytes([number]) + codec.encode(noun)
    for told in FAILING[:8]
    for number, noun in (
        (0, told.execution.outcome), (1, told.execution.trigger),
        *((2, each.request) for each in told.execution.calls[:2]),
        *((3, each.result) for each in told.execution.calls[:2] if each.result is not None),
        *((4, each) for each in told.execution.mutations[:1]),
    )
)  # fmt: skip
MARKER = b"\x81marker\xff"
JOURNAL_SEEDS = (
    (RECORDINGS / "journal-1.journal").read_bytes()[:4000],
    journal_format.make_header(1, 7, MARKER)
    + b"".join(
        journal_format.make_frame(MARKER, n, n, uuid.UUID(int=n).bytes, b"body" * n) for n in range(1, 5)
    ),
)
CONSOLE_SEEDS = tuple(
    "\n".join(
        [path.format("@-1", "@last-error"), *(f"{name}={WORDS[n % len(WORDS)]}" for name in names)]
    ).encode()
    for n, (path, names) in enumerate(PATHS.items())
)

TARGETS = {
    target.name: target
    for target in (
        Target("wire", _always(check_wire), WIRE_SEEDS, (b'"return"', b'"raise"', b'"cancel"', b'"task"', b'"at"')),
        Target(
            "dap", _always(check_dap), (dap_frames.write_frame({"seq": 1, "type": "request"}) * 2, b"GET / HTTP/1.1"),
            (b"Content-Length: ", b"\r\n\r\n"),
        ),
        Target(
            "http", _always(check_http), (*(case.raw[:3000] for case in TABLE if case.raw), *CHUNKED_SEEDS),
            (b"Host: ", b"Content-Length: ", b"Transfer-Encoding: chunked", b"HTTP/1.1", b"\r\n"),
        ),
        Target("filter", _always(check_filter), FILTER_SEEDS, tuple(f"{key}:".encode() for key in filter.KEYS)),
        Target("fail-if", _always(check_fail_if), FAIL_IF_SEEDS, tuple(name.encode() for name in fail_if.NAMES)),
        Target("expression", _always(check_expression), LOOK_SEEDS, (b"len(", b" is not ", b"None", b" and ")),
        Target("case", _always(check_case), (encode_content(make_case()), encode_case(make_case()))),
        Target("record", _always(check_record), RECORDS),
        Target("noun", _always(check_noun), NOUN_SEEDS),
        Target("journal", _always(check_journal), JOURNAL_SEEDS, (MARKER, journal_format.MAGIC)),
        Target(
            "values", _always(check_values), VALUE_SEEDS,
            tuple(b'"$%s"' % name for name in (b"bytes", b"object", b"int", b"range", b"decimal", b"datetime")),
        ),
        Target(
            "console", open_console, CONSOLE_SEEDS,
            tuple(word.encode() for word in WORDS if len(word) < 30), needs_database=True,
        ),
    )
}  # fmt: skip
