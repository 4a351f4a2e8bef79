"""The journal on a real disk: what is told is what is read, by whom, and what is deleted when."""

import itertools
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from flux.errors import BrokenInvariantError
from flux.hostcall import HostCallRequest, HostCallResult
from flux.supervisor.journal import Fsync, Journal, JournalError
from flux.supervisor.left_behind import JournalUnreadableError, claim, read_left_behind
from tests.journal_program import Event, account_of, make_execution, make_life, make_story

RECORDINGS = Path(__file__).parent.parent / "recordings"


def tell(journal: Journal, events: list[Event]) -> None:
    for event in events:
        event.tell(journal)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("segment_bytes_max", [1, 4096, 16 * 1024 * 1024])
def test_what_was_told_is_what_is_read(tmp_path: Path, segment_bytes_max: int) -> None:
    events = list(itertools.islice(make_story(3), 2000))
    journal = Journal(tmp_path, segment_bytes_max=segment_bytes_max)
    tell(journal, events)
    journal.close()
    expected = {id_: model for id_, model in account_of(iter(events)).items() if not model.is_stored}
    found = {left.id: left for left in read_left_behind(tmp_path) if not left.is_stored}
    assert len(expected) > 20
    assert found == {id_: model.as_left_behind(os.getpid()) for id_, model in expected.items()}


def test_reading_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    tell(journal, list(itertools.islice(make_story(1), 100)))
    journal.close()
    before = {path: path.read_bytes() for path in files(tmp_path)}
    assert read_left_behind(tmp_path) == read_left_behind(tmp_path)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_a_folder_that_no_supervisor_ever_used_holds_nothing(tmp_path: Path) -> None:
    assert read_left_behind(tmp_path / "never") == []


def test_the_journal_of_a_living_supervisor_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    tell(journal, [next(make_life(1))])
    with claim(tmp_path) as claimed:
        assert (claimed.ids, claimed.in_use) == ([], 1)
    program = (
        "import sys, pathlib; from flux.supervisor.left_behind import claim; "
        "c = claim(pathlib.Path(sys.argv[1])); print(c.in_use, len(c.ids), c.discard())"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout.split() == ["1", "0", "0"]
    journal.close()
    assert len(read_left_behind(tmp_path)) == 1


def test_what_one_recovery_holds_another_does_not_see(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    tell(journal, [next(make_life(1))])
    journal.close()
    with claim(tmp_path) as first, claim(tmp_path) as second:
        assert len(first.ids) == 1
        assert (second.ids, second.in_use) == ([], 1)


def test_a_segment_is_deleted_when_it_is_full_and_its_executions_are_stored(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes_max=4096)
    lives = [list(make_life(seed)) for seed in range(200)]
    kept = 0
    for life in lives:
        tell(journal, life)
        kept += life[-1].method != "stored"
        assert journal.counts.segments == len(files(tmp_path)) == len(list(tmp_path.glob("*.journal")))
        assert journal.counts.kept_bytes == sum(path.stat().st_size for path in files(tmp_path))
    assert journal.counts.executions == kept
    assert 1 < journal.counts.segments <= 2 * kept + 1
    assert journal.counts.written_bytes > journal.counts.kept_bytes > 0
    assert journal.counts.failures == journal.counts.marks_lost == journal.counts.not_removed == 0
    for life in lives:
        if life[-1].method != "stored":
            journal.stored(life[0].execution_id.bytes)
    assert len(files(tmp_path)) == 1
    journal.close()
    assert files(tmp_path) == []


def test_an_orderly_end_leaves_only_what_is_not_stored(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes_max=1)
    first, second = make_execution(1), make_execution(2)
    journal.begin(first)
    journal.begin(second)
    journal.stored(first.id.bytes)
    journal.close()
    journal.close()
    assert [left.id for left in read_left_behind(tmp_path)] == [second.id]
    assert len(files(tmp_path)) == 1


def test_an_execution_in_several_segments_is_marked_in_each_that_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes_max=1)
    stored, other = make_execution(1), make_execution(2)
    journal.begin(stored)
    journal.begin(other)
    journal.asked(stored.id.bytes, HostCallRequest(1, "clock.now", b"[]"), 5)
    journal.stored(stored.id.bytes)
    journal.close()
    # Each file alone: whatever happens to the others, none of them makes a second record.
    for path in files(tmp_path):
        (alone := tmp_path / "alone").mkdir()
        (alone / path.name).write_bytes(path.read_bytes())
        assert all(left.is_stored or left.id == other.id for left in read_left_behind(alone))
        (alone / path.name).unlink()
        alone.rmdir()


def test_only_its_owner_can_read_a_journal(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "journal"
    old_umask = os.umask(0)
    try:
        Journal(folder).close()
        journal = Journal(folder)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [0o600]
    journal.close()
    folder.chmod(0o755)
    Journal(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, -1)
        folder = tmp_path
    else:
        folder = Path("/")
    with pytest.raises(JournalError, match="belongs to user id"):
        Journal(folder)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    with pytest.raises(JournalError, match="can't be written"):
        Journal(tmp_path / "journal")
    with pytest.raises(JournalUnreadableError, match="can't be read"):
        claim(tmp_path / "journal")


def test_a_name_that_an_earlier_process_left_is_not_used_again(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.begin(make_execution(1))
    first.close()
    second = Journal(tmp_path)  # same process id
    second.begin(make_execution(2))
    second.close()
    assert len(read_left_behind(tmp_path)) == 2


def test_events_of_executions_that_never_began_are_our_own_fault(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    unknown = make_execution(1)
    with pytest.raises(BrokenInvariantError):
        journal.asked(unknown.id.bytes, HostCallRequest(1, "clock.now", b"[]"), 5)
    journal.begin(unknown)
    with pytest.raises(BrokenInvariantError):
        journal.begin(unknown)
    journal.stored(unknown.id.bytes)
    with pytest.raises(BrokenInvariantError):
        journal.stored(unknown.id.bytes)
    journal.close()
    with pytest.raises(BrokenInvariantError, match="closed"):
        journal.asked(unknown.id.bytes, HostCallRequest(1, "clock.now", b"[]"), 5)


def test_the_last_end_counts(tmp_path: Path) -> None:
    execution = make_execution(1)
    journal = Journal(tmp_path)
    journal.begin(execution)
    journal.ended(execution.id.bytes, attrs.evolve(execution, elapsed_ns=1), in_transaction=True)
    journal.ended(execution.id.bytes, attrs.evolve(execution, elapsed_ns=2), in_transaction=False)
    journal.close()
    (left,) = read_left_behind(tmp_path)
    assert left.ended is not None
    assert (left.ended.elapsed_ns, left.in_transaction) == (2, False)


def test_payloads_of_many_megabytes_survive(tmp_path: Path) -> None:
    execution = make_execution(1)
    value = os.urandom(1024) * 12 * 1024
    journal = Journal(tmp_path)
    journal.begin(execution)
    journal.asked(execution.id.bytes, HostCallRequest(1, "http.request", value), 5)
    journal.answered(execution.id.bytes, 1, HostCallResult(value), 1)
    journal.close()
    (left,) = read_left_behind(tmp_path)
    (call,) = left.calls
    assert call.result is not None
    assert call.request.arguments == call.result.value == value


@pytest.mark.parametrize("fsync", list(Fsync))
async def test_those_who_wait_for_the_disk_share_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: Fsync
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        real(descriptor)
        synced.append(size)

    monkeypatch.setattr(os, "fdatasync", counted)
    journal = Journal(tmp_path, fsync=fsync)

    async def live(seed: int) -> None:
        for event in make_life(seed):
            event.tell(journal)
            size = files(tmp_path)[0].stat().st_size
            await journal.wait_durable()
            # The mark of a stored execution need not wait: the database has it.
            assert fsync is Fsync.NEVER or event.method == "stored" or max(synced) >= size

    events = sum(len(list(make_life(seed))) for seed in range(50))
    async with trio.open_nursery() as nursery:
        for seed in range(50):
            nursery.start_soon(live, seed)
    assert len(synced) < events / 5
    assert bool(synced) == (fsync is Fsync.GROUP)
    journal.close()


async def test_what_a_disk_refused_stays_doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdatasync
    refusals = [OSError(5, "Input/output error")]

    def refuses_once(descriptor: int) -> None:
        if refusals:
            raise refusals.pop()
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", refuses_once)
    journal = Journal(tmp_path, fsync=Fsync.GROUP)
    first, second = make_execution(1), make_execution(2)
    journal.begin(first)
    for _ in range(2):  # fsync succeeds the second time, but the kernel has dropped the pages by then
        with pytest.raises(JournalError):
            await journal.wait_durable()
    journal.begin(second)
    await journal.wait_durable()
    assert len(files(tmp_path)) == 2  # nothing follows in a file that the disk refused
    journal.close()
    assert [left.id for left in read_left_behind(tmp_path)] == [first.id, second.id]


def as_json(value: object) -> object:
    """Plain JSON that says all that a noun says."""
    if attrs.has(type(value)):
        return {name: as_json(field) for name, field in attrs.asdict(value, recurse=False).items()}  # type: ignore[arg-type]
    if isinstance(value, tuple | list):
        return [as_json(part) for part in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, int | str | None) else str(value)


def as_known_then(value: object, expected: object) -> object:
    """The value without the fields that nouns have got since ``expected`` was written down."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return {name: as_known_then(field, expected[name]) for name, field in value.items() if name in expected}
    if isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        return [as_known_then(part, wanted) for part, wanted in zip(value, expected, strict=True)]
    return value


@pytest.mark.parametrize("version", [1])
def test_journals_of_every_version_are_still_read(tmp_path: Path, version: int) -> None:
    """Beside each journal is what it holds, written down when it was made: never make either of them anew."""
    recording = RECORDINGS / f"journal-{version}.journal"
    (tmp_path / recording.name).write_bytes(recording.read_bytes())
    expected = json.loads(recording.with_suffix(".json").read_text())
    assert as_known_then([as_json(left) for left in read_left_behind(tmp_path)], expected) == expected
