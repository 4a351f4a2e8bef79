"""What was served, and how it did: each code once, with its last switch, the latest first.

A code that is kept can be served again from here, as ``flux rollback ID`` does it. By its id and not by its commit:
the same commit, with and without changes, is two. The id is of the files that are served, so two commits can have one:
the way to the executions names both.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.page import Asked, Page

CAUSES = {
    "start": "a server was started", "save": "a file was saved", "deploy": "flux deploy", "rollback": "flux rollback",
}  # fmt: skip
"""Who had it served, in the words of the record."""
ID_SHOWN = 8
DEPLOYMENTS_SHOWN = 100


@attrs.frozen
class Row:
    """One code."""

    id: str
    """The beginning of the deployment's."""
    code: str
    branch: str
    at: str
    cause: str
    deploys: int
    """How often it was switched to."""
    executions: int
    failed: int
    href: str
    """Its executions: not those of the same commit with other changes, nor those of the same files in another commit.

    A commit and the same with changes that are in no file of the deployment are two rows with one list."""
    functions: str
    runtime: str
    is_current: bool
    is_kept: bool
    act: str
    """What serves it again; empty where nothing can."""
    body: str
    ask: str
    """The question before that."""


def build_deployments(documents: Mapping[str, Any], asked: Asked) -> Page:
    """All that was served."""
    found = documents["deployments"]["deployments"]
    return Page(
        title="Deployments",
        template="deployments.html",
        area="deployments",
        context={"rows": [_make_row(each, asked.now) for each in found], "is_cut": len(found) >= DEPLOYMENTS_SHOWN},
        command="flux deployments",
        scripts=("acts.js",),
    )


def _make_row(seen: Mapping[str, Any], now: datetime) -> Row:
    id, code = str(seen["deployment"]), words.code_of(seen)
    can_return = bool(seen["kept"]) and not seen["current"]
    cause = str(seen["cause"])
    return Row(
        id=id[:ID_SHOWN],
        code=code,
        branch=words.cut(str(seen["branch"] or "")),
        at=words.clock(seen["at"], now),
        cause=CAUSES.get(cause, words.cut(cause, 40)),
        deploys=seen["deploys"],
        executions=seen["executions"],
        failed=seen["failed"],
        href=words.link(q=f"deploy:{words.cut(id)} sha:{words.cut(str(seen['sha']))}"),
        functions=words.cut(", ".join(map(str, seen["functions"])), 1000),
        runtime=words.cut(", ".join(f"{name} {version}" for name, version in seen["runtime"].items())),
        is_current=bool(seen["current"]),
        is_kept=bool(seen["kept"]),
        act=words.link("act", "rollback") if can_return else "",
        body=json.dumps({"to": id[:200]}),
        ask=f"Serve {code}, deployment {id[:ID_SHOWN]}, from now on? "
        "Migrations are not undone: the database stays as it is.",
    )
