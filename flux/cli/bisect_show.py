"""How a bisect looks on a terminal: as lines while it goes, and as an answer at the end."""

from collections.abc import Sequence

from flux.bisect import Found, Purpose, Range
from flux.bisect_answer import count_skips, explain_more, list_ends, list_proofs, mark_run
from flux.bisect_search import Outcome, Run
from flux.cli import moments, render
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, cut, pad, spread, wrap

SHA_SHOWN = 7
CANDIDATES_SHOWN = 12


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


_STYLES = {"good": "bold green", "warn": "yellow", "bad": "bold red"}


def _mark(run: Run) -> tuple[str, str]:
    mark, tone = mark_run(run)
    return mark, _STYLES[tone]


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
    cached = sum(run.is_cached for run in outcome.runs)
    result.append(["  ", Piece("skipped  ", "dim"), f"{count_skips(outcome)}"])
    result += _listed("ends", list_ends(outcome))
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
    result = _listed("sure?", list_proofs(outcome, end))
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
