"""What a guest reads before anything else: which function to run, and with what.

PROTOCOL.md, "The start document". A recording and its replay hand over the same, but for
what rules have hidden from the record.
"""

from collections.abc import Mapping

from flux import wire
from flux.composition import Chain
from flux.execution import Execution, Trigger
from flux.limits import MIB, Limits
from flux.supervisor.inputs import parse_json
from flux.values import text_or_bytes

TRACE_BYTES = 64 * MIB
"""Memory that a guest may use to tell of its steps, beside its own."""


def make_document(
    head: Execution,
    trigger: Trigger,
    limits: Limits,
    chain: Chain,
    value: object,
    *,
    tells_waits: bool = False,
    trace: Mapping[str, object] | None = None,
) -> bytes:
    """Return the document of ``head``, as one line of JSON.

    ``trigger`` is not that of ``head`` where the record holds less than the guest is to see. ``value`` is the
    function's input, and ``chain`` the middleware that it has. ``tells_waits`` asks the guest to say when it waits;
    ``trace`` asks it to tell of each step, and gives it memory for that.
    """
    request: dict[str, object] = {
        "method": trigger.method,
        "path": trigger.path,
        "params": [list(pair) for pair in trigger.params],
        "query": [list(pair) for pair in trigger.query],
        "headers": [list(pair) for pair in trigger.headers],
        "body": text_or_bytes(trigger.body),
        "client": trigger.client or None,
        "scheme": trigger.scheme or None,
        "host": trigger.host or None,
        "auth": parse_json(trigger.auth) if trigger.auth else None,
    }
    if trigger.streamed is not None:
        request["upload"] = {"bytes": trigger.streamed.size_bytes, "sha256": trigger.streamed.sha256}
    document: dict[str, object] = {
        "function": head.function,
        "execution": head.name,
        "now_ns": head.started_at_ns,
        "seed": head.seed.hex(),
        "memory_bytes_max": limits.memory_bytes_max,
        "middleware": list(chain.list_for(trigger.kind)),
        "request": request,
        "input": value,
    }
    if trigger.user:
        document["user"] = parse_json(trigger.user)
    if tells_waits:
        document["tell_waits"] = True
    if trace is not None:
        document["trace"] = trace
        document["memory_bytes_max"] = limits.memory_bytes_max + TRACE_BYTES
    return wire.encode_start(document)
