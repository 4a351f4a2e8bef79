"""What is to be forgotten is in no part of an execution any more; what only looks like it stays."""

import base64
import json
import types
import typing
import uuid
from typing import Any
from urllib.parse import quote

import attrs
import pytest

from flux import codec, values
from flux.execution import Execution, LogLine, Read, Returned, Trigger
from flux.forget import Forgetter, RowValue, make_token, reads_row
from flux.forget_images import Column, Images, Row, list_values
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.mutation import Mutation, Operation
from flux.row_shapes import read_image
from flux.synthetic import list_synthetic
from tests.stored_executions import make_execution

SECRET = b"thrown away"
EMAIL = 'ana"ü@b.example'
OWN = RowValue(("email",), EMAIL)
TOWN = RowValue(("town",), "Lissabon", is_shared=True)
PLAN = RowValue(("plan", "tier"), "pro")
FORGETTER = Forgetter({"people"}, [OWN, TOWN, PLAN], SECRET)
TOKEN = make_token(SECRET, EMAIL)
NAMES_OF_CODE = {
    "Trigger.kind", "Trigger.method", "Trigger.route", "Trigger.job", "Trigger.scheme", "Frame.file", "Frame.function",
    "Raised.code", "Killed.limit", "Killed.allowed", "Killed.origin", "LogLine.level", "Position.file",
    "Position.function", "HostCallError.code", "HostCallRequest.name", "Transaction.isolation", "Transaction.snapshot",
    "Transaction.now", "StatementSnapshot.before", "StatementSnapshot.after", "Read.schema", "Read.table", "Read.key",
    "Read.columns", "Level.kind", "Level.isolation", "Level.clock", "Level.meter", "LimitInForce.name",
    "LimitInForce.value", "LimitInForce.origin", "Execution.tenant", "Execution.function", "Execution.deployment",
    "Execution.sha", "Execution.seed", "Mutation.schema", "Mutation.table", "StreamedBody.sha256",
}  # fmt: skip
"""Fields that hold what code or Flux calls something, and nothing that was said to a function. A new field is none."""


def fill(hint: Any, where: str) -> Any:
    """Return something of a type, with the e-mail address in every place that may hold what people said."""
    if attrs.has(hint):
        hints = typing.get_type_hints(hint)
        names = [each.name for each in attrs.fields(hint)]
        return hint(**{name: fill(hints[name], f"{hint.__name__}.{name}") for name in names})
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return tuple(fill(each, where) for each in arguments if each is not ...)
    if origin in (types.UnionType, typing.Union):
        return fill(next(each for each in arguments if each is not type(None)), where)
    if origin is typing.Literal:
        return arguments[0]
    if hint is str:
        return "name" if where in NAMES_OF_CODE else f"of {EMAIL}!"
    if hint is bytes:
        return bytes(32) if where in NAMES_OF_CODE else json.dumps({"a": f"to {EMAIL}"}).encode()
    if hint is uuid.UUID:
        return uuid.UUID(int=7)
    if isinstance(hint, type) and issubclass(hint, Operation):
        return Operation.UPDATE
    return hint(1)


@pytest.mark.parametrize("kind", ["Returned", "Raised", "Killed", "Exited", "Interrupted"])
@pytest.mark.parametrize("is_touched", [False, True])
def test_no_part_of_an_execution_is_left_out(kind: str, is_touched: bool) -> None:
    hint = next(each for each in typing.get_args(typing.get_type_hints(Execution)["outcome"]) if each.__name__ == kind)
    filled: Execution = attrs.evolve(fill(Execution, ""), outcome=fill(hint, ""), mutations=())
    changed = FORGETTER.execution(filled, is_touched=is_touched, image=lambda mutation: mutation)
    for form in (EMAIL, json.dumps(EMAIL)[1:-1]):
        assert form.encode() not in codec.encode(changed)
    assert codec.encode(changed).count(TOKEN.encode()) >= 20
    assert codec.encode(attrs.evolve(changed, outcome=filled.outcome)) != codec.encode(filled)


def run(*, is_touched: bool, **changes: Any) -> Execution:
    return FORGETTER.execution(make_execution(**changes), is_touched=is_touched, image=lambda mutation: mutation)


def statement(sql: str, *parameters: object, answer: object = None) -> HostCall:
    arguments = values.encode_canonical([sql, list(parameters)])
    return HostCall(HostCallRequest(1, "db.query", arguments), HostCallResult(values.encode(answer)), 1)


def test_an_execution_that_holds_nothing_of_it_is_the_same() -> None:
    execution = make_execution()
    assert FORGETTER.execution(execution, is_touched=True, image=lambda mutation: mutation) is execution


@pytest.mark.parametrize(
    "form", [base64.b64encode(EMAIL.encode()).decode(), quote(EMAIL), EMAIL.encode().hex(),
             EMAIL.encode().hex().upper(), json.dumps(EMAIL)]
)
def test_its_own_value_goes_in_every_encoding_from_every_record(form: str) -> None:
    changed = run(is_touched=False, logs=(LogLine(1, "info", f"<{form}>"),))
    assert form.strip('"') not in changed.logs[0].message and "<" in changed.logs[0].message


def test_a_value_of_others_goes_only_where_the_row_had_to_do_with_it_and_from_no_code() -> None:
    sql = "select * from towns where name = 'Lissabon' or name = $1"
    answer = {"columns": ["name"], "types": ["text"], "rows": [["Lissabon"]], "tag": "SELECT 1"}
    calls = (statement(sql, "Lissabon", answer=answer),)
    assert run(is_touched=False, calls=calls).calls == calls
    (call,) = run(is_touched=True, calls=calls).calls
    town = make_token(SECRET, "Lissabon")
    assert values.decode_json(call.request.arguments) == [sql, [town]]
    assert call.result is not None and values.decode_json(call.result.value)["rows"] == [[town]]  # type: ignore[index]


def test_a_short_value_goes_where_its_column_is_named() -> None:
    token = make_token(SECRET, "pro")
    body = b'{"plan": "pro", "tier":"pro", "other": "pro", "text": "pro \\"plan\\": \\"pro\\"", "n": 1.10}'
    trigger = Trigger("http", "POST", "/p/pro", "/p/{plan}", (("plan", "pro"),), (("q", "pro"),), body=body)
    calls = (
        statement("insert into people (id, plan) values ($1, $2)", 1, "pro"),
        statement("update people set plan = 'pro' where kind = 'pro'"),
        statement("select tier from people", answer={"columns": ["tier", "kind"], "rows": [["pro", "pro"]]}),
    )
    assert run(is_touched=False, trigger=trigger, calls=calls).trigger == trigger
    changed = run(is_touched=True, trigger=trigger, calls=calls)
    assert changed.trigger.body == body.replace(b'"plan": "pro"', b'"plan": "%b"' % token.encode()).replace(
        b'"tier":"pro"', b'"tier":"%b"' % token.encode()
    ), "numbers and white space are as they were"
    assert changed.trigger.path == f"/p/{token}" and changed.trigger.query == (("q", "pro"),)
    assert values.decode_json(changed.calls[0].request.arguments) == [
        "insert into people (id, plan) values ($1, $2)", [1, token],
    ]  # fmt: skip
    assert values.decode_json(changed.calls[1].request.arguments) == [
        f"update people set plan = '{token}' where kind = 'pro'", [],
    ]  # fmt: skip
    result = changed.calls[2].result
    assert result is not None and values.decode_json(result.value)["rows"] == [[token, "pro"]]  # type: ignore[index]
    assert list_synthetic(changed, has_secrets=False), "a replay says what it heard"


def test_bytes_of_a_connection_keep_their_number() -> None:
    sent = b"POST / HTTP/1.1\r\ncontent-length: 18\r\n\r\nto=" + EMAIL.encode()
    request = HostCallRequest(1, "net.send", values.encode_canonical(["h:80#1", sent]))
    (call,) = run(is_touched=False, calls=(HostCall(request, None, 1),)).calls
    arguments: Any = values.decode_json(call.request.arguments)
    left = base64.b64decode(arguments[1]["$bytes"])
    assert len(left) == len(sent) and EMAIL.encode() not in left


@pytest.mark.parametrize(("row", "found"), [([7, "x"], True), ([8, "x"], False), ([7], False)])
def test_who_was_given_the_row_is_known_by_its_key(row: list[object], found: bool) -> None:
    answer = {"columns": ["id", "plan"], "types": ["int4", "text"], "rows": [row], "tag": "SELECT 1"}
    reads = (Read(1, "public", "people", (("id", 0), ("plan", 1)), ()),)
    execution = make_execution(calls=(statement("select id, plan from people", answer=answer),), reads=reads)
    assert reads_row(execution, {("public", "people", '{"id":7,"plan":"x"}')}) is found
    assert not reads_row(execution, {("public", "others", '{"id":7,"plan":"x"}')})


def test_a_replay_has_read_the_row_whose_key_its_statement_on_the_table_was_answered() -> None:
    answer = {"columns": ["name", "id"], "types": ["text", "int4"], "rows": [["Eva", 7]], "tag": "SELECT 1"}
    call = statement("SELECT * FROM People", answer=answer)
    replay = make_execution(calls=(call,), replay_of=uuid.UUID(int=1))
    assert reads_row(replay, {("public", "people", '{"id":7}')})
    for place in (("public", "people", '{"id":8}'), ("public", "others", '{"id":7}'), ("public", "people", '{"no":7}')):
        assert not reads_row(replay, {place})
    assert not reads_row(attrs.evolve(replay, replay_of=None), {("public", "people", '{"id":7}')}), "its reads say it"


def test_a_verdict_is_held_to_what_its_execution_is_held_to() -> None:
    asked = {"sql": "update people set plan = $1 where note = 'pro'", "args": ["pro", "pro of", EMAIL]}
    sent = {"method": "POST", "url": "/", "body": '{"plan":"pro"}'}
    document = {
        "kind": "arguments", "seq": 1, "recorded": {"kind": "db.execute", "arguments": asked},
        "replayed": {"kind": "http.request", "arguments": sent}, "location": None,
    }  # fmt: skip
    data = json.dumps(document).encode()
    reason, where = FORGETTER.verdict(f"to {EMAIL}", data, is_touched=True)
    assert where is not None
    told, pro = json.loads(where), make_token(SECRET, "pro")
    assert reason == f"to {TOKEN}" and (told["kind"], told["seq"]) == ("arguments", 1)
    assert told["recorded"]["arguments"] == {**asked, "args": [pro, "pro of", TOKEN]}
    assert json.loads(told["replayed"]["arguments"]["body"]) == {"plan": pro}
    _, where = FORGETTER.verdict("", data, is_touched=False)
    without = data.decode().replace(json.dumps(EMAIL), json.dumps(TOKEN))
    assert where is not None and json.loads(where) == json.loads(without), "others may be pro"
    assert FORGETTER.verdict("", None, is_touched=True) == ("", None)
    assert FORGETTER.verdict("", b'["pro', is_touched=True) == ("", b'["pro'), "it is no JSON, and nobody's loss"


# The log of changes.

COLUMNS = {
    column.name: column
    for column in (
        Column(1, "id", "integer", is_required=True, is_key=True), Column(2, "email", "text", is_required=True),
        Column(3, "code", "character varying(8)"), Column(4, "born", "date", is_required=True),
        Column(5, "phone", "bigint"), Column(6, "extra", "jsonb"), Column(7, "tags", "text[]"),
        Column(8, "boss", "integer", is_reference=True), Column(9, "state", "mood", is_enum=True),
        Column(10, "paid", "boolean"), Column(11, "made", "timestamp with time zone", is_required=True),
    )
}  # fmt: skip
IMAGE = (
    '{"id":1,"email":"ana@b.example","code":"ana-0001","born":"1984-02-29","phone":351211234567,"extra":{"a":["ana-nick"]},'
    '"tags":["ana-tag"],"boss":1234567,"state":"cheerful","paid":true,"made":"2026-01-01T00:00:00+00:00"}'
)


def make_row(live: str = "{}") -> Row:
    tables = {("public", "people"): COLUMNS, ("public", "orders"): COLUMNS}
    names = {column.number: column.name for column in COLUMNS.values()}
    return Row(tables, frozenset({("public", "people", '{"id":1}')}), names, read_image(live))


def make_images(row: Row) -> tuple[Images, list[str]]:
    found = list_values(row, [("public", "people", read_image(IMAGE))])
    return Images(row, Forgetter({"people"}, found, SECRET).own, SECRET), [value.text for value in found]


def test_an_image_stays_a_row_of_its_table() -> None:
    images, texts = make_images(make_row())
    assert texts == ["ana@b.example", "ana-0001", "1984-02-29", "351211234567", "ana-nick", "ana-tag"]
    mutation = Mutation("public", "people", '{"id":1}', Operation.DELETE, IMAGE, None, True, 9)
    erased = images.mutation(mutation)
    assert erased.key == '{"id":1}' and erased.before is not None and not any(text in erased.before for text in texts)
    assert json.loads(erased.before) == {
        "id": 1, "email": make_token(SECRET, "ana@b.example"), "code": "forgotte", "born": "1970-01-01", "phone": None,
        "extra": make_token(SECRET, '{"a":["ana-nick"]}'), "tags": [make_token(SECRET, '["ana-tag"]')], "boss": 1234567,
        "state": "cheerful", "paid": True, "made": "1970-01-01T00:00:00+00:00",
    }  # fmt: skip
    assert images.mutation(erased) == erased, "what is forgotten stays as it is"
    assert list_values(make_row(), [("public", "people", read_image(erased.before))]) == []


def test_what_the_row_has_now_stays() -> None:
    live = IMAGE.replace("ana@b.example", "gone").replace("ana-0001", "gone")
    images, texts = make_images(make_row(live))
    assert texts == ["ana@b.example", "ana-0001"]
    (erased,) = [images.erase("public", "people", IMAGE)]
    assert json.loads(erased) == json.loads(IMAGE) | {"email": make_token(SECRET, "ana@b.example"), "code": "forgotte"}


def test_a_row_of_another_table_loses_what_is_not_its_own() -> None:
    images, _ = make_images(make_row())
    other = (
        '{"id":5,"email":"for ana@b.example only","code":"ana-0001","born":"1984-02-29","phone":351211234567,'
        '"extra":{"n":351211234567},"tags":["x"],"boss":2,"state":"cheerful","paid":true,"made":"2026-01-01T00:00:00+00:00"}'
    )
    left = json.loads(images.hide("public", "orders", other))
    assert left == json.loads(other) | {
        "email": f"for {make_token(SECRET, 'ana@b.example')} only", "code": "forgotte", "born": "1970-01-01",
        "phone": None, "extra": {"n": make_token(SECRET, "351211234567")},
    }  # fmt: skip
    assert images.hide("public", "orders", other.replace("ana", "bob").replace("1984", "1985").replace("3512", "3513"))
    untouched = '{"id":5,"email":"bob@b.example"}'
    assert images.hide("public", "orders", untouched) is untouched


def test_a_number_that_changes_all_the_time_is_not_looked_for() -> None:
    row = make_row()
    images = [("public", "people", {"id": "1", "phone": str(10**9 + n)}) for n in range(60)]
    found = list_values(row, images)
    assert len(found) == 60 and all(value.is_measure for value in found)
    forgetter = Forgetter({"people"}, found, SECRET)
    kept = make_execution(Returned(200, (), b'{"n": 1000000007}'))
    assert forgetter.execution(kept, is_touched=True, image=lambda mutation: mutation) is kept
    named = make_execution(Returned(200, (), b'{"phone": 1000000007}'))
    assert b"1000000007" not in codec.encode(
        forgetter.execution(named, is_touched=True, image=lambda mutation: mutation).outcome
    )
