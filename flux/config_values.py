"""Reading single values of ``flux.toml``.

A value reader takes what ``tomllib`` made of a value and returns what the
configuration's noun holds, or raises `RefusedValueError` with what is wrong
and what would be right. It knows neither key nor line: `flux.config` does.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

from flux.grants import InvalidGrantError, parse_grant
from flux.limits import UnreadableQuantityError, parse_duration_s, parse_size_bytes

ValueReader = Callable[[object], Any]
"""Takes what tomllib gives, returns what the noun holds, or raises `RefusedValueError`."""


class RefusedValueError(Exception):
    """A value reader says no. Never leaves `flux.config`, which turns it into an error with a place."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        """Completes a sentence that starts with the key: "is 3"."""
        self.remedy = remedy
        """The next step, as in `FluxError`."""


_PROJECT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_ROUTE_PREFIX = re.compile(r"/|(/((?:(?![/{}?#])[!-~])+|\{[A-Za-z_][A-Za-z0-9_]*\}))+/?")
_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}", re.ASCII)
_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,?#-]+", re.ASCII)
_TIME_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*", re.ASCII)
_REDACTION = re.compile(
    r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|json:\$(?:\.[A-Za-z_][A-Za-z0-9_-]*|\.\*|\[(?:\*|[0-9]{1,9})\])+|column:[^.\s]+\.[^.\s]+",
    re.ASCII,
)


def read_text(value: object, remedy: str = "allowed: text in quotes") -> str:
    """Any text."""
    if not isinstance(value, str):
        raise RefusedValueError(f"is {name_type(value)}", remedy)
    return value


def read_project_name(value: object) -> str:
    remedy = "allowed: lower-case letters, digits, _ and -, a letter first, up to 63"
    name = read_text(value, remedy)
    if _PROJECT_NAME.fullmatch(name) is None:
        raise RefusedValueError(f'is "{name}"', remedy)
    return name


def read_folder(value: object) -> str:
    remedy = 'allowed: a folder inside the project, such as "functions"'
    folder = read_text(value, remedy)
    parts = folder.rstrip("/").split("/")
    if folder.startswith("/") or "\\" in folder or any(part in ("", ".", "..") for part in parts):
        raise RefusedValueError(f'is "{folder}"', remedy)
    return folder.rstrip("/")


def read_database_url(value: object) -> str:
    # A refused address is not repeated in the message: it may hold a password.
    remedy = 'allowed: "postgresql://user@host:5432/name", or "" for the embedded Postgres'
    url = read_text(value, remedy)
    if url and not url.startswith(("postgres://", "postgresql://")):
        raise RefusedValueError("is not an address of a Postgres", remedy)
    return url


def read_duration_s(value: object) -> float:
    text = read_text(value, 'allowed: a number and a unit in quotes, such as "30s"')
    try:
        return parse_duration_s(text)
    except UnreadableQuantityError as error:
        raise RefusedValueError(f"is wrong: {error.message}", error.remedy) from error


def read_size_bytes(value: object) -> int:
    text = read_text(value, 'allowed: a number and a unit in quotes, such as "256MiB"')
    try:
        return parse_size_bytes(text)
    except UnreadableQuantityError as error:
        raise RefusedValueError(f"is wrong: {error.message}", error.remedy) from error


def integer_between(least: int, most: int) -> ValueReader:
    remedy = f"allowed: a whole number from {least} to {most}"

    def read(value: object) -> int:
        # In Python True is an int; in TOML it is not.
        if not isinstance(value, int) or isinstance(value, bool):
            raise RefusedValueError(f"is {name_type(value)}", remedy)
        if not least <= value <= most:
            raise RefusedValueError(f"is {value}", remedy)
        return value

    return read


def one_of(*choices: str) -> ValueReader:
    remedy = "allowed: " + " or ".join(f'"{choice}"' for choice in choices)

    def read(value: object) -> str:
        text = read_text(value, remedy)
        if text not in choices:
            raise RefusedValueError(f'is "{text}"', f"{did_you_mean(text, choices)}{remedy}")
        return text

    return read


def list_of(read_element: ValueReader) -> ValueReader:
    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise RefusedValueError(f"is {name_type(value)}", "allowed: a list of texts, [...]")
        return tuple(read_element(element) for element in value)

    return read


def read_host(value: object) -> str:
    """One line of an allow list, as it was written; `flux.grants` says which are understood."""
    text = read_text(value, 'allowed: hosts in quotes, such as "api.stripe.com" or "127.0.0.1:9000"')
    try:
        return parse_grant(text).text
    except InvalidGrantError as error:
        raise RefusedValueError(f"has a mistake: {error.message}", error.remedy) from error


def read_redaction(value: object) -> str:
    remedy = 'allowed: "header:NAME", "json:$.path" (.name, .*, [0], [*]) or "column:table.column"'
    text = read_text(value, remedy)
    if _REDACTION.fullmatch(text) is None:
        raise RefusedValueError(f'has "{text}", which is no rule', remedy)
    return text


def is_function_name(name: str) -> bool:
    """Whether a function may be called so."""
    return _FUNCTION_NAME.fullmatch(name) is not None


def read_function_name(value: object) -> str:
    remedy = "allowed: the name of a function in quotes"
    name = read_text(value, remedy)
    if not is_function_name(name):
        raise RefusedValueError(f'has "{name}", which is no function name', remedy)
    return name


def read_route_prefix(value: object) -> str:
    """The path that routes begin with, as far as it can be told without them."""
    remedy = 'allowed: a path such as "/admin", or "/orgs/{org}/admin"'
    path = read_text(value, remedy)
    if _ROUTE_PREFIX.fullmatch(path) is None:
        raise RefusedValueError(f'is "{path}"', remedy)
    return path


def read_schedule(value: object) -> str:
    """Only the shape is checked here; ranges and names belong to the clock that runs the schedule."""
    remedy = 'allowed: five fields (minute hour day month weekday), such as "0 3 * * *"'
    schedule = read_text(value, remedy)
    fields = schedule.split()
    if len(fields) != 5 or any(_CRON_FIELD.fullmatch(field) is None for field in fields):
        raise RefusedValueError(f'is "{schedule}"', remedy)
    return " ".join(fields)


def read_time_zone(value: object) -> str:
    """Only the shape is checked here; which zones there are is known where schedules are run."""
    remedy = 'allowed: "UTC", or a name such as "Europe/Berlin"'
    name = read_text(value, remedy)
    if _TIME_ZONE.fullmatch(name) is None:
        raise RefusedValueError(f'is "{name}"', remedy)
    return name


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1)
    return f'did you mean "{near[0]}"? ' if near else ""


def name_type(value: object) -> str:
    """What a value is, in the words of someone who writes TOML."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
