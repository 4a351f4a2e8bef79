"""What must not be in the tree: loose ends, traces of one machine, files that outgrew their purpose."""

import re
import subprocess
from pathlib import Path

from tests.suite_order import SECONDS

ROOT = Path(__file__).parents[2]

# In pieces, so that this line does not find itself.
LOOSE_ENDS = re.compile(
    r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX|NotImplemented" r"Error)\b"
    r"|pytest\.(?:mark\.)?(?:sk" r"ip|xf" r"ail)|importor" r"skip"
)
MACHINE = re.compile(r"/(?:home|Users|root|work)/[a-z]+\b(?!/\.\.\.)")
NOT_PYTHON_TEXT = frozenset({".png", ".ico", ".bin"})


def tracked_files() -> list[Path]:
    """Files of the tree: those of git, or all in a source archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for name in ("flux", "guest-sdk", "tests", "docs") for path in (ROOT / name).rglob("*")]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def find_lines(pattern: re.Pattern[str], suffixes: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        if path.suffix in suffixes
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_nothing_is_left_for_later_and_no_test_is_left_out() -> None:
    assert find_lines(LOOSE_ENDS, {".py", ".sql", ".sh", ".toml"}) == []


def test_no_line_knows_the_machine_it_was_written_on() -> None:
    assert find_lines(MACHINE, {".py", ".md", ".sql", ".toml", ".json", ".sh", ""}) == []


def test_every_module_says_how_to_think_about_it() -> None:
    silent = []
    for path in (ROOT / "flux").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if text.strip() and not text.startswith(('"""', 'r"""')):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_module_has_outgrown_one_purpose() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("flux", "guest-sdk")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := path.read_text(encoding="utf-8").count("\n")) > 700
    }
    assert long == {}


def test_files_that_begin_first_are_there() -> None:
    assert [name for name in SECONDS if not (ROOT / "tests" / name).is_file()] == []
