"""``queue``: work for later, in an execution of its own.

A push is a part of the execution's transaction: the job is there once that is committed, and never was when it
is rolled back, by a savepoint's end too. Whoever runs the job is told by the database.
"""

import math

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments
from flux.hostcalls.payload import check_function, encode_payload, get_functions
from flux.jobs import DELAY_S_MAX, KEY_CHARACTERS_MAX

_OPTIONS = ("delay_s", "idempotency_key")


async def _push(context: CallContext, arguments: list[object], seq: int) -> object:
    check_arguments("queue.push", arguments, str, object, dict)
    function, payload, options = arguments
    assert isinstance(function, str) and isinstance(options, dict)
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise _invalid(f"has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
    delay_s = options.get("delay_s")
    delay_s = 0.0 if delay_s is None else delay_s
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not math.isfinite(delay_s):
        raise _invalid("takes delay_s as a number of seconds")
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise _invalid(f"takes a delay of 0 to {DELAY_S_MAX:.0f} seconds, not {delay_s:g}")
    key = options.get("idempotency_key")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= KEY_CHARACTERS_MAX):
        raise _invalid(f"takes an idempotency key of 1 to {KEY_CHARACTERS_MAX} characters")
    functions = get_functions(context, "queue.push")
    check_function(functions, "queue.push", function)
    data = encode_payload("queue.push", payload)
    return {"job": await functions.push(function, data, float(delay_s), key, seq)}


def _invalid(problem: str) -> HostCallFailed:
    return HostCallFailed("InvalidArguments", f"queue.push {problem}", code="FLX425")


PUSH = HostCallKind(name="queue.push", effect=Effect.CHANGES, perform=_push)
"""Has a function run later, with a payload; returns the job's id."""
