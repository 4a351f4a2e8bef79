"""Each document that the tests see is held to its schema, in the strict form: `flux.documents` describes them all.

The harnesses call these where an answer comes in, so no test has to: what the command line prints with ``--json``
(`tests.dev_process`), what the console answers (`tests.dev_process`, `tests.console_world`), what a model is told.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cache
from typing import Any

import jsonschema

from flux.documents import list_kinds, render

FOREIGN = ("$schema", "openapi", "resourceSpans")
"""Members of documents whose form is somebody else's: JSON Schema, OpenAPI, OpenTelemetry."""
ITEMS_MAX = 100
"""Of a longer list so many are looked at, at both ends: what is between was made by the same lines."""


class BadDocumentError(AssertionError):
    """A document that is not what its schema says."""


def check(document: Any) -> None:
    """Hold one document to the schema of its kind; raise `BadDocumentError`, also where it is of no kind."""
    if isinstance(document, dict) and any(member in document for member in FOREIGN):
        return
    said = document.get("schema") if isinstance(document, dict) else None
    kind = list_kinds().get(said) if isinstance(said, str) else None
    if kind is None or not kind.is_tagged:
        raise BadDocumentError(f"of no kind that flux/documents describes: {json.dumps(document)[:500]}")
    _hold(_validator(kind.tag), kind.tag, document)


class Lines:
    """The lines of one stream as they come: each is of the kind that it says, or what the first one's kind allows."""

    def __init__(self) -> None:
        self._kind: str | None = None

    def check(self, line: Any) -> None:
        """Hold the next one to its schema."""
        if isinstance(line, dict) and "schema" in line:
            check(line)
            self._kind = self._kind or line["schema"]
        elif self._kind is not None and (validator := _line_validator(self._kind)) is not None:
            _hold(validator, f"a line of {self._kind}", line)
        elif self._kind is not None or not _is_of_any_stream(line):
            raise BadDocumentError(f"neither a document nor a line of its stream: {json.dumps(line)[:500]}")


def check_lines(lines: Iterable[Any]) -> None:
    """Hold the lines of a stream to their schemas."""
    stream = Lines()
    for line in lines:
        stream.check(line)


class CheckedBody:
    """The body of a stream, whose lines are held to their schemas while somebody reads it."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._pieces: AsyncIterator[bytes] = aiter(body)
        self._lines = Lines()
        self._rest = b""

    def __aiter__(self) -> "CheckedBody":
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            if self._rest:
                raise BadDocumentError(f"the last line of a stream has no end: {self._rest[:500]!r}") from None
            raise
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in filter(None, lines):
            self._lines.check(_parse_line(line.decode()))
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def check_text(text: str) -> None:
    """Hold what was said where JSON is promised: one document, or one a line; nothing at all is no document.

    Raise `BadDocumentError` where it does not parse.
    """
    if not text:
        return
    try:
        document = _parse(text)
    except ValueError:
        check_lines(_parse_line(line) for line in text.splitlines())
    else:
        check(document)


def check_problem(body: bytes) -> None:
    """Hold the body of an answer that is an error, `application/problem+json`, to its schema."""
    _hold(_validator("flux.http-problem/1"), "a problem", _parse_line(body.decode()))


def check_log(lines: Iterable[str]) -> None:
    """Hold the lines of a server's log for programs to their schema."""
    for text in lines:
        line = _parse_line(text)
        if line.get("event") not in _log_validators():
            raise BadDocumentError(f"no event that flux/documents describes: {text[:500]}")
        _hold(_log_validators()[line["event"]], f"event {line['event']}", line)


def check_command(arguments: Sequence[str], stdout: str, stderr: str) -> None:
    """Hold what ``flux ARGUMENTS`` printed, with ``--json`` among them, to its schemas."""
    if "--help" not in arguments:
        check_text(stdout)
    check_lines(_parse_line(line) for line in stderr.splitlines() if line.startswith('{"schema"'))


def _parse_line(line: str) -> Any:
    try:
        return _parse(line)
    except ValueError as error:
        raise BadDocumentError(f"JSON is promised, and this is none: {line[:500]!r}") from error


def _parse(text: str) -> Any:
    """Read JSON, without the numbers that Python reads and JSON does not have."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _is_of_any_stream(line: Any) -> bool:
    """Whether it may come before any document does: an empty stream has its end alone."""
    validators = (_line_validator(tag) for tag in list_kinds())
    return any(validator is not None and validator.is_valid(_shorten(line)) for validator in validators)


def _hold(validator: Any, said: str, document: Any) -> None:
    error = jsonschema.exceptions.best_match(validator.iter_errors(_shorten(document)))
    if error is not None:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        raise BadDocumentError(f"{said}{place}: {error.message[:500]} (flux/documents says so)")


def _shorten(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) > 2 * ITEMS_MAX:
            value = [*value[:ITEMS_MAX], *value[-ITEMS_MAX:]]
        return [_shorten(item) for item in value]
    if isinstance(value, dict):
        return {key: _shorten(item) for key, item in value.items()}
    return value


@cache
def _validator(tag: str) -> Any:
    return jsonschema.Draft202012Validator(render(list_kinds()[tag], is_strict=True))


@cache
def _line_validator(tag: str) -> Any | None:
    """Check the lines that have no ``schema``, of a stream of this kind; None: it is no stream."""
    shared = render(list_kinds()[tag], is_strict=True).get("$defs", {})
    if "line" not in shared:
        return None
    return jsonschema.Draft202012Validator({"$ref": "#/$defs/line", "$defs": shared})


@cache
def _log_validators() -> dict[str, Any]:
    """By event: of all together, the message would be that a line is none of them."""
    lines = render(list_kinds()["flux.server-log/1"], is_strict=True)["anyOf"]
    return {each["properties"]["event"]["const"]: jsonschema.Draft202012Validator(each) for each in lines}
