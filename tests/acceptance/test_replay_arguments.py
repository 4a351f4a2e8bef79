"""What people type wrong after ``flux replay`` and its kin is told before any server is asked: there is none here."""

import os
import stat
import threading
from pathlib import Path

import pytest

from flux.cli.export import write_file
from flux.cli.failures import UsageError
from tests.dev_process import run_flux


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay", "notes.txt"), "ends in .fluxcase"),
        (("replay", "qk3f81xa", "--answer", "0=503"), "with N from 1 on"),
        (("replay", "qk3f81xa", "--answer", "1=99999"), "no status from 200 to 599, and no file"),
        (("replay", "qk3f81xa", "--answer", "1=nowhere.json"), "nowhere.json is no file"),
        (("incident", "replay", "2026-11-02..2026-11-01"), "ends before it begins"),
    ],
)
def test_a_wrong_argument_is_told_with_what_to_write(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "notes.txt").write_text("no case")
    server = () if arguments[0] == "replay" else ("--server", "http://127.0.0.1:9")
    done = run_flux(tmp_path, *server, *arguments)
    assert (done.returncode, done.stdout, done.stderr[:8]) == (2, "", "FLX100  "), done.stderr
    assert says in " ".join(done.stderr.split())


def test_a_case_is_written_to_a_pipe_and_never_over_a_folder_or_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"a case")
    reader.join()
    assert (heard, stat.S_ISFIFO(pipe.stat().st_mode)) == ([b"a case"], True)
    with pytest.raises(UsageError, match="folder"):
        write_file(tmp_path, b"a case")
    assert list(tmp_path.iterdir()) == [pipe]
