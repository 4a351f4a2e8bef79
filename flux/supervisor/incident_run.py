"""The replays of a window as a run: what ``flux incident replay`` does, begun on a page.

It keeps of each replay what `flux.incident` counts, and no more: the replays themselves have records of their own.
"""

import time
from typing import Any

from flux.incident import (
    Replayed,
    count_codes,
    count_held,
    count_notes,
    count_verdicts,
    describe_failure,
    group,
)
from flux.supervisor.console_replays import ReplayWork
from flux.supervisor.present import Document
from flux.verdict_marks import GRADE_WORDS

TEXT_ROOM = 1000
"""Characters that are kept of a failure, a reason or a note."""
NAMES_SHOWN = 50
"""Executions that are named under one reason; all are counted."""


class IncidentRun:
    """See `flux.supervisor.runs.RunWork`."""

    def __init__(self, work: ReplayWork, window: str, on: str) -> None:
        self._work = work
        self._window = window
        self._on = on
        self._found: dict[int, Replayed] = {}
        self._sent = 0
        self._began_s = time.monotonic()

    async def do(self) -> None:
        """Replay all of them."""
        await self._work.do(self._take)

    def show(self) -> Document:
        """Return what they say together, as far as they have been replayed."""
        head = self._work.head()
        # In the window's order, in which they do not end.
        replayed = [self._found[number] for number in sorted(self._found)]
        left = head["total"] - len(replayed)
        each_s = (time.monotonic() - self._began_s) / len(replayed) if replayed else None
        return {
            "schema": "flux.incident-run/1",
            "window": self._window,
            "on": self._on,
            "total": head["total"],
            "not_stored": head["not_stored"],
            "replayed": len(replayed),
            "left_ms": None if each_s is None or not left else each_s * left * 1000,
            "verdicts": count_verdicts(replayed),
            "groups": [
                {
                    "failure": each.failure,
                    "count": len(each.replayed),
                    "verdicts": [
                        {
                            "verdict": verdict,
                            "count": sum(map(len, reasons.values())),
                            "reasons": [
                                {"reason": reason, "count": len(names), "names": names[:NAMES_SHOWN]}
                                for reason, names in reasons.items()
                            ],
                        }
                        for verdict, reasons in each.list_verdicts().items()
                    ],
                }
                for each in group(replayed)
            ],
            "notes": [{"note": note, "count": count} for note, count in count_notes(replayed).items()],
            "codes": count_codes(replayed),
            "held": [
                {"function": named, "grade": grade, "count": count} for named, grade, count in count_held(replayed)
            ],
            "effects_left": self._sent,
        }

    async def _take(self, told: Document) -> None:
        summary, has_run = told["execution"], "code" in told
        self._sent += told["sent"] if has_run else 0
        self._found[told["number"]] = Replayed(
            name=summary["name"],
            signature=summary["signature"],
            failure=_cut(describe_failure(summary)),
            verdict=told["verdict"],
            reason=_cut(told["reason"]),
            notes=tuple(map(_cut, told["notes"])) if has_run else (),
            held=tuple(map(_name_held, told["held"])) if has_run else (),
            deployment=told["code"]["deployment"] if has_run else None,
        )


def _name_held(held: Document) -> tuple[str, str]:
    arguments: Any = held["arguments"]
    named = arguments.get("function") if isinstance(arguments, dict) else None
    grade = str(held["grade"])
    return _cut(str(named)), GRADE_WORDS.get(grade, grade)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_ROOM else f"{text[: TEXT_ROOM - 1]}…"
