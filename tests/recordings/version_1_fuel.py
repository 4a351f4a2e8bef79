"""What ``version_1_fuel.msgpack`` holds, as values: records of format 1 from when fuel had come into it.

Like ``version_1.py``: a MessagePack array of records as `flux.codec.encode_execution` wrote them, kept for ever.
"""

import uuid

from flux.execution import Execution, Killed, Level, LogLine, Returned, Trigger
from flux.hostcall import HostCall, HostCallRequest, HostCallResult, Position

_LINE = Position("functions/signup.js", 16, "createUser")


def _make(number: int, outcome: Returned | Killed, fuel: int | None, calls: tuple[HostCall, ...]) -> Execution:
    return Execution(
        id=uuid.UUID(int=0x019ABF00_0000_7000_8000_000000000020 + number),
        tenant="default",
        function="create_user",
        deployment="d-1",
        sha="3f9c1e2d1b4a5c6d7e8f90123456789012345678",
        dirty=False,
        trigger=Trigger("invoke", body=b'{"n":1}'),
        started_at_ns=1764000000_000000000 + number,
        seed=bytes(range(32)),
        level=Level("wasm", "strict", "wasm", "19ab5c6d7e8f9012"),
        outcome=outcome,
        elapsed_ns=14_200_000,
        calls=calls,
        logs=(LogLine(10, "info", "signing up", b"{}", _LINE),),
        fuel=fuel,
    )


def _call(seq: int, fuel: int | None, *, answered: bool = True) -> HostCall:
    request = HostCallRequest(seq, "db.query", b'["select 1",[]]', 0, _LINE, False, fuel)
    result = HostCallResult(b'{"columns":[],"rows":[]}', None, 4_000_000, 1765) if answered else None
    return HostCall(request, result, 2_100_000 * seq, seq if answered else None)


EXECUTIONS = (
    _make(1, Returned(200, (), b"hello"), 1_188_243_567, (_call(1, 549_255), _call(2, 2**40))),
    # A limit came while it waited.
    _make(2, Killed("timeout", "10s", "flux.toml:12"), 697_130, (_call(1, 634_217, answered=False),)),
    # It had heard what is stored redacted.
    _make(3, Returned(204), None, (_call(1, 634_217), _call(2, None))),
)
