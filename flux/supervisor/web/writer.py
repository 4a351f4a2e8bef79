"""Who wrote something, as far as it is known. What Flux did not see is never given to an execution."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words


@attrs.frozen
class Writer:
    """Who wrote something."""

    name: str
    """Of the execution; empty where it was none, or is not known."""
    text: str
    at: str
    code: str


def make_writer(said: Mapping[str, Any], now: datetime) -> Writer:
    """Say who wrote something."""
    if said.get("migration") is not None:
        text = words.cut(f"the migration {said['migration']}")
    elif said.get("outside"):
        text = "outside Flux"
    elif said.get("reason"):
        text = words.cut(str(said["reason"]), words.ERROR_ROOM)
    else:
        text = words.cut(str(said.get("function") or "not known"))
    return Writer(
        name=words.cut(str(said["execution"]), 40) if said.get("execution") else "",
        text=text,
        at=words.clock(said.get("at"), now),
        code=words.code_of(said) if said.get("sha") else "",
    )
