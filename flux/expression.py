"""The small language in which a person asks what a name held: ``plan, order.lines[0]``, ``total > 100``.

It has names, attributes, items, comparisons, ``and``, ``or``, ``not`` and ``len()``: what can be answered by looking
(`flux_guest._look`), without running anything. It is read here, so that what is wrong is told before anything runs,
and travels to the guest as JSON. It looks like Python, and is read by Python's own parser, but nothing of it is
evaluated as Python.
"""

import ast
import warnings
from typing import Any

import attrs

from flux.errors import OperatorError

CHARACTERS_MAX = 500
PARTS_MAX = 20
DEPTH_MAX = 40
_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is",
    ast.IsNot: "is not",
}  # fmt: skip
_WORDS: dict[type[ast.boolop], str] = {ast.And: "and", ast.Or: "or"}


class BadExpressionError(OperatorError):
    """A text that is no expression of this language."""

    code = "FLX670"
    exit_code = 2


@attrs.frozen
class Expression:
    """One value that is asked for."""

    text: str
    """As it was written, in Python's own layout."""
    tree: Any
    """As PROTOCOL.md has it, "Tracing"."""


def parse_expressions(text: str) -> tuple[Expression, ...]:
    """Return what is between the commas; raise `BadExpressionError`."""
    try:
        if len(text) > CHARACTERS_MAX:
            raise ValueError(f"it has more than {CHARACTERS_MAX} characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on style, for a person's shell.
            parsed = ast.parse(text.strip(), mode="eval").body
        parts = parsed.elts if isinstance(parsed, ast.Tuple) else [parsed]
        if not 0 < len(parts) <= PARTS_MAX:
            raise ValueError(f"it asks for {len(parts)} values; 1 to {PARTS_MAX} can be asked for")
        return tuple(Expression(ast.unparse(part), _read(part, 0)) for part in parts)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
        raise BadExpressionError(
            f'"{text[:80]}" can\'t be looked up: {reason}',
            remedy="names, attributes and items, as in order.lines[0]['sku'], comparisons, and, or, not, len(); "
            "with commas between several",
        ) from error


def parse_expression(text: str) -> Expression:
    """Return the one expression that ``text`` is; raise `BadExpressionError`."""
    found = parse_expressions(text)
    if len(found) > 1:
        raise BadExpressionError(f'"{text[:80]}" is more than one expression', remedy="ask for one of them")
    return found[0]


def _read(node: ast.expr, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise ValueError("it is nested too deeply")
    match node:
        case ast.Name(id=name):
            return ["name", name]
        case ast.Constant() | ast.UnaryOp(op=ast.USub()):
            return ["literal", _read_literal(node)]
        case ast.Attribute(value=inner, attr=name):
            return ["attribute", _read(inner, depth + 1), name]
        case ast.Subscript(value=inner, slice=key):
            return ["item", _read(inner, depth + 1), _read_literal(key)]
        case ast.Call(func=ast.Name(id="len"), args=[inner], keywords=[]):
            return ["length", _read(inner, depth + 1)]
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return ["not", _read(inner, depth + 1)]
        case ast.BoolOp(op=operator, values=parts):
            return [_WORDS[type(operator)], *(_read(part, depth + 1) for part in parts)]
        case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _SIGNS:
            return ["compare", _SIGNS[type(sign)], _read(left, depth + 1), _read(right, depth + 1)]
    raise ValueError(f"{ast.unparse(node)[:60]} would have to be run, and nothing is run to look")


def _read_literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | str() as value):
            return value
        case ast.Constant(value=int() as value) if -(2**63) <= value < 2**63:
            return value
        case ast.Constant(value=float() as value) if abs(value) <= 1e308:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return -_read_literal(node.operand)
    raise ValueError(f"{ast.unparse(node)[:60]} is no number, text, True, False or None")
