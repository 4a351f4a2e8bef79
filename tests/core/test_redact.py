"""What must not be stored is not in what is stored, wherever it turns up; and a replay redacts to the same.

Each test plants values and then looks for them in the bytes that the record is made of.
"""

import base64
import json
from typing import Any

import pytest

from flux import codec, values
from flux.execution import Exited, Frame, Killed, LogLine, Outcome, Raised, Returned, Trigger
from flux.hidden import HiddenValues
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.mutation import Mutation, Operation
from flux.redact import UNEXAMINED, RedactionRules, Redactor

SEED = b"s" * 32
PASSWORD = 'pass "word" ü'
RULES = ["header:x-api-key", "json:$.password", "json:$.users[*].pin", "column:users.ssn"]


def make(*rules: str, secrets: dict[str, str] | None = None) -> Redactor:
    pairs = [(value, f"flux-secret:{name}:00") for name, value in (secrets or {}).items()]
    return Redactor(RedactionRules.parse(rules or RULES), SEED, pairs)


def is_free_of(noun: Any, *planted: str) -> bool:
    """Whether none of ``planted`` is in the noun as it is stored, in any of its spellings."""
    data = codec.encode(noun)
    return not any(
        spelling in data
        for value in planted
        for spelling in (
            value.encode(),
            json.dumps(value)[1:-1].encode(),
            base64.b64encode(value.encode())[:-4] or b"?",
        )
    )


def call(name: str, *arguments: object) -> HostCallRequest:
    return HostCallRequest(1, name, values.encode_canonical(list(arguments)))


def answer(value: object) -> HostCallResult:
    return HostCallResult(values.encode(value))


# Where rules point to.


@pytest.mark.parametrize(
    ("header", "stored"),
    [
        (("authorization", "Bearer abcdefgh"), ("authorization", "Bearer redacted:")),
        (("Authorization", "opaque-credentials"), ("Authorization", "redacted:")),
        (("cookie", "session=abcdefgh"), ("cookie", "session=redacted:")),
        (("set-cookie", "session=abcdefgh; Path=/; HttpOnly"), ("set-cookie", "session=redacted:")),
        (("x-api-key", "abcdefgh"), ("x-api-key", "redacted:")),
    ],
)
def test_a_header_keeps_its_shape_and_loses_its_value(
    header: tuple[str, str], stored: tuple[str, str]
) -> None:
    trigger = make().trigger(Trigger("http", headers=(header, ("accept", "*/*"))))
    assert trigger.headers[0][1].startswith(stored[1])
    assert trigger.headers[1] == ("accept", "*/*")
    assert is_free_of(trigger, "abcdefgh", "opaque-credentials")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"password": PASSWORD}).encode(),
        json.dumps({"password": PASSWORD}, ensure_ascii=False).encode(),
        b"\xef\xbb\xbf" + json.dumps({"password": PASSWORD}).encode(),
        b" \n" + json.dumps({"a": 1, "password": [PASSWORD, {"x": PASSWORD}]}).encode(),
        b'{"password": "one-first", "password": "' + json.dumps(PASSWORD)[1:-1].encode() + b'"}',
        b'{"pass\\u0077ord": "hidden-key"}',
        b"user=a&password=pass+%22word%22+%C3%BC&x=1",
        b'{"password": "cut of',
        b'--x\r\ncontent-disposition: form-data; name="password"\r\n\r\nmulti-part\r\n--x--',
        b'{"password": 12345678}',
        b"[" * 5000 + b'"password"',
    ],
)
def test_a_json_path_holds_in_every_form_of_a_body(body: bytes) -> None:
    trigger = make().trigger(Trigger("http", body=body))
    assert is_free_of(
        trigger,
        PASSWORD,
        "one-first",
        "hidden-key",
        "pass+%22word%22+%C3%BC",
        "cut of",
        "multi-part",
        "12345678",
    )


def test_a_json_path_holds_in_parameters_queries_and_the_path() -> None:
    trigger = Trigger(
        "http", path="/reset/abc/k9", route="/reset/{password}/{key}", params=(("password", "abc"), ("key", "k9")),
        query=(("password", "long-enough"), ("next", "/?p=long-enough")),
    )  # fmt: skip
    stored = make().trigger(trigger)
    assert is_free_of(stored, "long-enough")
    assert stored.path.startswith("/reset/redacted:") and stored.path.endswith("/k9")
    assert dict(stored.params)["key"] == "k9"


def test_a_json_path_holds_in_outbound_urls_and_where_they_lead() -> None:
    redactor = make()
    request = call(
        "http.request", "GET", "https://a.example/x?password=planted-1&b=2", {"headers": [], "body": None}
    )
    stored = redactor.request(request)
    assert b"b=2" in stored.arguments and is_free_of(stored, "planted-1")
    came = {
        "status": 200,
        "headers": [["location", "/y?password=planted-2"], ["set-cookie", "sid=planted-3"]],
        "body": '{"password": "planted-4"}',
        "url": "https://a.example/y?password=planted-2",
        "redirects": [
            {
                "status": 302,
                "url": "https://a.example/x?password=planted-1",
                "location": "/y?password=planted-2",
            }
        ],
    }
    result = redactor.result(request, answer(came))
    assert is_free_of(result, "planted-1", "planted-2", "planted-3", "planted-4")


@pytest.mark.parametrize(
    "sql",
    [
        "insert into users (name, ssn) values ($1, $2)",
        "insert into public.users as u (name, ssn) values ('x', $2), (lower($1), $2) on conflict do nothing",
        "insert into users values ($1, $2)",
        "insert into users (ssn) select $2",
        "update users set ssn = $2 where name = $1",
        "update users u set name = $1 where u.ssn = $2::text and true",
        "select * from users where $2 = ssn and name = $1",
        "select * from users where lower(ssn) = lower($2)",
        'select 1 from users where ("ssn", name) = ($2, $1)',
        "insert into users (name, ssn) values ($1, '123-45-6789')",
        "update users set SSN = E'123-45-6789'",
        "select * from users where ssn in ('123-45-6789', $2)",
        "select * from users where ssn like $2 || '%'",
        "select 1 from users where (id, ssn, name) in (($2, '123-45-6789', $1))",
        "select * from users where ssn is distinct from $2",
        "merge into users using (select $2 as s) n on ssn = n.s when matched then delete",
    ],
)
def test_what_a_statement_gives_to_a_redacted_column_is_blanked(sql: str) -> None:
    redactor = make()
    stored = redactor.request(call("db.query", sql, ["ann", "123-45-6789"]))
    assert is_free_of(stored, "123-45-6789")
    # And what comes of it later.
    error = HostCallError(
        "DatabaseError", 'duplicate key value violates unique constraint "users_ssn_key"', "23505",
        values.encode_canonical({"detail": "Key (ssn)=(123-45-6789) already exists.", "table": "users"}),
    )  # fmt: skip
    assert is_free_of(redactor.result(stored, HostCallResult(error=error)), "123-45-6789")


@pytest.mark.parametrize(
    "sql",
    [
        "insert into users (name, ssn) values ($1, null)",
        "select ssn, name from users where name = $1",
        "select u.ssn from users u where u.name = $1 order by u.ssn desc limit 3",
        "update users set name = $1 where ssn is not null returning ssn",
        "select name from users where name = $1 -- ssn",
        "select 'ssn' from users where name = $1",
    ],
)
def test_other_columns_of_a_plain_statement_stay_readable(sql: str) -> None:
    stored = make("column:users.ssn").request(call("db.query", sql, ["ann of house"]))
    assert b"ann of house" in stored.arguments


def test_rows_and_row_changes_lose_redacted_columns_in_keys_too() -> None:
    redactor = make()
    rows = {
        "columns": ["id", "ssn"],
        "types": ["int4", "text"],
        "rows": [[1, "123-45-6789"], [2, None]],
        "tag": "SELECT 2",
    }
    stored = redactor.result(call("db.query", "select id, ssn from users", []), answer(rows))
    assert is_free_of(stored, "123-45-6789") and b"[2,null]" in stored.value
    image = '{"id":1,"price":1.10,"ssn":"987-65-4321"}'
    mutation = Mutation("public", "users", '{"ssn":"987-65-4321"}', Operation.UPDATE, image, image, False, 7)
    changed = redactor.mutation(mutation)
    assert is_free_of(changed, "987-65-4321")
    assert changed.after is not None and '"price":1.10' in changed.after
    other = Mutation(
        "public", "orders", '{"id":1}', Operation.INSERT, None, '{"id":1,"ssn":"kept 1"}', False, 7
    )
    assert redactor.mutation(other) is other


def test_an_error_that_repeats_a_row_is_not_stored() -> None:
    detail = "Failing row contains (1, 555-55-5555, null)."
    error = HostCallError(
        "DatabaseError",
        "null value in column",
        "23502",
        values.encode_canonical({"detail": detail, "table": "users"}),
    )
    redactor = make()
    assert is_free_of(
        redactor.result(call("db.query", "select f()", []), HostCallResult(error=error)), "555-55-5555"
    )
    assert is_free_of(redactor.outcome(Raised("DatabaseError", f"null value\n{detail}")), "555-55-5555")
    mail = values.encode_canonical({"detail": "Key (email)=(a@b.com) already exists.", "table": "users"})
    kept = redactor.result(
        call("db.query", "select f()", []), HostCallResult(error=HostCallError("E", "", "", mail))
    )
    assert kept.error is not None and b"a@b.com" in kept.error.details


# What a rule has met is hidden everywhere.


def everything_after(value: str) -> list[tuple[str, Any]]:
    """The parts of an execution that code can put a value into."""
    quoted = json.dumps(value)
    return [
        ("a parameter", call("db.query", "select f($1)", [value])),
        ("a statement's text", call("db.query", f"select '{value}'", [])),
        ("a document", call("db.query", "select $1", [{"deep": [f"<{value}>"]}])),
        ("a document as text", call("db.query", "select $1", [f'{{"a": {quoted}}}'])),
        ("a URL", call("http.request", "GET", f"https://a.example/{value}", {})),
        ("a body", call("http.request", "POST", "https://a.example/", {"body": quoted})),
        (
            "a body of bytes",
            call("http.request", "POST", "https://a.example/", {"body": b"\xff" + value.encode()}),
        ),
        (
            "a log line",
            LogLine(1, "info", f"it is {value}", values.encode_canonical({"v": value, "b": value.encode()})),
        ),
        ("a message", Raised("ValueError", f"bad {value}", cause=f"KeyError: {value}")),
        ("a line of source", Raised("E", "", (Frame("f.py", 1, "f", True, f"check({value!r}, {quoted})"),))),
        (
            "violations",
            Raised("E", "", violations=values.encode_canonical([{"path": "a", "message": value}])),
        ),
        ("a code", Raised(value, "", code=value)),
        ("last words", Exited(1, None, f"Traceback: {value}")),
        ("a limit's detail", Killed("memory", "1B", "Flux", value)),
        ("an answer", Returned(200, (("x-echo", value), ("location", f"/?v={value}")), quoted.encode())),
        ("an answer of text", Returned(200, (), f"hello {value}".encode())),
    ]


@pytest.mark.parametrize("place", [name for name, _ in everything_after("x")])
@pytest.mark.parametrize("value", ["hunter2hunter2", PASSWORD, "back\\slash\n", "12345678"])
@pytest.mark.parametrize("met", ["secret", "json path", "cookie", "basic", "column"])
def test_a_value_that_must_not_be_stored_is_found_in_every_part(place: str, value: str, met: str) -> None:
    redactor = make(secrets={"KEY": value} if met == "secret" else None)
    match met:
        case "json path":
            redactor.trigger(Trigger("http", body=json.dumps({"password": value}).encode()))
        case "cookie":
            redactor.trigger(Trigger("http", headers=(("cookie", f"a=b; session={value}"),)))
        case "basic":
            credentials = base64.b64encode(f"ann:{value}".encode()).decode()
            redactor.trigger(Trigger("http", headers=(("authorization", f"Basic {credentials}"),)))
        case "column":
            rows = {"columns": ["ssn"], "types": ["text"], "rows": [[value]], "tag": "SELECT 1"}
            redactor.result(call("db.query", "select ssn from users", []), answer(rows))
    noun = dict(everything_after(value))[place]
    match noun:
        case HostCallRequest():
            stored: Any = redactor.request(noun)
            values.decode(stored.arguments)
        case LogLine():
            stored = redactor.log(noun)
            values.decode(stored.fields)
        case _:
            stored = redactor.outcome(noun)
    assert is_free_of(stored, value)


def test_a_number_that_is_hidden_leaves_json_behind() -> None:
    hidden = HiddenValues([("12345678", "flux-secret:PIN:00")])
    data = b'{"n":12345678,"m":[112345678,-1],"d":{"$decimal":"12345678"},"12345678":1.5e3}'
    assert json.loads(hidden.hide_json(data)) == {
        "n": "flux-secret:PIN:00",
        "m": [112345678, -1],
        "d": "flux-secret:PIN:00",
        "flux-secret:PIN:00": 1500.0,
    }


def test_of_two_values_that_begin_alike_none_loses_only_its_head() -> None:
    hidden = HiddenValues([("abcdefgh", "<short>"), ("abcdefghijkl", "<long>"), ("<short>x", "<odd>")])
    assert hidden.hide(b"abcdefghijkl abcdefgh abcdefghi") == b"<long> <short> <short>i"


def test_a_short_value_is_hidden_only_where_a_rule_points() -> None:
    redactor = make("json:$.password", secrets={"LETTER": "a", "WORD": "admin"})
    trigger = redactor.trigger(
        Trigger("http", body=b'{"password": "a", "name": "a banana", "role": "admin"}')
    )
    document = json.loads(trigger.body)
    assert document["name"] == "a banana" and document["role"] == "admin"
    assert document["password"].startswith("redacted:")
    revealed = redactor.result(call("secret.reveal", "WORD"), answer("admin"))
    assert b"admin" not in revealed.value


def test_what_has_nothing_to_hide_is_the_very_same() -> None:
    redactor = make()
    request = call("db.query", "select * from orders where id = $1", [1])
    result = answer({"columns": ["id"], "types": ["int4"], "rows": [[1]], "tag": "SELECT 1"})
    line = LogLine(1, "info", "hello", b'{"a":1}')
    assert redactor.result(request, result) is result
    assert redactor.request(request) == request and redactor.log(line) == line


@pytest.mark.parametrize(
    "arguments", [b'["GET","http://a",{"headers":{"$bytes":"%%"}}]', b'["s",[{"$uuid":"no"}]]', b"[{}]"]
)
@pytest.mark.parametrize("name", ["http.request", "db.query", "anything"])
def test_arguments_that_are_no_values_are_stored_and_break_nothing(name: str, arguments: bytes) -> None:
    stored = make(*RULES, secrets={"KEY": "abcdefgh"}).request(HostCallRequest(1, name, arguments))
    assert json.loads(stored.arguments) == json.loads(arguments)


# Replays.


def test_a_replay_of_what_was_redacted_is_redacted_to_the_same() -> None:
    trigger = Trigger(
        "http", headers=(("cookie", "session=abcdefgh; theme=dark"), ("authorization", "Bearer let-me-in")),
        query=(("password", "from-query"),), body=b'{"password": "from-body", "users": [{"pin": 123456}]}',
    )  # fmt: skip
    recorded = make()
    stored = recorded.trigger(trigger)
    replayed = make()
    assert replayed.trigger(stored) == stored

    def use(body: Any, cookie: str, bearer: str, query: str) -> list[HostCallRequest]:
        return [
            call("db.query", "insert into users (ssn) values ($1)", [body["password"]]),
            call("db.query", "select f($1, $2)", [body["users"][0]["pin"], query]),
            call(
                "http.request",
                "GET",
                "https://a.example/",
                {"headers": [["authorization", f"Bearer {bearer}"]]},
            ),
            call("db.query", "select * from sessions where id = $1", [cookie]),
        ]

    first = use(json.loads(trigger.body), "abcdefgh", "let-me-in", "from-query")
    headers = dict(stored.headers)
    again = use(
        json.loads(stored.body), headers["cookie"].split("; ")[0].removeprefix("session="),
        headers["authorization"].removeprefix("Bearer "), dict(stored.query)["password"],
    )  # fmt: skip
    assert [replayed.request(request) for request in again] == [
        recorded.request(request) for request in first
    ]
    assert all(
        is_free_of(recorded.request(request), "from-body", "abcdefgh", "let-me-in") for request in first
    )


def test_tokens_of_one_execution_tell_nothing_of_another() -> None:
    rules = RedactionRules.parse(RULES)
    assert Redactor(rules, b"1" * 32).token("same") != Redactor(rules, b"2" * 32).token("same")


def test_what_begins_like_json_and_is_none_is_not_stored_when_a_rule_may_mean_it() -> None:
    redactor = make("json:$.password")
    assert redactor.trigger(Trigger("http", body=b'{"password": "x')).body == UNEXAMINED.encode()
    assert redactor.trigger(Trigger("http", body=b"[not json]")).body == b"[not json]"


def test_an_outcome_that_holds_nothing_stays_as_it_is() -> None:
    outcomes: list[Outcome] = [
        Returned(200),
        Raised("E", "m"),
        Killed("timeout", "1s", "Flux"),
        Exited(1, None),
    ]
    assert [make().outcome(outcome) for outcome in outcomes] == outcomes
