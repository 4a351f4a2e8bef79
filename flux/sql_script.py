"""A script of SQL as its statements, each with its place.

Postgres takes a script whole, and then cannot say which statement failed unless
the error is one of syntax. So a script is cut at its semicolons here, by the rules that
``psql`` follows: not inside quotes, dollar quotes, comments (they nest), parentheses
(``CREATE RULE``), or the ``BEGIN ATOMIC ... END`` body of a function.

What is malformed is left to the server, which says it better: a quote that is never
closed reaches to the end of the script.
"""

import re
from collections.abc import Iterator

import attrs

# A word is made of letters, "_" and whatever is not ASCII, and goes on with digits as well. Said by what it is not made
# of: `re` walks through a class that goes up to U+10FFFF, one by one: ten milliseconds of each start.
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<quoted>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z))
    | (?P<dollar>\$(?:[^\x00-@\[-^`{-\x7f][^\x00-/:-@\[-^`{-\x7f]*)?\$)
    | (?P<word>[^\x00-@\[-^`{-\x7f][^\x00-\#%-/:-@\[-^`{-\x7f]*)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


@attrs.frozen
class SqlStatement:
    """One statement of a script."""

    sql: str
    """Its text, from its first word to before its semicolon."""
    offset: int
    """Where in the script it begins, in characters."""
    words: tuple[str, ...]
    """Its first four words in lower case, up to the first mark: what kind of statement it is."""


def split_script(script: str) -> list[SqlStatement]:
    """Return the statements of ``script``, in order; empty ones and lone comments are left out."""
    statements: list[SqlStatement] = []
    start: int | None = None
    end = 0
    words: list[str] = []
    is_head = True
    parentheses = blocks = 0
    for kind, begin, stop in tokens(script):
        text = script[begin:stop]
        if text == ";" and parentheses == 0 and blocks == 0:
            if start is not None:
                statements.append(SqlStatement(script[start:end], start, tuple(words)))
            start, words, is_head = None, [], True
            continue
        if start is None:
            start = begin
        end = stop
        if kind != "word":
            is_head = False
            parentheses = max(0, parentheses + {"(": 1, ")": -1}.get(text, 0))
            continue
        word = text.lower()
        if is_head and len(words) < 4:
            words.append(word)
        if parentheses == 0 and _makes_routine(words):
            blocks = _depth(blocks, word)
    if start is not None:
        statements.append(SqlStatement(script[start:end], start, tuple(words)))
    return statements


def get_line(script: str, offset: int) -> int:
    """Return the line of the character at ``offset``, from 1."""
    return script.count("\n", 0, offset) + 1


def _makes_routine(words: list[str]) -> bool:
    match words:
        case ["create", "or", "replace", "function" | "procedure", *_]:
            return True
        case ["create", "function" | "procedure", *_]:
            return True
        case _:
            return False


def _depth(blocks: int, word: str) -> int:
    """How many BEGIN and CASE are open after ``word``; those of a quoted body are not among the words."""
    match word:
        case "begin":
            return blocks + 1
        case "case" if blocks:
            return blocks + 1
        case "end" if blocks:
            return blocks - 1
        case _:
            return blocks


def tokens(script: str) -> Iterator[tuple[str, int, int]]:
    """Yield kind (``quoted``, ``dollar``, ``word`` or ``mark``), begin and end of all but space and comments."""
    position = 0
    while position < len(script):
        token = _TOKEN.match(script, position)
        assert token is not None and token.lastgroup is not None  # "mark" matches any character.
        begin, position = position, token.end()
        match token.lastgroup:
            case "space":
                continue
            case "comment":
                position = _after_comment(script, position)
                continue
            case "dollar":
                closing = script.find(token.group(), position)
                position = len(script) if closing < 0 else closing + len(token.group())
        yield token.lastgroup, begin, position


def _after_comment(script: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(script, position)
        if edge is None:
            return len(script)
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position
