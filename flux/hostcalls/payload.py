"""What one function hands another: JSON, of a size that fits a row.

A payload is stored, shown and read again by a function in another language, so it is plain JSON: the tags by
which `flux.values` carries dates, bytes and decimals have no place in it.
"""

import json

from flux.hostcalls.base import CallContext, Functions, HostCallFailed
from flux.jobs import PAYLOAD_BYTES_MAX


def encode_payload(call: str, value: object) -> bytes:
    """Return ``value`` as JSON; raise `HostCallFailed` where it is none, or too large."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise HostCallFailed(
            "PayloadNotJson", f"what {call} was given is not JSON: {error}", code="FLX571"
        ) from error
    if len(data) > PAYLOAD_BYTES_MAX:
        raise HostCallFailed(
            "PayloadTooLarge",
            f"{call} was given {len(data):,} bytes of JSON; {PAYLOAD_BYTES_MAX:,} are allowed",
            code="FLX572",
            details={"payload_bytes": len(data), "payload_bytes_max": PAYLOAD_BYTES_MAX},
        )
    return data


def get_functions(context: CallContext, call: str) -> Functions:
    """Return the other functions; raise `HostCallFailed` where this host runs none."""
    if context.functions is None:
        raise HostCallFailed("UnknownFunction", f"{call}: this host runs no other function", code="FLX570")
    return context.functions


def check_function(functions: Functions, call: str, name: str) -> None:
    """Raise `HostCallFailed` unless there is a function called ``name``."""
    names = functions.names()
    if name not in names:
        known = ", ".join(sorted(names)) or "none"
        raise HostCallFailed(
            "UnknownFunction",
            f'{call}: no function is called "{name[:200]}"; there is {known}',
            code="FLX570",
            details={"function": name[:200]},
        )
