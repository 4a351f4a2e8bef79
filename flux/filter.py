"""The one filter grammar: which executions are meant.

The command line, the console and ``deploy --guard`` take the same text::

    status:>=500 route:/signup since:1h
    function:create_* -trigger:cron error:"connection refused"

Terms stand side by side and all must hold; a leading ``-`` turns one round. A
value with spaces stands in double quotes. `parse` turns the text into a frozen
`Filter`, or raises an error that names the character and what is allowed
there: a typo must never become "no executions match". `matches` asks about one
summary; the store makes SQL from the same terms, so both must mean the same,
and `Term` says exactly what each operator means.

Nothing here reads a clock: ``now`` is given, and its time zone is the one in
which ``14:00`` is understood. ``str(filter)`` is the canonical text, with
absolute times, so that it means the same on another machine a minute later.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal

import attrs

from flux import wildcards
from flux.errors import OperatorError

FILTER_CHARACTERS_MAX = 4096
"""Longer filters are refused: they come from mistakes, or from somebody who wants the server to work."""

KEYS = (
    "status", "route", "function", "since", "until", "error", "sha", "deploy", "trigger", "outcome", "name",
)  # fmt: skip
TRIGGERS = ("http", "queue", "cron", "invoke", "replay")
OUTCOMES = ("returned", "raised", "killed", "exited", "interrupted")

Key = Literal[
    "status", "route", "function", "since", "until", "error", "sha", "deploy", "trigger", "outcome", "name"
]  # fmt: skip
Operator = Literal["=", ">=", ">", "<=", "<", "class", "prefix", "contains", "like"]


class FilterError(OperatorError):
    """The filter says something that has no meaning here."""

    code = "FLX105"


class MomentError(OperatorError):
    """The text is not a time."""

    code = "FLX110"


@attrs.frozen
class Term:
    """One condition on one execution."""

    key: Key
    """Which field of the summary is meant; ``since`` and ``until`` mean ``started_at``, ``route`` means
    ``method`` and ``path``, ``deploy`` means ``deployment``."""

    operator: Operator
    """How ``value`` relates to the field. ``class`` is the first digit of a status (``5xx``); ``prefix`` and
    ``like`` mind the case, ``contains`` does not; ``like`` means that `pattern` matches the whole field."""

    value: str | int | datetime
    """An integer for ``status``, an aware datetime for ``since`` and ``until``, else text."""

    method: str | None = None
    """For ``route`` alone: the HTTP method in capitals, or None for any."""

    negated: bool = False
    """True when the term must *not* hold. A field that is null never holds, so its negation does."""

    @property
    def pattern(self) -> str:
        """For ``like``: an anchored regular expression, as Postgres (``~``) and Python read it alike."""
        return wildcards.make_regex(str(self.value), has_segments=self.key == "route")

    def __str__(self) -> str:
        match self.value:
            case datetime():
                text = self.value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            case int() if self.operator == "class":
                text = f"{self.value}xx"
            case int():
                text = ("" if self.operator == "=" else self.operator) + str(self.value)
            case str():
                text = _quoted(f"{self.method} {self.value}" if self.method else self.value)
        return f"{'-' if self.negated else ''}{self.key}:{text}"


@attrs.frozen
class Filter:
    """Terms that must all hold; without terms, every execution matches."""

    terms: tuple[Term, ...] = ()
    """In the order in which they were written."""

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))


def parse(text: str, now: datetime) -> Filter:
    """The filter that the text means; ``now`` is aware and its zone is the reader's."""
    if len(text) > FILTER_CHARACTERS_MAX:
        raise FilterError(
            f"the filter has {len(text):,} characters; {FILTER_CHARACTERS_MAX:,} are allowed",
            remedy="leave out terms, or filter the output of --json",
        )
    terms: list[Term] = []
    position = 0
    while (position := _skip_spaces(text, position)) < len(text):
        term, position = _term(text, position, now)
        terms.append(term)
    return Filter(tuple(terms))


def matches(filter_: Filter, summary: Mapping[str, Any]) -> bool:
    """Whether the execution with this summary is meant. A summary without a field it needs is a KeyError."""
    return all(_holds(term, summary) is not term.negated for term in filter_.terms)


def parse_moment(text: str, now: datetime) -> datetime:
    """The time that the text means: ``15m`` ago, ``14:00`` (the last one), a date, or RFC 3339.

    The result has ``now``'s time zone unless the text brings its own.
    """
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    moment = _ago(text, now) or _clock(text, now) or _calendar(text, now)
    if moment is None:
        raise MomentError(
            f'"{text}" is not a time',
            remedy="write 30s, 15m, 1h or 2d (ago), 14:00, 2026-11-24, or 2026-11-24T14:00:00Z",
        )
    return moment


# --- reading ---------------------------------------------------------------------------------------


def _term(text: str, start: int, now: datetime) -> tuple[Term, int]:
    negated = text[start] == "-"
    key_start = start + negated
    word = re.compile(r"[^\s:\"]*").match(text, key_start)
    assert word is not None  # The pattern matches the empty string too.
    key, end = word.group(), word.end()
    if not key or end >= len(text) or text[end] != ":":
        raise _error(
            text, key_start, f'"{key}" has no key before it' if key else "a key is missing",
            f"write KEY:VALUE, where KEY is one of {', '.join(KEYS)}",
        )  # fmt: skip
    if key not in KEYS:
        near = get_close_matches(key, KEYS, n=1)
        raise _error(
            text, key_start, f'"{key}" is not a key',
            (f"did you mean {near[0]}? " if near else "") + f"allowed are {', '.join(KEYS)}",
        )  # fmt: skip
    value_start = end + 1
    value, after = _value(text, value_start)
    if not value:
        raise _error(text, value_start, f"{key}: has no value", _allowed(key))
    return _typed_term(text, value_start, key, value, negated, now), after


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that begins here, unquoted, and where the text goes on."""
    if not text.startswith('"', start):
        bare = re.compile(r"[^\s\"]*").match(text, start)
        assert bare is not None
        if text.startswith('"', bare.end()):
            raise _error(
                text, bare.end(), "a quote in the middle of a value", 'quote the whole value: key:"a b"'
            )
        return bare.group(), bare.end()
    quoted = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL).match(text, start)
    if quoted is None:
        raise _error(text, start, "this quote is never closed", 'close it with "')
    if quoted.end() < len(text) and not text[quoted.end()].isspace():
        raise _error(text, quoted.end(), "text right after a closing quote", "put a space between terms")
    return re.sub(r"\\(.)", r"\1", quoted.group(1), flags=re.DOTALL), quoted.end()


def _typed_term(text: str, at: int, key: str, value: str, negated: bool, now: datetime) -> Term:
    match key:
        case "status":
            if found := re.fullmatch(r"([1-5])xx", value):
                return Term("status", "class", int(found[1]), negated=negated)
            if found := re.fullmatch(r"(>=|<=|>|<|=)?([1-5][0-9][0-9])", value):
                operator: Any = found[1] or "="
                return Term("status", operator, int(found[2]), negated=negated)
        case "since" | "until":
            try:
                moment = parse_moment(value, now)
            except MomentError as error:
                raise _error(text, at, f'"{value}" is not a time', error.remedy) from None
            return Term("since", ">=", moment, negated=negated) if key == "since" else Term(
                "until", "<", moment, negated=negated
            )  # fmt: skip
        case "route":
            if found := re.fullmatch(r"(?:([A-Za-z]+) +)?([/*].*)", value, re.DOTALL):
                method = found[1].upper() if found[1] else None
                return Term("route", "like", found[2], method=method, negated=negated)
        case "function":
            return Term("function", "like", value, negated=negated)
        case "error":
            return Term("error", "contains", value, negated=negated)
        case "sha":
            if re.fullmatch(r"(nogit-)?[0-9a-f]{1,64}", value.lower()):
                return Term("sha", "prefix", value.lower(), negated=negated)
        case "deploy":
            if re.fullmatch(r"[0-9a-f]{1,64}", value.lower()):
                return Term("deploy", "prefix", value.lower(), negated=negated)
        case "trigger" if value in TRIGGERS:
            return Term("trigger", "=", value, negated=negated)
        case "outcome" if value in OUTCOMES:
            return Term("outcome", "=", value, negated=negated)
        case "name":
            if re.fullmatch(r"[0-9a-hjkmnp-tv-z]{1,8}", value.lower()):
                return Term("name", "prefix", value.lower(), negated=negated)
    raise _error(text, at, f'"{value}" is not a value of {key}', _allowed(key))


def _allowed(key: str) -> str:
    return {
        "status": "a status from 100 to 599, with >=, >, <= or < before it, or a class such as 5xx",
        "route": 'a path such as /orders/{id} or /orders/*, or with its method: route:"POST /orders"',
        "function": "a function's name; * stands for any text",
        "since": "30s, 15m, 1h or 2d (ago), 14:00, 2026-11-24, or 2026-11-24T14:00:00Z",
        "until": "30s, 15m, 1h or 2d (ago), 14:00, 2026-11-24, or 2026-11-24T14:00:00Z",
        "error": "part of the error's type or message, in quotes when it has spaces",
        "sha": "the beginning of a commit's SHA",
        "deploy": "the beginning of a deployment's id, as flux deployments shows it",
        "trigger": f"one of {', '.join(TRIGGERS)}",
        "outcome": f"one of {', '.join(OUTCOMES)}",
        "name": "the beginning of an execution's name: eight of 0 to 9 and a to z without i, l, o and u",
    }[key]


def _error(text: str, position: int, what: str, remedy: str) -> FilterError:
    # The caret helps only where the text is one line of single-width characters.
    pointer = f"\n    {text}\n    {' ' * position}^" if text.isascii() and text.isprintable() else ""
    return FilterError(f"bad filter at character {position + 1}: {what}{pointer}", remedy=remedy)


def _skip_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _quoted(text: str) -> str:
    if re.fullmatch(r"[^\s\"\\]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


# --- times -----------------------------------------------------------------------------------------

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _ago(text: str, now: datetime) -> datetime | None:
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if not found:
        return None
    try:
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise MomentError(f'"{text}" ago is before the year 1', remedy="write a smaller number") from None


def _clock(text: str, now: datetime) -> datetime | None:
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?", text)
    if not found:
        return None
    try:
        today = now.replace(
            hour=int(found[1]), minute=int(found[2]), second=int(found[3] or 0), microsecond=0, fold=0
        )
    except ValueError:
        return None
    return today if today <= now else today - timedelta(days=1)


def _calendar(text: str, now: datetime) -> datetime | None:
    # fromisoformat alone takes much that nobody means, such as 20261124 or week dates.
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}.*)?", text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
        # At either end of the calendar a local time can have none in UTC, in which times are compared.
        moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment


# --- asking ----------------------------------------------------------------------------------------


def _holds(term: Term, summary: Mapping[str, Any]) -> bool:
    match term.key:
        case "status":
            return _status_holds(term, summary["status"])
        case "since" | "until":
            assert isinstance(term.value, datetime)
            started_at = datetime.fromisoformat(summary["started_at"])
            return started_at >= term.value if term.key == "since" else started_at < term.value
        case "route":
            if summary["path"] is None or (term.method and summary["method"] != term.method):
                return False
            return wildcards.matches(str(term.value), summary["path"], has_segments=True)
        case "error":
            return str(term.value).casefold() in error_text(summary["error"]).casefold()
        case "deploy":
            return _text_holds(term, summary["deployment"])
        case "function" | "sha" | "trigger" | "outcome" | "name":
            return _text_holds(term, summary[term.key])


def _text_holds(term: Term, field: str | None) -> bool:
    if field is None:
        return False
    match term.operator:
        case "prefix":
            return field.startswith(str(term.value))
        case "like":
            return wildcards.matches(str(term.value), field)
        case _:
            return field == term.value


def _status_holds(term: Term, status: int | None) -> bool:
    if status is None:
        return False
    assert isinstance(term.value, int)
    match term.operator:
        case "class":
            return status // 100 == term.value
        case ">=":
            return status >= term.value
        case ">":
            return status > term.value
        case "<=":
            return status <= term.value
        case "<":
            return status < term.value
        case _:
            return status == term.value


def error_text(error: object) -> str:
    """What ``error:`` looks into: ``Type: message``, or the empty text when nothing failed."""
    match error:
        case None:
            return ""
        case {"type": kind, "message": message}:
            return f"{kind}: {message}"
        case _:
            return str(error)
