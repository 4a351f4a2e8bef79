"""How a bisect looks: as JSON, as lines while it goes, and as an answer at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from flux.bisect import Found, Purpose, Range, Refusal
from flux.cli import moments, render
from flux.cli.bisect_drive import Outcome, Run
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, cut, pad, spread, wrap

SHA_SHOWN = 7
CANDIDATES_SHOWN = 12


def make_document(
    outcome: Outcome, refused: Mapping[str, str] | None, finding: Record | None, diff: Record | None, log: str | None
) -> dict[str, Any]:
    """The answer as JSON, as the contract has it. ``refused`` has a code and a reason."""
    end = outcome.end
    good = None if outcome.good is None else _end_json(outcome, outcome.good.text("sha"))
    return {
        "schema": "flux.bisect/1",
        "first_bad": end.commit if isinstance(end, Found) else None,
        "candidates": list(end.candidates) if isinstance(end, Range) else _of_found(end),
        "refused": None if refused is None else refused["code"],
        "reason": refused["message"] if refused is not None else end.reason if isinstance(end, Range) else None,
        "good": good,
        "bad": {**_end_json(outcome, outcome.bad), "recorded": outcome.is_recorded},
        "steps": [_run_json(run) for run in outcome.runs if run.purpose is Purpose.SEARCH],
        "skipped": sum(run.purpose is Purpose.SEARCH and run.mark == "skip" for run in outcome.runs),
        "proof": [
            {"sha": sha, "role": role, **_end_json(outcome, sha)} for role, sha in _list_proof(end)
        ] or None,
        "runs": len(outcome.runs),
        "bound": outcome.bound,
        "doubted": outcome.is_doubted,
        "cached": sum(run.is_cached for run in outcome.runs),
        "left_out": [{"execution": name, "reason": reason} for name, reason in outcome.left_out.items()],
        "finding": None if finding is None else finding.data,
        "first_difference": None if diff is None else diff.get("first_difference"),
        "log": log,
    }  # fmt: skip


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


def _run_json(run: Run) -> dict[str, Any]:
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


# --- while it goes ---------------------------------------------------------------------------------


def target_lines(plan: Record, width: int) -> list[Line]:
    """What is looked for."""
    executions = plan.records("executions")
    first = executions[0]
    error = first.get("error")
    text, where = render.error_parts(error) if error is not None else (f"status {first.number('status'):g}", "")
    more = f"  and {len(executions) - 1} more executions" if len(executions) > 1 else ""
    result: list[Line] = [["looking for  ", Piece(cut(text, width - 13), "bold"), f"  {where}", Piece(more, "dim")]]
    result += [
        [Piece("  ! ", "yellow"), f"{one.text('execution')} is left out: {one.text('reason')}"]
        for one in plan.records("left_out")
    ]
    if plan.record("bad").flag("dirty"):
        result.append(
            [Piece("  ! ", "yellow"), "it was recorded on files that were not committed; the commit that they were "
             "changed from is the bad end"]
        )  # fmt: skip
    return result


def run_line(run: Run, number: int, width: int) -> Line:
    """One run."""
    mark, style = _mark(run)
    head = {Purpose.BAD_END: "bad", Purpose.GOOD_END: "good", Purpose.PROOF: "sure?"}.get(run.purpose, f"{number:>4}")
    took = "as before" if run.is_cached else moments.duration(run.elapsed_ms)
    again = f"  ×{run.number}" if run.number > 1 else ""
    subject = pad(cut(run.subject, max(16, width - 50)), max(16, width - 50))
    line: list[Piece | str] = [
        f"  {head:<6}",
        Piece(run.commit[:SHA_SHOWN], "cyan"),
        f"  {subject}  ",
        Piece(f"{mark} {run.verdict}", style),
        Piece(f"  {took}{again}", "dim"),
    ]
    if run.mark == "skip":
        line.append(Piece(f"  skipped: {run.reason}", "yellow"))
    return line


def _mark(run: Run) -> tuple[str, str]:
    if run.mark == "skip":
        return render.VERDICT_MARKS.get(run.verdict, ("?", "yellow"))[0], "yellow"
    return ("✗", "bold red") if run.mark == "bad" else ("✓", "bold green")


# --- the answer ------------------------------------------------------------------------------------


def lines(
    outcome: Outcome, finding: Record | None, diff: Record | None, log: str | None, width: int, *, quiet: bool
) -> list[Line]:
    """The whole answer, of a search that was not refused."""
    end = outcome.end
    result: list[Line] = []
    commands: list[str | tuple[str, str]] = []
    execution = outcome.runs[0].execution
    if isinstance(end, Found):
        assert finding is not None, "what was found is described"
        result += _found_lines(finding, width)
        result += [[], *_difference_lines(diff, width)]
        result += _proof_lines(outcome, end)
        commands.append((f"flux trace diff {execution} {execution}@{end.parents[0][:12]}", "what the parent does"))
        commands.append((f"git show {end.commit[:12]}", "the whole commit"))
    elif isinstance(end, Range):
        result += _range_lines(outcome, end, width)
        commands.append((f"flux replay {execution} --on {end.candidates[-1][:12]}", "the last of them"))
        commands.append((f"git log {end.candidates[-1][:12]} -n {len(end.candidates)}", "what they are"))
    skips = [run for run in outcome.runs if run.purpose is Purpose.SEARCH and run.mark == "skip"]
    cached = sum(run.is_cached for run in outcome.runs)
    result.append(["  ", Piece("skipped  ", "dim"), f"{len(skips)}"])
    result += _listed("ends", _list_ends(outcome))
    result.append(["  ", Piece("runs     ", "dim"), f"{len(outcome.runs)}, {cached} of them known from before"])
    if more := explain_more(outcome):
        result += [["           ", line] for line in wrap(more, width - 11)]
    if log is not None:
        result.append(["  ", Piece("log      ", "dim"), f"{log}  (git bisect replay reads it)"])
    result.append(["  ", Piece("effects  ", "dim"), "0 left the sandbox; your checkout was not touched"])
    return result if quiet else [*result, *render.next_lines(commands, width)]


def _listed(label: str, texts: Sequence[str]) -> list[Line]:
    return [
        ["  ", Piece(f"{label if not index else '':<9}", "dim"), text] for index, text in enumerate(texts)
    ]


def _list_ends(outcome: Outcome) -> list[str]:
    assert outcome.good is not None, "the search was not refused"
    ends = []
    for word, sha in (("good", outcome.good.text("sha")), ("bad", outcome.bad)):
        runs = outcome.of(sha)
        recorded = ", and recorded" if word == "bad" and outcome.is_recorded else ""
        ends.append(f"{word} {sha[:SHA_SHOWN]} {_mark(runs[0])[0]} {runs[0].verdict} ×{len(runs)}{recorded}")
    return ends


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
    tried = {run.commit for run in outcome.runs if run.purpose is Purpose.GOOD_END} - {outcome.good.text("sha")}
    if tried:
        reasons.append(f"{len(tried)} good end{'s' * (len(tried) != 1)} did not pass")
    words = "; ".join(reasons) or "the history is no line that can be halved each time"
    return f"{more} more than log2(commits) + skips + 4: {words}"


def _found_lines(finding: Record, width: int) -> list[Line]:
    when = moments.ago(moments.read_moment(finding.text("date"), "date"), moments.local_now())
    files = finding.records("files")
    added, removed = (sum(int(file.number(key)) for file in files) for key in ("added", "removed"))
    size = f"{len(files)} file{'s' * (len(files) != 1)}, +{added} −{removed}"
    result: list[Line] = [
        ["first bad commit  ", Piece(finding.text("commit")[:12], "bold red"), f"  {finding.text('author')}, {when}"],
        *spread(["    ", Piece(cut(finding.text("subject"), width - 4), "bold")], [Piece(size, "dim")], width),
    ]
    hunks = finding.records("hunks")
    if not hunks:
        text = "no line that is on record of the request stands in a file that it changed"
        return [*result, ["    ", Piece(text, "dim")]]
    if not finding.flag("hunks_were_run"):
        result.append(["    ", Piece("no changed line is on record as run; these are in files that were", "dim")])
    for hunk in hunks:
        result.append(["    ", Piece(f"{hunk.text('file')}:{hunk.number('line'):g}", "cyan")])
        for line in hunk.items("lines"):
            style = {"+": "green", "-": "red"}.get(str(line)[:1], "dim")
            result.append(["      ", Piece(str(line), style)])
    if left_out := hunk_count(finding):
        result.append(["    ", Piece(f"… {left_out} more", "dim")])
    return result


def hunk_count(finding: Record) -> int:
    """How many hunks of the kind are not shown."""
    return int(finding.number("hunks_left_out"))


def _difference_lines(diff: Record | None, width: int) -> list[Line]:
    head = Piece("differs  ", "dim")
    if diff is None:
        return [["  ", head, "the two runs can't be set side by side"]]
    first = diff.maybe_record("first_difference")
    if first is None:
        return [["  ", head, "nothing that they ask, write or say: they end differently"]]
    sides = {name: first.get(name) for name in ("a", "b")} if first.text("part") == "call" else {}
    if not sides:
        parts = {"outcome": "how they end", "state": "a row", "log": "a log line", "input": "the input"}
        what = parts.get(first.text("part"), "something else")
        return [["  ", head, f"all calls are alike; what differs first is {what}"]]
    result: list[Line] = []
    for name, words in (("a", "parent"), ("b", "commit")):
        call = sides[name]
        text, place = "nothing", ""
        if isinstance(call, dict):
            record = Record(call, "first_difference")
            text = f"call {record.number('seq'):g}  {render.call_title(record.text('kind'), record.get('arguments'))}"
            location = record.maybe_record("location")
            place = "" if location is None else render.place(location.data)
        label = "differs  " if name == "a" else "         "
        result += spread(
            ["  ", Piece(label, "dim"), f"{words}  {cut(text, max(20, width - 45))}"], [Piece(place, "cyan")], width
        )
    return result


def _proof_lines(outcome: Outcome, end: Found) -> list[Line]:
    proofs = []
    for role, sha in _list_proof(end):
        runs = outcome.of(sha)
        mark, _ = _mark(runs[0])
        who = f"{sha[:SHA_SHOWN]}" + (" (parent)" if role == "parent" else "")
        wrote = "" if role == "parent" or outcome.is_doubted else ", through a line that it changed"
        proofs.append(f"{who} {mark} {runs[0].verdict} ×{len(runs)}{wrote}")
    result = _listed("sure?", proofs)
    for sha in end.unproved:
        reason = outcome.of(sha)[0].reason
        result.append(["  ", Piece("       ! ", "yellow"), f"{sha[:SHA_SHOWN]} (parent) could not be run: {reason}"])
    return result


def _range_lines(outcome: Outcome, end: Range, width: int) -> list[Line]:
    count = len(end.candidates)
    result: list[Line] = [
        [Piece(f"one of {count} commits" if count > 1 else "perhaps this commit", "bold yellow"), f"  {end.reason}"],
    ]
    for sha in end.candidates[-CANDIDATES_SHOWN:]:
        runs = outcome.of(sha)
        text = "" if not runs else f"{runs[0].subject}  {runs[0].mark.value}: {runs[0].reason}"
        result += [
            ["    ", Piece(sha[:SHA_SHOWN] if not index else " " * SHA_SHOWN, "cyan"), f"  {line}"]
            for index, line in enumerate(wrap(text, width - 14))
        ]
    if count > CANDIDATES_SHOWN:
        result.insert(1, [Piece(f"    … {count - CANDIDATES_SHOWN} older ones (--json has all)", "dim")])
    return [*result, []]


def summarise_refusal(end: Refusal, runs: Sequence[Run]) -> str:
    """What the runs of the commit said that stands in the way."""
    said = [f"{_mark(run)[0]} {run.verdict}" for run in runs]
    if len(set(said)) == 1:
        return f"{said[0]}{f' ×{len(said)}' if len(said) > 1 else ''}: {end.reason}"
    return ", ".join(said)
