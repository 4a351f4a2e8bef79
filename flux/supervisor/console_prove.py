"""The console's question for a proof: what would have had to be otherwise for this execution to pass?

The answer is a stream of JSON lines (`flux.supervisor.work_stream`): what there is to try, each run when it has
ended, and what all of them show::

    {"schema": "flux.proof/1", "execution": {...}, "flips": 17, "runs_max": 60}
    {"run": {"number": 3, "flips": [...], "effect": "same failure", "status": 500, "execution": null, "reason": "..."}}
    {"end": {"proof": {"causes": [...], "facts": [...], ...}, "problem": null}}

A reader that goes ends it, and so does the end of the server.
"""

from collections.abc import Awaitable, Callable

from flux.message import HttpResponse
from flux.prove import CONTROLS, RUNS_MAX, list_facts
from flux.prove_flips import Flip
from flux.sanitize import sanitize
from flux.store import reading
from flux.supervisor.present import Document, summary_json
from flux.supervisor.prove import Proof, Prover, Shown, Subject
from flux.supervisor.work_stream import ServerStoppingError, Tell, WorkStreams


async def answer_prove(
    prover: Prover, works: WorkStreams, find: Callable[[str], Awaitable[reading.Summary]], name: str
) -> HttpResponse:
    """Answer with an experiment on the execution that ``name`` means; ``find`` finds it."""
    summary = await find(name)
    return works.answer(_ProveWork(summary_json(summary), await prover.prepare(summary.id), prover))


class _ProveWork:
    """One experiment. See `flux.supervisor.work_stream.Work`."""

    def __init__(self, summary: Document, subject: Subject, prover: Prover) -> None:
        self._summary = summary
        self._subject = subject
        self._prover = prover
        self._runs = 0
        self._proof: Proof | None = None

    def head(self) -> Document:
        flips = len(self._subject.flips.flips)
        return {"schema": "flux.proof/1", "execution": self._summary, "flips": flips, "runs_max": RUNS_MAX}

    async def do(self, tell: Tell) -> None:
        async def watch(shown: Shown) -> None:
            self._runs = shown.number
            await tell({"run": _show_run(shown)})

        self._proof = await self._prover.prove(self._subject, watch)

    def stopped(self) -> ServerStoppingError:
        return ServerStoppingError(
            f"the server is stopping: {self._runs} runs of the experiment were made",
            remedy="ask again when it is back",
        )

    def end(self) -> Document:
        proof = self._proof
        return {"proof": None if proof is None else _show_proof(proof, self._subject)}


def _show_proof(proof: Proof, subject: Subject) -> Document:
    finding, shown = proof.finding, proof.shown
    # What was not as it was in a control was so in each run.
    doubts = tuple(dict.fromkeys([*subject.flips.left_out, *(note for one in shown[:CONTROLS] for note in one.notes)]))
    facts = list_facts(finding, [one.name for one in shown], [one.status for one in shown], doubts)
    return {
        "causes": [
            {
                "flips": [_show_flip(flip) for flip in cause.flips],
                "effect": finding.runs[cause.runs[0]].effect.value,
                "status": shown[cause.runs[0]].status,
                "runs": [shown[number].name for number in cause.runs],
            }
            for cause in finding.causes
        ],
        "is_smallest": finding.is_smallest,
        "is_needed": finding.is_needed,
        "control": {"runs": [one.name for one in shown if not one.run.flips], "effect": "same failure"},
        "runs": len(finding.runs),
        "runs_max": RUNS_MAX,
        "untried": [_show_flip(flip) for flip in finding.untried],
        "left_out": list(doubts),
        "facts": [{"mark": fact.mark, "rule": fact.rule, "text": fact.text, "call": fact.call} for fact in facts],
    }


def _show_run(shown: Shown) -> Document:
    return {
        "number": shown.number,
        "flips": [_show_flip(flip) for flip in shown.run.flips],
        "effect": shown.run.effect.value,
        "status": shown.status or None,
        "execution": shown.name,
        "reason": shown.reason,
    }


def _show_flip(flip: Flip) -> Document:
    return {
        "site": sanitize(flip.site),
        "text": flip.text,
        "call": flip.call,
        "peer": None if flip.peer is None else flip.peer.name,
    }
