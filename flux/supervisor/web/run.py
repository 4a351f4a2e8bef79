"""A run on its page: how far it is, as texts that the page's script puts where they belong.

While a run goes on, its page asks for these texts once a second (``.progress``); when it has ended, the page is loaded
again and says what came of it. So there is one place that makes a result into a page, and the script knows none.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flux.sanitize import sanitize
from flux.supervisor.web import words

ROWS_SHOWN = 200


@attrs.frozen
class Row:
    """A line of the story."""

    tone: str
    """``good``, ``warn``, ``bad`` or nothing: a class of the style sheet."""
    text: str


@attrs.frozen
class Progress:
    """How far a run is."""

    state: str
    """``none``, ``running``, ``done``, ``cancelled`` or ``failed``."""
    said: str
    """Where it is, in a sentence."""
    done: int
    of: int
    """0: how much there is to do is not known."""
    rows: Sequence[Row]
    problem: str = ""
    """What ended it before its time."""


NONE = Progress("none", "", 0, 0, ())


def read_problem(run: Mapping[str, Any]) -> str:
    """Return what ended a run before its time, in words; empty where nothing did."""
    problem = run.get("problem")
    if problem is None:
        return ""
    parts = (problem["code"], problem["detail"], problem["remedy"])
    return words.cut(" · ".join(str(part) for part in parts if part), 2000)


def write_progress(progress: Progress) -> bytes:
    """Return it for the page's script, as text that is safe to be seen."""
    return json.dumps(_make_visible(attrs.asdict(progress))).encode()


def _make_visible(value: Any) -> Any:
    match value:
        case str():
            return sanitize(value)
        case dict():
            return {key: _make_visible(item) for key, item in value.items()}
        case list() | tuple():
            return [_make_visible(item) for item in value]
    return value
