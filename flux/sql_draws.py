"""Values that a statement draws in its own text, given again as the record shows them.

``insert into orders (id) values (gen_random_uuid())`` draws another value each time, and code that goes on with it
asks for another thing each time. Where such a call is all that a column gets, or all of a column of a ``select``
that reads no table, the record has what it gave: in the row that was written, or in the answer. So the call is
written out as that value before the statement runs again.

That is done only where nothing is left open: the statement was recorded in the same words, its rows are those of
the record one by one, and the value looks like what the function gives (what is redacted does not). Any other draw
follows from a seed, and its answer is compared with the record as every answer is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from flux.sql_script import tokens

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_TIME = re.compile(r"\d{4,6}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?([+-]\d\d(:\d\d){0,2}|Z)?", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)
_BYTES = re.compile(r"\\x([0-9a-f]{2})*", re.ASCII)

_DRAWN = {
    "gen_random_uuid": ("uuid", _UUID),
    "uuid_generate_v1": ("uuid", _UUID),
    "uuid_generate_v4": ("uuid", _UUID),
    "uuidv4": ("uuid", _UUID),
    "uuidv7": ("uuid", _UUID),
    "random": ("float8", _NUMBER),
    "gen_random_bytes": ("bytea", _BYTES),
    "clock_timestamp": ("timestamptz", _TIME),
    "statement_timestamp": ("timestamptz", _TIME),
}
"""Functions that give another value at each call, the type of it, and how it is written."""
_NO_TABLE_ENDS = frozenset({"from", "where", "union", "intersect", "except", "group", "order", "limit", "offset",
                            "into", "distinct", "all", "window", "having", "fetch", "for"})  # fmt: skip
"""Words after which a ``select`` is more than a list of values."""

FindRows = Callable[[str], Sequence[Mapping[str, object]]]
"""Gives the rows of a table that the recorded call wrote, as they were then, in order."""


@attrs.frozen
class _Token:
    kind: str
    text: str
    begin: int
    end: int

    @property
    def name(self) -> str:
        """What it is as a name; empty when it is none."""
        if self.kind == "word":
            return self.text.lower()
        is_name = self.kind == "quoted" and self.text.startswith('"')
        return self.text[1:-1].replace('""', '"') if is_name else ""


@attrs.frozen
class _Draw:
    """A call that is all of a value."""

    begin: int
    end: int
    function: str
    has_arguments: bool
    place: int | str
    """The column that it goes to, by name, or by its number in the answer."""
    row: int = 0
    name: str | None = None
    """What a column of the answer is to be called, where the call has named it."""


def give_draws(sql: str, find_rows: FindRows, answer: Sequence[object] | None) -> str:
    """Return ``sql`` with what it drew then. ``answer`` is the one row of its recorded answer, if it had one."""
    read = [_Token(kind, sql[begin:end], begin, end) for kind, begin, end in tokens(sql)]
    if not any(token.name in _DRAWN for token in read):
        return sql
    match read[0].name:
        case "select":
            draws = list(_find_selected(read))
            found = [] if answer is None else [(draw, _take(answer, draw.place)) for draw in draws]
        case "insert":
            table, count, draws = _find_inserted(read)
            found = _find_values(draws, find_rows(table), count)
        case "update":
            table, draws = _find_updated(read)
            found = _find_values(draws, find_rows(table), 1)
        case _:
            found = []
    for draw, value in sorted(found, key=lambda each: each[0].begin, reverse=True):
        written = _write(draw, value)
        if written is not None:
            sql = sql[: draw.begin] + written + sql[draw.end :]
    return sql


def _find_values(
    draws: Sequence[_Draw], rows: Sequence[Mapping[str, object]], count: int
) -> list[tuple[_Draw, object]]:
    if len(rows) != count:
        return []  # One met a conflict, or a trigger wrote more: which value is whose is not known.
    return [(draw, rows[draw.row].get(str(draw.place))) for draw in draws]


def _take(answer: Sequence[object], place: int | str) -> object:
    return answer[place] if isinstance(place, int) and place < len(answer) else None


def _write(draw: _Draw, value: object) -> str | None:
    """Return a value in SQL; None where it is none that the function gives."""
    kind, form = _DRAWN[draw.function]
    if isinstance(value, bool):
        return None
    text = value if isinstance(value, str) else repr(value) if isinstance(value, int | float) else ""
    if form.fullmatch(text) is None:
        return None
    if isinstance(draw.place, str):
        return f"'{text}'"  # Of no type, as a parameter is: it becomes that of its column.
    if draw.has_arguments and kind != "bytea":
        return None  # Of which type it is depends on them.
    name = "" if draw.name is None else f' as "{draw.name}"'
    return f"'{text}'::pg_catalog.{kind}{name}"


def _find_selected(read: Sequence[_Token]) -> Iterator[_Draw]:
    """Give the calls that are a column of a ``select`` without a table."""
    end = len(read) - (read[-1].text == ";")
    if any(token.kind == "word" and token.name in _NO_TABLE_ENDS for token in read):
        return
    for number, (first, last) in enumerate(_split(read, 1, end)):
        call = _read_call(read, first, last)
        if call is None:
            continue
        function, after = call
        is_named = after < last
        if is_named and not (read[after].name and after + 1 + (read[after].name == "as") == last):
            continue
        has_arguments = read[after - 2].text != "("
        name = None if is_named else function
        yield _Draw(read[first].begin, read[after - 1].end, function, has_arguments, number, name=name)


def _find_inserted(read: Sequence[_Token]) -> tuple[str, int, list[_Draw]]:
    """Return the table that an ``insert ... values`` writes to, how many rows, and the calls that are values."""
    table, place = _read_table(read, 2)
    columns_end = _find_end(read, place)
    names = [read[first].name for first, last in _split(read, place + 1, columns_end) if last == first + 1]
    place = columns_end + 1
    if not (place < len(read) and read[place].name == "values"):
        return table, 0, []
    draws: list[_Draw] = []
    row = 0
    place += 1
    while place < len(read) and read[place].text == "(":
        end = _find_end(read, place)
        values = list(_split(read, place + 1, end))
        if len(values) == len(names):
            for name, (first, last) in zip(names, values, strict=True):
                call = _read_call(read, first, last)
                if call is not None and (call[1] == last or read[call[1]].text == ":"):
                    draws.append(_Draw(read[first].begin, read[last - 1].end, call[0], False, name, row))
        row += 1
        place = end + 1
        if place < len(read) and read[place].text == ",":
            place += 1
    return table, row, draws


def _find_updated(read: Sequence[_Token]) -> tuple[str, list[_Draw]]:
    """Return the table that an ``update`` changes, and the calls that are all of a column's value."""
    table, place = _read_table(read, 1 + (len(read) > 1 and read[1].name == "only"))
    starts = [number for number in range(place, len(read)) if read[number].name == "set"]
    if not starts:
        return table, []
    depth, end = 0, starts[0] + 1
    while end < len(read):
        depth += (read[end].text in "([") - (read[end].text in ")]")
        if not depth and read[end].kind == "word" and read[end].name in ("where", "from", "returning"):
            break
        end += 1
    draws = []
    for first, last in _split(read, starts[0] + 1, end):
        if last - first > 2 and read[first].name and read[first + 1].text == "=":
            call = _read_call(read, first + 2, last)
            if call is not None and call[1] == last:
                draws.append(
                    _Draw(read[first + 2].begin, read[last - 1].end, call[0], False, read[first].name)
                )
    return table, draws


def _read_table(read: Sequence[_Token], place: int) -> tuple[str, int]:
    """Return the name of the table that begins at ``place``, without its schema, and what comes behind."""
    if place >= len(read):
        return "", place
    if place + 2 < len(read) and read[place + 1].text == ".":
        place += 2
    name = read[place].name
    place += 1
    while place < len(read) and read[place].text != "(" and read[place].name not in ("set", "values"):
        place += 1  # An alias.
    return name, place


def _read_call(read: Sequence[_Token], first: int, last: int) -> tuple[str, int] | None:
    """Return the drawing function that ``read[first:last]`` begins with a call of, and what comes behind the call."""
    if first + 2 < last and read[first].name and read[first + 1].text == ".":
        first += 2
    if first + 2 < last and read[first].name in _DRAWN and read[first + 1].text == "(":
        end = _find_end(read, first + 1)
        if end < last:
            return read[first].name, end + 1
    return None


def _find_end(read: Sequence[_Token], place: int) -> int:
    """Return where the parenthesis at ``place`` is closed; the end where it is none, or is not closed."""
    depth = 0
    for number in range(place, len(read)):
        depth += (read[number].text in "([") - (read[number].text in ")]")
        if not depth:
            return number if number > place else len(read)
    return len(read)


def _split(read: Sequence[_Token], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Give the parts of ``read[first:last]`` between the commas that are in no parenthesis."""
    depth, begin = 0, first
    for number in range(first, min(last, len(read))):
        depth += (read[number].text in "([") - (read[number].text in ")]")
        if not depth and read[number].text == ",":
            yield begin, number
            begin = number + 1
    if begin < last:
        yield begin, min(last, len(read))
