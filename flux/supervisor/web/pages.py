"""All pages by name, and how one is put into its frame."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from flux import __version__
from flux.supervisor.web import words
from flux.supervisor.web.bisect import build_bisect, build_bisects, show_bisect_progress
from flux.supervisor.web.debug import build_debug
from flux.supervisor.web.deployments import build_deployments
from flux.supervisor.web.diff import build_diff
from flux.supervisor.web.doctor import build_doctor
from flux.supervisor.web.execution import build_execution, build_file
from flux.supervisor.web.executions import build_errors, build_executions
from flux.supervisor.web.html import find_style_policy, render
from flux.supervisor.web.incident import build_incident, build_incidents, show_incident_progress
from flux.supervisor.web.page import AREAS, Asked, Page
from flux.supervisor.web.queue import build_cron, build_queue
from flux.supervisor.web.run import Progress, write_progress
from flux.supervisor.web.state import build_state
from flux.supervisor.web.tenants import build_tenants

Build = Callable[[Mapping[str, Any], Asked], Page]
"""Makes a page of documents, by name, as `flux.supervisor.web.gather` has got them."""

BUILDERS: Mapping[str, Build] = {
    "executions": build_executions,
    "errors": build_errors,
    "execution": build_execution,
    "debug": build_debug,
    "state": build_state,
    "diff": build_diff,
    "deployments": build_deployments,
    "queue": build_queue,
    "cron": build_cron,
    "tenants": build_tenants,
    "doctor": build_doctor,
    "incidents": build_incidents,
    "incident": build_incident,
    "bisects": build_bisects,
    "bisect": build_bisect,
}

PROGRESS: Mapping[str, Callable[[Mapping[str, Any]], Progress]] = {
    "incident": show_incident_progress,
    "bisect": show_bisect_progress,
}
"""How far the run of a page is."""


def render_page(name: str, documents: Mapping[str, Any], asked: Asked) -> bytes:
    """Return the page of this name as HTML."""
    page = BUILDERS[name](documents, asked)
    json = words.link(*f"{asked.path}.json".split("/"), **asked.query)
    frame = _frame(page.area, has_tenants=asked.has_tenants)
    return render(page.template, {**frame, "layout": "frame.html", "page": page, "json": json, **page.context})


def render_file(documents: Mapping[str, Any], now: datetime) -> bytes:
    """Return an execution's page as a file that is opened anywhere, without a server."""
    page = build_file(documents, Asked("", {}, now))
    frame = {"layout": "file.html", "policy": find_style_policy(), "version": __version__, "page": page, "json": ""}
    return render(page.template, {**frame, "saved": f"{now:%Y-%m-%d %H:%M}", **page.context})


def render_progress(name: str, documents: Mapping[str, Any]) -> bytes:
    """Return how far the run of a page is, for its script."""
    return write_progress(PROGRESS[name](documents["run"]))


def render_sign_in(refusal: Mapping[str, Any]) -> bytes:
    """Return the page for who has shown no token that is good; it takes one."""
    return render("sign_in.html", _frame("") | {"refusal": refusal})


def render_problem(refusal: Mapping[str, Any]) -> bytes:
    """Return the page that tells of an error: its code, what is wrong, what to do."""
    return render("problem.html", _frame("") | {"refusal": refusal})


def _frame(area: str, *, has_tenants: bool = False) -> dict[str, Any]:
    areas = [each for each in AREAS if has_tenants or not each.is_installations]
    return {"areas": areas, "area": area, "version": __version__}
