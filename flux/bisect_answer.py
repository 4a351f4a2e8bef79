"""What is said of a bisect that has ended: its document, or why there is no answer.

The command line prints it, the console's page shows it, and both say it in the same words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flux.bisect import Found, Mark, Purpose, Range, Refusal, Why
from flux.bisect_search import Outcome, Run
from flux.errors import FluxError, OperatorError
from flux.verdict_marks import MARKS, UNKNOWN

EXIT_NOT_WHOLE = 6
SHA_SHOWN = 7


class BadEndPassesError(OperatorError):
    """The execution does not fail on the bad end as it did."""

    code = "FLX550"
    exit_code = EXIT_NOT_WHOLE


class GoodEndFailsError(OperatorError):
    """The execution does not pass on the good end."""

    code = "FLX552"
    exit_code = EXIT_NOT_WHOLE


class NoGoodEndError(OperatorError):
    """No commit was found on which the execution passes."""

    code = "FLX553"
    exit_code = EXIT_NOT_WHOLE


class OutsideError(OperatorError):
    """What failed is in the recording: every commit would get it again."""

    code = "FLX554"
    exit_code = EXIT_NOT_WHOLE


class FlakyError(OperatorError):
    """Two runs of one commit differ, so no run decides."""

    code = "FLX555"
    exit_code = EXIT_NOT_WHOLE


def find_refusal(outcome: Outcome) -> FluxError | None:
    """Return why nothing can be said; None when something can."""
    end = outcome.end
    if not isinstance(end, Refusal):
        return None
    runs, sha = outcome.of(end.commit), end.commit[:12]
    told = summarise_refusal(end, runs)
    name = runs[-1].execution
    match end.why:
        case Why.FLAKY:
            return FlakyError(
                f"{sha}: {told}. The same code with the same recording does not end the same way twice, "
                "so no commit can be named",
                remedy=f"flux trace diff {runs[0].replay or name} {runs[-1].replay or name} shows where they part",
            )
        case Why.BAD_IS_NOT if runs[-1].verdict == "outside":
            return OutsideError(
                f"the failing answer is in the recording, so every commit would get it again: {end.reason}",
                remedy=f"flux why {name}",
            )
        case Why.BAD_IS_NOT:
            return BadEndPassesError(
                f"{name} does not fail on the bad end {sha} as it did: {told}",
                remedy="name a commit on which it does: --bad REF, or say what is bad: --any-failure, --fail-if EXPR",
            )
        case Why.GOOD_IS_NOT:
            return GoodEndFailsError(
                f"{name} does not pass on the good end {sha}: {told}", remedy="name an older commit: --good REF"
            )
    assert end.why is Why.NO_GOOD, "all others are above"
    return NoGoodEndError(
        f"no commit was found on which {name} passes; the last that was tried is {sha}: {told}",
        remedy="name one: --good REF",
    )


def summarise_refusal(end: Refusal, runs: Sequence[Run]) -> str:
    """What the runs of the commit said that stands in the way."""
    said = [f"{mark_run(run)[0]} {run.verdict}" for run in runs]
    if len(set(said)) == 1:
        return f"{said[0]}{f' ×{len(said)}' if len(said) > 1 else ''}: {end.reason}"
    return ", ".join(said)


def mark_run(run: Run) -> tuple[str, str]:
    """Return a run's mark and whether it is good, bad, or a reason to look twice: see `flux.verdict_marks`."""
    if run.mark is Mark.SKIP:
        return MARKS.get(run.verdict, UNKNOWN)[0], "warn"
    return ("✗", "bad") if run.mark is Mark.BAD else ("✓", "good")


def explain_more(outcome: Outcome) -> str:
    """Say what took more runs than a search of so many commits needs; empty when nothing did."""
    assert outcome.good is not None and outcome.bound is not None, "the search was not refused"
    more = len(outcome.runs) - outcome.bound
    if more <= 0:
        return ""
    reasons = []
    if outcome.is_doubted:
        reasons.append("it changed no line in the stack or the calls of the failure, so each side was run four times")
    if not outcome.is_recorded:
        reasons.append("what is bad was not recorded on the bad end, so that was run twice")
    tried = {run.commit for run in outcome.runs if run.purpose is Purpose.GOOD_END} - {outcome.good["sha"]}
    if tried:
        reasons.append(f"{len(tried)} good end{'s' * (len(tried) != 1)} did not pass")
    words = "; ".join(reasons) or "the history is no line that can be halved each time"
    return f"{more} more than log2(commits) + skips + 4: {words}"


def list_ends(outcome: Outcome) -> list[str]:
    """Say what each end was seen to do, and how often."""
    assert outcome.good is not None, "the search was not refused"
    ends = []
    for word, sha in (("good", outcome.good["sha"]), ("bad", outcome.bad)):
        runs = outcome.of(sha)
        recorded = ", and recorded" if word == "bad" and outcome.is_recorded else ""
        ends.append(f"{word} {sha[:SHA_SHOWN]} {mark_run(runs[0])[0]} {runs[0].verdict} ×{len(runs)}{recorded}")
    return ends


def list_proofs(outcome: Outcome, end: Found) -> list[str]:
    """Say what the commit and its parents were seen to do, and how often."""
    proofs = []
    for role, sha in _list_proof(end):
        runs = outcome.of(sha)
        who = f"{sha[:SHA_SHOWN]}" + (" (parent)" if role == "parent" else "")
        wrote = "" if role == "parent" or outcome.is_doubted else ", through a line that it changed"
        proofs.append(f"{who} {mark_run(runs[0])[0]} {runs[0].verdict} ×{len(runs)}{wrote}")
    return proofs


def make_document(
    outcome: Outcome,
    refused: FluxError | None,
    finding: Mapping[str, Any] | None,
    diff: Mapping[str, Any] | None,
    log: str | None,
) -> dict[str, Any]:
    """The answer as JSON, as the contract has it."""
    end = outcome.end
    good = None if outcome.good is None else _end_json(outcome, outcome.good["sha"])
    return {
        "schema": "flux.bisect/1",
        "first_bad": end.commit if isinstance(end, Found) else None,
        "candidates": list(end.candidates) if isinstance(end, Range) else _of_found(end),
        "refused": None if refused is None else refused.code,
        "reason": refused.message if refused is not None else end.reason if isinstance(end, Range) else None,
        "good": good,
        "bad": {**_end_json(outcome, outcome.bad), "recorded": outcome.is_recorded},
        "steps": [run_json(run) for run in outcome.runs if run.purpose is Purpose.SEARCH],
        "skipped": count_skips(outcome),
        "proof": [
            {"sha": sha, "role": role, **_end_json(outcome, sha)} for role, sha in _list_proof(end)
        ] or None,
        "runs": len(outcome.runs),
        "bound": outcome.bound,
        "doubted": outcome.is_doubted,
        "cached": sum(run.is_cached for run in outcome.runs),
        "left_out": [{"execution": name, "reason": reason} for name, reason in outcome.left_out.items()],
        "finding": finding,
        "first_difference": None if diff is None else diff.get("first_difference"),
        "log": log,
    }  # fmt: skip


def count_skips(outcome: Outcome) -> int:
    """Count the commits of the search that could not be judged."""
    return sum(run.purpose is Purpose.SEARCH and run.mark is Mark.SKIP for run in outcome.runs)


def run_json(run: Run) -> dict[str, Any]:
    """A run of the search as JSON."""
    return {
        "sha": run.commit,
        "verdict": run.verdict,
        "mark": run.mark.value,
        "elapsed_ms": run.elapsed_ms,
        "reason": run.reason,
        "subject": run.subject,
        "execution": run.execution,
        "replay": run.replay,
        "cached": run.is_cached,
    }


def _of_found(end: Found | Refusal) -> list[str]:
    return [end.commit] if isinstance(end, Found) else []


def _list_proof(end: object) -> list[tuple[str, str]]:
    if not isinstance(end, Found):
        return []
    return [*(("parent", parent) for parent in end.parents), ("commit", end.commit)]


def _end_json(outcome: Outcome, sha: str) -> dict[str, Any]:
    runs = outcome.of(sha)
    return {
        "sha": sha,
        "verdict": runs[0].verdict if runs else None,
        "mark": runs[0].mark.value if runs else None,
        "runs": len(runs),
        "reason": runs[0].reason if runs else None,
    }
