"""How a guarded deploy looks in JSON. See `flux.supervisor.present`, whose rules hold here too."""

import datetime
import uuid
from collections.abc import Mapping

from flux.accepted import Acceptance, write_entry
from flux.guard import Finding, Group, Report
from flux.store.reading import Summary
from flux.supervisor.present import Document, summary_json, summary_of_execution
from flux.supervisor.present_diff import first_json
from flux.trace_diff import Diff

NAMES_MAX = 20
"""Executions of a group that are named."""
SIDES_MAX = 20
"""Groups that are shown with both sides of their example: bodies may be of megabytes."""


def report_json(report: Report, summaries: Mapping[uuid.UUID, Summary], today: datetime.date) -> Document:
    """Return what the executions show; ``summaries`` are those of all that were replayed."""
    reasons = [
        {
            "reason": reason,
            "count": count,
            "names": [
                one.name for one in report.judged if one.finding is Finding.UNDECIDED and one.reason == reason
            ][:NAMES_MAX],
        }
        for reason, count in report.undecided.items()
    ]
    return {
        "schema": "flux.guard/1",
        "passes": report.passes,
        "refusals": list(report.refusals),
        "total": len(report.judged),
        "counts": report.counts,
        "groups": [
            _group_json(group, summaries[group.example.id], today, shows_sides=place < SIDES_MAX)
            for place, group in enumerate(report.groups)
        ],
        "undecided": reasons,
        "undecided_share_max": report.undecided_share_max,
        "unused": [{**_acceptance_json(one), "holds": one.holds(today)} for one in report.unused],
    }


def _group_json(group: Group, summary: Summary, today: datetime.date, *, shows_sides: bool) -> Document:
    change, diff = group.change, group.example.diff
    can_accept = change.finding is Finding.CHANGED and not group.is_accepted
    acceptance = group.acceptance
    return {
        "signature": change.signature,
        "finding": change.finding.value,
        "function": change.function,
        "effect": change.effect,
        "root": change.root or None,
        "count": len(group.members),
        "names": [one.name for one in group.members[:NAMES_MAX]],
        "accepted": group.is_accepted,
        "acceptance": None
        if acceptance is None
        else {**_acceptance_json(acceptance), "holds": acceptance.holds(today)},
        "entry": write_entry(change.signature, change.text, today) if can_accept else None,
        "example": {
            "execution": summary_json(summary),
            "replayed": None if diff is None else _replayed_json(diff),
            "first_difference": first_json(diff) if diff is not None and shows_sides else None,
        },
    }


def _replayed_json(diff: Diff) -> Document:
    """How the example ended on the new code; of one that was stopped, that is all there is."""
    summary = summary_of_execution(diff.b.execution)
    is_over = diff.b.stopped is None
    return {
        "status": summary["status"] if is_over else None,
        "error": summary["error"] if is_over else None,
        "stopped": diff.b.stopped,
    }


def _acceptance_json(acceptance: Acceptance) -> Document:
    return {
        "signature": acceptance.signature,
        "what": acceptance.what,
        "reason": acceptance.reason,
        "until": acceptance.until.isoformat(),
    }
