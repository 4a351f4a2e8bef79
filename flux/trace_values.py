"""Where two recorded values differ, leaf by leaf.

A call's arguments, its answer and a row are JSON, often with more JSON inside a string. To
say that two of them differ helps nobody, so here they are walked side by side, and each
leaf that is not the same on both sides is one `Difference`, with the path to it and the
name of what holds it: a member, a column, a parameter's column, the segment of a path
before it.

Nothing here decides whether a difference matters; that is `flux.trace_noise`. Only what can
never be noise is said here, for here it is known what it is: a status, a method, a host,
the words of a statement (`Difference.fixed`).

Recorded values are hostile. What can't be read as JSON is compared as text, nesting ends at
`DEPTH_MAX`, and numbers keep their digits.
"""

import base64
import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import attrs
import msgspec

from flux import calls
from flux.hostcall import HostCall, HostCallError, HostCallRequest
from flux.sql_columns import name_parameters
from flux.sql_shape import normalise

DEPTH_MAX = 100
"""What is nested deeper is compared as one value."""
TEXT_CHARACTERS_MAX = 20_000
"""Longer texts are not taken apart into words."""


class Absent(enum.Enum):
    """Stands for a value that one side has not."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


@attrs.frozen
class Difference:
    """One leaf that is not the same on both sides."""

    where: str
    """Path to it: ``arguments.body.cents``, ``result.rows[0].plan``."""
    name: str
    """Of what holds it, as `make_name` writes it; empty when nothing names it."""
    a: object
    """The value of the left side, or `ABSENT`."""
    b: object
    """The value of the right side, or `ABSENT`."""
    fixed: bool = False
    """It is never noise, whatever it looks like."""


_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def make_name(text: str) -> str:
    """Return a name in lower case, ``userId`` as ``user_id``: "paid" ends like an id when humps are gone."""
    return _HUMP.sub("_", text).lower()


_decoder = msgspec.json.Decoder(float_hook=Decimal)


def read(data: bytes) -> object:
    """Return ``data`` as JSON with its tags and all digits; what is no JSON as text, or tagged bytes."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return {"$bytes": base64.b64encode(data).decode()}


def read_row(row: str | None) -> object:
    """Return a row's image; `ABSENT` where there is none."""
    return ABSENT if row is None else read(row.encode("utf-8", "surrogatepass"))


def find_differences(
    a: object, b: object, where: str, name: str = "", *, fixed: bool = False, depth: int = 0
) -> Iterator[Difference]:
    """Yield the leaves in which ``a`` and ``b`` differ."""
    match a, b:
        case dict(), dict() if not (_is_tagged(a) or _is_tagged(b)) and depth < DEPTH_MAX:
            for key in [*a, *(key for key in b if key not in a)]:
                yield from find_differences(
                    a.get(key, ABSENT), b.get(key, ABSENT), f"{where}.{key}", make_name(key), fixed=fixed,
                    depth=depth + 1,
                )  # fmt: skip
        case list(), list() if depth < DEPTH_MAX:
            for index in range(max(len(a), len(b))):
                one, other = (side[index] if index < len(side) else ABSENT for side in (a, b))
                yield from find_differences(
                    one, other, f"{where}[{index}]", name, fixed=fixed, depth=depth + 1
                )
        case str(), str() if a != b and (inner := _read_both(a, b)) is not None and depth < DEPTH_MAX:
            yield from find_differences(*inner, where, name, fixed=fixed, depth=depth + 1)
        case _ if not _is_same(a, b):
            yield Difference(where, name, a, b, fixed)


def _is_tagged(value: Mapping[str, object]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _is_same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False  # Else True would be 1.
    try:
        return a == b
    except RecursionError:
        return False


def _read_both(a: str, b: str) -> tuple[object, object] | None:
    """Both as JSON, when both are objects or lists."""
    if a[:1] not in ("{", "[") or b[:1] not in ("{", "["):
        return None
    read_a, read_b = (read(text.encode("utf-8", "surrogatepass")) for text in (a, b))
    # Text stays text when it can't be read; the same in other white space is no difference.
    return None if isinstance(read_a, str) or isinstance(read_b, str) else (read_a, read_b)


# --- what a call asks and hears --------------------------------------------------------------------


def compare_questions(a: HostCallRequest, b: HostCallRequest) -> Iterator[Difference]:
    """Yield where two calls ask otherwise."""
    if a.name != b.name:
        yield Difference("kind", "", a.name, b.name, fixed=True)
    if a.name == b.name and a.arguments == b.arguments:
        return
    left, right = read(a.arguments), read(b.arguments)
    match a.name, left, right:
        case (("db.query" | "db.execute"), [str(sql), *rest], [str(other_sql), *other_rest]) if (
            a.name == b.name
        ):
            yield from _compare_statements(sql, other_sql, rest, other_rest)
        case "http.request", [method, str(url), dict(options)], [
            other_method,
            str(other_url),
            dict(other),
        ] if a.name == b.name:
            yield from find_differences(method, other_method, "arguments.method", fixed=True)
            yield from compare_urls(url, other_url, "arguments.url")
            yield from find_differences(_by_header(options), _by_header(other), "arguments")
        case _:
            yield from find_differences(left, right, "arguments")


def _compare_statements(
    sql: str, other_sql: str, rest: Sequence[object], other_rest: Sequence[object]
) -> Iterator[Difference]:
    names: Mapping[int, str] = {}
    if normalise(sql) == normalise(other_sql):
        names = name_parameters(sql)
    else:
        yield Difference("arguments.sql", "", sql, other_sql, fixed=True)
    match rest, other_rest:
        case [list(values)], [list(others)]:
            for index in range(max(len(values), len(others))):
                one, other = (side[index] if index < len(side) else ABSENT for side in (values, others))
                yield from find_differences(one, other, f"arguments.args[{index}]", names.get(index + 1, ""))
        case _:
            yield from find_differences(list(rest), list(other_rest), "arguments.args")


def compare_urls(a: str, b: str, where: str) -> Iterator[Difference]:
    """Yield where two URLs differ: the host, a segment of the path, a member of the query."""
    if a == b:
        return
    try:
        left, right = urlsplit(a), urlsplit(b)
    except ValueError:
        yield Difference(where, "", a, b, fixed=True)
        return
    if (left.scheme, left.netloc) != (right.scheme, right.netloc):
        host, other_host = calls.find_host(a), calls.find_host(b)
        if not host or not other_host or host == other_host:
            host, other_host = a, b  # No host, or the same one by another scheme or spelling: shown whole.
        yield Difference(f"{where}.host", "", host, other_host, fixed=True)
    segments, others = left.path.split("/"), right.path.split("/")
    if len(segments) != len(others):
        yield Difference(f"{where}.path", "", left.path, right.path, fixed=True)
    else:
        for index, (one, other) in enumerate(zip(segments, others, strict=True)):
            if one != other:
                # A word of the path is what is asked for; what has a digit may be an id.
                is_word = not (_has_digit(one) and _has_digit(other))
                before = segments[index - 1].lower() if index else ""
                yield Difference(f"{where}.path[{index}]", before, one, other, is_word)
    if left.query != right.query:
        found = list(find_differences(_read_query(left.query), _read_query(right.query), f"{where}.query"))
        # Read alike and written otherwise: the order of members, an escape.
        yield from found or [Difference(f"{where}.query", "", left.query, right.query)]
    if left.fragment != right.fragment:
        yield Difference(f"{where}.fragment", "", left.fragment, right.fragment)


def _has_digit(text: str) -> bool:
    return any(letter.isdigit() for letter in text)


def _read_query(query: str) -> dict[str, object]:
    try:
        return by_name(parse_qsl(query, keep_blank_values=True))
    except ValueError:
        return {"": query}


def by_name(pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    """Return fields by name; one that is repeated has a list, in order."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _by_header(options: Mapping[str, object]) -> dict[str, object]:
    """The document with its header fields by name, when they are a list of pairs."""
    headers = options.get("headers")
    if not isinstance(headers, list):
        return dict(options)
    pairs = [
        (str(pair[0]).lower(), str(pair[1])) for pair in headers if isinstance(pair, list) and len(pair) == 2
    ]
    return {**options, "headers": by_name(pairs)} if len(pairs) == len(headers) else dict(options)


def compare_answers(a: HostCall, b: HostCall) -> Iterator[Difference]:
    """Yield where two calls were answered otherwise."""
    if a.result is None or b.result is None:
        if (a.result is None) != (b.result is None):
            yield Difference("answer", "", _tell_answer(a), _tell_answer(b), fixed=True)
        return
    if a.result.error is not None or b.result.error is not None:
        yield from _compare_errors(a.result.error, b.result.error)
        return
    if a.result.value == b.result.value:
        return
    left, right = read(a.result.value), read(b.result.value)
    match a.request.name, left, right:
        case (("db.query" | "db.execute"), dict(), dict()):
            yield from _compare_rows(left, right)
        case "http.request", dict(), dict():
            yield from find_differences(left.get("status"), right.get("status"), "result.status", fixed=True)
            end, other_end = str(left.get("url")), str(right.get("url"))
            if (end, other_end) != (_url_of(a.request), _url_of(b.request)):
                yield from compare_urls(end, other_end, "result.url")
            told = ("status", "url")
            yield from find_differences(
                _by_header(_without(left, told)), _by_header(_without(right, told)), "result"
            )
        case _:
            yield from find_differences(left, right, "result")


def _tell_answer(call: HostCall) -> str:
    return "none" if call.result is None else "answered"


def _tell_error(error: HostCallError | None) -> str:
    return "none" if error is None else f"{error.name}: {error.message}"


def _compare_errors(a: HostCallError | None, b: HostCallError | None) -> Iterator[Difference]:
    if a is None or b is None:
        yield Difference("error", "", _tell_error(a), _tell_error(b), fixed=True)
        return
    yield from find_differences(a.name, b.name, "error.type", fixed=True)
    yield from find_differences(a.code, b.code, "error.code", fixed=True)
    yield from find_differences(a.message, b.message, "error.message")
    if a.details != b.details:
        details, others = (_without_duration(read(error.details)) for error in (a, b))
        yield from find_differences(details, others, "error.details")


def _without_duration(details: object) -> object:
    """Return an error's details without how long it took to come about, which says as little as all durations."""
    return _without(details, ("elapsed_ms",)) if isinstance(details, dict) else details


def _compare_rows(a: Mapping[str, object], b: Mapping[str, object]) -> Iterator[Difference]:
    columns, others = a.get("columns"), b.get("columns")
    yield from find_differences(columns, others, "result.columns", fixed=True)
    rows, other_rows = a.get("rows"), b.get("rows")
    if columns == others and isinstance(columns, list):
        rows, other_rows = name_columns(columns, rows), name_columns(columns, other_rows)
    yield from find_differences(rows, other_rows, "result.rows")
    told = ("columns", "rows")
    yield from find_differences(_without(a, told), _without(b, told), "result", fixed=True)


def name_columns(columns: Sequence[object], rows: object) -> object:
    """Return rows as objects, when their columns have names that tell them apart."""
    names = [str(column) for column in columns]
    if not isinstance(rows, list) or len(set(names)) != len(names):
        return rows
    if any(not isinstance(row, list) or len(row) != len(names) for row in rows):
        return rows
    # A row whose only column is called "$bytes" is no tag.
    if any(name.startswith("$") for name in names):
        return rows
    return [dict(zip(names, row, strict=True)) for row in rows]


def _without(answer: Mapping[str, object], keys: Sequence[str]) -> dict[str, object]:
    return {key: value for key, value in answer.items() if key not in keys}


def _url_of(request: HostCallRequest) -> str:
    arguments = read(request.arguments)
    return str(arguments[1]) if isinstance(arguments, list) and len(arguments) > 1 else ""


# --- words and leaves ------------------------------------------------------------------------------

WORDS = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
    r"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|\w+(?:-\w+)*|.",
    re.DOTALL,
)
"""Texts are compared word by word; a time is one word."""


def split_words(a: str, b: str) -> list[Difference] | None:
    """Return the words in which two texts differ, each named by the word before it.

    None when the texts are not built alike, or are too long.
    """
    if max(len(a), len(b)) > TEXT_CHARACTERS_MAX:
        return None
    words, others = WORDS.findall(a), WORDS.findall(b)
    if len(words) != len(others):
        return None
    found: list[Difference] = []
    before = ""
    for word, other in zip(words, others, strict=True):
        if word != other:
            found.append(Difference("", before, word, other))
        if word[0].isalpha() or word[0] == "#":
            before = word.lower()
    return found


def list_leaves(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield each leaf with its name: members, elements, JSON in texts, the words of other texts."""
    match value:
        case dict() if _is_tagged(value):
            yield name, next(iter(value.values()))
        case dict() if depth < DEPTH_MAX:
            for key, item in value.items():
                yield from list_leaves(item, make_name(key), depth + 1)
        case list() if depth < DEPTH_MAX:
            for item in value:
                yield from list_leaves(item, name, depth + 1)
        case str():
            yield name, value
            if value[:1] in ("{", "[") and depth < DEPTH_MAX:
                inner = read(value.encode("utf-8", "surrogatepass"))
                if not isinstance(inner, str):
                    yield from list_leaves(inner, name, depth + 1)
            elif len(value) <= TEXT_CHARACTERS_MAX:
                for word in WORDS.findall(value):
                    if len(word) > 1 and word != value:
                        yield name, word
        case _:
            yield name, value
