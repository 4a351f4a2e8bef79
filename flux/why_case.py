"""One failure on the table, and the words in which it is spoken of.

A `Case` is the evidence together with what every rule asks first: how it failed,
and the host call behind it. The functions below it put recorded things into words.
All recorded text is hostile: it is cut to a line and made visible here, before it
becomes part of a sentence, and it becomes part of a command only through
`make_command`, which would rather offer none.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from flux import calls
from flux.evidence import Evidence
from flux.execution import Execution, LimitInForce, Raised
from flux.failure import Failure, find_call, find_failure
from flux.hostcall import HostCall, HostCallError, Position
from flux.mutation import Mutation
from flux.sanitize import sanitize

TEXT_CHARACTERS_MAX = 300
VALUE_CHARACTERS_MAX = 60
COMMAND_WORD_CHARACTERS_MAX = 100
"""Longer words are not offered to be typed."""


@attrs.frozen
class Case:
    """Evidence, how it failed, and the call behind it."""

    evidence: Evidence
    failure: Failure | None
    call: HostCall | None
    """The failure's own call."""

    @classmethod
    def of(cls, evidence: Evidence) -> "Case":
        """Return the case that ``evidence`` makes."""
        failure = find_failure(evidence.execution)
        call = find_call(evidence.execution, failure.call) if failure is not None else None
        return cls(evidence, failure, call)

    @property
    def execution(self) -> Execution:
        """The execution that is to be explained."""
        return self.evidence.execution

    @property
    def error(self) -> HostCallError | None:
        """The error of the failure's own call."""
        return None if self.call is None else calls.find_error(self.call)

    @property
    def kind(self) -> str:
        """The failure's kind; empty when there is none."""
        return "" if self.failure is None else self.failure.kind

    @property
    def raised(self) -> Raised | None:
        """The outcome, when it is an exception."""
        return self.execution.outcome if isinstance(self.execution.outcome, Raised) else None

    @property
    def source(self) -> str:
        """Text of the failing line, when it is on record."""
        frames = self.raised.frames if self.raised is not None else ()
        return next((frame.source for frame in reversed(frames) if frame.user), "")

    def find_limit(self, name: str) -> LimitInForce | None:
        """Return the limit of that name that was in force, when it is on record."""
        return next((limit for limit in self.execution.limits if limit.name == name), None)

    def is_on_stack(self, call: HostCall) -> bool:
        """Return whether the function that made ``call`` is on the exception's stack."""
        position = call.request.position
        if position is None or self.raised is None:
            return False
        return any(
            frame.user and (frame.file, frame.function) == (position.file, position.function)
            for frame in self.raised.frames
        )

    def elsewhere(self, call: HostCall) -> str:
        """Return `` at file:line`` of ``call``, or nothing where the verdict names that line already."""
        position = call.request.position
        if position is None or (self.failure is not None and self.failure.location == position):
            return ""
        return f" at {place(position)}"

    def find_name(self) -> str | None:
        """Return the name that the failing line asked for in vain, or None.

        A KeyError's key is such a name when the line has it in so many words: in ``PRICES[user["plan"]]``
        the key that is missing is a value, and no answer was to have it.
        """
        key = self.find_key()
        return key if key is not None and (not self.source or key in self.source) else None

    def find_key(self) -> str | None:
        """Return the key that a KeyError was about when it is a text, or None."""
        if self.raised is None or self.raised.type != "KeyError":
            return None
        found = _QUOTED.fullmatch(self.raised.message)
        return None if found is None else found[2]


_QUOTED = re.compile(r"(['\"])([^'\"\\]+)\1")


# --- recorded things in words ----------------------------------------------------------------------


def clean(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return recorded text as a part of one line: visible throughout, and cut with an ellipsis."""
    shown = sanitize(text[: characters_max + 1])
    return shown if len(shown) <= characters_max else shown[: characters_max - 1] + "…"


def show(value: object) -> str:
    """Return a recorded value as JSON on one line, cut; what has a tag is shown without it."""
    if isinstance(value, dict) and len(value) == 1:
        ((tag, inner),) = value.items()
        if tag in ("$uuid", "$datetime", "$date", "$time", "$decimal", "$int") and isinstance(inner, str):
            return clean(inner, VALUE_CHARACTERS_MAX)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError, TypeError):
        return "a value that can't be shown"
    return clean(text, VALUE_CHARACTERS_MAX)


def place(position: Position) -> str:
    """``functions/signup.py:16``."""
    return clean(f"{position.file}:{position.line}", 200)


def place_in(file: str, line: int, function: str) -> str:
    """``functions/signup.py:16 in create_user()``."""
    return f"{place(Position(file, line, function))} in {clean(function, 100)}()"


def plural(count: int, noun: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def took(elapsed_ns: int) -> str:
    """``12 ms``, ``10,000 ms``; below 10 ms with a digit more."""
    elapsed_ms = elapsed_ns / 1e6
    return f"{elapsed_ms:.1f} ms" if elapsed_ms < 10 else f"{elapsed_ms:,.0f} ms"


def clock(at_ns: int) -> str:
    """``14:02:10``, in UTC; empty when the moment is unknown or beyond the calendar."""
    if at_ns <= 0:
        return ""
    try:
        return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""


def date_and_clock(at_ns: int, seen_from_ns: int) -> str:
    """``14:02:10 UTC``, with its date when that is not the day of ``seen_from_ns``."""
    time = clock(at_ns)
    if not time:
        return ""
    day_ns = 86_400_000_000_000
    if at_ns // day_ns == seen_from_ns // day_ns:
        return f"{time} UTC"
    return f"{datetime.fromtimestamp(at_ns // 1_000_000_000, UTC):%Y-%m-%d} {time} UTC"


def short_sha(sha: str) -> str:
    """``3f9c1e2``."""
    return clean(sha.removeprefix("nogit-")[:7], 20)


_STATEMENT = re.compile(
    r'(insert)\s+into\s+([\w."]+)|(update)\s+(?:only\s+)?([\w."]+)|(delete)\s+from\s+(?:only\s+)?([\w."]+)'
    r'|(merge)\s+into\s+([\w."]+)|(select)\b[^;]*?\bfrom\s+([\w."]+)',
    re.IGNORECASE,
)


def name_statement(sql: str) -> str:
    """``INSERT users``: the verb and the first table; the first words of a statement of another make."""
    flat = " ".join(sql[:2000].split())
    found = _STATEMENT.match(flat)
    if found is None:
        return clean(flat, 50)
    verb, table = (group for group in found.groups() if group is not None)
    return clean(f"{verb.upper()} {table.replace(chr(34), '')}", 80)


def name_call(call: HostCall) -> str:
    """``call 3 (POST https://api.stripe.com/v1/charges)``."""
    if (request := calls.read_outbound(call)) is not None:
        what = f"{request.method} {request.url_shown}"
    elif (statement := calls.read_statement(call)) is not None:
        what = name_statement(statement.sql)
    elif (function := calls.find_function(call)) is not None:
        what = f"{call.request.name} {function}"
    else:
        what = call.request.name
    return f"call {call.request.seq} ({clean(what, 120)})"


def name_error(error: HostCallError) -> str:
    """``DatabaseError 23505: duplicate key ...``, on one line."""
    code = f" {error.code}" if error.code else ""
    return clean(f"{error.name}{code}: {error.message}")


def name_origin(origin: str) -> str:
    """Say who set a limit: ``is Flux's default`` or ``is set by flux.toml:12``."""
    return "is Flux's default" if origin == "Flux's default" else f"is set by {clean(origin, 80)}"


def read_row(text: str | None) -> Mapping[str, Any]:
    """Return a row or a key as JSON has it; empty when there is none or it can't be read."""
    if text is None:
        return {}
    row = calls.read_json(text.encode("utf-8", "surrogatepass"))
    return row if isinstance(row, dict) else {}


def name_row(table: str, key: str | None) -> str:
    """``users[42]``, or ``line[order=7,item=2]``; the table alone when it has no primary key."""
    row = read_row(key)
    if not row:
        return clean(table, 80)
    parts = [show(value).strip('"') for value in row.values()]
    if len(row) > 1:
        parts = [f"{clean(column, 40)}={part}" for column, part in zip(row, parts, strict=True)]
    return f"{clean(table, 80)}[{','.join(parts)}]"


def list_nulled(mutation: Mutation) -> Iterator[tuple[str, object]]:
    """Return the columns that a change set to null, each with what it was before."""
    before, after = read_row(mutation.before), read_row(mutation.after)
    for column, value in after.items():
        if value is None and before.get(column) is not None:
            yield column, before[column]


def find_input(execution: Execution) -> Mapping[str, Any] | None:
    """Return what the function got as its input, or None when the record does not tell.

    The JSON body over the query over the path's parameters. A body of another kind may hold anything, so
    of such an input nothing is claimed.
    """
    trigger = execution.trigger
    result: dict[str, Any] = {**dict(trigger.params), **dict(trigger.query)}
    if not trigger.body:
        return result
    body = calls.read_json(trigger.body)
    return {**result, **body} if isinstance(body, dict) else None


# --- commands --------------------------------------------------------------------------------------


def make_command(*words: str | None) -> str | None:
    """Return a command to type, or None when it can't be typed as it is shown.

    Each word is quoted for the shell. What a terminal would show otherwise than it is (a control
    character, an invisible one) or what is too long to be read is not offered at all: people paste these.
    """
    for word in words:
        if not word or len(word) > COMMAND_WORD_CHARACTERS_MAX or sanitize(word) != word:
            return None
    return " ".join(shlex.quote(word or "") for word in words)


def history_command(table: str, key: str | None) -> str | None:
    """``flux state history users 42``, or None when the row can't be named on a command line."""
    row = read_row(key)
    texts = [value if isinstance(value, str) else json.dumps(value) for value in row.values()]
    if not row or "." in table or any(mark in text for text in (*texts, *row) for mark in ",="):
        return None
    typed = texts[0] if len(row) == 1 else ",".join(f"{c}={t}" for c, t in zip(row, texts, strict=True))
    # Without "--" a key such as -5 would be read as an option.
    dashes = ["--"] if typed.startswith("-") or table.startswith("-") else []
    return make_command("flux", "state", "history", *dashes, table, typed)
