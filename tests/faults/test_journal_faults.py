"""The journal when things break: supervisors are killed, disks full, bytes damaged, guests hostile.

The oracle for kills is a pipe: the writer says a dot for each event its journal has taken, so all
of those must be found, and of what it never told nothing.
"""

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from flux.hostcall import HostCallRequest, HostCallResult
from flux.supervisor.journal import Journal, JournalError, JournalFullError
from flux.supervisor.journal_format import FRAME_BYTES, HEADER_BYTES, Kind, make_frame, make_header, scan
from flux.supervisor.left_behind import LeftBehind, claim, read_left_behind
from tests.journal_program import Event, Forks, account_of, make_execution, make_story

WRITER = "tests.journal_program"
ROUNDS = 300
STORY = 7


def unstored(found: list[LeftBehind]) -> dict[uuid.UUID, LeftBehind]:
    return {left.id: left for left in found if not left.is_stored}


def expected_after(events: Iterator[Event], pid: int) -> dict[uuid.UUID, LeftBehind]:
    return {
        id_: model.as_left_behind(pid) for id_, model in account_of(events).items() if not model.is_stored
    }


def test_a_killed_supervisor_leaves_all_that_it_had_told_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(1)
    most = number = 0
    with Forks(WRITER) as writers:
        # On a busy machine less is told before a kill comes: then there are more kills, and later ones.
        while number < ROUNDS or most <= 200:
            number += 1
            assert number < 20 * ROUNDS, most
            folder = tmp_path / str(number)
            pid = writers.start(folder, number, rng.choice([1, 2000, 30_000, 16 * 1024 * 1024]))
            time.sleep(rng.random() ** 3 * 0.02 * (1 + number // ROUNDS))
            writers.kill(pid)
            told, _ = writers.wait_end()
            most = max(most, told)
            left = read_left_behind(folder)
            # The kernel may stop a write in the middle. Then that is said, and it is all that is said.
            assert all("not a whole event" in lost for one in left for lost in one.lost if not one.is_stored)
            found = {id_: without_losses(one) for id_, one in unstored(left).items()}
            # The event after the last dot may be there as well: told, but not yet said to be.
            stories = [itertools.islice(make_story(number), told + more) for more in (0, 1)]
            assert found in [expected_after(story, pid) for story in stories]
            models = account_of(itertools.islice(make_story(number), told + 1))
            assert all(models[one.id].is_stored for one in left if one.is_stored)
            shutil.rmtree(folder)


def test_supervisors_in_one_folder_leave_each_other_s_journals_alone(tmp_path: Path) -> None:
    """Tiny segments are made all the time, while this process recovers whatever has no owner, all the time."""
    with Forks(WRITER) as first, Forks(WRITER) as second, Forks(WRITER) as third:
        writers = [first, second, third]
        for number in range(10):
            pids = [writer.start(tmp_path, number * 3 + n, 1) for n, writer in enumerate(writers)]
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                with claim(tmp_path) as claimed:
                    assert claimed.ids == []
                    claimed.discard()
            for writer, pid in zip(writers, pids, strict=True):
                writer.kill(pid)
            told = [writer.wait_end()[0] for writer in writers]
            found = unstored(read_left_behind(tmp_path))
            for n, pid in enumerate(pids):
                mine = {id_: without_losses(left) for id_, left in found.items() if left.pid == pid}
                stories = [itertools.islice(make_story(number * 3 + n), told[n] + more) for more in (0, 1)]
                assert mine in [expected_after(story, pid) for story in stories]
            with claim(tmp_path) as claimed:
                claimed.discard()
            assert list(tmp_path.iterdir()) == []


# -- Damage ------------------------------------------------------------------------------------------------


def write_story(folder: Path, count: int, seed: int = STORY) -> tuple[bytes, list[Event]]:
    """A segment with the first events of a story."""
    events = list(itertools.islice(make_story(seed), count))
    journal = Journal(folder / "whole")
    for event in events:
        event.tell(journal)
    journal.close()
    (path,) = (folder / "whole").iterdir()
    return path.read_bytes(), events


def marker_of(data: bytes) -> bytes:
    header = scan(data).header
    assert header is not None
    return header.marker


def read_bytes(folder: Path, data: bytes) -> list[LeftBehind]:
    folder.mkdir(exist_ok=True)
    (folder / "1-1.journal").write_bytes(data)
    return read_left_behind(folder)


def without_losses(left: LeftBehind) -> LeftBehind:
    return attrs.evolve(left, lost=())


def test_an_event_torn_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    data, events = write_story(tmp_path, 60)
    last = scan(data).frames[-1]
    before = expected_after(iter(events[:-1]), os.getpid())
    for cut in range(last.offset, len(data)):
        found = read_bytes(tmp_path / "cut", data[:cut])
        assert {id_: without_losses(left) for id_, left in unstored(found).items()} == before
        assert all(bool(left.lost) == (cut > last.offset) for left in found)
    assert unstored(read_bytes(tmp_path / "cut", data)) == expected_after(iter(events), os.getpid())


def test_a_machine_that_lost_power_may_leave_zeros(tmp_path: Path) -> None:
    data, events = write_story(tmp_path, 60)
    found = unstored(read_bytes(tmp_path / "cut", data + bytes(4096)))
    assert {id_: without_losses(left) for id_, left in found.items()} == expected_after(
        iter(events), os.getpid()
    )
    assert read_bytes(tmp_path / "zeros", bytes(4096)) == []
    assert read_bytes(tmp_path / "empty", b"") == []


def test_one_wrong_byte_anywhere_costs_one_event_and_is_said(tmp_path: Path) -> None:
    data, events = write_story(tmp_path, 40)
    frames = scan(data).frames
    assert len(frames) == len(events)
    whole = expected_after(iter(events), os.getpid())
    for index, frame in enumerate(frames):
        step = max(1, frame.body_bytes // 16)
        for place in [
            *range(frame.offset, frame.body.start),
            *range(frame.body.start, frame.body.stop, step),
        ]:
            damaged = bytearray(data)
            damaged[place] ^= 0x55
            rest = scan(bytes(damaged))
            assert list(rest.frames) == [*frames[:index], *frames[index + 1 :]]
            assert rest.holes or rest.tail
    # And what it means for those that are read: who lost an event says so, the others are whole.
    for event, frame in zip(events[:-1], frames, strict=False):
        damaged = bytearray(data)
        damaged[frame.offset] ^= 0xFF
        found = {left.id: left for left in read_bytes(tmp_path / "flip", bytes(damaged))}
        for id_, left in found.items():
            if id_ != event.execution_id and not left.is_stored:
                assert without_losses(left) == whole[id_]
        if event.execution_id in found and event.method != "stored":
            said = found[event.execution_id].lost
            assert any("can't be found" in lost or "among them" in lost for lost in said)


def test_a_damaged_header_costs_the_process_id_only(tmp_path: Path) -> None:
    data, events = write_story(tmp_path, 40)
    for place in range(HEADER_BYTES):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        found = unstored(read_bytes(tmp_path / "header", bytes(damaged)))
        expected = expected_after(iter(events), os.getpid())
        assert found == {id_: attrs.evolve(left, pid=None) for id_, left in expected.items()}


def test_random_damage_never_crashes_and_never_invents(tmp_path: Path) -> None:
    rng = random.Random(5)
    data, events = write_story(tmp_path, 120)
    told = account_of(iter(events))
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            start = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    damaged[start : start + rng.randrange(400)] = b""
                case 1:
                    damaged[start : start + rng.randrange(400)] = rng.randbytes(rng.randrange(400))
                case 2:
                    there = rng.randrange(len(data))
                    damaged[start:start] = damaged[there : there + rng.randrange(2000)]
        for left in read_bytes(tmp_path / "random", bytes(damaged)):
            model = told[left.id]
            assert left.head in (None, model.head)
            assert left.ended in (None, model.ended)
            assert set(left.logs) <= set(model.logs)
            for call in left.calls:
                assert call == model.calls[call.request.seq] or call.result is None


def test_damaged_files_are_kept_and_whole_ones_deleted(tmp_path: Path) -> None:
    data, _ = write_story(tmp_path, 60)
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    end_damaged = data[:-1] + bytes([data[-1] ^ 1])
    contents = [
        data,
        bytes(damaged),
        data[:-1],
        end_damaged,
        data + bytes(100),
        data[:HEADER_BYTES] + b"?" * 99,
    ]
    for number, content in enumerate(contents):
        (tmp_path / f"1-{number}.journal").write_bytes(content)
    shutil.rmtree(tmp_path / "whole")
    with claim(tmp_path) as claimed:
        assert [line.split(":")[0] for line in claimed.damage] == [
            str(tmp_path / f"1-{number}.journal") for number in (1, 2, 3, 4, 5)
        ]
        assert claimed.discard() == 6
    # The one that was only cut off at its end is no riddle to anybody.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"1-{number}.damaged" for number in (1, 3, 4, 5)
    ]


def test_journals_of_another_version_are_left_for_it(tmp_path: Path) -> None:
    path = tmp_path / "1-1.journal"
    path.write_bytes(make_header(9999, 4711, b"12345678"))
    with claim(tmp_path) as claimed:
        assert claimed.ids == []
        assert ["another version of Flux" in line for line in claimed.damage] == [True]
        claimed.discard()
    assert path.exists()


def test_an_event_that_can_t_be_decoded_is_said_and_its_journal_kept(tmp_path: Path) -> None:
    execution = make_execution(1)
    data, _ = write_story(tmp_path, 1, seed=2)
    marker = marker_of(data)
    bodies = [(99, b""), (Kind.LOGGED, b"\xc1"), (Kind.ASKED, b""), (Kind.MUTATED, b"1")]
    for number, (kind, body) in enumerate(bodies):
        data += make_frame(marker, kind, number + 1, execution.id.bytes, body)
    (path := tmp_path / "1-1.journal").write_bytes(data)
    with claim(tmp_path) as claimed:
        left = claimed.read(execution.id)
        assert sum("can't be decoded" in lost for lost in left.lost) == 4
        assert len(claimed.damage) == 4
        claimed.discard()
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()


# -- Hostile guests ----------------------------------------------------------------------------------------


def test_a_guest_can_t_forge_events_of_others_in_its_payloads(tmp_path: Path) -> None:
    """Its payload is a journal of somebody else, whole, and then the frame in which it travels is damaged."""
    victim, guest = make_execution(1), make_execution(2)
    forged, _ = write_story(tmp_path, 50, seed=9)
    forged += make_frame(marker_of(forged), Kind.BEGUN, 0, victim.id.bytes, b"")
    journal = Journal(tmp_path)
    journal.begin(guest)
    journal.asked(guest.id.bytes, HostCallRequest(1, "http.request", forged), 1)
    journal.answered(guest.id.bytes, 1, HostCallResult(forged), 1)
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    data = path.read_bytes()
    for frame in scan(data).frames:
        for place in (frame.offset, frame.offset + 9, frame.offset + FRAME_BYTES + 1):
            damaged = bytearray(data)
            damaged[place] ^= 1
            assert {left.id for left in read_bytes(tmp_path / "damaged", bytes(damaged))} == {guest.id}


def test_hostile_texts_come_back_as_they_were(tmp_path: Path) -> None:
    texts = ["\0", "\x1b[2J", "‮", "a" * 100_000, "\n\n", "'; drop table flux.execution; --"]
    execution = make_execution(1, function="".join(texts))
    journal = Journal(tmp_path)
    journal.begin(execution)
    for seq, text in enumerate(texts, 1):
        journal.asked(execution.id.bytes, HostCallRequest(seq, text, text.encode()), seq)
    journal.close()
    (left,) = read_left_behind(tmp_path)
    assert left.head == execution
    assert [call.request.name for call in left.calls] == texts


# -- Full disks --------------------------------------------------------------------------------------------


class FailingDisk:
    """Takes ``room`` bytes, then a part of a write, and then refuses, until there is room again."""

    def __init__(self, room: int, code: int) -> None:
        self.room = room
        self.code = code
        self.real = os.write

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(self.code, os.strerror(self.code))
        written = self.real(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_at_any_byte_costs_only_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    events = list(itertools.islice(make_story(STORY), 12))
    data, _ = write_story(tmp_path, 12)
    for room in range(HEADER_BYTES, len(data), 7):
        folder = tmp_path / f"{room}"
        disk = FailingDisk(room, code)
        monkeypatch.setattr(os, "write", disk.write)
        journal = Journal(folder)
        told: list[Event] = []
        refused: set[uuid.UUID] = set()
        for event in events:
            if event.execution_id in refused and event.method != "begin" and not told_begin(told, event):
                continue
            try:
                event.tell(journal)
                told.append(event)
            except JournalError as error:
                assert isinstance(error, JournalFullError) == (code != errno.EIO)
                refused.add(event.execution_id)
        assert refused
        assert journal.counts.failures >= 1
        # There is room again: the next execution is taken, and it is whole.
        disk.room = 1_000_000
        late = make_execution(99)
        journal.begin(late)
        journal.asked(late.id.bytes, HostCallRequest(1, "clock.now", b"[]"), 1)
        journal.close()
        monkeypatch.undo()
        found = {left.id: left for left in read_left_behind(folder)}
        assert found.pop(late.id).head == late
        assert {id_: without_losses(left) for id_, left in found.items()} == {
            id_: model.as_left_behind(os.getpid()) for id_, model in account_of(iter(told)).items()
        }
        assert not any(scan(path.read_bytes()).holes for path in folder.iterdir())


def told_begin(told: list[Event], event: Event) -> bool:
    return any(one.method == "begin" and one.execution_id == event.execution_id for one in told)


def test_an_event_that_was_refused_is_missed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = make_execution(1)
    journal = Journal(tmp_path)
    journal.begin(execution)
    disk = FailingDisk(0, errno.ENOSPC)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk.write)
        with pytest.raises(JournalFullError, match="no room for the journal"):
            journal.asked(execution.id.bytes, HostCallRequest(1, "clock.now", b"[]"), 1)
    journal.answered(execution.id.bytes, 1, HostCallResult(b"5"), 1)
    journal.close()
    (left,) = read_left_behind(tmp_path)
    assert left.lost == (
        "host call 1 was answered, but what was asked is not known",
        "1 of its 3 known events can't be found in the journal",
    )


def test_a_mark_that_finds_no_room_costs_a_question_to_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = make_execution(1)
    journal = Journal(tmp_path)
    journal.begin(execution)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FailingDisk(3, errno.ENOSPC).write)
        journal.stored(execution.id.bytes)
    assert journal.counts.marks_lost == 1
    journal.close()
    assert list(tmp_path.iterdir()) == []


REALLY_FULL = """
import resource, sys, pathlib
from tests.journal_program import make_story
from flux.supervisor.journal import Journal, JournalError
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
journal = Journal(pathlib.Path(sys.argv[1]))
told = 0
try:
    for event in make_story(7):
        event.tell(journal)
        told += 1
except JournalError as error:
    print(told, type(error).__name__, flush=True)
input()
"""


def test_a_limit_on_the_size_of_files_means_more_files(tmp_path: Path) -> None:
    """The kernel itself writes a part and refuses the rest; the journal goes on in a new file."""
    program = REALLY_FULL.replace("told += 1", "told += 1\n        if told == 2000: break")
    program = program.replace("input()", "print(told)")
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, "9000"], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert done.stdout.split() == ["2000"]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 9000
    found = {left.id: attrs.evolve(left, pid=None) for left in read_left_behind(tmp_path)}
    models = account_of(itertools.islice(make_story(STORY), 2000))
    for id_, model in models.items():
        if not model.is_stored:
            assert found[id_] == attrs.evolve(model.as_left_behind(0), pid=None)
    # The mark of a stored one may have found no room behind its events. Recovery asks the database then.
    assert all(models[id_].is_stored for id_, left in found.items() if left.lost or left.is_stored)


def test_a_header_that_finds_no_room_refuses_the_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REALLY_FULL, tmp_path, "5"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert "JournalFullError" in done.stderr
    assert list(tmp_path.iterdir()) == []
