"""Values that must not be written down, found wherever they occur.

`HiddenValues` knows pairs of a value and what stands in its place, and rewrites text,
bytes and JSON. The same value has several spellings: JSON escapes quotes and controls,
often everything beyond ASCII, and bytes travel in base64 (`flux.values`). Functions write a whole
value in base64, in hexadecimal and as URLs have it, and anybody reads it there. So these are
looked for as well, and what stands in their place is the stand-in in the same encoding: a replay
hears the stand-in, encodes it, and has what was recorded. What a function else made of a value
(a hash, half of it, base64 of a longer text) is another value.

Rewritten JSON is JSON: a number that is hidden becomes a string, and a string is rewritten
as what it says, not as what is written, so no escape is torn apart.

A short value occurs everywhere by chance, and hiding it would tear up what is told. So values
below `HIDDEN_CHARACTERS_MIN` are not looked for.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

HIDDEN_CHARACTERS_MIN = 6
"""A shorter value is hidden only where a rule names its place."""

# The alternatives in this order: a tag's value is a string as well.
_TOKENS = re.compile(
    rb'"\$bytes"\s*:\s*"(?P<base64>[A-Za-z0-9+/=]*)"'
    rb'|\{"\$(?:decimal|int|uuid|datetime|date|time)":"(?P<scalar>[^"\\]*)"\}'
    rb'|(?P<string>"(?:[^"\\]|\\.)*")'
    rb"|(?P<number>-?[0-9][0-9.eE+-]*)",
    re.DOTALL,
)


class HiddenValues:
    """See the module."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._stand_ins: dict[bytes, bytes] = {}
        self._pattern: re.Pattern[bytes] | None = None
        for value, stand_in in pairs:
            self.add(value, stand_in)

    def __len__(self) -> int:
        return len(self._stand_ins)

    @property
    def spellings(self) -> Iterable[bytes]:
        """All that is looked for."""
        return self._stand_ins.keys()

    def add(self, value: str | bytes, stand_in: str) -> None:
        """Hide ``value`` from now on, unless it is too short."""
        text = value if isinstance(value, str) else value.decode("latin-1")
        if len(text) < HIDDEN_CHARACTERS_MIN:
            return
        for spelling in (value,) if isinstance(value, bytes) else _spell(value):
            if spelling not in self._stand_ins:
                self._stand_ins[_as_bytes(spelling)] = stand_in.encode()
                self._pattern = None
        for hidden, shown in zip(_encode(_as_bytes(value)), _encode(stand_in.encode()), strict=True):
            if hidden not in self._stand_ins:
                self._stand_ins[hidden] = shown
                self._pattern = None

    def hide(self, data: bytes) -> bytes:
        """Return ``data``, which is text or anything else, without the values; the same object if there are none."""
        if not any(value in data for value in self._stand_ins):
            return data
        return self._get_pattern().sub(lambda match: self._stand_ins[match[0]], data)

    def _get_pattern(self) -> re.Pattern[bytes]:
        if self._pattern is None:
            # Longest first: of two values that begin alike, the longer one must not lose only its head.
            values = sorted(self._stand_ins, key=len, reverse=True)
            self._pattern = re.compile(b"|".join(map(re.escape, values)))
        return self._pattern

    def hide_in_place(self, data: bytes) -> bytes:
        """As `hide`, with stand-ins cut or filled up to the length of what they stand for.

        For bytes of which something else says how long they are: a body behind its Content-Length.
        """
        if not any(value in data for value in self._stand_ins):
            return data
        return self._get_pattern().sub(self._fit, data)

    def _fit(self, match: re.Match[bytes]) -> bytes:
        size = len(match[0])
        return self._stand_ins[match[0]][:size].ljust(size, b".")

    def hide_text(self, text: str) -> str:
        """As `hide`, for text."""
        data = text.encode("utf-8", "surrogatepass")
        hidden = self.hide(data)
        return text if hidden is data else hidden.decode("utf-8", "surrogatepass")

    def hide_json(self, data: bytes) -> bytes:
        """As `hide`, for JSON, which it stays."""
        if not self._stand_ins:
            return data
        is_plain = b'"$bytes"' not in data and b"\\u" not in data
        if is_plain and not any(value in data for value in self._stand_ins):
            return data
        changed = False

        def rewrite(match: re.Match[bytes]) -> bytes:
            nonlocal changed
            written = match[0]
            rewritten = self._rewrite(match)
            changed |= rewritten is not written
            return rewritten

        rewritten = _TOKENS.sub(rewrite, data)
        return rewritten if changed else data

    def _rewrite(self, match: re.Match[bytes]) -> bytes:
        written = match[0]
        if match["string"] is not None:
            said = _read_string(written)
            hidden = self.hide(said)
            return written if hidden is said else _write_string(hidden)
        if match["base64"] is not None:
            try:
                said = base64.b64decode(match["base64"], validate=True)
            except binascii.Error:
                return written
            hidden = self.hide(said)
            return written if hidden is said else b'"$bytes":"%b"' % base64.b64encode(hidden)
        stand_in = self._stand_ins.get(match["scalar"] if match["scalar"] is not None else written)
        return written if stand_in is None else _write_string(stand_in)


def _spell(value: str) -> set[bytes]:
    """The ways in which text is written inside text: as it is, and as JSON does."""
    return {
        _as_bytes(value), _as_bytes(json.dumps(value)[1:-1]), _as_bytes(json.dumps(value, ensure_ascii=False)[1:-1])
    }  # fmt: skip


def _encode(value: bytes) -> list[bytes]:
    """The ways in which functions encode a whole value, always the same ones in the same order."""
    base64s = [base64.b64encode(value), base64.urlsafe_b64encode(value)]
    quoted = [quote(value), quote(value, safe=""), quote_plus(value)]
    return [
        *base64s,
        *(each.rstrip(b"=") for each in base64s),
        *(each.encode() for each in quoted),
        value.hex().encode(),
        value.hex().upper().encode(),
    ]


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def _read_string(written: bytes) -> bytes:
    if b"\\" not in written:
        return written[1:-1]
    try:
        text: str = json.loads(written.decode("utf-8", "surrogatepass"), strict=False)
    except ValueError:  # UnicodeDecodeError is one.
        return written[1:-1]  # A torn escape: hide what is written.
    return text.encode("utf-8", "surrogatepass")


def _write_string(said: bytes) -> bytes:
    try:
        text = said.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return b'"%b"' % said  # No JSON before, none behind.
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
