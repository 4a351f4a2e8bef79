"""Recorded text on its way to a terminal."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.sanitize import is_safe, sanitize, sanitize_json

# Lone surrogates included: they come out of broken JSON and broken file names.
TEXT = st.text(st.characters(codec=None), max_size=60)
NASTY = st.text(
    st.sampled_from(
        "a\x1b[0m]\x07\x00\n\r\t\x7f\x80\x9b\x9d\u202e\u2066\u200b\u2028\ufeff\ud800\U000e0041\u034f\ufe0f\\x"
    ),
    max_size=30,
)
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 世界 🎉", "Grüße, 世界 🎉"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\x9dtitle\x9c", "\\x9dtitle\\x9c"),
        ("a\rb\nc\td\0", "a\\rb\\nc\\td\\x00"),
        ("a\bb\x7f", "a\\x08b\\x7f"),
        ("good\u202eyp.live", "good\\u202eyp.live"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\u061c\u200e\u200f", "\\u061c\\u200e\\u200f"),
        ("zero\u200bwidth\u200d\ufeff", "zero\\u200bwidth\\u200d\\ufeff"),
        ("line\u2028paragraph\u2029", "line\\u2028paragraph\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\ue000\U000f0000", "\\ue000\\U000f0000"),
        ("x\ufe00y\ufe0f", "x\\ufe00y\ufe0f"),
        ("\u3164\u2800", "\\u3164\\u2800"),
        ("C:\\x1b", "C:\\x1b"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert sanitize(text) == shown


def test_line_feeds_pass_where_they_are_asked_for() -> None:
    assert sanitize("a\nb\r\n", newlines=True) == "a\nb\\r\n"


def test_no_character_of_unicode_passes_that_controls_or_hides() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.category(character) in INVISIBLE:
            assert not is_safe(character), hex(number)
            assert sanitize(character).isascii()
            assert sanitize(character).isprintable()
        if unicodedata.bidirectional(character) in {
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        }:
            assert not is_safe(character), hex(number)


@given(TEXT | NASTY)
def test_all_that_is_shown_is_safe_and_encodable(text: str) -> None:
    shown = sanitize(text)
    assert all(is_safe(character) for character in shown)
    shown.encode()


@given(TEXT | NASTY)
def test_to_sanitise_twice_is_to_sanitise_once(text: str) -> None:
    assert sanitize(sanitize(text)) == sanitize(text)
    assert sanitize(sanitize(text, newlines=True), newlines=True) == sanitize(text, newlines=True)


@given(TEXT | NASTY)
def test_nothing_is_dropped(text: str) -> None:
    assert len(sanitize(text)) >= len(text)
    safe = "".join(character for character in text if is_safe(character))
    shown = iter(sanitize(text))
    assert all(character in shown for character in safe)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT | NASTY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | NASTY, inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.sampled_from([None, 2, "\t"]))
def test_a_json_document_says_the_same_after_it(
    value: object, ascii_only: bool, indent: int | str | None
) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    shown = sanitize_json(document)
    assert json.loads(shown) == json.loads(document)
    assert all(is_safe(character) or character == "\n" for character in shown)
    shown.encode()
