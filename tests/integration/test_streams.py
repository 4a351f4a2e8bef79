"""Answers and uploads of any size, through the real executor over a real Postgres: scripted guests, real files.

What was sent is read back from the spool; what is not to be on record is looked for in the journal's files.
"""

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from flux.execution import Execution, Killed, Raised, Returned, Trigger
from flux.limits import Limits
from flux.sandbox.scripted import Script, ScriptedGuest
from flux.streamed import StreamedBody
from flux.supervisor.spool import CLOSE_BYTES, SpooledAnswer, SpoolError, SpoolFolder
from tests.conftest import Database
from tests.execution_world import ExecutionWorld, open_world

STREAMED = {"status": 200, "headers": [["content-type", "text/csv"]], "body": "", "streamed": True}
HTTP = Trigger("http", "GET", "/big", "/big")
LIMITS = Limits(timeout_s=120, stream_bytes_max=2**20)
PIECE = os.urandom(50_000)


def tagged(piece: bytes) -> dict[str, str]:
    return {"$bytes": base64.b64encode(piece).decode()}


async def write(guest: ScriptedGuest, *pieces: bytes) -> dict[str, Any]:
    for piece in pieces:
        assert await guest.call("response.write", tagged(piece)) is None
    await guest.call("response.end")
    return STREAMED


def in_world(database: Database, folder: Path, main: Callable[[ExecutionWorld], Any]) -> None:
    async def run() -> None:
        async with open_world(database, folder / "journal") as world:
            await main(world)
            assert world.backing.spools.held_bytes == 0, "every body was let go"
            assert world.reports == []

    trio.run(run)


async def read_all(answer: SpooledAnswer) -> bytes:
    return b"".join([piece async for piece in answer])


def test_an_answer_in_pieces_is_sent_when_its_transaction_is_committed_and_recorded_by_digest(
    database: Database, tmp_path: Path
) -> None:
    database.psql("create schema if not exists main; create table ledger (n int); grant all on ledger to public")

    async def script(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
        await guest.call("db.execute", "insert into ledger values (1)", [])
        return await write(guest, *[PIECE] * 7)

    async def main(world: ExecutionWorld) -> None:
        executed = await world.run(script, trigger=HTTP, limits=LIMITS)
        assert database.psql("select count(*) from ledger") == "1"
        assert executed.stream is not None
        whole = PIECE * 7
        expected = StreamedBody(hashlib.sha256(whole).hexdigest(), len(whole))
        assert executed.outcome == Returned(200, (("content-type", "text/csv"),), b"", expected)
        assert not list((tmp_path / "spool").iterdir()), "it has no name"
        answer = SpooledAnswer(executed.stream)
        assert await read_all(answer) == whole
        await answer.aclose()
        await answer.aclose()
        written = [call for call in executed.execution.calls if call.request.name == "response.write"]
        piece = {"bytes": len(PIECE), "sha256": hashlib.sha256(PIECE).hexdigest()}
        assert [json.loads(call.request.arguments) for call in written] == [[piece]] * 7
        journal = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
        assert PIECE[:40] not in journal and len(journal) < len(PIECE)

    in_world(database, tmp_path, main)


async def no_pieces(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    return await write(guest)


async def raises_in_the_middle(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    await guest.call("db.execute", "insert into half values (1)", [])
    await guest.call("response.write", tagged(PIECE))
    raise KeyError("plan")


async def ends_and_raises(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    await write(guest, PIECE)
    raise KeyError("plan")


async def hangs(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    await guest.call("response.write", tagged(PIECE))
    return await trio.sleep_forever()


async def says_and_has_not(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    await guest.call("response.write", tagged(PIECE))
    return STREAMED


async def writes_too_much(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    return await write(guest, *[PIECE] * 25)


async def goes_on_behind_the_end(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    await write(guest, PIECE)
    return await write(guest, PIECE)


async def writes_no_piece(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    await guest.call("response.write", "")
    return STREAMED


async def lies_about_its_length(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    return {**await write(guest, PIECE), "headers": [["content-length", "7"]]}


async def has_a_body_where_none_goes(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    return {**await write(guest, PIECE), "status": 204}


async def answers_otherwise(guest: ScriptedGuest, _start: dict[str, Any]) -> str:
    await guest.call("response.write", tagged(PIECE))
    return "never mind"


ENDS: list[tuple[Script, str, int]] = [
    (raises_in_the_middle, "KeyError", 500),
    (ends_and_raises, "KeyError", 500),
    (hangs, "timeout", 504),
    (says_and_has_not, "protocol", 500),
    (writes_too_much, "StreamTooLarge", 500),
    (goes_on_behind_the_end, "StreamEnded", 500),
    (writes_no_piece, "InvalidArguments", 500),
    (lies_about_its_length, "InvalidResponse", 500),
    (has_a_body_where_none_goes, "InvalidResponse", 500),
    (answers_otherwise, "", 200),
]


def describe_end(execution: Execution) -> str:
    match execution.outcome:
        case Killed(limit=limit):
            return limit
        case Raised(type=kind, message=message):
            return message if kind == "RuntimeError" else kind
    return ""


def test_whatever_goes_wrong_nothing_of_the_answer_is_left_and_nothing_is_sent(
    database: Database, tmp_path: Path
) -> None:
    database.psql("create table half (n int); grant all on half to public")

    async def main(world: ExecutionWorld) -> None:
        for script, end, status in ENDS:
            limits = Limits(timeout_s=0.5 if script is hangs else 120, stream_bytes_max=2**20)
            executed = await world.run(script, trigger=HTTP, limits=limits)
            assert (describe_end(executed.execution), executed.execution.status) == (end, status), script
            assert executed.stream is None
            assert world.backing.spools.held_bytes == 0
        assert database.psql("select count(*) from half") == "0", "what had been written was rolled back"
        executed = await world.run(no_pieces, trigger=HTTP, limits=LIMITS)
        assert executed.stream is not None
        assert executed.outcome == Returned(
            200, (("content-type", "text/csv"),), b"", StreamedBody(hashlib.sha256().hexdigest(), 0)
        )
        assert await read_all(SpooledAnswer(executed.stream)) == b""
        executed.stream.close()

    in_world(database, tmp_path, main)


def test_nothing_is_streamed_that_was_not_allowed_and_nothing_where_there_is_no_room(
    database: Database, tmp_path: Path
) -> None:
    async def main(world: ExecutionWorld) -> None:
        spools = world.backing.spools
        script = partial(write_two)
        denied = await world.run(script, trigger=HTTP, limits=Limits(timeout_s=120))
        assert describe_end(denied.execution) == "StreamRefused"
        assert '[functions.play]' in error_of(denied.execution)
        job = await world.run(script, trigger=Trigger("queue"), limits=LIMITS)
        assert "answers no HTTP request" in error_of(job.execution)
        for share, free in ((len(PIECE) + 10, 0), (2**40, 2**62)):
            spools.bytes_max, spools.free_bytes_min = share, free
            full = await world.run(script, trigger=HTTP, limits=LIMITS)
            assert isinstance(full.outcome, Raised) and full.outcome.status == 500
            assert "FLX713" in error_of(full.execution)
            assert full.stream is None and spools.held_bytes == 0

    in_world(database, tmp_path, main)


async def write_two(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
    return await write(guest, PIECE, PIECE)


def error_of(execution: Execution) -> str:
    error = next(call.result.error for call in execution.calls if call.result and call.result.error)
    return error.message


def test_an_upload_is_read_from_anywhere_and_again_by_the_next_attempt(database: Database, tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        assert start["request"]["upload"] == {"bytes": 100_000, "sha256": hashlib.sha256(PIECE * 2).hexdigest()}
        for offset, size in ((0, 60_000), (60_000, 60_000), (100_000, 10), (10**15, 10), (99_999, 10)):
            heard.append(base64.b64decode((await guest.call("request.read", offset, size))["$bytes"]))
        with pytest.raises(RuntimeError, match="InvalidArguments"):
            await guest.call("request.read", -1, 10)
        if len(heard) <= 5:
            seq = await guest.ask("db.execute", "do $$ begin raise serialization_failure; end $$", [])
            await guest.hear()
            report = {"type": "DatabaseError", "message": "it was given up", "call": seq}
            await guest.write(json.dumps(["raise", report]).encode() + b"\n")
            await trio.sleep_forever()
        return "ok"

    async def main(world: ExecutionWorld) -> None:
        upload = world.backing.spools.open()
        await upload.write(PIECE)
        await upload.write(PIECE)
        trigger = Trigger("http", "PUT", "/up", "/up", streamed=upload.body)
        executed = await world.run(script, trigger=trigger, limits=LIMITS, upload=upload)
        whole = PIECE * 2
        assert executed.outcome == Returned(200, (), b"ok")
        assert heard == [whole[:60_000], whole[60_000:], b"", b"", whole[-1:]] * 2
        assert executed.execution.attempt == 2
        reads = [call.result for call in executed.execution.calls if call.request.name == "request.read"]
        assert reads[0] is not None and json.loads(reads[0].value) == {
            "bytes": 60_000, "sha256": hashlib.sha256(whole[:60_000]).hexdigest()
        }
        upload.close()

    in_world(database, tmp_path, main)


def test_pieces_that_are_not_waited_for_lie_in_their_order_and_none_behind_the_end(
    database: Database, tmp_path: Path
) -> None:
    pieces = [bytes([number]) * 20_000 for number in range(60)]

    async def hurries(guest: ScriptedGuest, _start: dict[str, Any]) -> dict[str, Any]:
        for piece in pieces[:30]:
            await guest.ask("response.write", tagged(piece))
        await guest.ask("response.end")
        for piece in pieces[30:]:
            await guest.ask("response.write", tagged(piece))
        for _ in range(61):
            await guest.hear()
        return STREAMED

    async def main(world: ExecutionWorld) -> None:
        executed = await world.run(hurries, trigger=HTTP, limits=LIMITS)
        assert executed.stream is not None and isinstance(executed.outcome, Returned)
        whole = b"".join(pieces[:30])
        assert await read_all(SpooledAnswer(executed.stream)) == whole
        assert executed.outcome.streamed == StreamedBody(hashlib.sha256(whole).hexdigest(), len(whole))
        executed.stream.close()
        small = attrs.evolve(LIMITS, stream_bytes_max=100_000)
        written: list[int] = []

        async def wants_more(guest: ScriptedGuest, _start: dict[str, Any]) -> str:
            for piece in pieces:
                await guest.ask("response.write", tagged(piece))
            for _ in pieces:
                await guest.hear()
            written.append(world.backing.spools.held_bytes)
            return "enough"

        await world.run(wants_more, trigger=HTTP, limits=small)
        assert written == [100_000]

    in_world(database, tmp_path, main)


async def test_a_large_body_is_closed_beside_the_server_and_its_room_is_there_at_once(tmp_path: Path) -> None:
    folder = SpoolFolder(tmp_path / "spool", free_bytes_min=0)
    spool = folder.open()
    for _ in range(CLOSE_BYTES // 2**20 + 1):
        await spool.write(bytes(2**20))
    assert folder.held_bytes == CLOSE_BYTES + 2**20
    for _ in range(2):
        spool.close()
        assert folder.held_bytes == 0
    with trio.fail_after(60):
        while spool._file is None or not spool._file.closed:  # noqa: ASYNC110 - a thread does it, and tells nobody
            await trio.sleep(0.01)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "file"
    path.write_text("in the way")
    yield path


async def test_a_body_takes_a_descriptor_from_its_first_piece_on_and_a_folder_that_is_none_is_named(
    unwritable: Path, tmp_path: Path
) -> None:
    with contextlib.closing(SpoolFolder(tmp_path / "spool", free_bytes_min=0).open()) as spool:
        assert await spool.read(0, 10) == b"" and not (tmp_path / "spool").exists()
        await spool.write(b"first")
        assert await spool.read(1, 10) == b"irst"
    with pytest.raises(SpoolError, match="FLX714"):
        await SpoolFolder(unwritable / "spool").open().write(b"first")
