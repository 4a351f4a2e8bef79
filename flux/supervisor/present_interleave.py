"""How a replay of executions at once looks in JSON. See `flux.supervisor.present`, whose rules hold here too."""

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from flux.failure import find_failure
from flux.interleave_verdict import Seen, judge_together
from flux.supervisor.interleave import Interleaved, RunResult, TableRows, Together
from flux.supervisor.present import Document
from flux.supervisor.present_replay import list_held


def interleaved_json(summaries: Mapping[UUID, Document], interleaved: Interleaved) -> Document:
    """Return the whole of it; ``summaries`` are the originals', by id."""
    gated, in_turn = interleaved.gated, interleaved.in_turn
    verdict, reason = judge_together(_see(interleaved, gated))
    return {
        "schema": "flux.interleave/1",
        "on": interleaved.on,
        "code": {
            "deployment": interleaved.deployment.id,
            "sha": interleaved.deployment.sha,
            "dirty": interleaved.deployment.dirty,
            "is_recorded": interleaved.is_recorded,
        },
        "verdict": verdict.value,
        "reason": reason,
        "total": len(gated.runs),
        "transactions": interleaved.transactions,
        "check": None
        if interleaved.found_then is None
        else {
            "recorded": _rows(interleaved.found_then),
            "replayed": _rows(gated.found or ()),
            "in_turn": None if in_turn is None else _rows(in_turn.found or ()),
        },
        "together": _together_json(summaries, gated),
        "in_turn": None if in_turn is None else _together_json(summaries, in_turn),
        "notes": list(interleaved.notes),
        "effects_left": 0,
    }


def _see(interleaved: Interleaved, together: Together) -> Seen:
    runs, fidelity = together.runs, together.fidelity
    ended = [run for run in runs if not _is_stopped(run)]
    return Seen(
        is_recorded_code=interleaved.is_recorded,
        stopped=len(runs) - len(ended),
        failing=sum(_fails(run) for run in ended),
        other_answers=sum(run.replayed.execution.status != run.original.status for run in ended),
        other_tables=tuple(rows.table for rows in together.rows if not rows.is_same),
        unequal=fidelity.matched - fidelity.equal,
        found_then=None if interleaved.found_then is None else len(interleaved.found_then),
        found_now=None if together.found is None else len(together.found),
        relaxed=len(together.relaxed),
    )


def _is_stopped(run: RunResult) -> bool:
    return run.replayed.divergence is not None or run.replayed.waited_for is not None


def _fails(run: RunResult) -> bool:
    failure = find_failure(run.replayed.execution)
    return failure is not None and not failure.is_answer


def _together_json(summaries: Mapping[UUID, Document], together: Together) -> Document:
    fidelity = together.fidelity
    return {
        "executions": [
            {
                "execution": summaries[run.original.id],
                "verdict": run.judgement.verdict.value,
                "reason": run.judgement.reason,
                "held": list_held(run.judgement.pairs),
                "original": {"status": run.original.status, "outcome": run.original.outcome.kind},
                "replayed": {
                    "status": None if _is_stopped(run) else run.replayed.execution.status,
                    "outcome": "stopped" if _is_stopped(run) else run.replayed.execution.outcome.kind,
                },
                "attempts": {"recorded": run.original.attempt, "replayed": run.attempts},
            }
            for run in together.runs
        ],
        "tables": [_table_json(rows) for rows in together.rows],
        "held_back": together.held_back,
        "relaxed_gates": len(together.relaxed),
        "relaxed": list(together.relaxed),
        "fidelity": {"matched": fidelity.matched, "equal": fidelity.equal},
    }


def _table_json(rows: TableRows) -> Document:
    return {
        "table": rows.table,
        "same": rows.is_same,
        "recorded": rows.recorded,
        "replayed": rows.replayed,
        "only_recorded": _rows(rows.only_recorded),
        "only_replayed": _rows(rows.only_replayed),
    }


def _rows(images: Sequence[str]) -> list[object]:
    return [json.loads(image) for image in images]
