"""Executions built by hand, each with what an honest reader of its record would say.

`FAILING` is the table that ``tests/core/test_failure.py`` and ``test_why.py`` go
through: a record, and beside it, written down by a person, the kind of failure,
the line, the call and the facts that an explanation must have. Records have the
shape that the driver writes: see ``flux.supervisor.drive`` and the host calls.
"""

import json
import uuid
from typing import Any

import attrs

from flux import values
from flux.evidence import Count, Evidence, OtherFailure, RowWriter
from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    Level,
    LimitInForce,
    LogLine,
    Outcome,
    Raised,
    Read,
    Returned,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation

MS = 1_000_000
STARTED_NS = 1_764_080_539_000_000_000  # 2025-11-25 14:22:19 UTC
SHA = "3f9c1e2d1b4a5c6d7e8f90123456789012345678"
BEFORE_SHA = "b71d04a11b4a5c6d7e8f90123456789012345678"
SIGNUP = "functions/signup.py"
STRIPE = "https://api.stripe.com/v1/charges"


def at(line: int, function: str = "create_user", file: str = SIGNUP) -> Position:
    """A line of the project."""
    return Position(file, line, function)


def frame(line: int, source: str = "", function: str = "create_user", file: str = SIGNUP) -> Frame:
    """A frame of the project."""
    return Frame(file, line, function, True, source)


SDK_FRAME = Frame("/site-packages/flux_guest/_loop.py", 90, "HostLoop.call_host", False, "raise error")


def call(
    seq: int, name: str, arguments: list[Any], answer: Any = None, *, error: HostCallError | None = None,
    position: Position | None = None, started_ms: float = 1, elapsed_ms: float = 2, open: bool = False,
) -> HostCall:  # fmt: skip
    """A host call; ``open`` ones were never answered."""
    result = None
    if not open:
        value = b"null" if error is not None else values.encode(answer)
        result = HostCallResult(value, error, int(elapsed_ms * MS))
    request = HostCallRequest(seq, name, values.encode_canonical(arguments), position=position)
    return HostCall(request, result, int(started_ms * MS), None if open else seq)


def query(seq: int, sql: str, args: list[Any], columns: list[str], rows: list[list[Any]], **more: Any) -> HostCall:
    """A ``db.query`` that was answered."""
    answer = {"columns": columns, "types": ["text"] * len(columns), "rows": rows, "tag": f"SELECT {len(rows)}"}
    return call(seq, "db.query", [sql, args], answer, **more)


def execute(seq: int, sql: str, args: list[Any], affected: int = 1, **more: Any) -> HostCall:
    """A ``db.execute`` that was answered."""
    return call(seq, "db.execute", [sql, args], {"affected": affected, "tag": f"UPDATE {affected}"}, **more)


def http(seq: int, method: str, url: str, status: int | None = None, body: str = "", **more: Any) -> HostCall:
    """An outbound request; with a status it was answered."""
    options = {"headers": more.pop("headers", []), "body": None, "timeout_s": more.pop("timeout_s", None)}
    answer = None
    if status is not None:
        answer = {"status": status, "headers": [], "body": body, "url": url, "redirects": []}
    return call(seq, "http.request", [method, url, {**options, "redirects": 0}], answer, **more)


def failed(name: str, message: str, code: str = "", **details: Any) -> HostCallError:
    """The error of a call."""
    return HostCallError(name, message, code, values.encode_canonical(details))


def refused(sqlstate: str, message: str, **details: Any) -> HostCallError:
    """What the database said, as ``flux.supervisor.database`` passes it on."""
    return failed("DatabaseError", message, sqlstate, severity="ERROR", **details)


def no_answer(name: str, code: str, message: str, source: str = "default", limit_s: float = 10.0) -> HostCallError:
    """What an outbound request failed with, as ``flux.hostcalls.http`` passes it on."""
    return failed(
        name, message, code, host="api.stripe.com", port=443, limit_s=limit_s, limit_source=source,
        elapsed_ms=limit_s * 1000, has_idempotency_key=False,
    )  # fmt: skip


def row(op: str, before: Any, after: Any, *, call: int, committed: bool = False, table: str = "users") -> Mutation:
    """A changed row with the primary key ``id``."""
    key = json.dumps({"id": (after or before)["id"]})
    return Mutation(
        "shop", table, key, Operation(op), json.dumps(before) if before else None,
        json.dumps(after) if after else None, committed, xid=771, call=call,
    )  # fmt: skip


def execution(outcome: Outcome, *calls: HostCall, **more: Any) -> Execution:
    """An execution of ``POST /signup``."""
    body = more.pop("body", b'{"email":"a@b.com"}')
    mutations = more.pop("mutations", ())
    number = more.pop("number", 1)
    values_of = {
        "id": uuid.UUID(int=(0x019ABF00_0000_7000_8000 << 48) + number),
        "tenant": "default",
        "function": "create_user",
        "deployment": "d1",
        "sha": SHA,
        "dirty": False,
        "trigger": Trigger("http", "POST", "/signup", "/signup", body=body),
        "started_at_ns": STARTED_NS,
        "seed": bytes(32),
        "level": Level("process", "process", "python"),
        "outcome": outcome,
        "elapsed_ns": 14 * MS,
        "calls": calls,
        "mutations": mutations,
        "mutation_count": len(mutations),
    }
    return Execution(**{**values_of, **more})


def raised(type: str, message: str, *frames: Frame, **more: Any) -> Raised:
    """An exception that left the function."""
    return Raised(type, message, frames, **more)


def of_host_call(type: str, call: HostCall, *frames: Frame, **more: Any) -> Raised:
    """The exception that the SDK raises for a call that failed."""
    assert call.result is not None and call.result.error is not None
    error = call.result.error
    return Raised(type, error.message, (*frames, SDK_FRAME), call=call.request.seq, **more)


@attrs.frozen
class Told:
    """A record and what it says to an honest reader."""

    name: str
    execution: Execution
    kind: str
    line: int | None
    """Line of the failure's place; None: no line is on record."""
    call: int | None = None
    signature: str = ""
    """What the signature has; empty when nothing special is expected."""
    facts: tuple[tuple[str, str], ...] = ()
    """(mark and rule, a part of the text) of facts that have to be there."""
    verdict: str = ""
    """A part of the first line of the verdict."""
    next: tuple[str, ...] = ()
    """Parts of what is offered to type."""
    evidence: dict[str, Any] = attrs.field(factory=dict)
    """What else had been looked up."""

    @property
    def whole(self) -> Evidence:
        """The evidence."""
        return Evidence(self.execution, **self.evidence)


INVOKED = call(
    2, "invoke", ["price", {"plan": "gold"}], position=at(31),
    error=HostCallError(
        "InvokeFailed", "price failed: KeyError: 'gold'", "FLX575", b'{"execution":"qk3f81xa","type":"KeyError"}'
    ),
)  # fmt: skip
OF_A_JOB = Trigger("queue", body=b'{"email":"a@b.com"}', job="01a21587-edb7-7f0b-9c40-79561b7251e4", call=4)


def _timed_out(source: str, limit_s: float = 10.0, **more: Any) -> HostCall:
    error = no_answer("HttpTimeout", "FLX409", f"POST {STRIPE}: no answer in {limit_s} s", source, limit_s)
    return http(3, "POST", STRIPE, error=error, position=at(42, "charge"), started_ms=12,
                elapsed_ms=limit_s * 1000, **more)  # fmt: skip


def _charge(source: str = "return await ctx.http.post(URL)") -> tuple[Frame, Frame]:
    return frame(21, "await charge(ctx)"), frame(42, source, "charge")


def _signup_insert(seq: int, error: HostCallError | None = None, **more: Any) -> HostCall:
    sql = "insert into users (email) values ($1) returning id"
    if error is not None:
        return call(seq, "db.query", [sql, ["a@b.com"]], error=error, position=at(12), **more)
    return query(seq, sql, ["a@b.com"], ["id"], [[42]], position=at(12), **more)


UNIQUE = refused(
    "23505", 'duplicate key value violates unique constraint "users_email_key"',
    detail="Key (email)=(a@b.com) already exists.", schema="shop", table="users", constraint="users_email_key",
)  # fmt: skip
FREE = {"id": 42, "email": "a@b.com", "plan": "free"}
NULLED = (row("insert", None, FREE, call=1), row("update", FREE, {**FREE, "plan": None}, call=2))
FUNCTION_LIMIT = (LimitInForce("timeout", "2s", "flux.toml:12"), LimitInForce("memory", "256MiB", "Flux's default"))


def _peers(count: int, **fields: Any) -> tuple[Execution, ...]:
    body = json.dumps({"email": "x@y.com", **fields}).encode()
    return tuple(execution(Returned(201), body=body, number=100 + number) for number in range(count))


FAILING: tuple[Told, ...] = (
    Told(
        "an exception in a helper, from a null that this execution wrote and an input that lacks a field",
        execution(
            raised("KeyError", "None", frame(21, "price = amount(plan)"), frame(27, "return PRICES[plan]", "amount")),
            _signup_insert(1), execute(2, "UPDATE users SET plan = $1 WHERE id = $2", [None, 42], position=at(16)),
            mutations=NULLED,
        ),
        "unhandled_exception", 27, None, "KeyError functions/signup.py:amount None",
        (
            ("● null-written", 'call 2 set users[42].plan from "free" to null'),
            ("● input-absent", 'the input has no "plan"'),
            ("≈ input-of-peers", "20 of 20 passing neighbours have input.plan"),
            ("● counts", "this failure: 23 of 61 POST /signup on 3f9c1e2, 0 of 412 on b71d04a"),
            ("● changes", "2 row changes were made and rolled back; nothing is left behind"),
        ),
        "KeyError: None", ("flux state history users 42", "flux errors"),
        {"count": Count(SHA, 23, 61), "previous_count": Count(BEFORE_SHA, 0, 412), "peers": _peers(20, plan="pro")},
    ),
    Told(
        "an exception about a value that an earlier execution wrote",
        execution(
            raised("KeyError", "'gift'", frame(27, 'return PRICES[user["plan"]]', "amount")),
            query(1, "select * from users where id = $1", [42], ["id", "plan"], [[42, "gift"]], position=at(20)),
            reads=(Read(1, "shop", "users", (("id", 0),), (("plan", 1),)),),
        ),
        "unhandled_exception", 27, None, "KeyError functions/signup.py:amount <text>",
        (
            ("● value-read", 'call 1 read users[42].plan = "gift", written by q81x0000 (set_plan on b71d04a) at '
                             '2025-11-24 14:22:19 UTC; it was "free" before'),
        ),
        next=("flux state history users 42",),
        evidence={"row_writers": (
            RowWriter(1, "shop", "users", '{"id":42}', "plan", '"gift"', '"free"', "q81x0000", "set_plan",
                      BEFORE_SHA, STARTED_NS - 86_400_000 * MS),
        )},
    ),
    Told(
        "an exception about a value of which nobody knows who wrote it, and that the input has as well",
        execution(
            raised("KeyError", "'gift'", frame(27, 'return PRICES[user["plan"]]', "amount")),
            query(1, "select * from users where id = $1", [42], ["id", "plan"], [[42, "gift"]], position=at(20)),
            body=b'{"wish":"gift"}',
        ),
        "unhandled_exception", 27,
        facts=(
            ("● value-met", 'input.wish is "gift"'),
            ("● value-met", 'call 1 (SELECT users) returned plan = "gift" at functions/signup.py:20'),
        ),
    ),
    Told(
        "a value that was written past Flux",
        execution(
            raised("TypeError", "unsupported operand type(s) for *: 'NoneType' and 'int'", frame(33, "a = u.plan * 2")),
            query(1, "select id, plan from users", [], ["id", "plan"], [[42, None]], position=at(30)),
            reads=(Read(1, "shop", "users", (("id", 0),), (("plan", 1),)),),
        ),
        "unhandled_exception", 33,
        facts=(("● value-read", "call 1 read users[42].plan = null, written outside Flux at 14:22:09 UTC"),),
        evidence={"row_writers": (
            RowWriter(1, "shop", "users", '{"id":42}', "plan", "null", at_ns=STARTED_NS - 10_000 * MS, outside=True),
        )},
    ),
    Told(
        "a time-out of an outbound call under Flux's default limit",
        execution(
            of_host_call("HttpTimeoutError", _timed_out("default"), *_charge(), status=502, code="DEPENDENCY_ERROR"),
            _signup_insert(1), _timed_out("default"), mutations=NULLED[:1], elapsed_ns=10_013 * MS,
        ),
        "outbound_timeout", 42, 3, "HttpTimeout api.stripe.com",
        (
            ("● outbound-timeout", "call 3 (POST https://api.stripe.com/v1/charges) was not answered in 10,000 ms"),
            ("● limit-origin", "its limit, 10s, is Flux's default: functions/signup.py:42 sets none"),
            ("● idempotency-key", "no Idempotency-Key header was sent"),
            ("● same-host", "6 other executions lost api.stripe.com too, 14:22:10 UTC to 14:22:15 UTC"),
            ("● changes", "1 row change was made and rolled back; nothing is left behind"),
        ),
        "HttpTimeoutError: POST https://api.stripe.com", ("--call 3", "flux explain FLX409"),
        {"host_failures": tuple(
            OtherFailure(f"q{n}", STARTED_NS + (n - 9) * 1000 * MS, "create_user") for n in range(6)
        )},
    ),
    Told(
        "a time-out under the function's own limit, set in flux.toml",
        execution(
            of_host_call("HttpTimeoutError", _timed_out("function", 2), *_charge()), _timed_out("function", 2),
            limits=FUNCTION_LIMIT,
        ),
        "outbound_timeout", 42, 3, "HttpTimeout api.stripe.com",
        (("● limit-origin", "its limit, 2s, is the function's time limit, which is set by flux.toml:12"),),
    ),
    Told(
        "a time-out under the call's own limit, wrapped by the function",
        execution(
            raised("PaymentFailed", "no charge", frame(21),
                   frame(45, "raise PaymentFailed('no charge') from e", "charge"),
                   call=3, cause="HttpTimeoutError: no answer"),
            _timed_out("call", 0.5, headers=[["Idempotency-Key", "k1"]]),
        ),
        "outbound_timeout", 45, 3, "HttpTimeout api.stripe.com",
        (
            ("● outbound-timeout", "was not answered in 500 ms at functions/signup.py:42"),
            ("● limit-origin", "its limit, 500ms, is set by the call itself"),
            ("● idempotency-key", "an Idempotency-Key header was sent"),
        ),
        "PaymentFailed: no charge",
    ),
    Told(
        "the function's time limit, while an outbound call is in flight: the seed's case",
        execution(
            Killed("timeout", "2s", "flux.toml:12"), _signup_insert(1),
            execute(2, "update users set plan = $1", ["pro"], position=at(16)),
            http(3, "POST", "http://127.0.0.1:9000/charge?key=1", open=True, position=at(42, "charge"), started_ms=20),
            elapsed_ns=2_001 * MS,
            mutations=(NULLED[0], row("update", FREE, {**FREE, "plan": "pro"}, call=2)),
        ),
        "outbound_timeout", 42, 3, "HttpTimeout 127.0.0.1:9000",
        (
            ("● outbound-timeout",
             "outside your code: call 3 (POST http://127.0.0.1:9000/charge) was not answered in 1,981 ms"),
            ("● limit-origin", "the limit, 2s, is the whole function's and is set by flux.toml:12"),
            ("● changes", "2 row changes were made and rolled back"),
        ),
        "HttpTimeout: POST http://127.0.0.1:9000/charge gave no answer in 1,981 ms", ("--call 3",),
    ),
    Told(
        "an outbound call that the function gave up by asyncio.timeout",
        execution(
            raised("TimeoutError", "", frame(41, "async with asyncio.timeout(1):", "charge")),
            http(3, "POST", STRIPE, error=failed("Cancelled", "http.request was cancelled by the function"),
                 position=at(42, "charge"), elapsed_ms=1000),
        ),
        "outbound_timeout", 41, 3, "HttpTimeout api.stripe.com",
        (("● limit-origin", "the function itself gave it up at functions/signup.py:41"),), "TimeoutError",
    ),
    Told(
        "a host whose name does not resolve",
        execution(
            of_host_call("HttpCallError", bad := http(
                1, "GET", STRIPE, position=at(42, "charge"),
                error=no_answer("HttpResolveError", "FLX406", "api.stripe.com does not resolve"),
            ), *_charge()),
            bad,
        ),
        "outbound_error", 42, 1, "HttpResolveError api.stripe.com",
        (("● outbound-error",
          "outside your code: call 1 (GET https://api.stripe.com/v1/charges) got no answer: HttpResolveError"),),
        next=("flux explain FLX406",),
    ),
    Told(
        "a request that fails in a group of concurrent ones",
        execution(
            raised("ExceptionGroup", "unhandled errors in a TaskGroup (1 sub-exception)",
                   frame(30, "async with TaskGroup()")),
            http(1, "GET", "https://a.example/x", position=at(31),
                 error=no_answer("HttpConnectError", "FLX407", "refused")),
            http(2, "GET", "https://b.example/x", position=at(32), error=failed("Cancelled", "cancelled")),
        ),
        "outbound_error", 30, 1,
    ),
    Told(
        "an answer of 503 that the function refused",
        execution(
            raised("HTTPError", "payment is down", *_charge("raise HTTPError(502, message='payment is down')"),
                   status=502, code="DEPENDENCY_ERROR"),
            http(1, "POST", "https://auth.example/login", 200, "{}", position=at(18)),
            http(2, "POST", STRIPE, 503, '{"error":{"message":"over capacity"}}', position=at(41, "charge")),
        ),
        "outbound_status", 42, 2, "HTTP 503 api.stripe.com HTTPError functions/signup.py:charge",
        (
            ("● error-answer", "call 2 (POST https://api.stripe.com/v1/charges) was answered 503 in 2.0 ms "
                               "at functions/signup.py:41"),
            ("● error-answer", "its body says: over capacity"),
            ("● left-outside", "call 1 (POST https://auth.example/login) had been answered 200"),
        ),
    ),
    Told(
        "an answer of 402 that the function read as if it were good",
        execution(
            raised("KeyError", "'id'", *_charge('return answer.json()["id"]')),
            http(1, "POST", STRIPE, 402, '{"error":"card declined"}', position=at(41, "charge")),
        ),
        "outbound_status", 42, 1, "HTTP 402 api.stripe.com KeyError",
        (
            ("● answer-lacks", 'its body has no "id"'),
            ("● error-answer", "its body says: card declined"),
            ("≈ error-answer", "the function read that answer as if it were a good one"),
        ),
    ),
    Told(
        "a KeyError on an answer of 200 that lacks the key",
        execution(
            raised("KeyError", "'id'", *_charge('return answer.json()["id"]')),
            http(1, "POST", STRIPE, 200, '{"charge":"c1"}', position=at(41, "charge")),
        ),
        "unhandled_exception", 42, None, "KeyError functions/signup.py:charge",
        (("● answer-lacks", 'the answer to call 1 (POST https://api.stripe.com/v1/charges) has no "id"'),),
    ),
    Told(
        "a KeyError on the input after a 404 that the function had expected",
        execution(
            raised("KeyError", "'plan'", frame(21, 'plan = input["plan"]')),
            http(1, "GET", "https://api.stripe.com/v1/customers/1", 404, "{}", position=at(19)),
        ),
        "unhandled_exception", 21, None, "KeyError functions/signup.py:create_user",
        (("● input-absent", 'the input has no "plan"'),),
    ),
    Told(
        "a host that is not granted",
        execution(
            of_host_call("GrantRefusedError", refusal := http(
                1, "GET", "https://api.mailgun.net/v3", position=at(22),
                error=failed("GrantRefused", "https://api.mailgun.net is not granted to this function", "FLX402",
                             host="api.mailgun.net", port=443),
            ), frame(22)),
            refusal,
        ),
        "grant_refused", 22, 1, "GrantRefused api.mailgun.net",
        (("● grant-refused", 'flux.toml needs [functions.create_user] http = ["api.mailgun.net"]'),),
        next=('add to flux.toml: [functions.create_user] http = ["api.mailgun.net"]', "flux explain FLX402"),
    ),
    Told(
        "a granted name that resolves to a private address",
        execution(
            of_host_call("GrantRefusedError", private := http(
                1, "GET", "http://internal.example:8080/", position=at(22),
                error=failed(
                    "GrantRefused", 'internal.example resolves to 10.0.0.7, which is private; a function reaches it '
                    'only when the allow list says "10.0.0.7:8080"', "FLX403", host="internal.example", port=8080,
                ),
            ), frame(22)),
            private,
        ),
        "grant_refused", 22, 1, "GrantRefused internal.example:8080",
        next=('add to flux.toml: [functions.create_user] http = ["10.0.0.7:8080"]', "flux explain FLX403"),
    ),
    Told(
        "a secret that is missing",
        execution(
            of_host_call("HostCallError", missing := call(
                1, "secret.handle", ["STRIPE_KEY"], position=at(40),
                error=failed("SecretMissing", "no secret is named STRIPE_KEY; this project has none", "FLX422",
                             secret="STRIPE_KEY"),
            ), frame(40)),
            missing,
        ),
        "secret_missing", 40, 1,
        facts=(("● secret-missing", "no secret is named STRIPE_KEY"),),
        next=("add to .env.local: STRIPE_KEY=...", "flux explain FLX422"),
    ),
    Told(
        "a unique violation against the row of an earlier execution",
        execution(of_host_call("DatabaseError", _signup_insert(2, UNIQUE), frame(12)), _signup_insert(2, UNIQUE)),
        "unique_violation", 12, 2, "DatabaseError 23505 users_email_key users functions/signup.py:create_user",
        (
            ("● database-error", "call 2 (INSERT users) broke the unique constraint users_email_key of users"),
            ("● arguments", 'its values: $1 = "a@b.com"'),
            ("● database-error", "email = a@b.com was there already"),
            ("● first-writer", "users[7] was written by q81x0000 (create_user on b71d04a) at 14:22:18 UTC"),
            ("● changes", "no row was changed"),
        ),
        next=("--call 2", "flux state history users 7"),
        evidence={"row_writers": (
            RowWriter(2, "shop", "users", '{"id":7}', None, None, None, "q81x0000", "create_user", BEFORE_SHA,
                      STARTED_NS - 1000 * MS),
        )},
    ),
    Told(
        "a unique violation against a row of the same execution",
        execution(
            of_host_call("DatabaseError", _signup_insert(2, UNIQUE), frame(13)),
            _signup_insert(1), _signup_insert(2, UNIQUE), mutations=NULLED[:1],
        ),
        "unique_violation", 13, 2,
        facts=(("● first-writer", "this execution itself had written it: users[42], in call 1"),),
    ),
    Told(
        "a foreign key that points nowhere",
        execution(
            of_host_call("DatabaseError", orphan := call(
                1, "db.execute", ["INSERT INTO orders (user_id) VALUES ($1)", [7]], position=at(33),
                error=refused("23503", 'insert or update on table "orders" violates foreign key constraint',
                              detail='Key (user_id)=(7) is not present in table "users".', table="orders",
                              constraint="orders_user_id_fkey"),
            ), frame(33)),
            orphan,
        ),
        "foreign_key_violation", 33, 1, "DatabaseError 23503 orders_user_id_fkey orders",
        (
            ("● database-error", "call 1 (INSERT orders) broke the foreign key orders_user_id_fkey of orders"),
            ("● database-error", "no row of users has user_id = 7"),
        ),
    ),
    Told(
        "a null where none is allowed, because the input lacks the field",
        execution(
            of_host_call("DatabaseError", null := call(
                1, "db.query", ["insert into users (email, name) values ($1, $2)", ["a@b.com", None]], position=at(12),
                error=refused("23502", 'null value in column "name" of relation "users" violates not-null constraint',
                              detail="Failing row contains (43, a@b.com, null).", table="users", column="name"),
            ), frame(12)),
            null,
        ),
        "not_null_violation", 12, 1, "DatabaseError 23502 users name",
        (
            ("● database-error", "call 1 (INSERT users) put null into users.name, which is not null"),
            ("● database-error", "the database says: Failing row contains (43, a@b.com, null)."),
            ("● input-absent", 'the input has no "name"'),
        ),
    ),
    Told(
        "a check that fails",
        execution(
            of_host_call("DatabaseError", check := call(
                1, "db.execute", ["UPDATE orders SET amount = $1", [-3]], position=at(51),
                error=refused("23514", 'new row for relation "orders" violates check constraint "orders_amount_check"',
                              detail="Failing row contains (1, -3).", table="orders", constraint="orders_amount_check"),
            ), frame(51)),
            check,
        ),
        "check_violation", 51, 1, "DatabaseError 23514 orders_amount_check",
        (("● database-error", "call 1 (UPDATE orders) broke the check orders_amount_check of orders"),
         ("● arguments", "its values: $1 = -3")),
    ),
    Told(
        "a serialization failure in the third attempt",
        execution(
            of_host_call("DatabaseError", lost := call(
                2, "db.execute", ["UPDATE accounts SET balance = balance - $1", [5]], position=at(60),
                error=refused("40001", "could not serialize access due to concurrent update"),
            ), frame(60)),
            lost, attempt=3, transactions=(Transaction("repeatable read", "1:1:", None, False, 1),),
        ),
        "serialization_failure", 60, 2, "DatabaseError 40001",
        (
            ("● isolation", "its transaction ran at repeatable read and lost against a concurrent one"),
            ("● attempts", "this was attempt 3 of the request; the 2 before were given up"),
        ),
    ),
    Told(
        "a serialization failure that only the COMMIT at the end met, tried again",
        execution(
            raised("CommitFailed", "ERROR 40001: could not serialize access due to read/write dependencies"),
            execute(1, "update accounts set balance = 1", []), mutations=(row("update", FREE, FREE, call=1),),
        ),
        "serialization_failure", None, None, "CommitFailed",
        (("● attempts", "the request was tried again, as q99y0000"),),
        evidence={"retried_as": "q99y0000"},
    ),
    Told(
        "a deadlock that the database ended",
        execution(
            of_host_call("DatabaseError", dead := call(
                4, "db.execute", ["UPDATE accounts SET balance = 1 WHERE id = 2", []], position=at(61),
                error=refused("40P01", "deadlock detected", hint="See server log for query details.",
                              detail="Process 7 waits for ShareLock on transaction 9; blocked by process 8."),
            ), frame(61)),
            dead, transactions=(Transaction("read committed", "1:1:", None, False, 1),),
        ),
        "deadlock", 61, 4, "DatabaseError 40P01",
        (
            ("● isolation", "each waited for a lock that the other held"),
            ("● database-error", "the database says: Process 7 waits for ShareLock"),
        ),
    ),
    Told(
        "a statement after a caught error in the same transaction",
        execution(
            of_host_call("DatabaseError", after := call(
                3, "db.execute", ["update users set name = $1", ["x"]], position=at(19),
                error=refused("25P02", "current transaction is aborted; an earlier statement failed"),
            ), frame(19)),
            _signup_insert(2, UNIQUE), after,
        ),
        "transaction_aborted", 19, 3, "DatabaseError 25P02",
        (
            ("● transaction-aborted", "call 3 (UPDATE users) was ignored"),
            ("● transaction-aborted",
             "call 2 (INSERT users) had failed at functions/signup.py:12: DatabaseError 23505"),
        ),
        next=("--call 2",),
    ),
    Told(
        "a caught error that only the COMMIT at the end met",
        execution(
            raised("CommitFailed", "ERROR 25P02: current transaction is aborted, commands ignored"),
            _signup_insert(2, UNIQUE),
        ),
        "transaction_aborted", 12, 2,
        facts=(("● transaction-aborted", "call 2 (INSERT users) had failed"),),
    ),
    Told(
        "a column that does not exist",
        execution(
            of_host_call("DatabaseError", column := call(
                1, "db.query", ["select nme from users", []], position=at(71),
                error=refused("42703", 'column "nme" does not exist', hint='Perhaps you meant "users.name".'),
            ), frame(71)),
            column,
        ),
        "database_error", 71, 1, "DatabaseError 42703 functions/signup.py:create_user column \"nme\" does not exist",
        (
            ("● database-error", 'call 1 (SELECT users) failed: DatabaseError 42703: column "nme" does not exist'),
            ("● database-error", 'the database\'s hint: Perhaps you meant "users.name".'),
        ),
    ),
    Told(
        "a COMMIT of which nobody knows",
        execution(raised("CommitUnknown", "the connection broke during COMMIT", status=503, code="OVERLOADED"),
                  mutations=NULLED),
        "commit_failed", None, None, "CommitUnknown",
        (("● commit-failed", "whether it was committed is not known here"),
         ("● changes", "2 row changes were made and rolled back")),
    ),
    Told(
        "a row that was not found, and whose column the failing line wants",
        execution(
            raised("TypeError", "'NoneType' object is not subscriptable", frame(62, 'total = order["total"] * 2')),
            query(2, "select total from orders where id = $1", [7], ["total"], [], position=at(60)),
            query(3, "select now()", [], ["now"], [["x"]], position=at(61)),
        ),
        "no_row", 62, 2, "TypeError functions/signup.py:create_user 'NoneType' object is not subscriptable",
        (
            ("● no-row", "call 2 (SELECT orders) found no row at functions/signup.py:60"),
            ("● arguments", "its values: $1 = 7"),
            ("≈ no-row", "what was None is the row that was not found"),
        ),
        next=("--call 2",),
    ),
    Told(
        "a row that was not found in a helper that has returned",
        execution(
            raised("AttributeError", "'NoneType' object has no attribute 'email'", frame(62, "send(user.email)")),
            query(1, "select email from users", [], ["email"], [], position=at(9, "find_user")),
        ),
        "no_row", 62, 1,
    ),
    Told(
        "an empty list of rows, of which the first was taken",
        execution(
            raised("IndexError", "list index out of range", frame(62, "first = rows[0]")),
            query(1, "select email from users", [], ["email"], [], position=at(61)),
        ),
        "no_row", 62, 1,
    ),
    Told(
        "a None that has nothing to do with the query that found no row",
        execution(
            raised("TypeError", "'NoneType' object is not subscriptable", frame(62, 'size = settings["size"]')),
            query(1, "select total from orders where id = $1", [7], ["total"], [], position=at(60)),
        ),
        "unhandled_exception", 62,
    ),
    Told(
        "a statement that guests may not send",
        execution(
            of_host_call("HostCallError", commit := call(
                1, "db.execute", ["COMMIT", []], position=at(70),
                error=failed("StatementRefused", "COMMIT is refused: Flux holds the transaction", "FLX424"),
            ), frame(70)),
            commit,
        ),
        "statement_refused", 70, 1,
        facts=(("● statement-refused", "call 1 (COMMIT) was not sent: COMMIT is refused"),),
        next=("flux explain FLX424",),
    ),
    Told(
        "an error while handling a caught one",
        execution(
            raised("NameError", "name 'logger' is not defined", frame(48, "logger.warning(error)", "charge"), call=3,
                   cause="HttpTimeoutError: no answer"),
            _timed_out("default"),
        ),
        "unhandled_exception", 48, None, "NameError functions/signup.py:charge",
        (
            ("● cause", "it was raised while handling HttpTimeoutError: no answer"),
            ("● caught-error", "call 3 (POST https://api.stripe.com/v1/charges) had failed at functions/signup.py:42"),
        ),
    ),
    Told(
        "an HTTPError of 500 that the function raised",
        execution(raised("HTTPError", "can't do it", frame(80, "raise HTTPError(500)"), status=500)),
        "http_error", 80, None, "HTTPError functions/signup.py:create_user can't do it",
    ),
    Told(
        "the function's time limit in its own code",
        execution(
            Killed("timeout", "2s", "@function(timeout=...)"), _signup_insert(1), elapsed_ns=2_000 * MS,
        ),
        "limit_timeout", None, None, "Killed timeout create_user",
        (
            ("● limit-origin", "its limit, 2s, is set by @function(timeout=...)"),
            ("● last-known", "the last on record is call 1 (INSERT users) at functions/signup.py:12, 3.0 ms "
                             "after the start; then 1,997 ms of nothing"),
        ),
        "Killed: it ran longer than its limit, 2s",
        next=("flux trace debug ",),
    ),
    Told(
        "the function's time limit while a statement waits for a lock",
        execution(
            Killed("timeout", "2s", "Flux's default"),
            call(1, "db.execute", ["update users set plan = 'x'", []], position=at(16), open=True, started_ms=5),
            elapsed_ns=2_000 * MS,
        ),
        "limit_timeout", 16, 1, "Killed timeout functions/signup.py:create_user",
        (("● in-flight", "call 1 (UPDATE users) had been in flight for 1,995 ms"),
         ("● limit-origin", "its limit, 2s, is Flux's default")),
    ),
    Told(
        "the time limit a moment after an outbound call began",
        execution(
            Killed("timeout", "2s", "flux.toml:12"),
            http(1, "GET", STRIPE, open=True, position=at(42), started_ms=1_990), elapsed_ns=2_000 * MS,
        ),
        "limit_timeout", 42, 1,
    ),
    Told(
        "the memory limit, met by the interpreter",
        execution(Killed("memory", "256MiB", "flux.toml:9", "MemoryError at functions/report.py:14 in build")),
        "limit_memory", 14, None, "Killed memory functions/report.py:build",
        (("● limit-origin", "its limit, 256MiB, is set by flux.toml:9"),),
        "Killed: it needed more memory than its limit, 256MiB",
    ),
    Told(
        "the memory of all functions together",
        execution(
            Killed(
                "neighbours", "1GiB", "Flux's default",
                "the 9 running functions hold all of 1024 MiB: this one held most, 200 MiB, and was ended",
            ),
            query(1, "select 1", [], ["n"], [[1]], position=at(12)),
        ),
        "evicted", None, None, "Killed neighbours create_user",
        (("● limit", "the 9 running functions hold all of 1024 MiB: this one held most, 200 MiB, and was ended"),),
        "Killed: all running functions held more memory than they may together, 1GiB, and it had to go",
    ),
    Told(
        "the limit of host calls, in a loop",
        execution(
            Killed("host_calls", "3", "flux.toml:7", "call 4 would have been db.query"),
            *[query(n, "select 1", [], ["x"], [[1]], position=at(90, "loop")) for n in (1, 2, 3)],
        ),
        "limit_host_calls", 90, 3, "Killed host_calls functions/signup.py:loop",
        (("● limit", "call 4 would have been db.query"),
         ("● most-asked", "3 of 3 calls were db.query at functions/signup.py:90")),
    ),
    Told(
        "an answer that is too large",
        execution(Killed("response", "8MiB", "Flux's default", "the function returned 9,000,000 bytes")),
        "limit_body", None, None, "Killed response create_user",
        (("● limit", "the function returned 9,000,000 bytes"),), "Killed: its answer is larger than its limit, 8MiB",
    ),
    Told(
        "a guest that breaks the protocol",
        execution(Killed("protocol", "PROTOCOL.md", "Flux's default", "frame 3 is not JSON")),
        "protocol_error", None, None, "Killed protocol create_user frame <n> is not JSON",
        (("● limit", "frame 3 is not JSON"),), "Killed: it broke the protocol",
    ),
    Told(
        "a worker that a signal ended",
        execution(Exited(None, 11, "Fatal Python error: Segmentation fault"), _signup_insert(1)),
        "worker_crash", None, None, "Exited SIGSEGV create_user",
        (
            ("● crash", "the worker process was ended by signal 11 (SIGSEGV)"),
            ("● last-output", "it wrote: Fatal Python error: Segmentation fault"),
            ("● last-known", "the last on record is call 1"),
        ),
        "SIGSEGV: a signal ended the worker process",
    ),
    Told(
        "a worker that exited by itself",
        execution(Exited(3, None, ""), call(1, "clock.sleep", [1.0], open=True, position=at(95))),
        "worker_crash", 95, 1, "Exited exit 3 functions/signup.py:create_user",
        (("● crash", "the worker process ended by itself with exit code 3"),), "exit code 3",
    ),
    Told(
        "an execution that was cut off with the supervisor",
        execution(Interrupted("the supervisor ended (pid 7) before the function did"), _signup_insert(1),
                  call(2, "db.execute", ["update users set a = 1", []], open=True, position=at(16)),
                  mutations=NULLED[:1], completeness=("what came after call 2",)),
        "interrupted", 16, 2, "Interrupted create_user",
        (
            ("● interrupted", "what follows is what was written down until then: 2 calls"),
            ("● in-flight", "call 2 (UPDATE users)"),
            ("● completeness", "this record is not whole: what came after call 2"),
        ),
        "Interrupted: the supervisor ended (pid 7)",
    ),
    Told(
        "a function that answers 500 by itself",
        execution(Returned(500, body=b'{"detail":"sorry"}'), _signup_insert(1),
                  logs=(LogLine(MS, "error", "tax service said no", position=at(76)),)),
        "returned_error", None, None, "returned 500 create_user sorry",
        (
            ("● returned", "the function returned 500 by itself; nothing raised"),
            ("● returned", "its body says: sorry"),
            ("● returned", "1 call, all answered"),
            ("● logged", "it logged an error at functions/signup.py:76: tax service said no"),
        ),
        "I can't tell why. What is known:",
    ),
    Told(
        "a function that answers 503 after a caught time-out",
        execution(Returned(503, body=b"busy"), _timed_out("default")),
        "returned_error", None, None, "returned 503 create_user busy",
        (("≈ failed-before", "call 3 (POST https://api.stripe.com/v1/charges) had failed before"),), "HTTP 503: busy",
    ),
    Told(
        "an invoked function that failed",
        execution(of_host_call("InvokeError", INVOKED, frame(31, "await ctx.invoke('price', plan)")), INVOKED),
        "invoke_failed", 31, 2, "InvokeError functions/signup.py:create_user",
        (
            ("● invoke-failed", "call 2 (invoke price): price failed: KeyError: 'gold'"),
            ("● invoke-failed", "that is execution qk3f81xa"),
        ),
        next=("flux why qk3f81xa",),
    ),
    Told(
        "the last attempt at a job",
        execution(
            raised("KeyError", "'to'", frame(12, "payload['to']")), trigger=OF_A_JOB, attempt=3,
            parent=uuid.UUID(int=0x019ABF00_0000_7000_8000 << 48),
        ),
        "unhandled_exception", 12, None, "",
        (
            ("● job", "this was attempt 3 at job 01a21587-edb7-7f0b-9c40-79561b7251e4"),
            ("● job", ", pushed by g0000000 in its call 4"),
            ("● job", "no retries left"),
        ),
        next=("flux queue retry 01a21587-edb7-7f0b-9c40-79561b7251e4",), evidence={"job_state": "dead"},
    ),
    Told(
        "tasks that wait for each other",
        execution(raised("DeadlockError", "every task waits, and no host call is in flight", frame(99, "await lock"))),
        "deadlocked_guest", 99, None, "DeadlockError functions/signup.py:create_user",
        (("● deadlocked", "every task waited"),),
    ),
    Told(
        "a file that the sandbox does not let it write",
        execution(raised("PermissionError", "[Errno 1] Operation not permitted: '/tmp/it''s'", frame(9, "open(path)"))),
        "unhandled_exception", 9,
        facts=(("≈ sandbox-refused", "its sandbox refused that: a function writes no files"),),
    ),
    Told(
        "something returned that is no answer",
        execution(raised("InvalidResponse", "a header's value has a line break")),
        "invalid_response", None,
    ),
    Told(
        "a request for which no worker was free",
        execution(raised("NoWorker", "no worker was free within 30s", status=503, code="OVERLOADED")),
        "host_error", None, None, "NoWorker",
        (("● host-error", "this is Flux's own failure, not the function's"),),
    ),
)  # fmt: skip
"""What is a failure."""

ANSWERS: tuple[Told, ...] = (
    Told(
        "input that does not validate",
        execution(raised(
            "ValidationError", "input.age: must be an integer", frame(10), status=400, code="INPUT_VALIDATION_ERROR",
            violations=b'[{"path":"input.age","message":"must be an integer"}]',
        )),
        "validation", 10,
        facts=(("● violation", "input.age: must be an integer"),),
        verdict="no failure: it answered 400 INPUT_VALIDATION_ERROR: input.age: must be an integer",
    ),
    Told(
        "an order that does not exist",
        execution(
            raised("HTTPError", "no such order", frame(60, "raise HTTPError(404)"), status=404, code="NOT_FOUND"),
            query(1, "select * from orders where id = $1", [7], ["id"], [], position=at(58)),
        ),
        "http_error", 60,
        facts=(("● no-row", "call 1 (SELECT orders) found no row at functions/signup.py:58"),),
        verdict="no failure: it answered 404 NOT_FOUND: no such order",
    ),
    Told(
        "an e-mail address that is taken, told to the client",
        execution(
            raised("HTTPError", "taken", frame(14, "raise ctx.error(409)"), status=409, code="CONFLICT", call=1),
            _signup_insert(1, UNIQUE),
        ),
        "http_error", 14, 1,
        facts=(("● caught-error", "call 1 (INSERT users) had failed"),),
        verdict="no failure: it answered 409 CONFLICT: taken",
    ),
)  # fmt: skip
"""What the function chose to answer below 500: explained, and not counted as a failure."""

HEALTHY: tuple[Execution, ...] = (
    execution(Returned(200)),
    execution(Returned(404, body=b'{"detail":"no such user"}')),
    execution(Returned(201), _signup_insert(1), mutations=(row("insert", None, FREE, call=1, committed=True),)),
    execution(Returned(200), _timed_out("default")),
    execution(Returned(204), http(1, "GET", STRIPE, 503, "down")),
)
"""What is none."""
