"""On which line of a TOML text each key stands.

``tomllib`` gives the values and forgets where they were written, but an error
message has to name the line. This is a scanner, not a parser: it takes text
that ``tomllib`` has already accepted, so it never has to judge, only to skip
strings, comments and brackets correctly and to count.

A key's path is a tuple: table and key names are strings, places in arrays are
integers. ``[[cron]]`` followed by ``schedule = "..."`` gives ``("cron", 0,
"schedule")``. The grammar is https://toml.io/en/v1.0.0.
"""

import re
import tomllib

KeyPath = tuple[str | int, ...]
"""Table and key names, and places in arrays, from the outside in."""

_BARE_KEY_ENDS = frozenset("=.] \t")
"""What may follow a bare key: an equals sign, another part, the end of a header, or space before those."""


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, where each table, key and array element of valid TOML first appears."""
    return _Scanner(text).scan()


def dotted(path: KeyPath) -> str:
    """The path as one writes it: places in arrays in brackets, names that are not bare in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part, re.ASCII)
            text += ("." if text else "") + (part if bare else repr(part))
    return text


class _Scanner:
    """One pass over the text. A ``_take`` starts at its first character and ends behind its last."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}
        """How many elements each array of tables has so far, by the array's path."""

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip_blank()
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._take_header(opening="[[", closing="]]")
            elif self._text[self._at] == "[":
                table = self._take_header(opening="[", closing="]")
            else:
                self._take_pair(table)
            self._skip_blank()
        return self._lines

    def _take_header(self, *, opening: str, closing: str) -> KeyPath:
        line = self._line
        self._advance(len(opening))
        names = self._take_key()
        self._advance(len(closing))
        path: KeyPath = ()
        for name in names[:-1]:
            path = self._enter(path, name, line)
        if opening == "[":
            return self._enter(path, names[-1], line)
        path = (*path, names[-1])
        self._note(path, line)
        element = (*path, self._lengths.get(path, 0))
        self._lengths[path] = self._lengths.get(path, 0) + 1
        self._note(element, line)
        return element

    def _enter(self, path: KeyPath, name: str, line: int) -> KeyPath:
        """The path of ``name`` in a table; of an array of tables, that is its latest element."""
        path = (*path, name)
        self._note(path, line)
        length = self._lengths.get(path)
        return path if length is None else (*path, length - 1)

    def _take_pair(self, table: KeyPath) -> None:
        line = self._line
        path = table
        for name in self._take_key():
            path = (*path, name)
            self._note(path, line)
        self._advance(len("="))
        self._skip_blank()
        self._take_value(path)

    def _take_key(self) -> list[str]:
        """The names of a dotted key, up to and without what follows it."""
        names = []
        while True:
            self._skip_blank()
            start = self._at
            if self._text[start] in "\"'":
                self._take_string()
                # The one parser of quotes and escapes is tomllib's own.
                names.append(str(tomllib.loads(f"key = {self._text[start : self._at]}")["key"]))
            else:
                while self._text[self._at] not in _BARE_KEY_ENDS:
                    self._at += 1
                names.append(self._text[start : self._at])
            self._skip_blank()
            if self._text[self._at] != ".":
                return names
            self._advance(len("."))

    def _take_value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._take_string()
        elif first == "[":
            self._take_array(path)
        elif first == "{":
            self._take_inline_table(path)
        else:
            # A number, a boolean, or a date, which may hold a space.
            while self._at < len(self._text) and self._text[self._at] not in ",]}#\r\n":
                self._at += 1

    def _take_string(self) -> None:
        quote = self._text[self._at]
        multi_line = self._text.startswith(quote * 3, self._at)
        closing = quote * 3 if multi_line else quote
        self._advance(len(closing))
        while not self._text.startswith(closing, self._at):
            # Only basic strings have escapes; in literal ones a backslash is itself.
            self._advance(2 if quote == '"' and self._text[self._at] == "\\" else 1)
        self._advance(len(closing))
        if multi_line:
            # Up to two quotes may stand right before the closing three: `""""a"""""` ends with five.
            while self._text.startswith(quote, self._at):
                self._advance(1)

    def _take_array(self, path: KeyPath) -> None:
        self._advance(len("["))
        self._skip_blank()
        index = 0
        while self._text[self._at] != "]":
            element = (*path, index)
            self._note(element, self._line)
            self._take_value(element)
            index += 1
            self._skip_blank()
            if self._text[self._at] == ",":
                self._advance(len(","))
                self._skip_blank()
        self._advance(len("]"))

    def _take_inline_table(self, path: KeyPath) -> None:
        self._advance(len("{"))
        self._skip_blank()
        while self._text[self._at] != "}":
            self._take_pair(path)
            self._skip_blank()
            if self._text[self._at] == ",":
                self._advance(len(","))
                self._skip_blank()
        self._advance(len("}"))

    def _skip_blank(self) -> None:
        """Skip spaces, ends of lines and comments."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text[self._at] in " \t\r\n":
                self._advance(1)
            else:
                return

    def _advance(self, count: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _note(self, path: KeyPath, line: int) -> None:
        self._lines.setdefault(path, line)
