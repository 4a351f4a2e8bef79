"""The only door to the terminal.

What is to be shown is made of `Piece`s: a text and a style. A piece sanitises its
text when it is made, so whatever came from a record is harmless before anybody
measures, cuts or colours it, and the screen is the only place that writes an
escape sequence. Widths are counted in terminal cells, not characters: ``日`` takes two,
a combining accent none.

On a terminal, lines are cut to its width (with ``…``), but for a `WholeLine`, and long output goes
through a pager. Into a pipe nothing is cut.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from flux.sanitize import sanitize, sanitize_json

PIPE_WIDTH = 80
"""The layout's width where there is no terminal; text may run past it."""

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


class Piece:
    """A text, safe for a terminal from here on, and how it looks."""

    __slots__ = ("style", "text")

    def __init__(self, text: str, style: str = "") -> None:
        self.text = sanitize(text)
        """Sanitised; a line feed has become ``\\n``."""
        self.style = style
        """Words of `_STYLES` with spaces between; empty for plain text."""

    def __repr__(self) -> str:
        return f"Piece({self.text!r}, {self.style!r})"


Line = Sequence[Piece | str]
"""Strings in it are our own words in plain style; they are sanitised all the same."""


class WholeLine(tuple[Piece | str, ...]):
    """A `Line` that is never cut: a command that somebody copies. The terminal breaks it, and copies it unbroken."""

    __slots__ = ()


def cells(text: str) -> int:
    """How many cells of a terminal the text takes; it must be sanitised."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    total = 0
    for character in text:
        # Hangul vowels and finals join the syllable before them, though they are letters.
        if category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":
            continue
        total += 2 if east_asian_width(character) in "WF" else 1
    return total


def line_cells(line: Line) -> int:
    """The width of a whole line."""
    return sum(cells(piece if isinstance(piece, str) else piece.text) for piece in line)


def cut(text: str, width: int) -> str:
    """The text in at most ``width`` cells; what is cut ends in ``…``."""
    text = sanitize(text)
    if cells(text) <= width:
        return text
    kept: list[str] = []
    room = width - 1
    for character in text:
        room -= cells(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces up to ``width`` cells; longer text stays whole."""
    text = sanitize(text)
    spaces = " " * max(0, width - cells(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int, *, keeps_words: bool = False) -> list[str]:
    """The text in lines of at most ``width`` cells, broken at spaces, inside words only where it must be.

    With ``keeps_words`` never inside one, so that a path or a command can be copied: a line may be longer then. For
    what `Screen.line` writes; `Screen.page` would cut it.
    """
    lines = [""]
    for word in sanitize(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cells(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while cells(word) > width > 0 and not keeps_words:
            head = _head(word, width)
            lines[-1] = head
            lines.append("")
            word = word[len(head) :]
        lines[-1] = word
    return lines


def wrap_hanging(text: str, width: int, *, keeps_words: bool = False) -> list[str]:
    """The text in lines that keep its indentation; see `wrap`."""
    indent = len(text) - len(text.lstrip(" "))
    lines = wrap(text[indent:], max(20, width - indent), keeps_words=keeps_words)
    return [" " * indent + line for line in lines]


def _head(word: str, width: int) -> str:
    """As much of the word as fits, but at least a character, and no accent torn from its letter."""
    used = 0
    for index, character in enumerate(word):
        used += cells(character)
        if used > width and index:
            return word[:index]
    return word


def json_text(value: Any) -> str:
    """The value as JSON for eyes: on one line, unsafe characters escaped."""
    import json

    return sanitize_json(json.dumps(value, ensure_ascii=False))


class Screen:
    """One of the two output streams, and what it can show."""

    def __init__(self, stream: TextIO, *, colour: bool | None = None, is_lasting: bool = False) -> None:
        """``is_lasting``: lines that nobody takes are left out, and nobody fails for it; see `put`."""
        self._is_lasting = is_lasting
        self.stream = stream
        """stdout for answers, stderr for the story."""
        self.is_terminal = stream.isatty()
        """False into a pipe or a file."""
        self.width = self._find_width()
        """Cells a line may take."""
        allowed = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.colour = (self.is_terminal and allowed) if colour is None else colour
        """Whether styles become escape sequences."""

    @classmethod
    def stdout(cls) -> "Screen":
        """Where answers go, as the global flags ask."""
        from flux.cli.settings import settings

        return cls(sys.stdout, colour=False if settings().no_color else None)

    @classmethod
    def stderr(cls, *, colour: bool | None = None, is_lasting: bool = False) -> "Screen":
        """Where the story goes."""
        return cls(sys.stderr, colour=colour, is_lasting=is_lasting)

    def _find_width(self) -> int:
        columns = os.environ.get("COLUMNS", "")
        if columns.isascii() and columns.isdigit() and int(columns) > 0:
            return int(columns)
        if self.is_terminal:
            with contextlib.suppress(OSError):  # A terminal that will not tell its size gets the usual one.
                return os.get_terminal_size(self.stream.fileno()).columns or PIPE_WIDTH
        return PIPE_WIDTH

    def line(self, *pieces: Piece | str) -> None:
        """Write one line at once, uncut and unpaged: for stories and for streams."""
        self.put(self._rendered(pieces, width=None) + "\n")

    def cut_line(self, *pieces: Piece | str) -> None:
        """Write one line at once, cut to the terminal's width."""
        self.put(self._rendered(pieces, self.width if self.is_terminal else None) + "\n")

    def put(self, text: str) -> None:
        """Write ``text`` as it is, at once."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            # The disk is full, or whoever read the pipe has gone. A server tells of an execution before its record is
            # on its way: a line that nobody takes must cost no record, no answer and no server.
            if not self._is_lasting:
                raise

    def write_raw_json(self, text: str) -> None:
        """Write a JSON document as it was sent, but for escapes."""
        self.stream.write(sanitize_json(text).rstrip() + "\n")
        self.stream.flush()

    def write_text(self, text: str) -> None:
        """Write recorded text of many lines; only its line feeds get through."""
        self.stream.write(sanitize(text, newlines=True).removesuffix("\n") + "\n")
        self.stream.flush()

    def page(self, lines: Iterable[Line]) -> None:
        """Write a whole answer, through a pager when it is longer than the terminal."""
        width = self.width if self.is_terminal else None
        rendered = [self._rendered(line, None if isinstance(line, WholeLine) else width) for line in lines]
        text = "".join(line + "\n" for line in rendered)
        if self.is_terminal and len(rendered) >= self._height() and _page(text):
            return
        self.stream.write(text)
        self.stream.flush()

    def _height(self) -> int:
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self.stream.fileno()).lines or 24
        return 24

    def _rendered(self, line: Line, width: int | None) -> str:
        pieces = [piece if isinstance(piece, Piece) else Piece(piece) for piece in line]
        if width is not None and line_cells(pieces) > width:
            pieces = _cut_pieces(pieces, width)
        while pieces and not pieces[-1].text.rstrip(" "):
            pieces.pop()
        last = len(pieces) - 1
        return "".join(
            self._styled(piece.text.rstrip(" ") if index == last else piece.text, piece.style)
            for index, piece in enumerate(pieces)
        )

    def _styled(self, text: str, style: str) -> str:
        if not self.colour or not style or not text:
            return text
        codes = ";".join(_STYLES[word] for word in style.split())
        return f"\x1b[{codes}m{text}\x1b[0m"


def _cut_pieces(pieces: list[Piece], width: int) -> list[Piece]:
    kept: list[Piece] = []
    room = width
    for index, piece in enumerate(pieces):
        taken = cells(piece.text)
        rest = sum(cells(later.text) for later in pieces[index + 1 :])
        if taken > room or (taken == room and rest):
            # "cut" leaves text that fits alone, and what follows is lost: the mark must show.
            kept.append(Piece(cut(piece.text + "…" * bool(rest), room), piece.style))
            return kept
        kept.append(piece)
        room -= taken
    return kept


def _page(text: str) -> bool:
    """Show the text in the reader's pager; False when there is none, so that it is printed instead."""
    import shlex
    import shutil
    import subprocess

    command = shlex.split(os.environ.get("FLUXRT_PAGER", os.environ.get("PAGER", "less")))
    if (
        not command
        or command == ["cat"]
        or os.environ.get("TERM") == "dumb"
        or shutil.which(command[0]) is None
    ):
        return False
    # -R lets colours through (all else is sanitised), -F leaves when all fits, -X keeps the text on screen.
    environment = {"LESS": "FRX", "LESSCHARSET": "utf-8", **os.environ}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # The reader left the pager early.
        process.stdin.write(text.encode(errors="backslashreplace"))
    while True:
        # ctrl-c belongs to the pager, which lives on; so do we, until it goes.
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
            return True


def padded(pieces: Sequence[Piece | str], width: int) -> list[Piece | str]:
    """The pieces with spaces up to ``width`` cells."""
    return [*pieces, " " * max(0, width - line_cells(pieces))]


def spread(left: Sequence[Piece | str], right: Sequence[Piece | str], width: int) -> list[Line]:
    """Left text and right text on one line; on two when they would touch."""
    gap = width - line_cells(left) - line_cells(right)
    if not right:
        return [left]
    if gap >= 2:
        return [[*left, " " * gap, *right]]
    return [left, [" " * max(4, width - line_cells(right)), *right]]
