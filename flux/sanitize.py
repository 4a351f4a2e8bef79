"""Recorded text on its way to a terminal.

Whatever a request, a function or a row put into a record is hostile until it
has passed here: an ESC can retitle the window or rewrite the lines above, a
bidirectional override makes ``evil.py`` read ``good.py``, an invisible character hides
text in a name. Nothing is dropped, for then the reader would not know; each such character
is written as the escape that a Python or JSON reader knows, ``\\x1b`` or
``\\u202e``, and so can be seen and searched for.

The backslash itself stays as it is. So the text ``\\x1b`` and an ESC look alike
here (``--json`` tells them apart), Windows paths stay readable, and to sanitise
twice is to sanitise once: whoever is in doubt may do it again.
"""

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_SPACES = frozenset(
    "\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
"""Category Zs: they take room and do nothing else. ``str.isprintable`` refuses all but the first."""

_INVISIBLE = frozenset(
    [
        "\u034f",  # combining grapheme joiner
        "\u115f",  # Hangul fillers: letters by category, blank by design
        "\u1160",
        "\u3164",
        "\uffa0",
        "\u17b4",  # Khmer inherent vowels
        "\u17b5",
        "\u2800",  # the Braille pattern without dots
        *map(chr, range(0x180B, 0x1810)),  # Mongolian variation selectors
        # Variation selectors can carry any bytes unseen behind one letter. The
        # last two (text style, emoji style) stay: ordinary text is full of them.
        *map(chr, range(0xFE00, 0xFE0E)),
        *map(chr, range(0xE0100, 0xE01F0)),
    ]
)
"""Characters that count as printable and cannot be seen."""


def is_safe(character: str) -> bool:
    """Whether one character may reach a terminal as it is.

    ``str.isprintable`` is false for the categories Cc (controls, C1 too), Cf (bidi
    controls, zero-width, tags), Cs (lone surrogates), Co, Cn, Zl, Zp and Zs, and
    needs no table of ours, which would be as old as the day it was written.
    """
    return (character.isprintable() and character not in _INVISIBLE) or character in _SPACES


def escape(character: str) -> str:
    """One character as a Python escape."""
    if character in _NAMED:
        return _NAMED[character]
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def sanitize(text: str, *, newlines: bool = False) -> str:
    """The text with every unsafe character made visible; ``newlines`` lets line feeds through."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if is_safe(character) or (newlines and character == "\n") else escape(character)
        for character in text
    )


def sanitize_json(text: str) -> str:
    """A JSON document with every unsafe character as a JSON escape; what it says is unchanged.

    In a valid document such characters stand inside strings only, where ``\\uXXXX``
    means the same, or are white space between tokens, where any space will do.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if is_safe(character) else _json_escape(character) for character in text)


def _json_escape(character: str) -> str:
    if character == "\n":
        return character
    if character in "\r\t":
        return " "
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
