"""How much one execution may use, and how people write that down.

A `Limits` is a plain record of numbers with their units in their names; Flux's
own defaults are the defaults of its fields. ``flux.toml``, a function's
decorator and the command line may each narrow or widen it, so what they write
("30s", "256MiB") is read here, in one place.

A quantity always has a unit: a bare 30 has been seconds to one reader and
milliseconds to the next, and the wrong guess is only noticed in production.
"""

import re
from collections.abc import Mapping

import attrs

from flux.errors import OperatorError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

DURATION_UNITS_S: Mapping[str, float] = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
"""Seconds in each unit of time that people may write."""

SIZE_UNITS_BYTES: Mapping[str, int] = {
    "B": 1,
    "kB": 1000,
    "KiB": KIB,
    "MB": 1000**2,
    "MiB": MIB,
    "GB": 1000**3,
    "GiB": GIB,
}
"""Bytes in each unit of size that people may write."""

# Bounded digits: a quantity of a hundred digits is a mistake, and float() of it would be infinite.
_QUANTITY = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)\s?(?P<unit>[A-Za-z]{1,3})", re.ASCII)


class UnreadableQuantityError(OperatorError):
    """A duration or a size is not written as a number and a unit that Flux knows."""

    code = "FLX508"


@attrs.frozen
class Limits:
    """How much one execution may use. Passing one ends the execution as Killed, with the limit's name."""

    timeout_s: float = 30.0
    """Seconds from trigger to outcome, waiting included."""

    memory_bytes_max: int = 256 * MIB
    """Memory of the guest, in bytes, its interpreter included."""

    host_calls_max: int = 1000
    """Questions the guest may ask through its door."""

    body_bytes_max: int = 8 * MIB
    """Body of the incoming request, in bytes; more is answered with 413 and starts nothing."""

    response_bytes_max: int = 8 * MIB
    """What the function may return, in bytes once encoded."""

    log_bytes_max: int = 1 * MIB
    """What the function may log, in bytes. More is dropped and counted, and ends nothing."""

    stream_bytes_max: int = 0
    """What of a request or of an answer may travel piece by piece, in bytes; 0: bodies are held, or refused."""


def parse_duration_s(text: str) -> float:
    """Seconds in a duration such as "30s", "500ms", "1.5m"; raise `UnreadableQuantityError` otherwise."""
    number, unit = _split(text, "a duration", DURATION_UNITS_S, "30s")
    # Rounded to nanoseconds, so that "500us" is the same float as 0.0005 whatever the factor's last bit.
    seconds = round(float(number) * DURATION_UNITS_S[unit], 9)
    if seconds <= 0:
        raise UnreadableQuantityError(f'"{text}" is no time at all', remedy="write a duration above zero")
    return seconds


def parse_size_bytes(text: str) -> int:
    """Bytes in a size such as "256MiB", "64KiB", "1.5GB"; raise `UnreadableQuantityError` otherwise."""
    number, unit = _split(text, "a size", SIZE_UNITS_BYTES, "256MiB")
    size_bytes = round(float(number) * SIZE_UNITS_BYTES[unit])
    if size_bytes <= 0:
        raise UnreadableQuantityError(f'"{text}" is no space at all', remedy="write a size above zero")
    return size_bytes


def format_duration(duration_s: float) -> str:
    """The duration in the largest unit that needs no fraction: 30.0 is "30s", 0.25 is "250ms"."""
    # In whole nanoseconds: a float's last bit must not decide whether a unit needs a fraction.
    duration_ns = round(duration_s * 1e9)
    for unit in ("d", "h", "m", "s", "ms", "us"):
        unit_ns = round(DURATION_UNITS_S[unit] * 1e9)
        if duration_ns and duration_ns % unit_ns == 0:
            return f"{duration_ns // unit_ns}{unit}"
    return f"{duration_ns / 1000:.3f}us"


def format_size(size_bytes: int) -> str:
    """The size in the largest binary unit that needs no fraction: 268435456 is "256MiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % SIZE_UNITS_BYTES[unit] == 0:
            return f"{size_bytes // SIZE_UNITS_BYTES[unit]}{unit}"
    return f"{size_bytes}B"


def _split(text: str, what: str, units: Mapping[str, float], example: str) -> tuple[str, str]:
    """Number and unit of a quantity, once both are known to be ones that Flux reads."""
    allowed = f'write a number and one of {", ".join(units)}, such as "{example}"'
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise UnreadableQuantityError(f'"{text}" is not {what}', remedy=allowed)
    number, unit = match["number"], match["unit"]
    if unit not in units:
        # Units are case-sensitive because "m" and "M" differ; a slip of case is told the right unit.
        near = next((known for known in units if known.lower() == unit.lower()), None)
        remedy = f'did you mean "{number}{near}"?' if near else allowed
        raise UnreadableQuantityError(f'"{text}" is not {what}: no unit is called "{unit}"', remedy=remedy)
    return number, unit
