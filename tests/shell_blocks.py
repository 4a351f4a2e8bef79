"""What the documentation has typed, and what it says comes of it.

A page shows commands in fences of two kinds: ``sh`` has lines to type, ``console`` has them behind a ``$`` with what
they print beneath. All other fences name another language, so nothing that somebody may type stands outside of these
(`tests/tidy/test_shell_blocks.py`). `read_steps` reads them; `is_like` compares what a page shows with what was
printed, without what no two runs have in common.

A page that tells how something is made also shows files. A fence of another language whose first line is a comment
with a path is that file (`File`); ``flux.toml`` is added to what it says already. `read_walk` has both, in their order.
"""

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/README.md")])
LEFT_OUT = "..."
"""A line of its own that stands for any text."""


@attrs.frozen
class Fence:
    """A block between two lines of backticks."""

    line: int
    """Where it begins, the first line being 1."""
    language: str
    """What stands behind the backticks; empty where nothing does."""
    section: str
    """The heading that it stands below."""
    text: str
    """What it holds, without the blanks that it is moved in by as a part of a list."""


@attrs.frozen
class Step:
    """A line to type."""

    page: str
    """The page, relative to the root."""
    section: str
    """The heading that it stands below."""
    line: str
    """What is typed, without a prompt and a comment."""
    shown: str | None
    """What the page says is printed; None where it shows nothing."""


@attrs.frozen
class File:
    """A file to write."""

    page: str
    """The page, relative to the root."""
    path: str
    """Where, relative to the project's folder."""
    text: str
    """All of it; of ``flux.toml`` what is to be added."""


def read_fences(text: str) -> list[Fence]:
    """The fences of a page, from the top."""
    fences: list[Fence] = []
    section, opened = "", None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None:
            if found := re.match(r"\s*(`{3,})\s*(.*?)\s*$", line):
                opened, inside = (number, found[1], found[2]), []
            elif line.startswith("#"):
                section = line.lstrip("#").strip()
        elif line.strip() == opened[1]:
            text = textwrap.dedent("".join(f"{each}\n" for each in inside))
            fences.append(Fence(opened[0], opened[2], section, text))
            opened = None
        else:
            inside.append(line)
    assert opened is None, f"the fence of line {opened} has no end"
    return fences


def read_steps(page: str) -> list[Step]:
    """What a page has typed, in its order."""
    return [step for step in read_walk(page) if isinstance(step, Step)]


def read_walk(page: str) -> list[Step | File]:
    """What a page has typed and written, in its order."""
    steps: list[Step | File] = []
    for fence in read_fences((ROOT / page).read_text(encoding="utf-8")):
        if fence.language == "sh":
            lines = [without_comment(line) for line in fence.text.splitlines()]
            steps += [Step(page, fence.section, line, None) for line in lines if line]
        elif fence.language == "console":
            before, *parts = re.split(r"^\$ ", fence.text, flags=re.MULTILINE)
            assert before == "", f"{page}:{fence.line}: a console begins with what is typed"
            for part in parts:
                line, _, shown = part.partition("\n")
                steps.append(Step(page, fence.section, without_comment(line), shown or None))
        elif path := re.match(r"(?:#|--|//) (flux\.toml|\w[\w.-]*/[\w./-]+)\s", fence.text):
            steps.append(File(page, path[1], fence.text))
    return steps


def without_comment(line: str) -> str:
    """A line as it is typed: a comment of the shell stands behind two blanks at least, or is the whole line."""
    return re.sub(r"(^|\s{2,})#.*", "", line).strip()


def masked(text: str, names: Iterable[str] = ()) -> str:
    """The text without what no two runs, or machines, have in common: names, times, commits, the sandbox's level.

    ``names`` are executions': one in twenty has no digit, and looks like a word.
    """
    for name in names:
        text = text.replace(name, "a0000000")
    text = re.sub(r"#t=[\w-]+", "#t=TOKEN", text)
    text = re.sub(r"flux_(console|api)_[\w-]+", "TOKEN", text)
    text = re.sub(r"\b(?=[a-z0-9]*[0-9])(?=[a-z0-9]*[a-z])[0-9a-hjkmnp-tv-z]{8}\b", "NAME", text)
    text = re.sub(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{7}([0-9a-f]{5})?\b", "COMMIT", text)
    text = re.sub(r"\b(localhost|127\.0\.0\.1):[0-9]+", r"\1:PORT", text)
    text = re.sub(r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}\b", "DATE", text)
    text = re.sub(r"\b[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?\b", "TIME", text)
    text = re.sub(r"\b[0-9]+ (s|min|h|d) ago\b", r"N \1 ago", text)
    text = re.sub(r"\b[0-9,]+(\.[0-9]+)? (ms|s)\b", "N s", text)
    text = re.sub(r"\bin [0-9]+\.[0-9]+s\b", "in N s", text)  # As pytest has it.
    text = re.sub(r"\b[0-9,]+ bytes\b", "N bytes", text)
    text = re.sub(r"\+[0-9]+\b", "+N", text)
    text = re.sub(r"isolation [a-z]+", "isolation LEVEL", text)
    text = re.sub(r"[█·]{5,}", "BAR", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def is_like(shown: str, printed: str, names: Iterable[str] = ()) -> bool:
    """Whether what was printed is what a page shows, but for what is masked and left out.

    Where lines break is no difference: that depends on how long a name or an address is.
    """
    names = list(names)
    pieces = re.split(rf"^{re.escape(LEFT_OUT)}$", shown, flags=re.MULTILINE)
    pattern = r"\s?.*\s?".join(re.escape(squeezed(masked(piece, names))) for piece in pieces)
    return re.fullmatch(pattern, squeezed(masked(printed, names))) is not None


def squeezed(text: str) -> str:
    """The text with single blanks for whatever is white in it."""
    return " ".join(text.split())
