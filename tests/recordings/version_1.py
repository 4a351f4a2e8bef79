"""What ``version_1.msgpack`` holds, as values: records of format 1, kept for ever.

The file is a MessagePack array of records as `flux.codec.encode_execution` wrote them. It
is never written again: a Flux that reads it otherwise than this has broken everybody's records.
"""

import hashlib
import uuid

from flux.codec import Blob
from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    Level,
    LimitInForce,
    LogLine,
    Raised,
    Read,
    Returned,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation

LARGE = b"0123456789abcdef" * 5000
BLOBS = {hashlib.sha256(LARGE).digest(): Blob(hashlib.sha256(LARGE).digest(), len(LARGE), False, LARGE)}

_LINE = Position("functions/signup.py", 16, "create_user")
_FULL = Execution(
    id=uuid.UUID("019abf00-0000-7000-8000-000000000001"),
    tenant="default",
    function="create_user",
    deployment="d-1",
    sha="3f9c1e2d1b4a5c6d7e8f90123456789012345678",
    dirty=True,
    trigger=Trigger(
        kind="http",
        method="POST",
        path="/signup/7",
        route="/signup/{plan}",
        params=(("plan", "7"),),
        query=(("a", "1"), ("a", "2")),
        headers=(("content-type", "application/json"), ("x-name", "山田")),
        body=b'{"email":"a@b.com"}',
        correlation=(("x-request-id", "r-1"),),
    ),
    started_at_ns=1764000000_123456789,
    seed=bytes(range(32)),
    level=Level("process", "process", "python"),
    limits=(LimitInForce("timeout", "30s", "Flux's default"), LimitInForce("memory", "256MiB", "flux.toml:12")),
    outcome=Raised(
        type="HttpTimeout",
        message="no answer from api.stripe.com in 10s\0\u202e",
        frames=(
            Frame("functions/signup.py", 21, "create_user", True, "await charge(ctx)"),
            Frame("flux_guest/http.py", 3, "request", False),
        ),
        status=504,
        code="TIMEOUT",
        violations=b'[{"path":"a","message":"b"}]',
        call=3,
        cause="OSError: gone",
    ),
    elapsed_ns=14_200_000,
    calls=(
        HostCall(HostCallRequest(1, "clock.now", b"[]"), HostCallResult(b"1764000000", None, 900, 1764), 100, 1),
        HostCall(
            HostCallRequest(2, "db.query", b'["insert into users",["a@b.com"]]', 1, _LINE),
            HostCallResult(b'{"columns":["id"],"rows":[[42]]}', None, 4_000_000, 1765),
            2_100_000,
            2,
        ),
        HostCall(
            HostCallRequest(3, "http.request", b'["POST","https://api.stripe.com/v1/charges",{}]', 0, _LINE),
            HostCallResult(
                b"null", HostCallError("HttpTimeout", "no answer", "FLX411", b'{"host":"api.stripe.com"}'), 10, 1766
            ),
            7_000_000,
            3,
        ),
        HostCall(HostCallRequest(4, "log.write", b"[]", 0, None, True), None, 8_000_000, None),
    ),
    mutations=(
        Mutation("shop", "users", '{"id":42}', Operation.INSERT, None, '{"id":42}', False, 771, 1, 1, 2, 1764000000),
        Mutation("shop", "users", None, Operation.TRUNCATE, '{"id":1}', None, True, 772),
    ),
    mutation_count=2,
    logs=(LogLine(10, "info", "signing up", b'{"email":"a@b.com"}', _LINE), LogLine(20, "stdout", "hm")),
    transactions=(Transaction("repeatable read", "770:772:771", 771, False, 2, 14_000_000),),
    ordinals=((771, 1, 2),),
    reads=(Read(2, "shop", "users", (("id", 0),), (("plan", 1),)),),
    completeness=("3 log lines were dropped",),
    parent=uuid.UUID("019abf00-0000-7000-8000-000000000000"),
    attempt=2,
)


def _small(number: int, outcome: Returned | Killed | Exited | Interrupted) -> Execution:
    return Execution(
        id=uuid.UUID(int=0x019ABF00_0000_7000_8000_000000000010 + number),
        tenant="default",
        function="nightly",
        deployment="d-1",
        sha="nogit-0123456789ab",
        dirty=False,
        trigger=Trigger("cron"),
        started_at_ns=1764000000_000000000 + number,
        seed=b"\0" * 32,
        level=Level("process", "process", "vdso"),
        outcome=outcome,
    )


EXECUTIONS = (
    _FULL,
    _small(1, Returned(200, (("content-type", "text/plain"),), b"hello")),
    _small(2, Returned(200, (), LARGE)),
    _small(3, Killed("timeout", "10s", "flux.toml:12", "it waited for call 3")),
    _small(4, Exited(None, 11, "Segmentation fault")),
    _small(5, Interrupted("the supervisor ended (pid 7) before the function did")),
)
