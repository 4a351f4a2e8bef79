"""What ``@function(input=...)`` makes of JSON, and what it says of what it can't make anything of."""

import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, Optional, Union

import attrs
import jsonschema
import msgspec
import pytest
from flux_guest import ValidationError
from flux_guest._context import Request
from flux_guest._doors import SyncDoor
from flux_guest._input_types import VIOLATIONS_MAX, UnreadableTypeError
from flux_guest._validation import describe, make_input, prepare


class Plan(enum.Enum):
    FREE = "free"
    PRO = "pro"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


Cents = NewType("Cents", int)


@attrs.frozen
class Line:
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    _note: str | None = None


@dataclass
class Card:
    kind: Literal["card"]
    number: str


@dataclass
class Transfer:
    kind: Literal["transfer"]
    iban: str
    after: datetime.date | None = None


@dataclass
class Tree:
    """Something in itself."""

    name: str
    children: list["Tree"] = field(default_factory=list)


@dataclass
class Order:
    id: int
    lines: Annotated[list[Line], msgspec.Meta(min_length=1)]
    plan: Plan = Plan.FREE
    level: Level = Level.LOW
    pay: Union[Card, Transfer, None] = None  # noqa: UP007 - as older code writes it
    at: Optional[datetime.datetime] = None  # noqa: UP045
    day: datetime.date | None = None
    who: uuid.UUID | None = None
    total: decimal.Decimal = decimal.Decimal("0.00")
    tags: frozenset[str] = frozenset()
    place: tuple[float, float] | None = None
    prices: dict[Level, Cents] = field(default_factory=dict)
    mode: Literal["fast", "slow", 3] = "fast"
    more: Mapping[str, Any] | None = None
    names: Sequence[str] = ()
    either: int | str = 0
    tree: Tree | None = None
    paid: bool = False


def request(
    *, params: dict[str, str] | None = None, query: list[tuple[str, str]] | None = None, kind: str = "", body: str = ""
) -> Request:
    return Request({
        "method": "POST", "path": "/", "params": list((params or {}).items()), "query": query or [],
        "headers": [["content-type", kind]], "body": body,
    }, SyncDoor(None))  # fmt: skip


def read(kind: Any, value: Any, asked: Request | None = None) -> Any:
    return make_input(kind, value, asked or request())


def refused(kind: Any, value: Any, asked: Request | None = None) -> dict[str, str]:
    with pytest.raises(ValidationError) as raised:
        read(kind, value, asked)
    assert raised.value.status == 400 and raised.value.code == "INPUT_VALIDATION_ERROR"
    return {item["path"]: item["message"] for item in raised.value.violations}


def test_a_handler_gets_objects_all_the_way_down() -> None:
    order = read(Order, {
        "id": 7, "lines": [{"sku": "mug", "count": 2, "note": "blue"}, {"sku": "cap"}], "plan": "pro", "level": 2,
        "pay": {"kind": "transfer", "iban": "DE1", "after": "2026-01-02"}, "at": "2026-01-02T03:04:05Z",
        "day": "2026-01-02", "who": "01890a5d-ac96-774b-bcce-b302099a8057", "total": "19.90", "tags": ["a", "b", "a"],
        "place": [1, 2.5], "prices": {"1": 100, "2": 200}, "mode": 3, "more": {"x": [1]}, "names": ["n"],
        "either": "seven", "tree": {"name": "root", "children": [{"name": "leaf"}]}, "paid": True, "unknown": 1,
    })  # fmt: skip
    assert order == Order(
        7, [Line("mug", 2, "blue"), Line("cap")], Plan.PRO, Level.HIGH,
        Transfer("transfer", "DE1", datetime.date(2026, 1, 2)),
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), datetime.date(2026, 1, 2),
        uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057"), decimal.Decimal("19.90"), frozenset("ab"), (1.0, 2.5),
        {Level.LOW: Cents(100), Level.HIGH: Cents(200)}, 3, {"x": [1]}, ["n"], "seven",
        Tree("root", [Tree("leaf")]), True,
    )  # fmt: skip
    assert isinstance(order.place[0], float) and isinstance(order.names, list)
    least = read(Order, {"id": 7, "lines": [{"sku": "mug"}]})
    assert least == Order(7, [Line("mug")])


def test_every_violation_is_told_at_once_with_its_path() -> None:
    assert refused(Order, {
        "id": "7", "lines": [{"sku": 1, "count": 0}, {}, "no"], "plan": "gold", "level": True,
        "pay": {"kind": "transfer", "after": "soon"}, "at": "noon", "day": 5, "who": "me", "total": "much",
        "tags": {"a": 1}, "place": [1], "prices": {"3": 1, "1": "x"}, "mode": "3", "names": "n", "either": None,
        "tree": {"name": "root", "children": [{"name": "leaf", "children": [{}]}]}, "paid": 1,
    }) == {
        "input.id": "expected int, got str",
        "input.lines[0].sku": "expected str, got int",
        "input.lines[0].count": "expected int >= 1",
        "input.lines[1].sku": "is required",
        "input.lines[2]": "expected an object, got text",
        "input.plan": 'expected one of "free", "pro", got "gold"',
        "input.level": "expected one of 1, 2, got true",
        "input.pay.iban": "is required",
        "input.pay.after": "invalid RFC3339 encoded date",
        "input.at": "invalid RFC3339 encoded datetime",
        "input.day": "expected date, got int",
        "input.who": "invalid UUID",
        "input.total": "invalid decimal string",
        "input.tags": "expected an array, got an object",
        "input.place": "expected an array of 2, got an array of 1",
        "input.prices.3": 'expected one of 1, 2, got "3"',
        "input.prices.1": "expected int, got str",
        "input.mode": 'expected one of "fast", "slow", 3, got "3"',
        "input.names": "expected an array, got text",
        "input.either": "expected int or str, got null",
        "input.tree.children[0].children[0].name": "is required",
        "input.paid": "expected bool, got int",
    }  # fmt: skip
    assert refused(Order, {}) == {"input.id": "is required", "input.lines": "is required"}
    assert refused(Order, {"id": 1, "lines": []}) == {"input.lines": "expected array of length >= 1"}
    assert refused(Order, {"id": 1, "lines": [{"sku": "a"}], "pay": {"kind": "cash"}}) == {
        "input.pay": "expected Card or Transfer or null, got an object"
    }
    for odd in (None, [], "text", 5, True):
        assert list(refused(Order, odd)) == ["input"]


def test_no_more_violations_are_told_than_anybody_reads() -> None:
    assert len(refused(Order, {"id": 1, "lines": [{} for _ in range(100_000)]})) == VIOLATIONS_MAX


def test_text_stands_for_a_number_where_it_could_be_nothing_else_and_one_is_declared() -> None:
    @dataclass
    class Search:
        id: int
        page: int = 1
        deep: bool = False
        tags: list[str] | None = None
        levels: list[Level] = field(default_factory=list)
        q: str = ""
        since: datetime.date | None = None

    asked = request(
        params={"id": "7"},
        query=[("page", "2"), ("deep", "true"), ("tags", "a"), ("tags", "b"), ("levels", "2"), ("q", "5")],
    )
    value = {**asked.params, **asked.query}
    assert read(Search, value, asked) == Search(7, 2, True, ["a", "b"], [Level.HIGH], "5")
    assert refused(Search, {**value, "id": "8", "page": "three"}, asked) == {
        "input.id": "expected int, got str",  # Of the body, as the path has another one.
        "input.page": "expected int, got str",
    }
    form = request(kind="application/x-www-form-urlencoded; charset=utf-8", body="id=9&deep=0&since=2026-01-02")
    assert read(Search, {"id": "9", "deep": "0", "since": "2026-01-02"}, form) == Search(
        9, since=datetime.date(2026, 1, 2)
    )
    not_a_form = request(kind="application/x-www-form-urlencoded", body='{"id": "9"}')
    assert refused(Search, {"id": "9"}, not_a_form) == {"input.id": "expected int, got str"}
    assert refused(Search, {"id": "9"}) == {"input.id": "expected int, got str"}
    assert refused(Search, {"id": "9", "page": "x"}, request(query=[("id", "9"), ("page", "x")])) == {
        "input.page": "expected int, got str"
    }


def test_what_a_class_itself_refuses_is_a_violation_and_its_mistakes_are_not() -> None:
    @attrs.frozen
    class Period:
        first: int
        last: int = attrs.field()

        @last.validator
        def _check(self, _attribute: object, value: int) -> None:
            if value < self.first:
                raise ValueError("last comes before first")

    @dataclass
    class Booking:
        period: Period

        def __post_init__(self) -> None:
            if self.period.first == 13:
                raise KeyError("a bug")

    assert read(Booking, {"period": {"first": 1, "last": 2}}) == Booking(Period(1, 2))
    assert refused(Booking, {"period": {"first": 3, "last": 2}}) == {"input.period": "last comes before first"}
    with pytest.raises(KeyError):
        read(Booking, {"period": {"first": 13, "last": 14}})


def test_which_class_is_meant_is_told_before_it_is_read_so_depth_costs_no_more_than_its_length() -> None:
    @dataclass
    class Text:
        kind: Literal["text"]
        text: str

    @dataclass
    class Both:
        kind: Literal["both"]
        left: "Text | Both | Either"
        right: "Text | Both | Either"

    @dataclass
    class Either:
        kind: Literal["either"]
        left: "Text | Both | Either"
        right: "Text | Both | Either"

    with pytest.MonkeyPatch.context() as patched:
        for kind in (Text, Both, Either):
            patched.setitem(globals(), kind.__name__, kind)
        value: dict[str, Any] = {"kind": "text", "text": "x"}
        for _ in range(60):
            value = {"kind": "either", "left": value, "right": {"kind": "text", "text": "y"}}
        assert read(Either, value).left.left.left.right == Text("text", "y")
        value["left"]["left"]["right"] = {"kind": "text"}
        value["left"]["right"] = {"kind": "neither"}
        assert refused(Either, value) == {
            "input.left.left.right.text": "is required",
            "input.left.right": "expected Text or Both or Either, got an object",
        }


def test_a_class_that_needs_nothing_is_made_of_nothing() -> None:
    @dataclass
    class Page:
        number: int = 1

    @dataclass
    class Cursor:
        after: str

    @dataclass
    class Query:
        one: Page | None = None
        either: Cursor | Page | None = None
        needs: Cursor | None = None

    assert read(Query, {"one": {}, "either": {}}) == Query(Page(), Page())
    assert read(Query, {"either": {"after": "x"}}) == Query(either=Cursor("x"))
    assert refused(Query, {"either": {"after": 1, "number": "x"}, "needs": {}}) == {
        "input.either": "expected Cursor or Page or null, got an object", "input.needs.after": "is required",
    }  # fmt: skip


def test_bounds_where_nobody_would_check_them_are_refused() -> None:
    @dataclass
    class Bounded:
        n: Annotated[int | None, msgspec.Meta(ge=1)]

    @dataclass
    class Described:
        n: Annotated[int | None, msgspec.Meta(description="how many")]

    with pytest.raises(UnreadableTypeError, match=r"Bounded\.n has bounds where none are checked"):
        prepare(Bounded)
    assert read(Described, {"n": 0}).n == 0


def test_a_type_that_no_json_can_become_is_found_before_anything_is_read() -> None:
    class Socket:
        pass

    @dataclass
    class Inner:
        sockets: list[Socket]

    @dataclass
    class Outer:
        inner: dict[str, Inner]

    with pytest.raises(UnreadableTypeError, match=r"Outer\.inner\.sockets is Socket, which no JSON can become"):
        prepare(Outer)


def test_an_input_is_described_as_it_is_read() -> None:
    described = describe(Order)
    assert json.loads(json.dumps(described)) == described
    assert described["$ref"] == "#/$defs/Order"
    order = described["$defs"]["Order"]
    assert order["required"] == ["id", "lines"]
    assert order["properties"]["lines"] == {"type": "array", "items": {"$ref": "#/$defs/Line"}, "minItems": 1}
    assert order["properties"]["plan"] == {"enum": ["free", "pro"], "default": "free"}
    assert order["properties"]["at"] == {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}],
                                         "default": None}  # fmt: skip
    line = described["$defs"]["Line"]
    assert line["properties"]["count"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 1}
    assert list(line["properties"]) == ["sku", "count", "note"]
    assert described["$defs"]["Tree"]["description"] == "Something in itself."
    assert described["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}


WHOLE: dict[str, Any] = {
    "id": 7, "lines": [{"sku": "mug", "count": 2, "note": "blue"}, {"sku": "cap"}], "plan": "pro", "level": 2,
    "pay": {"kind": "transfer", "iban": "DE1"}, "tags": ["a", "b"], "place": [1, 2.5], "prices": {"1": 100},
    "mode": 3, "more": {"x": [1]}, "names": ["n"], "either": "seven", "paid": True,
    "tree": {"name": "root", "children": [{"name": "leaf"}]},
}  # fmt: skip
"""Without what has a format: JSON Schema leaves formats to whoever validates."""
ODD: tuple[Any, ...] = (
    None, True, 1, 101, 2.5, "free", [], [1, 2], {}, {"1": 1}, {"kind": "card", "number": "1"},
    {"name": "x", "children": [{"name": "y", "children": []}]},
)  # fmt: skip


def list_changed(value: Any) -> Iterator[Any]:
    """Yield ``value`` with one thing in it exchanged or missing, in each way."""
    yield from ODD
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, inner in places:
        for changed in list_changed(inner):
            made = value.copy()
            made[place] = changed
            yield made
        if isinstance(value, dict):
            yield {name: item for name, item in value.items() if name != place}


def test_what_is_said_of_an_input_is_what_is_done_with_it() -> None:
    validator = jsonschema.Draft202012Validator(describe(Order))
    accepted = 0
    for value in list_changed(WHOLE):
        try:
            read(Order, value)
        except ValidationError as error:
            assert not validator.is_valid(value), (value, error.violations)
        else:
            # Of a set, JSON Schema wants each member once; two that are equal become one.
            assert validator.is_valid(value), (value, list(validator.iter_errors(value)))
            accepted += 1
    assert accepted > 20
