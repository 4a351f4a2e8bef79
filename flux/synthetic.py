"""What a replay hears that nobody had said: stand-ins for values that are not on record.

Rules keep values out of a record, and the values of secrets never come into it (`flux.redact`); those of a row that
was to be forgotten are taken out again (`flux.forget`). In their place stand tokens and handles, and these are what a
replay hands to the function. As long as code only passes such a value on, it does what it did: what it passes on is
redacted to the same. Code that looks into one (compares a token, checks a signature, takes a digit) does not. From a
record alone nobody can tell which it is. So the parts are named, each replay says which they are, and what rests on
them is never called more than it is (`flux.verdict`).

A client may send a text that looks like a token. It is named as well: to warn in vain is the better mistake.
"""

import re
from collections.abc import Iterator

from flux import values
from flux.execution import Execution, Trigger
from flux.hostcall import HostCall

SHOWN_MAX = 20
"""So many parts are named; of more it is said how many there are."""

_TOKEN = re.compile(r"redacted:(?:[0-9a-f]{12}|unexamined)|forgotten:[0-9a-f]{12}")
_HANDLE = re.compile(r"flux-secret:[A-Za-z_][A-Za-z0-9_]{0,99}:[0-9a-f]{32}")
STAND_IN = re.compile(f"{_TOKEN.pattern}|{_HANDLE.pattern}")
"""Anything that stands for a value which is not on record."""
_HANDED_OUT = "secret.handle"
"""What it answers is a handle for the recorded function too."""
_REVEALED = "secret.reveal"
_DEPTH_MAX = 100


def list_synthetic(execution: Execution, *, has_secrets: bool) -> tuple[str, ...]:
    """Return the parts of what a replay of ``execution`` hears that are stand-ins, as people read them.

    ``has_secrets``: where the function asks for the value of a secret, the replay gives it the value.
    """
    parts = list(
        dict.fromkeys((*_list_of_trigger(execution.trigger), *_list_of_calls(execution, has_secrets)))
    )
    if len(parts) > SHOWN_MAX:
        parts = [*parts[:SHOWN_MAX], f"{len(parts) - SHOWN_MAX} more"]
    return tuple(parts)


def _list_of_trigger(trigger: Trigger) -> Iterator[str]:
    for name, value in trigger.headers:
        if _TOKEN.search(value) or _HANDLE.search(value):
            yield f"header {name}"
    for name, value in trigger.query:
        if _TOKEN.search(value) or _HANDLE.search(value):
            yield f"query {name}"
    for name, value in trigger.params:
        if _TOKEN.search(value) or _HANDLE.search(value):
            yield f"path parameter {name}"
    yield from _list_of_json("body", trigger.body)
    yield from _list_of_json("ctx.request.auth", trigger.auth)
    yield from _list_of_json("ctx.user", trigger.user)


def _list_of_json(what: str, data: bytes) -> Iterator[str]:
    text = data.decode("utf-8", "replace")
    if not (_TOKEN.search(text) or _HANDLE.search(text)):
        return
    try:
        document = values.decode_json(data)
    except values.ValueFormatError:
        yield what
        return
    paths = list(_list_paths(document, "$", 0))
    yield from (f"{what} {path}" for path in paths)
    if not paths:  # In a member's name, or deeper than anybody looks.
        yield what


def _list_paths(node: object, path: str, depth: int) -> Iterator[str]:
    match node:
        case str() if _TOKEN.search(node) or _HANDLE.search(node):
            yield path
        case dict() if depth < _DEPTH_MAX:
            for name, item in node.items():
                yield from _list_paths(item, f"{path}.{name}", depth + 1)
        case list() if depth < _DEPTH_MAX:
            for item in node:
                yield from _list_paths(item, f"{path}[*]", depth + 1)


def _list_of_calls(execution: Execution, has_secrets: bool) -> Iterator[str]:
    for call in execution.calls:
        name = call.request.name
        if call.result is None or name == _HANDED_OUT:
            continue
        if name == _REVEALED:
            if not has_secrets and call.result.error is None:
                yield f"secret {_get_secret(call)}"
            continue
        error = call.result.error
        texts = [call.result.value.decode("utf-8", "replace")]
        if error is not None:
            texts += [error.message, error.details.decode("utf-8", "replace")]
        if any(_TOKEN.search(text) or _HANDLE.search(text) for text in texts):
            yield f"answer of call {call.request.seq} ({name})"


def _get_secret(call: HostCall) -> str:
    arguments = values.decode_json(call.request.arguments)
    return str(arguments[0]) if isinstance(arguments, list) and arguments else "?"
