"""Making HTML of templates: the only module that knows Jinja, and the last thing that recorded text goes through.

Whatever a template writes is made visible (`flux.sanitize`) and then escaped, without its asking for either: a
template can forget to shorten a value, but not to make it safe. Nothing is ever marked as safe beforehand, so there is
no text in the program that would pass by this.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from flux.sanitize import sanitize
from flux.supervisor.web import words

TEMPLATES = Path(__file__).parents[2] / "web" / "templates"
STATIC = TEMPLATES.with_name("static")
ROOM = 10_000
"""Characters that one value takes on a page at most, whatever the page has made of it."""


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """Return a page."""
    return _environment().get_template(template).render(context).encode("utf-8", "backslashreplace")


@cache
def find_style_policy() -> str:
    """Return the policy of a page in a file: the style sheet that it has in it, by its hash, and nothing else."""
    style = _environment().get_template("flux.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATES, STATIC]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # A name that a page does not have is an error, not a gap.
        finalize=make_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"link": words.link, "link_execution": words.link_execution, "count": words.count}
    return environment


def make_visible(value: Any) -> Any:
    """Return what a template writes, with each character that can't be seen, or moves others, as an escape."""
    if hasattr(value, "__html__"):  # What a macro has written: its parts came through here.
        return value
    text = value if isinstance(value, str) else str(value)
    if len(text) > ROOM:
        text = f"{text[:ROOM]}… ({len(text):,} characters)"
    return sanitize(text, newlines=True)
