"""Where an execution had a value from that it wrote, without any I/O.

A bad value is seldom made where it is found: one execution read it in a row and wrote it into another, a job carried
it on. `find_source` takes one step back. It is a rule, and its conclusions are marked as such; so it is narrow, because
an edge that is not there sends people to the wrong place:

- the statement that wrote the value must have had it as a parameter: what the database computed is followed no further;
- before that statement, exactly one thing that the execution had been given must hold that value: a column of a row
  that it read, its input, or an answer from outside. Where two do, the walk ends and says so;
- a value that is everywhere by chance (null, true, 0, a short text) only counts under the name of the column it was
  written to.

Values are compared as JSON: numbers by what they are worth, everything else as it is written.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import attrs
import msgspec

from flux import calls
from flux.execution import Execution, Read
from flux.hostcall import HostCall

CHARACTERS_MIN = 4
NUMBER_MIN = 1000
"""Shorter texts and whole numbers below this are everywhere by chance."""
ROWS_MAX = 10_000

_TEXTS = frozenset({"$uuid", "$datetime", "$date", "$time"})
_NUMBERS = frozenset({"$decimal", "$int", "$float"})


@attrs.frozen
class Cell:
    """A value that was read: a column of one row."""

    call: int
    """Seq of the call that read it."""
    schema: str
    table: str
    key: Mapping[str, object]
    column: str

    @property
    def place(self) -> tuple[object, ...]:
        """Which value it is, however often it was read."""
        return (
            self.schema,
            self.table,
            tuple(sorted((name, str(value)) for name, value in self.key.items())),
            self.column,
        )


@attrs.frozen
class FromRow:
    """It was read."""

    cell: Cell


@attrs.frozen
class FromInput:
    """It came with the request, the payload or the data that it was invoked with."""


@attrs.frozen
class FromAnswer:
    """Another host had answered it."""

    call: int
    host: str


@attrs.frozen
class Unclear:
    """No further."""

    reason: str
    """Half a sentence: ``it had it from two places``."""


Source = FromRow | FromInput | FromAnswer | Unclear


def find_source(execution: Execution, value: object, column: str, call: int) -> Source:
    """Return where ``execution`` had ``value`` from, which it wrote into ``column`` by host call ``call``."""
    wanted = normalise(value)
    by_seq = {each.request.seq: each for each in execution.calls}
    writing = by_seq.get(call)
    if writing is None or not _holds(_leaves(_arguments(writing)), wanted, None):
        return Unclear("the value was no parameter of that statement: the database computed it")
    name = None if is_telling(value) else column
    cells: dict[tuple[object, ...], Cell] = {}
    for read in execution.reads:
        reading = by_seq.get(read.call)
        if read.call >= call or reading is None:
            continue
        for cell, leaf in list_cells(read, reading):
            if (
                normalise(leaf) == wanted
                and (name is None or cell.column == name)
                and not is_own(execution, cell)
            ):
                cells.setdefault(cell.place, cell)
    found: list[Source] = [FromRow(cell) for cell in cells.values()]
    if _holds(_list_input(execution), wanted, name):
        found.append(FromInput())
    for each in execution.calls:
        if (
            each.request.seq < call
            and (request := calls.read_http(each)) is not None
            and request.body is not None
        ):
            body = calls.read_json(request.body.encode()) if isinstance(request.body, str) else request.body
            if _holds(_leaves(request.body if body is None else body), wanted, name):
                found.append(FromAnswer(each.request.seq, request.host))
    if len(found) > 1:
        return Unclear(f"it had that value from {len(found)} places, and which one it took is not on record")
    return (
        found[0] if found else Unclear("it had that value from nowhere that is on record: it made it itself")
    )


def hands_over(execution: Execution, value: object, column: str, call: int) -> bool:
    """Return whether ``execution`` gave ``value`` to whoever its host call ``call`` caused."""
    name = None if is_telling(value) else column
    handing = next((each for each in execution.calls if each.request.seq == call), None)
    return handing is not None and _holds(_leaves(_arguments(handing)), normalise(value), name)


def _holds(pairs: Iterator[tuple[str | None, object]], wanted: str, name: str | None) -> bool:
    is_whole = wanted.startswith("j")  # Objects and lists are only looked at when one is looked for.
    return any(
        isinstance(leaf, dict | list) == is_whole
        and (name is None or key == name)
        and normalise(leaf) == wanted
        for key, leaf in pairs
    )


def list_cells(read: Read, call: HostCall) -> Iterator[tuple[Cell, object]]:
    """Return each value of the rows that a statement returned, with which one it is."""
    statement = calls.read_statement(call)
    for row in (statement.rows or ())[:ROWS_MAX] if statement is not None else ():
        if all(index < len(row) for _, index in (*read.key, *read.columns)):
            key = {name: plain(row[index]) for name, index in read.key}
            for column, index in (*read.key, *read.columns):
                yield Cell(read.call, read.schema, read.table, key, column), row[index]


def is_own(execution: Execution, cell: Cell) -> bool:
    """Return whether the execution had changed that row itself before it read it."""
    return any(
        mutation.call is not None
        and mutation.call < cell.call
        and (mutation.schema, mutation.table) == (cell.schema, cell.table)
        and mutation.key is not None
        and _same_key(mutation.key, cell.key)
        for mutation in execution.mutations
    )


def _same_key(text: str, key: Mapping[str, object]) -> bool:
    logged = calls.read_json(text.encode("utf-8", "surrogatepass"))
    return isinstance(logged, dict) and {name: str(value) for name, value in logged.items()} == {
        name: str(value) for name, value in key.items()
    }


def is_telling(value: object) -> bool:
    """Return whether two places hold this value hardly by chance."""
    value = plain(value)
    if value is None or isinstance(value, bool):
        return False
    number = _read_number(value)
    if number is not None and not isinstance(value, str):
        return abs(number) >= NUMBER_MIN or number != number.to_integral_value()
    if isinstance(value, str):
        return len(value) >= CHARACTERS_MIN
    return bool(value)


def plain(value: object) -> object:
    """Return a value of an answer without its tag, as the log of changes writes it."""
    if isinstance(value, dict) and len(value) == 1:
        ((tag, inner),) = value.items()
        if tag in _TEXTS:
            return inner
        if tag in _NUMBERS:
            return _read_number(inner) if _read_number(inner) is not None else inner
    return value


def normalise(value: object) -> str:
    """Return a text that is the same for values that are the same."""
    value = plain(value)
    if isinstance(value, str):
        return f"s{value}"
    if value is None or isinstance(value, bool):
        return repr(value)
    number = _read_number(value)
    if number is not None:
        return f"n{number.normalize() if number else 0}"
    try:
        return f"j{msgspec.json.encode(value, order='sorted').decode()}"
    except (TypeError, RecursionError):
        return f"?{id(value)}"  # Like nothing else.


def _read_number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _arguments(call: HostCall) -> Any:
    arguments = calls.read_json(call.request.arguments)
    if call.request.name.startswith("db."):
        return arguments[1:] if isinstance(arguments, list) else None
    return arguments


def _list_input(execution: Execution) -> Iterator[tuple[str | None, object]]:
    trigger = execution.trigger
    body = calls.read_json(trigger.body) if trigger.body else None
    yield from _leaves(body)
    for name, text in (*trigger.params, *trigger.query):
        yield name, text
        if (number := _read_number(text)) is not None:
            yield name, number


def _leaves(value: object) -> Iterator[tuple[str | None, object]]:
    """Return each value within a value, with the name that it has there; without recursion, as guests nest deeply."""
    pending: list[tuple[str | None, object]] = [(None, value)]
    while pending:
        name, value = pending.pop()
        value = plain(value)
        yield name, value
        if isinstance(value, Mapping):
            pending += [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(name, item) for item in value]
