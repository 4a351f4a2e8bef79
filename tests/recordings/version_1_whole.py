"""What ``version_1_whole.msgpack`` holds, as values: records of format 1 in which what came after the first is set.

Like ``version_1.py``: a MessagePack array of records as `flux.codec.encode_execution` wrote them, kept for ever. No two
values are equal where two fields are of one type, so fields that have changed places are seen. A field that comes later
is set in a file of its own, beside this one.
"""

import uuid

from flux.execution import (
    Execution,
    Interrupted,
    Level,
    LimitInForce,
    LogLine,
    Read,
    Returned,
    StatementSnapshot,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation
from flux.streamed import StreamedBody

_LINE = Position(file="functions/orders.js", line=31, function="take_order")


def _call(seq: int, error: HostCallError | None) -> HostCall:
    return HostCall(
        request=HostCallRequest(
            seq=seq, name="db.query", arguments=b'["select 1",[]]', task=4, position=_LINE, one_way=False, fuel=549_255
        ),
        result=HostCallResult(
            value=b"null" if error else b'{"columns":[],"rows":[]}',
            error=error,
            elapsed_ns=4_000_000,
            now_ns=1790000000_000000005,
            held_up_ns=1_500_000,
        ),
        started_ns=2_100_000 + seq,
        answered=seq,
    )


EXECUTIONS = (
    Execution(
        id=uuid.UUID("019abf00-0000-7000-8000-000000000031"),
        tenant="shop",
        function="take_order",
        deployment="d-9",
        sha="3f9c1e2d1b4a5c6d7e8f90123456789012345678",
        dirty=True,
        trigger=Trigger(
            kind="http",
            method="PUT",
            path="/orders/7",
            route="/orders/{id}",
            params=(("id", "7"),),
            query=(("a", "1"),),
            headers=(("content-type", "text/csv"),),
            body=b"an upload is not held; an order is",
            correlation=(("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),),
            job="019abf00-0000-7000-8000-00000000006a",
            call=5,
            auth=b'{"kind":"jwt","subject":"u-1","claims":{}}',
            user=b'{"id":"u-2"}',
            client="203.0.113.7",
            scheme="https",
            host="shop.example:8443",
            streamed=StreamedBody(sha256="ab" * 32, size_bytes=734_003_200),
        ),
        started_at_ns=1790000000_123456789,
        seed=bytes(range(32)),
        level=Level(kind="wasm", isolation="strict", clock="wasm", meter="19ab5c6d7e8f9012"),
        limits=(LimitInForce(name="timeout", value="30s", origin="flux.toml:12"),),
        outcome=Returned(
            status=201,
            headers=(("content-type", "application/json"),),
            body=b"",
            streamed=StreamedBody(sha256="cd" * 32, size_bytes=1_073_741_825),
        ),
        elapsed_ns=14_200_000,
        calls=(
            _call(1, None),
            _call(2, HostCallError("DatabaseError", "no such table", "42P01", b'{"table":"orders"}')),
        ),
        mutations=(
            Mutation(
                schema="shop", table="orders", key='{"id":7}', op=Operation.UPDATE, before='{"id":7,"n":1}',
                after='{"id":7,"n":2}', committed=False, xid=801, ordinal=3, depth=2, call=1, at_ns=1790000000_5,
            ),
        ),
        mutation_count=12,
        logs=(LogLine(at_ns=10, level="warning", message="taken", fields=b'{"id":7}', position=_LINE),),
        transactions=(
            Transaction(
                isolation="read committed",
                snapshot="800:802:801",
                xid=801,
                committed=True,
                begun_by=1,
                ended_ns=13_000_000,
                now="2026-09-21T14:13:20.123456Z",
                statements=(
                    StatementSnapshot(call=1, before="800:803:801", after="800:804:801,802"),
                    StatementSnapshot(call=2),
                ),
            ),
        ),
        ordinals=((801, 3, 1),),
        reads=(Read(call=1, schema="shop", table="orders", key=(("id", 0),), columns=(("n", 1),)),),
        completeness=("a sentence",),
        parent=uuid.UUID("019abf00-0000-7000-8000-000000000030"),
        attempt=3,
        fuel=1_188_243_567,
        served_before=41,
        replay_of=uuid.UUID("019abf00-0000-7000-8000-00000000002f"),
        user=b'{"id":"u-3"}',
    ),
    Execution(
        id=uuid.UUID("019abf00-0000-7000-8000-000000000032"),
        tenant="shop",
        function="take_order",
        deployment="d-9",
        sha="3f9c1e2d1b4a5c6d7e8f90123456789012345678",
        dirty=False,
        trigger=Trigger(kind="http", method="GET", path="/orders/7"),
        started_at_ns=1790000000_223456789,
        seed=bytes(range(32)),
        level=Level(kind="process", isolation="core", clock="python"),
        outcome=Interrupted(reason="the server was stopped before the function had ended", status=503),
    ),
)  # fmt: skip
