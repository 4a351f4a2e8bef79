"""Which parameters and literals of a statement belong to columns that are redacted.

There is no parser of SQL here. A statement is read as a row of tokens, and a few
plain shapes are understood: the column list of an INSERT, ``column = $1``, a column
among those selected. Whatever names such a column in another way is not understood,
and then every parameter and literal counts as the column's: too much is blanked
rather than too little. A column that the statement does not name (a view's, a
function's argument) can't be known here.
"""

import re
from collections.abc import Collection, Sequence

import attrs

_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n\r]*|/\*.*?\*/)"
    r"|(?P<literal>[eE]'(?:[^'\\]|\\.|'')*'|[uUbBxXnN]?&?'(?:[^']|'')*'|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)"
    r"|(?P<parameter>\$[0-9]+)"
    r'|(?P<quoted>"(?:[^"]|"")*")'
    r"|(?P<word>[^\W\d][\w$]*)"
    r"|(?P<number>[0-9][0-9.eE_]*)"
    r"|(?P<symbol>::|[<>=!~]+|.)",
    re.DOTALL,
)
_COMPARING = frozenset({"=", "<>", "!=", "<", ">", "<=", ">=", "like", "ilike", "~", "~~"})
_BEFORE_NAMED = frozenset({"select", "returning", "distinct", ",", "by"})
_AFTER_NAMED = frozenset(
    {"from", ",", "as", "returning", "where", ")", "asc", "desc", "limit", "order", "group", ";", ""}
)
_STATEMENTS = frozenset({"select", "with", "insert", "update", "delete", "merge"})
_ENDS_OF_VALUES = frozenset(
    {
        "and",
        "or",
        ",",
        "(",
        ")",
        "where",
        "returning",
        "from",
        "set",
        "limit",
        "order",
        "when",
        "then",
        "on",
        ";",
        "",
    }
)


@attrs.frozen
class Sensitive:
    """What of a statement is to be blanked."""

    parameters: frozenset[int] = frozenset()
    """Numbers of parameters, from 1."""
    literals: tuple[tuple[int, int], ...] = ()
    """Where in the text the literals stand: start and end."""


@attrs.frozen
class _Token:
    kind: str
    text: str
    """Words in lower case, quoted names without their quotes."""
    start: int
    end: int


def find_sensitive(sql: str, tables: Collection[str], columns: Collection[str]) -> Sensitive:
    """Return the parameters and literals of ``sql`` that belong, or may belong, to ``columns``."""
    tokens = _tokenize(sql)
    named = [index for index, token in enumerate(tokens) if _is_name(token) and token.text in columns]
    found: set[int] = set()
    understood: set[int] = set()
    insert = _find_insert(tokens)
    if insert is not None:
        table, names, end, places = insert
        if not names and table in tables:
            return _take(tokens, range(len(tokens)))  # Values in the order of all columns.
        understood.update(range(end))
        for position, name in enumerate(names):
            if name in columns:
                if places is None:
                    return _take(tokens, range(len(tokens)))  # INSERT ... SELECT
                for row in places:
                    if position < len(row):
                        found.update(row[position])
    for index in named:
        if index in understood:
            continue
        operand = _find_operand(tokens, index)
        if operand is None:
            return _take(tokens, range(len(tokens)))
        found.update(operand)
    return _take(tokens, found)


def name_parameters(sql: str) -> dict[int, str]:
    """Return the column that each parameter of ``sql`` is written to or compared with, where that is plain to see."""
    tokens = _tokenize(sql)
    names: dict[int, str] = {}
    insert = _find_insert(tokens)
    if insert is not None and insert[3] is not None:
        for row in insert[3]:
            # The first item begins with the parenthesis that opens the row.
            for name, item in zip(insert[1], [row[0][1:], *row[1:]], strict=False):
                if len(item) == 1 and tokens[item[0]].kind == "parameter":
                    names.setdefault(int(tokens[item[0]].text[1:]), name)
    for index, token in enumerate(tokens):
        if token.kind == "parameter" and index > 1 and _text(tokens, index - 1) in _COMPARING:
            before = tokens[index - 2]
            if _is_name(before):
                names.setdefault(int(token.text[1:]), before.text)
    return names


def _tokenize(sql: str) -> list[_Token]:
    tokens = []
    for match in _TOKEN.finditer(sql):
        kind, text = str(match.lastgroup), match[0]
        if kind == "tag" or match["literal"] is not None:
            kind = "literal"
        if kind == "quoted":
            text = text[1:-1].replace('""', '"')
        elif kind == "word":
            text = text.lower()
        if kind != "space":
            tokens.append(_Token(kind, text, match.start(), match.end()))
    return tokens


def _is_name(token: _Token) -> bool:
    return token.kind in ("word", "quoted")


def _take(tokens: Sequence[_Token], indexes: Collection[int]) -> Sensitive:
    chosen = [tokens[index] for index in sorted(indexes)]
    return Sensitive(
        frozenset(int(token.text[1:]) for token in chosen if token.kind == "parameter"),
        tuple((token.start, token.end) for token in chosen if token.kind in ("literal", "number")),
    )


def _text(tokens: Sequence[_Token], index: int) -> str:
    return tokens[index].text if 0 <= index < len(tokens) else ""


def _find_operand(tokens: Sequence[_Token], index: int) -> list[int] | None:
    """The value that the column at ``index`` is compared with or set to; None when that is not understood."""
    first = index
    while _text(tokens, first - 1) == "." and first >= 2:
        first -= 2  # schema.table.column
    before, after = _text(tokens, first - 1), _text(tokens, index + 1)
    if after in _COMPARING:
        return _read_value(tokens, index + 2, 1)
    if before in _COMPARING:
        return _read_value(tokens, first - 2, -1)
    if before in _BEFORE_NAMED and after in _AFTER_NAMED and not _is_in_a_row(tokens, first):
        return []
    if after == "is" and (_text(tokens, index + 2) == "null" or _text(tokens, index + 3) == "null"):
        return []  # IS NULL and IS NOT NULL; IS DISTINCT FROM has an operand.
    return None


def _is_in_a_row(tokens: Sequence[_Token], index: int) -> bool:
    """Whether the innermost parentheses around ``index`` are no statement of their own: a row, an argument list."""
    depth = 0
    for place in range(index - 1, -1, -1):
        text = tokens[place].text if tokens[place].kind == "symbol" else ""
        depth += (text == ")") - (text == "(")
        if depth < 0:
            return _text(tokens, place + 1) not in _STATEMENTS
    return False


def _read_value(tokens: Sequence[_Token], index: int, step: int) -> list[int] | None:
    """One parameter or literal at ``index``, perhaps with a cast; None for anything else."""
    if step < 0 and _text(tokens, index - 1) == "::":
        index -= 2
    if not 0 <= index < len(tokens) or tokens[index].kind not in ("parameter", "literal", "number"):
        return None
    beyond = index + step
    if step > 0 and _text(tokens, beyond) == "::":
        beyond += 2
    return [index] if _text(tokens, beyond) in _ENDS_OF_VALUES else None


_Insert = tuple[str, list[str], int, list[list[list[int]]] | None]


def _find_insert(tokens: Sequence[_Token]) -> _Insert | None:
    """Table, column names, where the list of them ends, and for each row of VALUES its items' tokens."""
    if _text(tokens, 0) != "insert" or _text(tokens, 1) != "into":
        return None
    index = 2
    while _text(tokens, index + 1) == ".":
        index += 2
    table = _text(tokens, index)
    index += 1
    if _text(tokens, index) == "as":
        index += 2
    names: list[str] = []
    if _text(tokens, index) == "(":
        index += 1
        while index < len(tokens) and tokens[index].text != ")":
            if _is_name(tokens[index]):
                names.append(tokens[index].text)
            index += 1
        index += 1
    named = index
    if _text(tokens, index) != "values":
        return table, names, named, None
    rows: list[list[list[int]]] = []
    index += 1
    while _text(tokens, index) == "(":
        items, index = _read_items(tokens, index)
        rows.append(items)
        if _text(tokens, index) == ",":
            index += 1
    return table, names, named, rows


def _read_items(tokens: Sequence[_Token], index: int) -> tuple[list[list[int]], int]:
    """The tokens of each item in the parentheses that open at ``index``, and where they have closed."""
    depth = 0
    items: list[list[int]] = [[]]
    while index < len(tokens):
        text = tokens[index].text if tokens[index].kind == "symbol" else ""
        depth += (text in ("(", "[")) - (text in (")", "]"))
        if depth == 0:
            return items, index + 1
        if text == "," and depth == 1:
            items.append([])
        else:
            items[-1].append(index)
        index += 1
    return items, index
