"""Which commit broke it: where a bisect begins, how far it is, and what it found, as ``flux bug bisect`` says it."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.executions import Row as Listed
from flux.supervisor.web.executions import make_row
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.run import ROWS_SHOWN, Progress, Row, read_problem
from flux.verdict_marks import MARKS, UNKNOWN

SHA_SHOWN = 12
FILES_SHOWN = 50
HUNKS_SHOWN = 20
LINES_SHOWN = 60
CANDIDATES_SHOWN = 50
SOURCES = {
    "given": "named by whoever asked",
    "records": "the last commit on which it passed",
    "first": "the first commit that has the function",
    "record": "the commit that was recorded",
}
"""Where an end is from, in words."""
PURPOSES = {"bad end": "bad", "good end": "good", "proof": "sure?"}


@attrs.frozen
class Begun:
    """A bisect of this server's, in a list."""

    row: Listed
    href: str
    said: str
    tone: str


@attrs.frozen
class End:
    """A commit that the search begins from."""

    word: str
    """``good`` or ``bad``."""
    sha: str
    source: str
    execution: str
    """Name of one that passed there; empty where none is known."""


@attrs.frozen
class Hunk:
    """Lines that the commit changed."""

    place: str
    lines: Sequence[str]
    more: int


def build_bisects(documents: Mapping[str, Any], asked: Asked) -> Page:
    """The bisects of this server, and what else failed of late."""
    runs = documents["bisects"]["runs"]
    return Page(
        title="Bisect",
        template="bisects.html",
        area="bisect",
        context={
            "begun": [_make_begun(run, asked.now) for run in runs],
            "failed": [
                (make_row(each, asked.now), words.link("b", words.cut(str(each["name"]), 40)))
                for each in documents["executions"]["executions"]
            ],
        },
        command="flux bug bisect @last-error",
    )


def _make_begun(run: Mapping[str, Any], now: datetime) -> Begun:
    answer, progress = run["answer"] or {}, show_bisect_progress(run)
    said, tone = progress.problem or progress.said, ""
    if answer.get("first_bad"):
        said, tone = f"first bad commit {words.cut(answer['first_bad'], SHA_SHOWN + 1)[:SHA_SHOWN]}", "bad"
    row = make_row(run["execution"], now)
    return Begun(row, words.link("b", row.name), words.cut(said, words.ERROR_ROOM), tone)


def build_bisect(documents: Mapping[str, Any], asked: Asked) -> Page:
    """One bisect: its ends, its runs, its answer."""
    run = documents["run"]
    row = make_row(run["execution"], asked.now)
    plan, answer = run.get("plan"), run.get("answer")
    ends = [] if plan is None else _list_ends(plan)
    # What somebody named for the search is in the command, too.
    named = [f" --{end.word} {shlex.quote(end.sha)}" for end in ends if end.source == SOURCES["given"]]
    return Page(
        title=f"Bisect of {row.name}",
        template="bisect.html",
        area="bisect",
        context={
            "row": row,
            "is_dirty": plan is not None and plan["bad"]["dirty"],
            "ends": ends,
            "progress": show_bisect_progress(run),
            "progress_at": words.link("b", f"{row.name}.progress"),
            "act": words.link("act", "bisects", row.name),
            "cancel": words.link("act", "bisects", row.name, "cancel"),
            "here": words.link("b", row.name),
            "answer": None if answer is None else _make_answer(answer, run["steps"], asked.now),
        },
        command=f"flux bug bisect {row.name}" + "".join(sorted(named, reverse=True)),
        scripts=("run.js",),
    )


def _list_ends(plan: Mapping[str, Any]) -> list[End]:
    bad = plan["bad"]
    said = [("bad", bad, "")]
    said += [("good", each, words.cut(str(each["execution"] or ""), 40)) for each in plan["goods"]]
    return [
        End(word, _short(end["sha"]), SOURCES.get(end["source"], words.cut(str(end["source"]))), execution)
        for word, end, execution in said
    ]


def _short(sha: str) -> str:
    return words.cut(str(sha), 80)[:SHA_SHOWN]


# --- its runs --------------------------------------------------------------------------------------


def show_bisect_progress(run: Mapping[str, Any]) -> Progress:
    """Say how far a bisect is: the runs that were made."""
    state, problem = run["state"], read_problem(run)
    if state == "none":
        return Progress("none", "", 0, 0, (), problem)
    steps, commits = run["steps"], run["commits"]
    searched = sum(step["purpose"] == "search" for step in steps)
    said, wanted = words.count(len(steps), "run"), 0
    if commits is not None:
        # Skips take one more each.
        wanted = max((commits - 1).bit_length(), searched)
        said += f" · {words.count(commits, 'commit')} between, about {wanted} to ask, {searched} asked"
    elif state == "running":
        said += " · both ends are seen first"
    if state == "cancelled":
        said += ", then it was cancelled"
    rows = [_make_step(step, steps[:number]) for number, step in enumerate(steps)]
    return Progress(state, said, searched, wanted, rows[-ROWS_SHOWN:], problem)


def _make_step(step: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> Row:
    number = sum(each["purpose"] == "search" for each in before) + 1
    head = PURPOSES.get(step["purpose"], str(number))
    again = f" ×{step['run']}" if step["run"] > 1 else ""
    took = "as before" if step["cached"] else words.duration(step["elapsed_ms"])
    mark, tone = {"good": ("✓", "good"), "bad": ("✗", "bad")}.get(
        step["mark"], (MARKS.get(step["verdict"], UNKNOWN)[0], "warn")
    )
    why = f" · skipped: {words.cut(step['reason'], words.ERROR_ROOM)}" if step["mark"] == "skip" else ""
    subject = words.cut(str(step["subject"]), 80)
    verdict = words.cut(str(step["verdict"]))
    return Row(tone, f"{head} {_short(step['sha'])[:7]} {subject} · {mark} {verdict}{again} · {took}{why}")


# --- its answer ------------------------------------------------------------------------------------


def _make_answer(answer: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    finding, said = answer["finding"], answer["said"]
    candidates = [] if answer["first_bad"] or answer["refused"] else answer["candidates"]
    tried = {step["sha"]: step for step in steps}
    return {
        "finding": None if finding is None else _make_finding(finding, now),
        "is_range": bool(candidates),
        "reason": words.cut(str(answer["reason"] or ""), 1000),
        "candidates": [
            {"sha": _short(sha), "text": _describe_candidate(tried.get(sha))}
            for sha in candidates[-CANDIDATES_SHOWN:]
        ],
        "candidate_count": len(candidates),
        "difference": _describe_difference(answer["first_difference"]) if finding is not None else [],
        "ends": [words.cut(text, 500) for text in said["ends"]],
        "proofs": [words.cut(text, 500) for text in said["proofs"]],
        "more": words.cut(said["more"], 1000),
        "skipped": answer["skipped"],
        "runs": answer["runs"],
        "cached": answer["cached"],
        "left_out": [words.cut(f"{each['execution']}: {each['reason']}", 500) for each in answer["left_out"]],
        "sides": _list_sides(answer["proof"] or [], steps),
    }


def _describe_candidate(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return ""
    return words.cut(f"{step['subject']} · {step['mark']}: {step['reason']}", 500)


def _list_sides(proof: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of a replay on a parent and of one on the commit, where both are known."""
    kept = {step["sha"]: step["replay"] for step in steps if step["replay"] is not None}
    found = {each["role"]: kept[each["sha"]] for each in proof if each["sha"] in kept}
    return [words.cut(str(found[role]), 40) for role in ("parent", "commit")] if len(found) == 2 else []


def _make_finding(finding: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    files, hunks = finding["files"], finding["hunks"]
    return {
        "sha": _short(finding["commit"]),
        "author": words.cut(str(finding["author"])),
        "when": words.clock(finding["date"], now),
        "subject": words.cut(str(finding["subject"]), 500),
        "files": [
            {"path": words.cut(str(file["path"])), "added": file["added"], "removed": file["removed"]}
            for file in files[:FILES_SHOWN]
        ],
        "file_count": len(files),
        "hunks": [
            Hunk(
                words.cut(f"{hunk['file']}:{hunk['line']}"),
                [words.cut(str(line), 300) for line in hunk["lines"][:LINES_SHOWN]],
                max(0, len(hunk["lines"]) - LINES_SHOWN),
            )
            for hunk in hunks[:HUNKS_SHOWN]
        ],
        "hunks_were_run": finding["hunks_were_run"],
        "hunks_left_out": finding["hunks_left_out"] + max(0, len(hunks) - HUNKS_SHOWN),
    }


def _describe_difference(first: Mapping[str, Any] | None) -> list[str]:
    """Say where the run on the commit parts from that on its parent."""
    if first is None:
        return []
    if first["part"] != "call":
        parts = {"outcome": "how they end", "state": "a row", "log": "a log line", "input": "the input"}
        return [f"all calls are alike; what differs first is {parts.get(first['part'], 'something else')}"]
    said = []
    for name, who in (("a", "parent"), ("b", "commit")):
        call = first.get(name)
        text = "nothing"
        if isinstance(call, dict):
            place = words.place_of(call.get("location"))
            text = f"call {call['seq']} {words.call_title(str(call['kind']), call['arguments'])} {place}"
        said.append(f"{who}: {text}")
    return said
