"""Which trace an execution belongs to, and what it hands on: https://www.w3.org/TR/trace-context/.

All of it follows from what is on record. An execution goes on with the trace of whoever caused it (the client of a
request, or the execution that pushed or invoked it) and begins one under its own id where nobody did. Ids of spans are
made of an execution's id and a call's number. So a replay needs no ids of its own, nothing about them has to be
recorded, and whoever asks twice is told the same.

A trace's id is somebody else's word, and may come twice. It is never an identity here: executions have their own.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable
from typing import Literal

import attrs

from flux.grants import Grants, Origin

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
FIELDS = (TRACEPARENT, TRACESTATE)
"""The header fields of a trace."""

_SAMPLED = 1
_STATE_MEMBERS_MAX = 32
_STATE_CHARACTERS_MAX = 512
_PARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)
_STATE_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)

Fields = tuple[tuple[str, str], ...]


@attrs.frozen
class Parent:
    """Whoever caused an execution, as its ``traceparent`` says."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_sampled: bool
    """It may have been recorded there."""


@attrs.frozen
class Trace:
    """The trace of one execution."""

    execution: uuid.UUID
    """Whose spans they are."""
    id: str
    """32 hexadecimal digits."""
    parent: Parent | None
    """None: the trace begins here."""
    state: str
    """What tracing systems on the way have to say to each other; empty when they have nothing."""

    def carry(self, seq: int) -> Fields:
        """Return the header fields that whatever host call ``seq`` causes is to have."""
        is_sampled = self.parent is None or self.parent.is_sampled
        parent = f"00-{self.id}-{make_span_id(self.execution, seq)}-{_SAMPLED if is_sampled else 0:02x}"
        return ((TRACEPARENT, parent), (TRACESTATE, self.state)) if self.state else ((TRACEPARENT, parent),)


def read_trace(execution: uuid.UUID, fields: Fields) -> Trace:
    """Return the trace of ``execution``; ``fields`` are the header fields that came with its cause.

    What is not valid is ignored, as the standard has it: then the trace begins anew.
    """
    parents = [value for name, value in fields if name.lower() == TRACEPARENT]
    # Of two that say something else neither is to be believed.
    parent = parse_traceparent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        return Trace(execution, execution.hex, None, "")
    states = (value for name, value in fields if name.lower() == TRACESTATE)
    return Trace(execution, parent.trace_id, parent, _join_states(states))


def parse_traceparent(text: str) -> Parent | None:
    """Return what a ``traceparent`` says; None when it is not valid."""
    found = _PARENT.fullmatch(text.strip(" \t"))
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return Parent(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))


def make_span_id(execution: uuid.UUID, seq: int) -> str:
    """Return the id of the span of call ``seq``; 0 is the execution itself."""
    return hashlib.sha256(f"{execution} {seq}".encode()).hexdigest()[:16]


def _join_states(texts: Iterable[str]) -> str:
    """Return all members in their order; nothing at all when one of them is not valid."""
    members = [member.strip(" \t") for text in texts for member in text.split(",")]
    members = [member for member in members if member]
    joined = ",".join(members)
    if len(members) > _STATE_MEMBERS_MAX or len(joined) > _STATE_CHARACTERS_MAX:
        return ""
    return joined if all(_STATE_MEMBER.fullmatch(member) for member in members) else ""


@attrs.frozen
class Propagation:
    """Which hosts hear of the trace that a request of a function belongs to."""

    to: Literal["private", "all", "listed"] = "private"
    """``private``: those at an address that only one's own network has. ``listed``: ``hosts``."""
    hosts: Grants = attrs.field(factory=Grants)
    """Those that are listed; none by default."""

    def covers(self, origin: Origin, *, is_private: bool) -> bool:
        """Return whether ``origin`` is told; ``is_private``: it was reached at a private or loopback address."""
        match self.to:
            case "private":
                return is_private
            case "all":
                return True
            case "listed":
                return self.hosts.find(origin) is not None


OWN_NETWORK = Propagation()
"""What holds where nothing else is said. An id tells whoever hears of it which requests belong together, and when the
first of them came: those at home are told, and others are where the project lists them."""
