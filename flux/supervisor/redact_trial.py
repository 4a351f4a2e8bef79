"""What the rules of redaction would take out: of a document, or of an execution that is on record.

An execution on record was redacted by the rules of its time, so what is found in one is what newer rules would take
out that lies in the store. Values of secrets are not looked for here: they never came into the record.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from flux.execution import Execution, Trigger
from flux.redact import RedactionRules, Redactor
from flux.supervisor.present import find_raw


@attrs.frozen
class Taken:
    """A value that would be taken out."""

    part: str
    """``body``, ``header cookie``, ``call 3 arguments``, ``log 2`` ..."""
    path: str | None
    """Where in it, as a JSON path; None for the whole part."""


@attrs.frozen
class Tested:
    """What the rules do."""

    document: bytes | None
    """The document as it would be stored; None for an execution."""
    taken: tuple[Taken, ...]


def try_document(rules: RedactionRules, document: bytes) -> Tested:
    """Return what the rules make of a JSON document, as the body of a request."""
    trigger = Trigger(
        "http", "POST", "/", "/", headers=(("content-type", "application/json"),), body=document
    )
    redacted = Redactor(rules, bytes(32)).trigger(trigger).body
    return Tested(redacted, tuple(_compare("body", document, redacted)))


def try_execution(rules: RedactionRules, execution: Execution) -> Tested:
    """Return what the rules would take out of an execution as it is stored."""
    redactor = Redactor(rules, execution.seed)
    taken: list[Taken] = []
    trigger, outcome = execution.trigger, execution.outcome
    redacted = redactor.trigger(trigger)
    for what, before, after in (
        ("header", trigger.headers, redacted.headers),
        ("query", trigger.query, redacted.query),
        ("path parameter", trigger.params, redacted.params),
        ("header", trigger.correlation, redacted.correlation),
    ):
        taken += [
            Taken(f"{what} {name}", None) for (name, a), (_, b) in zip(before, after, strict=True) if a != b
        ]
    taken += [Taken("path", None)] * (trigger.path != redacted.path)
    taken += _compare("body", trigger.body, redacted.body)
    taken += _compare("ctx.request.auth", trigger.auth, redacted.auth)
    taken += _compare("ctx.user", trigger.user, redacted.user)
    taken += _compare("ctx.user", execution.user, redactor.user(execution.user))
    for call in execution.calls:
        name = f"call {call.request.seq}"
        taken += _compare(
            f"{name} arguments", call.request.arguments, redactor.request(call.request).arguments
        )
        if call.result is not None:
            answer = redactor.result(call.request, call.result)
            taken += _compare(f"{name} answer", call.result.value, answer.value)
            taken += [Taken(f"{name} error", None)] * (call.result.error != answer.error)
    for number, line in enumerate(execution.logs, 1):
        taken += [Taken(f"log {number}", None)] * (redactor.log(line) != line)
    taken += [Taken("its end", None)] * (redactor.outcome(outcome) != outcome)
    return Tested(None, tuple(dict.fromkeys(taken)))


def _compare(part: str, before: bytes, after: bytes) -> Iterator[Taken]:
    """Return where two parts differ."""
    if before == after:
        return
    if find_raw(before) is None or find_raw(after) is None:
        yield Taken(part, None)
        return
    for path in _differ(msgspec.json.decode(before), msgspec.json.decode(after)):
        yield Taken(part, path)


def _differ(before: Any, after: Any) -> Iterator[str]:
    pending = [("$", before, after)]
    while pending:
        path, one, other = pending.pop()
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            pending += [(f"{path}.{name}", one[name], other[name]) for name in reversed(one)]
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pending += [(f"{path}[{n}]", one[n], other[n]) for n in reversed(range(len(one)))]
        elif one != other:
            yield path
