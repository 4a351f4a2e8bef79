"""What a token of the console allows."""

import re
from pathlib import Path

import pytest

from flux.scopes import WORDS, Scope, allows, get_needed

CONSOLE = Path(__file__).parents[2] / "flux" / "supervisor" / "console.py"


@pytest.mark.parametrize(
    ("method", "area", "needed"),
    [
        ("GET", "executions", Scope.READ), ("HEAD", "executions", Scope.READ), ("GET", "secrets", Scope.READ),
        ("GET", "tokens", Scope.ADMIN), ("POST", "tokens", Scope.ADMIN), ("POST", "secrets", Scope.ADMIN),
        ("POST", "records", Scope.ADMIN), ("POST", "deploy", Scope.DEPLOY), ("POST", "rollback", Scope.DEPLOY),
        ("POST", "invoke", Scope.WRITE), ("POST", "executions", Scope.WRITE), ("POST", "queue", Scope.WRITE),
        ("POST", "what-comes-later", Scope.WRITE), ("DELETE", "executions", Scope.WRITE), ("get", "x", Scope.WRITE),
    ],
)  # fmt: skip
def test_a_request_needs_its_scope(method: str, area: str, needed: Scope) -> None:
    assert get_needed(method, area) == needed


def test_each_scope_has_those_before_it_and_words_of_other_kinds_have_none() -> None:
    reach = {word: [needed.word for needed in Scope if allows([word], needed)] for word in WORDS}
    assert reach == {word: list(WORDS[: index + 1]) for index, word in enumerate(WORDS)}
    assert not any(allows(words, Scope.READ) for words in ([], ["orders:read"], ["READ"], ["", "all"]))


def test_every_area_that_can_change_something_was_thought_of() -> None:
    # A new one gets its place in flux/scopes.py, or is added here as one that "write" is right for.
    posts = set(re.findall(r'case \["(\w+)"[^\n]*:\n(?:[^\n]*\n)?[^\n]*"POST"', CONSOLE.read_text(encoding="utf-8")))
    for_writers = {"executions", "replays", "expect", "incidents", "interleave", "bisect", "queue", "cron", "invoke",
                   "redact"}  # fmt: skip
    assert posts - for_writers == {area for area in posts if get_needed("POST", area) > Scope.WRITE}
