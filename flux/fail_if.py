"""``--fail-if``: what is wrong with an answer, in one expression.

The grammar, from loose to tight::

    either  = both ("or" both)*
    both    = not ("and" not)*
    not     = "not" not | comparison
    comparison = value (("==" | "!=" | "<" | "<=" | ">" | ">=") value)?
    value   = "(" either ")" | text | number | "true" | "false" | "null" | path
    path    = name ("." name | "[" (number | text) "]")*

Text stands in double quotes, as in JSON, or in single ones. A path begins with a name of `NAMES`; what is not there
is ``null``. Values of different kinds are unequal, ``1`` and ``true`` are of different kinds, and only numbers and only
texts have an order.

An expression is true, false, or `Unknown`: where it puts things in order that have none, or takes for true or false
what is neither. ``or`` and ``and`` need only one side for their answer where that decides. What is unknown marks no
commit good or bad.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec

from flux.errors import OperatorError

NAMES = ("status", "outcome", "verdict", "error", "message", "body", "headers")
"""What an expression can speak of: HTTP status, kind of the outcome, the verdict's words, type and message of the
error, the answer's body (as JSON where it is) and headers, their names in lower case."""
CHARACTERS_MAX = 2000
DEPTH_MAX = 50


class ExpressionError(OperatorError):
    """An expression of ``--fail-if`` can't be read."""

    code = "FLX556"


@attrs.frozen
class Unknown:
    """Neither true nor false."""

    reason: str


@attrs.frozen
class Constant:
    """A value that was written out."""

    value: str | int | float | bool | None


@attrs.frozen
class Path:
    """A place in what came out."""

    steps: tuple[str | int, ...]
    text: str
    """As it was written."""


@attrs.frozen
class Comparison:
    """Two values and what is asked of them."""

    sign: str
    left: "Expression"
    right: "Expression"


@attrs.frozen
class Not:
    """The other way round."""

    inner: "Expression"


@attrs.frozen
class Logic:
    """All of them, or any of them."""

    is_all: bool
    parts: "tuple[Expression, ...]"


Expression = Constant | Path | Comparison | Not | Logic

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?![A-Za-z0-9_])
      | (?P<word>[A-Za-z_][A-Za-z0-9_-]*)
      | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|\.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"true": True, "false": False, "null": None}
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARISONS = ("==", "!=", *_ORDERS)


@attrs.frozen
class _Token:
    kind: str
    """``text``, ``number``, ``word``, ``sign`` or ``end``."""
    text: str
    at: int


def parse_expression(text: str) -> Expression:
    """Return what ``text`` says; raise `ExpressionError`, which points at the column."""
    if len(text) > CHARACTERS_MAX:
        raise ExpressionError(
            f"--fail-if: the expression has {len(text):,} characters; {CHARACTERS_MAX:,} are the most",
            remedy="put it into a program of your own, and name that with --check",
        )
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(self._text.rstrip()):
            found = _TOKEN.match(self._text, at)
            if found is None:
                start = at + len(self._text[at:]) - len(self._text[at:].lstrip())
                wrong = self._text[start]
                what = "a text that does not end" if wrong in "\"'" else f"{wrong!r} has no meaning here"
                raise self._fail(what, start)
            kind = str(found.lastgroup)
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            at = found.end()
        return [*tokens, _Token("end", "", len(self._text))]

    def parse(self) -> Expression:
        result = self._either()
        left = self._peek()
        if left.kind != "end":
            raise self._fail(f"{left.text!r} is one thing too many: and, or, == ... is expected", left.at)
        return result

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        """Take the next token if it is one of these words or signs."""
        token = self._peek()
        if token.kind not in ("word", "sign") or token.text not in texts:
            return None
        self._next += 1
        return token

    def _either(self) -> Expression:
        return self._join("or", is_all=False, read=self._both)

    def _both(self) -> Expression:
        return self._join("and", is_all=True, read=self._not)

    def _join(self, word: str, *, is_all: bool, read: Callable[[], Expression]) -> Expression:
        parts = [read()]
        while self._take(word):
            parts.append(read())
        return parts[0] if len(parts) == 1 else Logic(is_all, tuple(parts))

    def _not(self) -> Expression:
        token = self._take("not")
        if token is None:
            return self._comparison()
        self._go_down(token)
        inner = Not(self._not())
        self._depth -= 1
        return inner

    def _comparison(self) -> Expression:
        left = self._value()
        sign = self._take(*_COMPARISONS)
        if sign is None:
            return left
        right = self._value()
        again = self._peek()
        if again.text in _COMPARISONS and again.kind == "sign":
            raise self._fail("one comparison ends here: join two with and", again.at)
        return Comparison(sign.text, left, right)

    def _value(self) -> Expression:
        token = self._peek()
        self._next += 1
        match token.kind, token.text:
            case "sign", "(":
                self._go_down(token)
                inner = self._either()
                self._depth -= 1
                if self._take(")") is None:
                    raise self._fail("this parenthesis is not closed", token.at)
                return inner
            case "text", _:
                return Constant(self._read_text(token))
            case "number", _:
                return Constant(self._read_number(token))
            case "word", word if word in _WORDS:
                return Constant(_WORDS[word])
            case "word", word if word in NAMES:
                return self._path(token)
            case "word", word if word not in ("and", "or", "not"):
                known = ", ".join(NAMES)
                raise self._fail(f"there is no {word}: an expression speaks of {known}", token.at)
        what = "the expression ends too early" if token.kind == "end" else f"{token.text!r} is no value"
        raise self._fail(what, token.at)

    def _path(self, first: _Token) -> Path:
        steps: list[str | int] = [first.text]
        while (sign := self._take(".", "[")) is not None:
            token = self._peek()
            self._next += 1
            if sign.text == "." and token.kind == "word":
                steps.append(token.text)
            elif sign.text == "[" and token.kind == "text":
                steps.append(self._read_text(token))
            elif sign.text == "[" and token.kind == "number" and re.fullmatch("[0-9]{1,9}", token.text):
                steps.append(int(token.text))
            else:
                what = "the name of a field" if sign.text == "." else "a number or a text"
                raise self._fail(f"{what} is expected after {sign.text!r}", token.at)
            if sign.text == "[" and self._take("]") is None:
                raise self._fail("']' is expected", self._peek().at)
        end = self._tokens[self._next - 1]
        return Path(tuple(steps), self._text[first.at : end.at + len(end.text)])

    def _read_text(self, token: _Token) -> str:
        inner = token.text[1:-1]
        if token.text[0] == "'":
            # To JSON's quotes: what was escaped for the single ones, and what now has to be.
            inner = re.sub(r"\\.|\"", lambda found: {"\\'": "'", '"': '\\"'}.get(found[0], found[0]), inner)
        try:
            return msgspec.json.decode(f'"{inner}"'.encode(), type=str)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise self._fail(
                "in this text something stands that JSON does not allow in one", token.at
            ) from error

    def _read_number(self, token: _Token) -> int | float:
        if len(token.text) > 40:
            raise self._fail("this number is too long", token.at)
        value = float(token.text)
        if not math.isfinite(value):
            raise self._fail("this number is too large", token.at)
        return int(token.text) if re.fullmatch("-?[0-9]+", token.text) else value

    def _go_down(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._fail(f"more than {DEPTH_MAX} levels, one in the other", token.at)

    def _fail(self, what: str, at: int) -> ExpressionError:
        # A line feed or a tab would put the mark elsewhere; of a long text, what is near is enough.
        begin = max(0, at - 60)
        shown = "".join(letter if letter.isprintable() else " " for letter in self._text[begin : at + 20])
        return ExpressionError(
            f"--fail-if: {what}, at column {at + 1}\n  {shown}\n  {' ' * (at - begin)}^",
            remedy="--fail-if 'status != 201', --fail-if 'body.plan == \"free\" and error == \"KeyError\"'",
        )


def evaluate(expression: Expression, subject: Mapping[str, Any]) -> bool | Unknown:
    """Return whether ``expression`` holds for ``subject``, which has a value for each of `NAMES`. Never raises."""
    match expression:
        case Logic(is_all=is_all, parts=parts):
            unknown: Unknown | None = None
            for part in parts:
                value = evaluate(part, subject)
                if value is not is_all and not isinstance(value, Unknown):
                    return value
                unknown = value if unknown is None and isinstance(value, Unknown) else unknown
            return is_all if unknown is None else unknown
        case Not(inner=inner):
            value = evaluate(inner, subject)
            return value if isinstance(value, Unknown) else not value
        case Comparison(sign=sign, left=left, right=right):
            return _compare(sign, left, right, subject)
        case Constant() | Path():
            found = _find(expression, subject)
            if isinstance(found, bool):
                return found
            return Unknown(f"{_show(expression)} is {_name_kind(found)}, neither true nor false")


def _compare(sign: str, left: Expression, right: Expression, subject: Mapping[str, Any]) -> bool | Unknown:
    values = []
    for side in (left, right):
        value = _find(side, subject) if isinstance(side, Constant | Path) else evaluate(side, subject)
        if isinstance(value, Unknown):
            return value
        values.append(value)
    one, other = values
    if sign in ("==", "!="):
        return _is_equal(one, other) is (sign == "==")
    kinds = [_name_kind(one), _name_kind(other)]
    if kinds not in (["a number"] * 2, ["a text"] * 2):
        told = " and ".join(f"{_show(side)} is {kind}" for side, kind in zip((left, right), kinds, strict=True))
        return Unknown(f"{told}, and neither comes before the other")
    return _ORDERS[sign](one, other)


def _is_equal(one: Any, other: Any) -> bool:
    if _name_kind(one) != _name_kind(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    return bool(one == other)


def _find(expression: Constant | Path, subject: Mapping[str, Any]) -> Any:
    """Return the value at a place; None where there is none."""
    if isinstance(expression, Constant):
        return expression.value
    value: Any = subject
    for step in expression.steps:
        if isinstance(value, Mapping) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step] if step < len(value) else None
        else:
            return None
    return value


def _name_kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case None:
            return "null"
    return "an object"


def _show(expression: Expression) -> str:
    match expression:
        case Path(text=text):
            return text
        case Constant(value=value):
            return repr(value) if isinstance(value, str) else str(value).lower()
    return "one side"
