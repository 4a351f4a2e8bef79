"""Each wall of the threat model names a test that there is, and what it calls open is what the tests find open."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.escape.test_escape import LOOKING

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")


@cache
def list_tests(path: str) -> set[str]:
    """The names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_wall_of_the_threat_model_is_tried_by_a_test_that_there_is() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    assert len(named) == PAGE.count("`tests/") - PAGE.count("`tests/escape` ")
    assert [f"{path}::{name}" for path, name in named if name not in list_tests(path)] == []


def test_what_core_leaves_open_is_named_as_the_attempts_that_succeed() -> None:
    (row,) = re.findall(r"^\| looking .*", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == LOOKING
