"""Wildcards, held to Python's own regular expressions where these can follow."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux import wildcards


@pytest.mark.parametrize(
    ("wildcard", "text", "has_segments", "is_meant"),
    [
        ("", "", False, True), ("", "a", False, False), ("*", "", False, True), ("*", "a/b\nc", False, True),
        ("***", "", False, True), ("a*", "a", False, True), ("a*", "ba", False, False), ("*a", "ba", False, True),
        ("a*b*c", "a-b-c", False, True), ("a*b*c", "a-c-b", False, False), ("a.c", "abc", False, False),
        ("{x}", "{x}", False, True), ("{}", "{}", False, True), ("{x}", "y", False, False),
        ("/orders/{id}", "/orders/7", True, True), ("/orders/{id}", "/orders/", True, False),
        ("/orders/{id}", "/orders/7/lines", True, False), ("/orders/*", "/orders/7/lines", True, True),
        ("/{a}/{b}", "/x/y", True, True), ("/{a}{b}", "/x", True, False), ("/{a}{b}", "/xy", True, True),
        ("/{}", "/x", True, True), ("/{a/b}", "/{a/b}", True, True), ("/{a}.json", "/a.b.json", True, True),
        ("/*{a}", "/b/", True, False), ("/é", "/é", True, True),
    ],
)  # fmt: skip
def test_a_wildcard_means_what_it_says(wildcard: str, text: str, has_segments: bool, is_meant: bool) -> None:
    assert wildcards.matches(wildcard, text, has_segments=has_segments) is is_meant


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "{x}", "{}", "{", "}", "\n", ".", "\\", "é", "-"]), max_size=7),
    st.text(st.sampled_from("ab/{}\n.\\éx-"), max_size=8),
    st.booleans(),
)
def test_the_regular_expression_means_the_same(parts: list[str], text: str, has_segments: bool) -> None:
    wildcard = "".join(parts)
    regex = wildcards.make_regex(wildcard, has_segments=has_segments)
    expected = re.fullmatch(regex, text, re.DOTALL) is not None
    assert wildcards.matches(wildcard, text, has_segments=has_segments) is expected


@pytest.mark.parametrize("wildcard", ["a*" * 1000 + "b", "*a" * 1000, "{x}a" * 800, "{x}" * 1300])
def test_no_wildcard_takes_long(wildcard: str) -> None:
    # With backtracking, each of these would not end in anybody's lifetime.
    assert not wildcards.matches(wildcard, "a" * 900 + "/", has_segments=True)
