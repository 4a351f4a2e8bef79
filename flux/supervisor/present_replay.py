"""How a replay looks in JSON. See `flux.supervisor.present`, whose rules hold here too."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from flux.execution import LogLine
from flux.hostcall import Effect, HostCallRequest
from flux.hostcalls import all_kinds
from flux.matching import Pair
from flux.matching_session import PUSH, Source
from flux.session import Divergence
from flux.supervisor.present import Document, call_json, show_arguments, show_json, show_output, show_position
from flux.supervisor.replay import Replay

ANSWER_SOURCES = (Source.RECORDED, Source.WORLD, Source.BORROWED, Source.FIXTURE, Source.LIVE, Source.HELD)


def replay_json(summary: Document, replay: Replay) -> Document:
    """Return a replay, as the contract's Replay; ``summary`` is the original's."""
    original, replayed, judgement = replay.original, replay.replayed, replay.judgement
    fidelity = replayed.fidelity
    sources = Counter(replay.sources.values())
    return {
        "schema": "flux.replay/1",
        "execution": summary,
        "on": replay.on,
        "code": {
            "deployment": replay.deployment.id,
            "sha": replay.deployment.sha,
            "dirty": replay.deployment.dirty,
            "is_recorded": replay.deployment.id == original.deployment,
        },
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "original": {"status": original.status, "outcome": original.outcome.kind},
        "replayed": {
            "status": None if is_stopped(replay) else replayed.execution.status,
            "outcome": "stopped" if is_stopped(replay) else replayed.execution.outcome.kind,
            "elapsed_ms": replayed.execution.elapsed_ns / 1e6,
            "output": None if is_stopped(replay) else show_output(replayed.execution),
            "execution": None if replay.recorded_as is None else replay.recorded_as.name,
        },
        "grades": judgement.grades,
        "fidelity": {"matched": fidelity.matched, "equal": fidelity.equal},
        "answers": {source.value: sources[source] for source in ANSWER_SOURCES},
        "sent": replay.sent,
        "held": list_held(judgement.pairs),
        "stopped": int(_is_stopped_effect(replayed.divergence)),
        "relaxed_gates": 0,
        "notes": list(replay.notes),
        "synthetic": list(replayed.synthetic),
        "divergence": None if replayed.divergence is None else divergence_json(replayed.divergence),
        "waited_for": None if replayed.waited_for is None else replayed.waited_for.seq,
        "calls": [_pair_json(pair, replay) for pair in judgement.pairs],
    }


def is_stopped(replay: Replay) -> bool:
    """Whether the replay did not come to an end of its own."""
    divergence = replay.replayed.divergence
    return replay.replayed.waited_for is not None or (
        divergence is not None and divergence.kind not in ("outcome", "missing", "fuel")
    )


def _is_stopped_effect(divergence: Divergence | None) -> bool:
    """Whether the question that stopped the replay would have left Flux."""
    if divergence is None or not isinstance(divergence.actual, HostCallRequest):
        return False
    kind = all_kinds().get(divergence.actual.name)
    return kind is not None and kind.effect is Effect.LEAVES


def list_held(pairs: Sequence[Pair]) -> list[Document]:
    """Return the pushes of a replay, each with how it compares with the record: none of them was made."""
    return [
        {
            "seq": pair.right.request.seq,
            "kind": pair.right.request.name,
            "arguments": show_arguments(pair.right.request.name, pair.right.request.arguments),
            "grade": pair.grade.value,
            "location": show_position(pair.right.request.position),
        }
        for pair in pairs
        if pair.right is not None and pair.right.request.name == PUSH
    ]


def divergence_json(divergence: Divergence) -> Document:
    """Return where a replay left its recording."""
    actual = divergence.actual
    place = actual.position if isinstance(actual, HostCallRequest | LogLine) else None
    return {
        "kind": divergence.kind,
        "seq": divergence.seq,
        "recorded": _side_json(divergence.expected),
        "replayed": _side_json(actual),
        "location": show_position(place),
    }


def _side_json(side: HostCallRequest | LogLine | str | None) -> Any:
    match side:
        case HostCallRequest():
            return {
                "kind": side.name,
                "arguments": show_arguments(side.name, side.arguments),
                "location": show_position(side.position),
            }
        case LogLine():
            return {
                "level": side.level,
                "message": side.message,
                "fields": show_json(side.fields),
                "location": show_position(side.position),
            }
    return side


def _pair_json(pair: Pair, replay: Replay) -> Document:
    source = None if pair.right is None else replay.sources.get(pair.right.request.seq)
    return {
        "grade": pair.grade.value,
        "source": None if source is None else source.value,
        "recorded": None if pair.left is None else call_json(pair.left, replay.original),
        "replayed": None if pair.right is None else call_json(pair.right, replay.replayed.execution),
    }
