"""A recorded failure as a test file: Python that a person reads, changes and commits.

What it holds is recorded, so it is nobody's friend: it stands in literals, which Python's own `repr` writes, and in
comments, sanitised. None of it can become code: not as a declaration of the file's encoding either, which Python looks
for in the first two lines. `flux.testing` is the other half, which runs it.
"""

import json
import pprint
import re
from collections.abc import Iterable, Sequence
from typing import Any

from flux.execution import Execution, Raised, Returned
from flux.failure import Failure
from flux.hostcall import HostCall
from flux.sanitize import sanitize
from flux.values import decode_json

WIDTH = 110
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")


def write_test(
    execution: Execution, failure: Failure, *, middleware: Sequence[str], timeout_s: float, notes: Sequence[str]
) -> str:
    """Return the file. ``execution`` is what is to be heard in it, ``notes`` what is to be said of it in comments."""
    place = "" if failure.location is None else f" at {failure.location.file} in {failure.location.function}()"
    trigger = execution.trigger
    what = f"{trigger.method} {trigger.path}" if trigger.kind == "http" else f"{execution.function} ({trigger.kind})"
    name = _NOT_IN_NAMES.sub("_", execution.function)
    lines = [
        "# -*- coding: utf-8 -*-",
        "#",
        *_comment(f"{failure.type}: {failure.message}{place}"),
        *_comment(f"{what}, execution {execution.name}, commit {execution.sha[:12]}"),
        "#",
        *_comment(
            "It fails as long as the function fails as it did then, and passes once it gets past that. The function "
            "runs in a process of its own, and what it asks is answered from below. Where the code comes to ask "
            "otherwise, change what is below."
        ),
        *(line for note in notes for line in _comment(f"- {note}")),
        "",
        "from flux.testing import Call, Failure, Recording, assert_fixed",
        "",
        "RECORDING = Recording(",
        *_field("execution", str(execution.id)),
        *_field("function", execution.function),
        *_field("kind", trigger.kind),
        *_request(execution),
        *_field("started_at_ns", execution.started_at_ns),
        *_field("seed", execution.seed.hex()),
        *(_field("middleware", list(middleware)) if middleware else ()),
        *_field("timeout_s", timeout_s),
        "    calls=[",
        *(line for call in execution.calls for line in _call(call, execution)),
        "    ],",
        *_failure(execution),
        ")",
        "",
        "",
        f"def test_{name}_does_not_fail_as_in_{execution.name}() -> None:",
        "    assert_fixed(RECORDING)",
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterable[str]:
    line = "#"
    for word in sanitize(text).split(" "):
        if len(line) + len(word) >= WIDTH and line != "#":
            yield line
            line = "#"
        line += " " + word
    yield line


def _field(name: str, value: Any, indent: int = 4) -> Iterable[str]:
    first, *rest = pprint.pformat(value, width=WIDTH - indent - len(name), sort_dicts=False).split("\n")
    margin = " " * indent
    yield f"{margin}{name}={first}" + ("" if rest else ",")
    for index, line in enumerate(rest, 1):
        yield f"{margin}{' ' * (len(name) + 1)}{line}" + ("," if index == len(rest) else "")


def _request(execution: Execution) -> Iterable[str]:
    trigger = execution.trigger
    for name in ("method", "path", "route", "client", "scheme", "host"):
        if text := getattr(trigger, name):
            yield from _field(name, text)
    for name in ("params", "query", "headers"):
        if pairs := getattr(trigger, name):
            yield from _field(name, list(pairs))
    for name in ("body", "auth", "user"):
        if data := getattr(trigger, name):
            yield from _field(name, data)


def _call(call: HostCall, execution: Execution) -> Iterable[str]:
    request, result = call.request, call.result
    yield "        Call("
    yield from _field("name", request.name, 12)
    yield from _field("arguments", decode_json(request.arguments), 12)
    if result is not None:
        if result.error is None:
            yield from _field("answer", decode_json(result.value), 12)
        else:
            error = result.error
            said = {
                "name": error.name,
                "message": error.message,
                "code": error.code,
                "details": json.loads(error.details),
            }
            yield from _field("error", said, 12)
        yield from _field("took_ns", result.performed_ns, 12)
        if result.now_ns:
            yield from _field("after_ns", result.now_ns - execution.started_at_ns, 12)
    if call.answered != request.seq:
        yield from _field("answered", call.answered, 12)
    if request.task:
        yield from _field("task", request.task, 12)
    if request.position is not None:
        place = request.position
        yield from _field("at", (place.file, place.line, place.function), 12)
    yield "        ),"


def _failure(execution: Execution) -> Iterable[str]:
    outcome = execution.outcome
    yield "    failure=Failure("
    if isinstance(outcome, Raised):
        yield from _field("type", outcome.type, 8)
        yield from _field("message", outcome.message, 8)
        frames = [(frame.file, frame.line, frame.function) for frame in outcome.frames if frame.user]
        yield from _field("frames", frames, 8)
        if outcome.call is not None:
            yield from _field("call", outcome.call, 8)
        if outcome.cause:
            yield from _field("cause", outcome.cause, 8)
        if outcome.code != "FUNCTION_ERROR":
            yield from _field("code", outcome.code, 8)
        yield from _field("status", outcome.status, 8)
    else:
        assert isinstance(outcome, Returned), "no other failure is written as a test"
        yield from _field("status", outcome.status, 8)
        yield from _field("headers", list(outcome.headers), 8)
        yield from _field("body", outcome.body, 8)
    yield "    ),"
