"""Texts with wildcards: ``*`` is any text, and in a path ``{name}`` is one segment.

The same wildcards are asked of millions of rows in the database and of each execution as
it ends. There a regular expression does (`make_regex`; Postgres runs it in one pass). Here it
would not: Python's `re` tries one way after another, and ``a*a*a*a*a*b`` on a long path
would stop the whole server. So `matches` follows all ways at once, as bits of one number,
and takes one step a character whatever the wildcards.
"""

import functools
import re

import attrs

_STAR = re.compile(r"(\*+)")
_STAR_OR_SEGMENT = re.compile(r"(\*+|\{[^{}/]*\})")


def matches(wildcard: str, text: str, *, has_segments: bool = False) -> bool:
    """Whether the whole of ``text`` is what ``wildcard`` means; ``has_segments`` says that it is a path's."""
    machine = _machine(wildcard, has_segments)
    # Bit n is set while the first n parts of the wildcard may be behind us.
    state = machine.skip(1)
    for character in text:
        moved = (state & machine.literals.get(character, 0)) << 1 | state & machine.stars
        if character != "/":
            moved |= (state & machine.segments) << 1 | state & machine.in_segments
        if not moved:
            return False
        state = machine.skip(moved)
    return bool(state & machine.end)


def make_regex(wildcard: str, *, has_segments: bool = False) -> str:
    """Return an anchored regular expression that means the same. Only what Postgres and Python share is used."""
    parts = {"star": ".*", "segment": "[^/]+"}
    found = [parts.get(kind) or "".join(map(_escaped, text)) for kind, text in _split(wildcard, has_segments)]
    return "^" + "".join(found) + "$"


@attrs.frozen
class _Machine:
    """A wildcard's parts, each a bit: a character, a star, or a segment."""

    literals: dict[str, int]
    """Parts that are this character."""
    stars: int
    """Parts that are a star: they take any character and stay."""
    segments: int
    """Parts that are a segment: they take a first character that is no slash."""
    in_segments: int
    """The places behind segments: there more of the same may follow."""
    end: int
    """The place behind all parts."""

    def skip(self, state: int) -> int:
        """The places where one may be too, since a star may be nothing. No two stars are neighbours."""
        return state | (state & self.stars) << 1


@functools.lru_cache(maxsize=256)
def _machine(wildcard: str, has_segments: bool) -> _Machine:
    literals: dict[str, int] = {}
    stars = segments = 0
    bit = 1
    for kind, text in _split(wildcard, has_segments):
        if kind == "star":
            stars |= bit
            bit <<= 1
        elif kind == "segment":
            segments |= bit
            bit <<= 1
        else:
            for character in text:
                literals[character] = literals.get(character, 0) | bit
                bit <<= 1
    return _Machine(literals, stars, segments, segments << 1, bit)


def _split(wildcard: str, has_segments: bool) -> list[tuple[str, str]]:
    """The wildcard's parts: ``star``, ``segment`` or ``text``, and what stands there. Stars in a row are one."""
    parts = (_STAR_OR_SEGMENT if has_segments else _STAR).split(wildcard)
    kinds = ("text", "star", "segment")
    # Every second part is a wildcard, and the texts between them may be empty.
    return [(kinds[index % 2 * (1 + (part[0] == "{"))], part) for index, part in enumerate(parts) if part]


def _escaped(character: str) -> str:
    # A backslash before an ASCII character that is no letter or digit means "as it is" in both.
    if character.isascii() and not (character.isalnum() or character == "_"):
        return f"\\{character}"
    return character
