"""Whether all is well with the server: what ``flux doctor`` asks of it."""

from collections.abc import Mapping
from typing import Any

from flux.supervisor.web import words
from flux.supervisor.web.page import Asked, Page


def build_doctor(documents: Mapping[str, Any], _asked: Asked) -> Page:
    """All checks, those that are not well first."""
    checks = sorted(documents["checks"]["checks"], key=lambda check: bool(check["ok"]))
    return Page(
        title="Doctor",
        template="doctor.html",
        area="doctor",
        context={
            "checks": [
                {
                    "name": words.cut(str(check["name"])),
                    "ok": bool(check["ok"]),
                    "detail": words.cut(str(check["detail"]), 1000),
                    "remedy": words.cut(str(check["remedy"] or ""), 1000),
                }
                for check in checks
            ],
            "bad": sum(not check["ok"] for check in checks),
        },
        command="flux doctor",
    )
