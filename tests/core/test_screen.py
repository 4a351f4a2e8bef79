"""How lines are laid out for a terminal: words are whole where somebody copies them, and nothing is lost."""

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.cli.doctor import Check, _lines
from flux.cli.failures import UsageError, tell
from flux.cli.render import next_lines
from flux.cli.screen import Screen, cells, line_cells, wrap, wrap_hanging

PATH = "/srv/projects/with/a/name/that/is/longer/than/a/line/of/eighty/cells/pginstall/bin/postgres"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.lists(st.text("abc/日", min_size=1, max_size=60), min_size=1), st.integers(1, 40))
def test_broken_lines_hold_each_word_whole_where_that_is_asked_for(words: list[str], width: int) -> None:
    kept = wrap(" ".join(words), width, keeps_words=True)
    assert " ".join(kept).split() == words
    assert all(cells(line) <= width for line in kept if " " in line)
    broken = wrap(" ".join(words), max(2, width))
    assert "".join(broken).replace(" ", "") == "".join(words)
    assert all(cells(line) <= max(2, width) for line in broken)
    assert wrap_hanging("    " + words[0], width, keeps_words=True) == ["    " + words[0]]


def test_what_the_doctor_found_is_whole_for_who_copies_it() -> None:
    check = Check("postgres", False, f"programs in {PATH}", f"move {PATH}")
    shown = ["".join(piece if isinstance(piece, str) else piece.text for piece in line) for line in _lines(check, 80)]
    assert [line.strip() for line in shown if PATH in line] == [PATH, PATH]
    assert all(line_cells([line]) <= 80 for line in shown if PATH not in line)
    whole = ["".join(piece if isinstance(piece, str) else piece.text for piece in line) for line in _lines(check, None)]
    assert [line.strip() for line in whole] == [f"! postgres      programs in {PATH}", f"move {PATH}"]


def test_a_path_in_an_error_is_not_broken_by_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    tell(UsageError(f"{PATH} is no folder, and there is more to say of it", remedy=f"cd {PATH}"), ["--no-color"])
    lines = terminal.getvalue().splitlines()
    assert [line.strip() for line in lines if PATH in line] == [f"FLX100  {PATH}", PATH]
    assert all(len(line) <= 40 for line in lines if PATH not in line)


def test_a_command_to_type_next_is_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    command = "flux trace diff v78773x4 v78773x4@edfdb352aab1"
    screen = Screen(terminal := Terminal(), colour=False)
    screen.page([["nothing else " * 9], *next_lines([(command, "what the parent does"), "flux errors"], screen.width)])
    first, _, *lines = terminal.getvalue().splitlines()
    assert cells(first) == 40 and first.endswith("…")
    assert lines == [f"  next     {command}", "           flux errors"]


INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from flux.cli import main
sys.exit(main(["why", "@-1"]))
"""
"""Ctrl-c while a command still imports what it needs."""


def test_ctrl_c_before_a_command_has_begun_ends_it_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_answer_that_finds_no_room_is_an_error_and_no_traceback() -> None:
    for arguments in (["explain", "FLX402"], ["schema", "trace"], ["explain", "--json"], ["--version", "--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "flux", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        said = "the answer can't be written: No space left on device"
        assert done.returncode == 2 and "FLX115" in done.stderr and said in done.stderr, arguments
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1 + ("--json" not in arguments)
