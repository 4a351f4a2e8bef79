"""The answer of a recorded statement that is asked again with other values, where that is plain.

A fix often changes what is written: ``update users set plan = $1 where id = $2 returning id, plan`` with "free" where
it was null. Without a database, nobody can run it. But of one statement with one text, what it writes to a column is
what it returns of that column, and all else is as it was. That is so where nothing but the written values differs, each
is written once and as it is, and columns are returned as they are; of other statements nothing is derived. It is an
inference all the same: a trigger or a rule of the database could say otherwise. So it is made for tests that go without
a database (`flux.testing`), told there, and never for a verdict about what happened.
"""

import re
from typing import Any

import attrs

from flux import calls, values
from flux.hostcall import HostCall, HostCallRequest
from flux.sql_columns import name_parameters
from flux.sql_rules import get_first_word

_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,), "varchar": (str,),
    "int2": (int,), "int4": (int,), "int8": (int,), "bool": (bool,), "float8": (float,),
}  # fmt: skip
"""Types of columns whose values look the same as a parameter and in an answer."""
_WHERE = re.compile(r"\bwhere\b", re.IGNORECASE)
_PARAMETER = re.compile(r"\$([0-9]+)")
_CHOOSES = re.compile(r"\b(?:conflict|select|case|from)\b", re.IGNORECASE)
"""Words of a statement whose parameters may decide what is written, and where."""
_RETURNING = re.compile(r"\breturning\b(.*)\Z", re.IGNORECASE | re.DOTALL)
_COLUMN = re.compile(r"\s*(?:\w+\.)?(?:\w+|\*)\s*")


def derive(recorded: HostCall, request: HostCallRequest) -> HostCall | None:
    """Return ``recorded`` as if ``request`` had been asked, or None where its answer can't be known."""
    then, now = calls.read_statement(recorded), calls.read_statement(HostCall(request, None, 0))
    if then is None or now is None or recorded.request.name != request.name or then.sql != now.sql:
        return None
    if recorded.result is None or recorded.result.error is not None:
        return None
    word = get_first_word(then.sql)
    if word not in ("insert", "update") or len(then.arguments) != len(now.arguments):
        return None
    pairs = zip(then.arguments, now.arguments, strict=True)
    changed = {number for number, (before, after) in enumerate(pairs, 1) if before != after}
    names = name_parameters(then.sql)
    if changed and not all(_is_written_as_it_is(then.sql, word, number) for number in changed):
        return None
    chooses = _WHERE.split(then.sql, maxsplit=1)[1:]
    if not changed <= names.keys() or changed & {int(each) for text in chooses for each in _PARAMETER.findall(text)}:
        return None  # Other rows, or a value that goes somewhere else.
    answer = values.decode_json(recorded.result.value)
    if request.name == "db.query":
        written = {names[number]: now.arguments[number - 1] for number in changed}
        if not isinstance(answer, dict) or not _write(answer, written):
            return None
    result = attrs.evolve(recorded.result, value=values.encode_json(answer))
    asked = attrs.evolve(recorded.request, arguments=request.arguments)
    return attrs.evolve(recorded, request=asked, result=result)


def _is_written_as_it_is(sql: str, word: str, number: int) -> bool:
    """Whether a parameter goes to its column, there only, and columns come back as they are."""
    if _CHOOSES.search(sql) or _PARAMETER.findall(sql).count(str(number)) != 1:
        return False
    returned = _RETURNING.search(sql)
    if returned is not None and not all(map(_COLUMN.fullmatch, returned[1].rstrip("; \n").split(","))):
        return False
    # Of an INSERT, `name_parameters` names only what is an item of its own.
    ends = rf"=\s*\${number}\s*(?:,|;|\Z|where\b|returning\b)"
    return word == "insert" or re.search(ends, sql, re.IGNORECASE) is not None


def _write(answer: dict[str, Any], written: dict[str, Any]) -> bool:
    """Put what was written into the rows of an answer; return whether each value has a form there that is known."""
    columns, types, rows = answer.get("columns"), answer.get("types"), answer.get("rows")
    if not (isinstance(columns, list) and isinstance(types, list) and isinstance(rows, list)):
        return False
    for index, (column, kind) in enumerate(zip(columns, types, strict=False)):
        if column not in written:
            continue
        value = written[column]
        if value is not None and type(value) not in _KINDS.get(str(kind), ()):
            return False
        for row in rows:
            row[index] = value
    return True
