"""Which differences between two executions say nothing about their code.

Two runs of the same code differ all the same: in their clocks, in ids that a sequence or
randomness gave, in their own names. A diff that shows these hides what matters among them,
and one that leaves out too much hides it altogether. So a difference is noise only for a
reason that has a name here (`Noise`), it is counted, and it can be shown.

*Learned*: where an execution was run again on its own code, whatever differed there differs
by itself. *By rule* otherwise, and a rule asks for more than a likeness:

- a time stands as far from the start of its execution as the other does from its own;
- an id or a random token was *made* by both executions. One that came in with the request or was read
  from a row says which user or order was meant, and another one there is another user;
- what stands for one id stands for it everywhere: 42 for 57 here and 42 for 58 there is not noise;
- a whole number is an id only if a row was inserted under it, and only in a place that is named like an id. An
  amount is a number too.

Status, kind of error, method, host, the words of a statement are `fixed` and never noise.
"""

import datetime
import enum
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from decimal import Decimal
from email.utils import parsedate_to_datetime

import attrs

from flux import calls, ids, values
from flux.execution import Execution, Returned
from flux.hostcall import HostCall, HostCallRequest
from flux.matching_session import READING_WORDS
from flux.mutation import Operation
from flux.sql_rules import get_first_word
from flux.trace_values import (
    ABSENT,
    DEPTH_MAX,
    TEXT_CHARACTERS_MAX,
    WORDS,
    Difference,
    list_leaves,
    make_name,
    name_columns,
    read,
    split_words,
)

NS = 1_000_000_000
DAY_NS = 86_400 * NS
NEAR_NS = NS
"""How far outside of its execution a time may lie that was taken within it: clocks of two machines differ."""
DRIFT_NS_MAX = 5 * NS
"""Times far from the start are alike if their distances from it differ by no more than the executions took,
and by no more than this."""
TOKEN_CHARACTERS_MIN = 16
TOKEN_CHARACTERS_MAX = 1000


class Noise(enum.StrEnum):
    """Why a difference is left out."""

    ID = "ids"
    """Numbers of sequences, UUIDs, and the executions' own names."""
    TIME = "times"
    TOKEN = "tokens"
    """Random text that both made, or that another service made for them."""
    REDACTED = "redacted"
    """What stands for a hidden value, which is another in each execution: the values can't be compared."""
    RUN_TO_RUN = "run_to_run"
    """It differed when the execution was replayed on its own code."""
    TRANSPORT = "transport"
    """Fields of a message that say how it travelled."""


@attrs.frozen
class Value:
    """One value of each side that stand for each other."""

    noise: Noise
    a: str
    b: str


Place = tuple[str, str]
"""What the difference is in, by the left side's number (``call 3``), and where in that."""

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_HEX = re.compile(r"(?=.*[0-9])(?=.*[a-f])[0-9a-f]+", re.IGNORECASE)
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_MIXED = re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_+/=-]+")
_PREFIX = re.compile(r"(?:[a-z]{1,8}_)*")
"""``ch_``, ``sk_test_``: services say with it what the token is for."""
_REDACTED = re.compile(r"[0-9a-f]{12}|unexamined")
_DIGITS = re.compile(r"[0-9]{1,19}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_GENERATES = re.compile(
    r"(?i)\b(?:nextval|gen_random_uuid|gen_random_bytes|uuid_generate_\w+|uuidv[47]|random)\s*\("
)
_EPOCH_UNITS = ((10**9, 10**10, NS), (10**12, 10**13, 10**6), (10**15, 10**16, 10**3), (10**18, 10**19, 1))
"""From, below, and nanoseconds a unit: seconds, milliseconds, microseconds and nanoseconds of our time."""
TRANSPORT = frozenset(
    {
        "accept", "accept-encoding", "accept-language", "connection", "content-length", "forwarded", "host",
        "keep-alive", "traceparent", "tracestate", "transfer-encoding", "user-agent", "via", "x-forwarded-for",
        "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip", "x-request-id",
    }
)  # fmt: skip
"""Fields of the request that began an execution which its client's software and the way to us chose."""
_OF_ANSWERS = frozenset(
    {"age", "connection", "content-length", "etag", "keep-alive", "server-timing", "x-request-id"}
)
"""Fields of an answer that follow from its body or its way; the body is compared itself."""


@attrs.frozen
class Side:
    """What is known of one execution's clock and ids."""

    started_ns: int
    """The guest's clock at its start, nanoseconds since the Unix epoch."""
    ended_ns: int
    own: frozenset[str]
    """What the execution itself is called."""
    came_in: frozenset[str]
    """Values that were in its request, or in a row that it read, before it had them itself."""
    inserted: frozenset[str]
    """Whole numbers under which it inserted rows."""
    id_names: frozenset[str]
    """Columns and tables that such a number may be called after."""
    leaves: frozenset[str]
    """All its values."""

    @classmethod
    def of(cls, execution: Execution) -> "Side":
        """Read what ``execution`` shows."""
        started_ns = execution.started_at_ns
        if execution.replay_of is not None:
            # A replay lives in the time of what it replays, whenever it is run.
            started_ns = ids.get_unix_ms(execution.replay_of) * 1_000_000
        given: dict[str, bool] = {}
        given_ids: dict[str, bool] = {}
        for is_given, name, leaf in _find_leaves(execution):
            given.setdefault(leaf, is_given)
            if is_id_name(name):
                given_ids.setdefault(leaf, is_given)
        inserted, names = _find_inserted(execution)
        return cls(
            started_ns,
            started_ns + max(0, execution.elapsed_ns),
            frozenset({str(execution.id), execution.id.hex, execution.name}),
            frozenset(leaf for leaf, is_given in given.items() if is_given),
            frozenset(number for number in inserted if not given_ids.get(number)),
            names,
            frozenset(given),
        )

    def is_near(self, at_ns: int) -> bool:
        """Whether a time lies within the execution, as far as clocks can be trusted."""
        return self.started_ns - NEAR_NS <= at_ns <= self.ended_ns + NEAR_NS


class NoiseFilter:
    """Tells noise from differences, for one pair of executions.

    It remembers which value stands for which, so ask in the order in which things happened, and once.
    """

    def __init__(self, a: Execution, b: Execution, learned: AbstractSet[Place] = frozenset()) -> None:
        self._a = Side.of(a)
        self._b = Side.of(b)
        self._learned = learned
        self._names = self._a.id_names | self._b.id_names
        self._renamed: dict[str, str] = {}
        self._renamed_back: dict[str, str] = {}

    def find_noise(self, difference: Difference, scope: str = "") -> tuple[Value, ...]:
        """Return the values that stand for each other in ``difference`` if it says nothing; else none.

        ``scope`` is what it is in.
        """
        a, b = difference.a, difference.b
        if difference.fixed or a is ABSENT or b is ABSENT:
            return ()
        found = self._find_of_leaf(difference)
        if found is not None:
            return (found,)
        if isinstance(a, str) and isinstance(b, str):
            words = [self._find_of_leaf(word) for word in split_words(a, b) or ()]
            known = tuple(word for word in words if word is not None)
            if known and len(known) == len(words):
                return known
        if (scope, difference.where) in self._learned and _is_of_one_form(a, b):
            return (Value(Noise.RUN_TO_RUN, _tell(a), _tell(b)),)
        return ()

    def _find_of_leaf(self, difference: Difference) -> Value | None:
        noise = self._name_noise(difference)
        return None if noise is None else Value(noise, _tell(difference.a), _tell(difference.b))

    def _name_noise(self, difference: Difference) -> Noise | None:
        a, b = _untag(difference.a), _untag(difference.b)
        if isinstance(a, bool) or isinstance(b, bool):
            return None
        if self._are_times(a, b):
            return Noise.TIME
        if isinstance(a, str) and isinstance(b, str):
            return self._find_of_text(difference, a, b)
        if isinstance(a, int) and isinstance(b, int):
            return self._find_of_number(difference, str(a), str(b))
        return None

    def _find_of_text(self, difference: Difference, a: str, b: str) -> Noise | None:
        if a in self._a.own and b in self._b.own:
            return Noise.ID
        if difference.name == "redacted" and _REDACTED.fullmatch(a) and _REDACTED.fullmatch(b):
            return Noise.REDACTED
        if _DIGITS.fullmatch(a) and _DIGITS.fullmatch(b):
            return self._find_of_number(difference, a, b)
        if a in self._a.came_in or b in self._b.came_in:
            return None
        if _UUID.fullmatch(a) and _UUID.fullmatch(b):
            return Noise.ID if self._rename(a, b) else None
        if _are_tokens(a, b):
            return Noise.TOKEN if self._rename(a, b) else None
        return None

    def _find_of_number(self, difference: Difference, a: str, b: str) -> Noise | None:
        if a not in self._a.inserted or b not in self._b.inserted:
            return None
        name = difference.name
        is_named = is_id_name(name) or name in self._names or name == "#" or ".path[" in difference.where
        return Noise.ID if is_named and self._rename(a, b) else None

    def _rename(self, a: str, b: str) -> bool:
        """Whether ``b`` stands for ``a`` here as everywhere."""
        return self._renamed.setdefault(a, b) == b and self._renamed_back.setdefault(b, a) == a

    def _are_times(self, a: object, b: object) -> bool:
        read_a, read_b = _read_time(a), _read_time(b)
        if read_a is None or read_b is None or read_a[1] != read_b[1]:
            return False
        left, right = self._a, self._b
        if read_a[1] == "date":
            return (
                read_a[0] // DAY_NS - left.started_ns // DAY_NS
                == read_b[0] // DAY_NS - right.started_ns // DAY_NS
            )
        if left.is_near(read_a[0]) and right.is_near(read_b[0]):
            return True
        if read_a[1] == "number":
            return False  # A number that is far from now may be anything.
        drift_ns = (read_a[0] - left.started_ns) - (read_b[0] - right.started_ns)
        took_ns = max(left.ended_ns - left.started_ns, right.ended_ns - right.started_ns)
        return abs(drift_ns) <= min(took_ns, DRIFT_NS_MAX)

    def hide_own(self, request: HostCallRequest, *, is_left: bool) -> HostCallRequest:
        """Return the question with placeholders for the side's own ids and times, so that it finds its counterpart.

        What both sides have stays: there it tells one question from another.
        """
        arguments = read(request.arguments)
        match arguments:
            case [str(sql), *rest] if request.name.startswith("db."):
                hidden: object = [sql, *(self._hide(item, is_left) for item in rest)]
            case _:
                hidden = self._hide(arguments, is_left)
        return attrs.evolve(request, arguments=_encode(hidden))

    def hide_in(self, value: object, *, is_left: bool) -> bytes:
        """Return a value with the same placeholders, in canonical form."""
        return _encode(self._hide(value, is_left))

    def _hide(self, value: object, is_left: bool, depth: int = 0) -> object:
        match value:
            case str():
                whole = self._hide_text(value, is_left)
                if whole != value or len(value) > TEXT_CHARACTERS_MAX:
                    return whole
                return WORDS.sub(lambda word: self._hide_text(word[0], is_left), value)
            case bool() | None:
                return value
            case int() | Decimal():
                return self._hide_text(str(value), is_left)
            case dict() if depth < DEPTH_MAX:
                return {key: self._hide(item, is_left, depth + 1) for key, item in value.items()}
            case list() if depth < DEPTH_MAX:
                return [self._hide(item, is_left, depth + 1) for item in value]
        return str(value)

    def _hide_text(self, text: str, is_left: bool) -> str:
        side, other = (self._a, self._b) if is_left else (self._b, self._a)
        if text in side.inserted:  # A number occurs on the other side by chance, in a time or a count.
            return text if text in other.inserted else "<id>"
        if text in other.leaves:
            return text
        time = _read_time(text)
        if time is not None and time[1] != "date" and side.is_near(time[0]):
            return "<time>"
        is_made = text not in side.came_in and (_UUID.fullmatch(text) or _is_token(text))
        return "<id>" if is_made or text in side.own else text


def _encode(value: object) -> bytes:
    try:
        return values.encode_json_canonical(value)
    except UnicodeEncodeError:  # Half a character is in no encoding of Unicode.
        return repr(value).encode("utf-8", "backslashreplace")


def is_transport(difference: Difference, *, of_input: bool) -> bool:
    """Whether the difference is in a field that says how a message travelled."""
    before, section, field = difference.where.rpartition("headers.")
    return bool(section) and before in ("", "result.") and field in (TRANSPORT if of_input else _OF_ANSWERS)


def is_id_name(name: str) -> bool:
    """Whether something of this name holds an id."""
    return name in ("id", "ids", "uuid", "guid", "pk") or name.endswith(("_id", "_ids", "_uuid"))


# --- forms -----------------------------------------------------------------------------------------


def _tell(value: object) -> str:
    inner = _untag(value)
    return inner if isinstance(inner, str) else str(inner)


def _untag(value: object) -> object:
    """The text in a tagged value that has one: ``{"$uuid": "..."}``."""
    match value:
        case (
            {"$uuid": str(inner), **rest} | {"$datetime": str(inner), **rest} | {"$date": str(inner), **rest}
        ) if not rest:
            return inner
    return value


def _split_prefix(text: str) -> tuple[str, str]:
    found = _PREFIX.match(text)
    assert found is not None  # It matches nothing, too.
    return found[0], text[found.end() :]


def _find_form(text: str) -> str | None:
    """Return what kind of random text this looks like, or None."""
    if not TOKEN_CHARACTERS_MIN <= len(text) <= TOKEN_CHARACTERS_MAX:
        return None
    forms = (("ulid", _ULID), ("hex", _HEX), ("mixed", _MIXED))
    return next((form for form, pattern in forms if pattern.fullmatch(text)), None)


def _is_token(text: str) -> bool:
    return _find_form(text) is not None or _find_form(_split_prefix(text)[1]) is not None


def _are_tokens(a: str, b: str) -> bool:
    """Whether two texts are random in the same way."""
    (prefix, rest), (other_prefix, other_rest) = _split_prefix(a), _split_prefix(b)
    if prefix and prefix == other_prefix:
        # Services' ids vary in length a little.
        return _find_form(rest) is not None and _find_form(rest) == _find_form(other_rest)
    if prefix and other_prefix:
        return False  # A charge is no refund.
    # A random text may begin like a prefix by chance.
    return len(a) == len(b) and _find_form(a) is not None and _find_form(a) == _find_form(b)


def _is_of_one_form(a: object, b: object) -> bool:
    """Whether two values that differ from run to run are of one kind. Numbers are not: an amount is one."""
    left, right = _untag(a), _untag(b)
    if not isinstance(left, str) or not isinstance(right, str):
        return False
    return len(left) == len(right) or _are_tokens(left, right)


def _read_time(value: object) -> tuple[int, str] | None:
    """Return the nanoseconds since the epoch that a value may mean, and how it is written; or None."""
    match value:
        case bool():
            return None
        case int() | Decimal():
            return _read_epoch(Decimal(value))
        case str() if 10 <= len(value) <= 40:
            return _read_time_text(value)
    return None


def _read_epoch(number: Decimal) -> tuple[int, str] | None:
    if not number.is_finite():
        return None
    for low, high, unit_ns in _EPOCH_UNITS:
        if low <= number < high:
            return int(number * unit_ns), "number"
    return None


def _read_time_text(text: str) -> tuple[int, str] | None:
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return _read_epoch(Decimal(text))
    try:
        if _DATE.fullmatch(text):
            day = datetime.date.fromisoformat(text)
            return (day.toordinal() - EPOCH_ORDINAL) * DAY_NS, "date"
        moment = parsedate_to_datetime(text) if text[:1].isalpha() else datetime.datetime.fromisoformat(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        elapsed = moment - _EPOCH
    except OverflowError:
        return None
    return (elapsed.days * 86_400 + elapsed.seconds) * NS + elapsed.microseconds * 1000, "moment"


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
EPOCH_ORDINAL = _EPOCH.toordinal()


# --- where values come from ------------------------------------------------------------------------


def _find_leaves(execution: Execution) -> Iterator[tuple[bool, str, str]]:
    """Yield each value in the order in which the execution had it: whether it was given it, its name, the value."""
    trigger = execution.trigger
    given: list[object] = [trigger.path, dict(trigger.headers), read(trigger.body)]
    given += [{name: value} for name, value in trigger.query]
    # What stands in a path says which thing is meant, whatever its name.
    given += [{"id": value} for _, value in trigger.params]
    for value in given:
        yield from _list_texts(value, is_given=True)
    events: list[tuple[int, int, int, object, bool]] = []
    for index, call in enumerate(execution.calls):
        events.append((call.started_ns, 0, index, read(call.request.arguments), False))
        if call.result is not None and call.result.error is None:
            ended_ns = call.started_ns + call.result.elapsed_ns
            events.append((ended_ns, 1, index, _read_answer(call), _only_reads(call)))
    for *_, value, is_given in sorted(events, key=lambda event: event[:3]):
        yield from _list_texts(value, is_given=is_given)
    for log in execution.logs:
        yield from _list_texts([log.message, read(log.fields)], is_given=False)
    for mutation in execution.mutations:
        for row in (mutation.before, mutation.after):
            if row is not None:
                yield from _list_texts(read(row.encode("utf-8", "surrogatepass")), is_given=False)
    if isinstance(execution.outcome, Returned):
        yield from _list_texts(read(execution.outcome.body), is_given=False)


def _list_texts(value: object, *, is_given: bool) -> Iterator[tuple[bool, str, str]]:
    for name, leaf in list_leaves(value):
        if isinstance(leaf, str | int | Decimal) and not isinstance(leaf, bool):
            yield is_given, name, str(leaf)


def _read_answer(call: HostCall) -> object:
    """The answer; rows by their columns' names."""
    assert call.result is not None
    answer = read(call.result.value)
    match answer:
        case {"columns": list(columns), "rows": rows} if call.request.name == "db.query":
            return name_columns(columns, rows)
    return answer


def _only_reads(call: HostCall) -> bool:
    """Whether the answer holds what was there before: a row, a secret."""
    statement = calls.read_statement(call)
    if statement is None:
        return call.request.name.startswith("secret.")
    return get_first_word(statement.sql) in READING_WORDS and not _GENERATES.search(statement.sql)


def _find_inserted(execution: Execution) -> tuple[frozenset[str], frozenset[str]]:
    """Return the whole numbers under which rows were inserted, and what such numbers may be called.

    A key of several columns is left out: it is made of other rows' ids.
    """
    numbers: set[str] = set()
    names: set[str] = set()
    for mutation in execution.mutations:
        if mutation.op is Operation.INSERT and mutation.key is not None:
            key = read(mutation.key.encode("utf-8", "surrogatepass"))
            if isinstance(key, dict) and len(key) == 1:
                ((column, value),) = key.items()
                if type(value) is int:
                    numbers.add(str(value))
                    names |= {make_name(column), *_name_row(mutation.table)}
    for call in execution.calls:
        statement = calls.read_statement(call)
        if statement is None or call.result is None or call.result.error is not None or _only_reads(call):
            continue
        table, one = _name_row(_name_table(statement.sql))
        rows = _read_answer(call)
        for row in rows if isinstance(rows, list) else ():
            for column, value in row.items() if isinstance(row, dict) else ():
                if type(value) is int and make_name(column) in ("id", f"{one}_id"):
                    numbers.add(str(value))
                    names |= {table, one}
    return frozenset(numbers), frozenset(names - {""})


_INTO = re.compile(r"(?i)\binsert\s+into\s+(?:[\w\"]+\.)?\"?(\w+)")


def _name_table(sql: str) -> str:
    """Return the table that a statement inserts into; empty when it can't be told."""
    found = _INTO.search(sql[:2000])
    return found[1] if found else ""


def _name_row(table: str) -> tuple[str, ...]:
    """The table's name and how one of its rows is called: ``orders``, ``order``."""
    name = make_name(table)
    one = name[:-3] + "y" if name.endswith("ies") else name.removesuffix("s")
    return name, one
