"""What a followed guest tells is taken out of its bytes, however they are cut, and the wire's pass untouched."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.expression import BadExpressionError, parse_expression, parse_expressions
from flux.seen_values import show
from flux.supervisor.console_debug import _read
from flux.supervisor.console_query import BadQueryError
from flux.travel import LINE_BYTES_MAX, VALUES_BYTES_MAX, VALUES_MAX, Tap, TracePlan

OURS = [
    b'["trace","events",[[1,"line","f.py",3,"f",1,0,0,""]]]',
    b'["trace","frame",{"event":1,"stack":[["f.py",3,"f",1]],"locals":{"a":1}}]',
    b'["trace","value",[1,"f.py",3,"f",[7]]]',
    b'["trace","end",{"events":9,"raised":[["f.py",3,2]],"files":["f.py"],"lines":[3],"lost":false}]',
]
THEIRS = [
    b'[1,"db.query",["select 1"]]',
    b'["wait"]',
    b'["return",{}]',
    b'["trace","events",[["one"]]]',
    b'["trace","other",1]',
    b'["trace"]',
    b"",
    b'["tra',
]


@given(st.lists(st.sampled_from([*OURS, *THEIRS]), max_size=12), st.lists(st.integers(1, 60)))
def test_a_tap_takes_what_is_its_own_however_the_bytes_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    tap, kept = Tap(TracePlan()), b""
    for size in cuts:
        piece, data = data[:size], data[size:]
        kept += tap.take(piece) if piece else b""
    kept += tap.take(data) if data else b""
    kept += tap.take(b"")
    assert kept == b"".join(line + b"\n" for line in lines if line in THEIRS)
    assert len(tap.events) == lines.count(OURS[0])
    assert tap.values_count == lines.count(OURS[2])
    assert (tap.end is not None) == (OURS[3] in lines)


def test_a_tap_knows_how_far_one_had_come_that_was_killed() -> None:
    tap = Tap(TracePlan())
    assert tap.take(b'["trace","count",200]\n["trace","count",300]\n[1,"http.request",[]]\n').endswith(b"[]]\n")
    assert (tap.last, tap.is_whole) == (300, False)
    assert tap.take(b'["trace","count","far"]\n') != b"", "it is the wire's to refuse"
    tap.take(OURS[3] + b"\n")
    assert (tap.last, tap.is_whole) == (9, True)


def test_a_tap_holds_a_window_and_no_more() -> None:
    tap = Tap(TracePlan(before=3_000))
    for number in range(1, 4_000):
        assert tap.take(b'["trace","value",[%d,"f.py",1,"f",[%d]]]\n' % (number, number)) == b""
    assert [value.event for value in tap.values] == list(range(3_000 - VALUES_MAX, 3_000))
    assert tap.values_count == 2_999
    large = b'["trace","value",[1,"f.py",1,"f",["%s"]]]\n' % (b"x" * 200_000)
    for _ in range(200):
        assert tap.take(large) == b""
    assert tap.values_count == 3_199
    assert len(tap.values) * len(large) <= VALUES_BYTES_MAX, "as many as have room, whoever sends them"
    endless = b'["trace","events",[' + b" " * LINE_BYTES_MAX
    assert tap.take(endless) == endless, "it is the wire's to refuse"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("plan", ["name", "plan"]),
        ("order.lines[0]['sku']", ["item", ["item", ["attribute", ["name", "order"], "lines"], 0], "sku"]),
        ("xs[-1]", ["item", ["name", "xs"], -1]),
        ("len(xs) > 2", ["compare", ">", ["length", ["name", "xs"]], ["literal", 2]]),
        ("not a and b is None", ["and", ["not", ["name", "a"]], ["compare", "is", ["name", "b"], ["literal", None]]]),
    ],
)
def test_an_expression_becomes_a_tree(text: str, tree: object) -> None:
    assert parse_expression(text).tree == tree


@pytest.mark.parametrize(
    "text",
    ["", "f()", "a.b()", "a + 1", "[x for x in y]", "a[b]", "a[1:2]", "lambda: 1", "a := 1", "a < b < c",
     "__import__('os')", "a" * 600, "(" * 300, "a\x00b", "1e999", "'", "import os",
     ",".join("a" * 30), "-" * 200 + "1", "f'{a}'"],
)  # fmt: skip
def test_what_would_have_to_run_is_no_expression(text: str) -> None:
    with pytest.raises(BadExpressionError):
        parse_expressions(text)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{", b'{"att": 1}', b'{"file": "a.py"}', b'{"before": 3, "after": 2}', b'{"watch": "a", "condition": "b"}',
     b'{"seek": {"kinds": ["line"]}}', b'{"seek": {"kinds": ["flight"]}, "after": 1}', b'{"seek": {}, "after": 1}',
     b'{"seek": {"kinds": ["line"]}, "after": 1, "file": "a.py", "line": 1}', b'{"around": 100}',
     b'{"around": -1}', b'{"up": -1}', b'{"up": 50}', b'{"watch": "a", "file": "a.py", "line": 1}'],
)  # fmt: skip
def test_a_question_that_means_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(BadQueryError):
        _read(body)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None, "x"]}, '{"a": [1, None, "x"]}'),
        ({"$type": "str", "text": "ab", "length": 1234}, '"ab"… 1,234 characters'),
        ({"$type": "list", "items": [1], "length": 9}, "[1, … 9 in all]"),
        ({"$type": "Order", "fields": {"total": 3}}, "Order(total=3)"),
        ({"$type": "KeyError", "args": [None]}, "KeyError(None)"),
        ({"$type": "dict", "pairs": [[1, 2]]}, "{1: 2}"),
        ({"$type": "unseen", "text": "no plan yet"}, "(no plan yet)"),
        ({"$type": "Decimal", "text": "1.10"}, "Decimal(1.10)"),
        ({"$type": "Odd", "items": 3}, "<Odd>"),
        ({"$type": 3}, '{"$type": 3}'),
    ],
)
def test_a_value_is_shown_on_one_line(value: object, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize("begin, end", [
    ("[", "]"), ('{"a":', "}"), ('{"$type":"A","value":', "}"), ('{"$type":"A","items":[', "]}"),
    ('{"$type":"A","pairs":[[', ",1]]}"), ('{"$type":"A","fields":{"a":', "}}"), ('{"$type":"A","args":[', "]}"),
    ('{"$type":3,"a":', "}"),
])  # fmt: skip
def test_a_value_that_is_nested_beyond_reason_is_shown_up_to_a_depth(begin: str, end: str) -> None:
    levels = 900 // (begin.count("[") + begin.count("{"))
    shown = show(json.loads(begin * levels + "7" + end * levels))
    assert "…" in shown and "7" not in shown
    assert "7" in show(json.loads(begin * 15 + "7" + end * 15)), "none of ours is so deep"
    tap = Tap(TracePlan())
    deep = begin * levels + "7" + end * levels
    for line in (f'["trace","value",[1,"a.py",1,"f",[{deep}]]]\n',
                 f'["trace","frame",{{"event":1,"stack":[],"locals":{{"a":{deep}}}}}]\n'):  # fmt: skip
        assert tap.take(line.encode()) == line.encode(), "it is left to the wire, which refuses it"
        shallow = line.replace(deep, begin * 15 + "7" + end * 15).encode()
        assert tap.take(shallow) == b""
    assert len(tap.values) == len(tap.shown) == 1


def test_nothing_that_serves_can_have_the_tracer_in_it() -> None:
    """A worker imports it in one place, for a start document that asks for it; and only a followed replay's does.

    That a function which serves finds neither module nor trace function is seen in tests/integration/test_debug.py.
    """
    root = Path(__file__).parents[2]
    importers = []
    for path in (root / "guest-sdk" / "python" / "flux_guest").glob("*.py"):
        parsed = ast.parse(path.read_text())
        guarded = {
            id(inner)
            for node in ast.walk(parsed)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "'trace' in start"
            for inner in ast.walk(node)
        }
        for node in ast.walk(parsed):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names}
                if any("._trace" in name for name in names):
                    importers.append((path.name, id(node) in guarded))
                if any(name.endswith("._look") for name in names):
                    assert path.name == "_trace.py", "what it renders with is nobody else's"
    assert importers == [("_worker.py", True)]
    asking = [
        path.relative_to(root).as_posix()
        for path in (root / "flux").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "make_document"
        and any(keyword.arg == "trace" for keyword in node.keywords)
    ]  # fmt: skip
    assert asking == ["flux/supervisor/replay.py"]
