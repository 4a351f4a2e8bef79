"""All pages by name, and how one is put into its frame."""

from collections.abc import Callable, Mapping
from typing import Any

from flux import __version__
from flux.supervisor.web import words
from flux.supervisor.web.diff import build_diff
from flux.supervisor.web.doctor import build_doctor
from flux.supervisor.web.execution import build_execution
from flux.supervisor.web.executions import build_errors, build_executions
from flux.supervisor.web.html import render
from flux.supervisor.web.page import AREAS, Asked, Page
from flux.supervisor.web.state import build_state

Build = Callable[[Mapping[str, Any], Asked], Page]
"""Makes a page of documents, by name, as `flux.supervisor.web.gather` has got them."""

BUILDERS: Mapping[str, Build] = {
    "executions": build_executions,
    "errors": build_errors,
    "execution": build_execution,
    "state": build_state,
    "diff": build_diff,
    "doctor": build_doctor,
}


def render_page(name: str, documents: Mapping[str, Any], asked: Asked) -> bytes:
    """Return the page of this name as HTML."""
    page = BUILDERS[name](documents, asked)
    json = words.link(*f"{asked.path}.json".split("/"), **asked.query)
    return render(page.template, {**_frame(page.area), "page": page, "json": json, **page.context})


def render_sign_in(refusal: Mapping[str, Any]) -> bytes:
    """Return the page for who has shown no token that is good; it takes one."""
    return render("sign_in.html", _frame("") | {"refusal": refusal})


def render_problem(refusal: Mapping[str, Any]) -> bytes:
    """Return the page that tells of an error: its code, what is wrong, what to do."""
    return render("problem.html", _frame("") | {"refusal": refusal})


def _frame(area: str) -> dict[str, Any]:
    return {"areas": AREAS, "area": area, "version": __version__}
