"""A guarded deploy: following it, and what the executions show, group by group, with what to do about each.

For each group of changes: how many there are, what all have in common, the smallest example with both its
sides where they part, and the command that shows the rest.
"""

import json
import shlex
import time
from collections.abc import Mapping, Sequence

from flux.cli import moments, render
from flux.cli.client import Client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, wrap
from flux.cli.trace_diff import difference_lines, first_lines
from flux.cli.work import follow_work

FINDINGS = (
    ("same", "=", "green"),
    ("fixed", "✓", "bold green"),
    ("changed", "≠", "bold yellow"),
    ("failing", "✗", "bold red"),
    ("undecided", "⤳", "bold yellow"),
)
PROGRESS_EVERY_S = 2.0
NAMES_SHOWN = 3
GROUPS_SHOWN = 12
FUNCTIONS_SHOWN = 6


def deploy_guarded(client: Client, order: Mapping[str, object], last: int, story: Screen | None) -> Record:
    """Have it deployed, and tell ``story`` how far the replays are; return the deploy as it ended."""
    if story is not None:
        story.line(Piece(f"replaying the last {last:,} executions on it, before the switch", "dim"))
    began = told = time.monotonic()
    for answer in follow_work(client.stream_work("deploy", "guarded", body=json.dumps(order))):
        line = answer.record
        if (end := line.maybe_record("end")) is not None:
            return end.record("deploy")
        if story is None or "judged" not in line.data:
            continue
        judged, total, now = line.number("judged"), line.number("of"), time.monotonic()
        if judged == total or now - told > PROGRESS_EVERY_S:
            told, left_s = now, (now - began) / judged * (total - judged)
            left = f", about {moments.duration(left_s * 1000)} left" if judged < total else ""
            story.line(Piece(f"  {judged:g} of {total:g} replayed{left}", "dim"))
    raise AssertionError("what follows work gives its end, or raises")


def guard_lines(guard: Record, on: str | None, width: int, *, whole: bool, shows_entries: bool) -> list[Line]:
    """What the executions show that were replayed on a candidate, the code that ``on`` names."""
    result = [_sum(guard), *_chosen(guard, width)]
    groups = guard.records("groups")
    for group in groups if whole else groups[:GROUPS_SHOWN]:
        result += _group(group, on, width, whole=whole, shows_entry=shows_entries)
    if len(groups) > GROUPS_SHOWN and not whole:
        result += [[], [f"  … {len(groups) - GROUPS_SHOWN} more groups (-v)"]]
    result += _undecided(guard, width)
    result += _entries(guard, width)
    if not shows_entries and any(group.data.get("entry") is not None for group in groups):
        command = "flux deploy" + ("" if on is None else f" --on {shlex.quote(on)}")
        command += f" --guard {guard.number('asked'):g} --accept"
        result += render.next_lines([(command, "if it is meant: the entries to add")], width)
    if refusals := guard.items("refusals"):
        result.append([])
        result += [[Piece(f"  {refusal}", "bold red")] for refusal in refusals]
    return result


def _sum(guard: Record) -> Line:
    counts, accepted = guard.record("counts"), 0
    for group in guard.records("groups"):
        accepted += int(group.number("count")) if group.flag("accepted") else 0
    line: list[Piece | str] = [
        Piece(f"{guard.number('total'):g} executions replayed on it, nothing left", "bold")
    ]
    for finding, mark, style in FINDINGS:
        if count := int(counts.number(finding)):
            line += ["  ", Piece(f"{mark} {count} {finding}", style)]
    return [*line, *([Piece(f"  ({accepted} of them accepted)", "dim")] if accepted else [])]


def _chosen(guard: Record, width: int) -> list[Line]:
    """From what they were chosen, and what of the code they don't show."""
    left = int(guard.number("not_whole"))
    text = f"the last of each of {guard.number('strata'):g} kinds, out of {guard.number('looked_at'):g}"
    text += f"; {left} left aside, as their records are not whole" if left else ""
    lines = wrap(text, width - 2)
    if unseen := [str(name) for name in guard.items("not_seen")]:
        more = f" and {len(unseen) - FUNCTIONS_SHOWN} more" if len(unseen) > FUNCTIONS_SHOWN else ""
        lines += wrap(f"no execution shows {', '.join(unseen[:FUNCTIONS_SHOWN])}{more}", width - 2)
    return [["  ", Piece(line, "dim")] for line in lines]


def _group(group: Record, on: str | None, width: int, *, whole: bool, shows_entry: bool) -> list[Line]:
    finding, count = group.text("finding"), int(group.number("count"))
    mark, style = next((mark, style) for name, mark, style in FINDINGS if name == finding)
    is_accepted = group.flag("accepted")
    head = f"{mark} {count:>4}  {finding}{', accepted' if is_accepted else ''}"
    result: list[Line] = [
        [],
        ["  ", Piece(head, "dim" if is_accepted else style), Piece(f"  {group.text('signature')}", "dim")],
    ]
    told = f"{group.text('function')}: {group.text('effect')}"
    if (root := group.maybe_text("root")) is not None:
        told += f", from here on: {root}"
    result += [["          " + line] for line in wrap(told, width - 10)]
    acceptance = group.maybe_record("acceptance")
    if acceptance is not None:
        word = "until" if acceptance.flag("holds") else "covered it until"
        text = f"{acceptance.text('reason')}  ({word} {acceptance.text('until')})"
        result += [["          ", Piece(line, "dim")] for line in wrap(text, width - 10)]
    if is_accepted and not whole:
        return result
    result += _example(group, on, width, whole=whole)
    entry = group.maybe_text("entry")
    if shows_entry and entry is not None:
        result.append([])
        result += [["    ", Piece(line, "cyan")] for line in entry.splitlines()]
    return result


def _example(group: Record, on: str | None, width: int, *, whole: bool) -> list[Line]:
    example = group.record("example")
    execution = example.record("execution")
    name = execution.text("name")
    result: list[Line] = [
        [f"    {name}  {render.route(execution)}  {_ends(execution, example.maybe_record('replayed'))}"]
    ]
    first = example.maybe_record("first_difference")
    if first is not None and first.text("part") == "call":
        result += first_lines(example, width, whole=whole)[1:]
    elif first is not None:
        # How it ended is told already.
        told = ("outcome", "error", "status") if first.text("part") == "outcome" else ()
        found = [one for one in first.records("differences") if one.text("where") not in told]
        result += difference_lines(found, width, 6, whole=whole)
    others = [str(other) for other in group.items("names") if other != name]
    if others:
        more = f", … {int(group.number('count')) - 1 - NAMES_SHOWN} more" if len(others) > NAMES_SHOWN else ""
        result.append(["    ", Piece(f"as well: {', '.join(others[:NAMES_SHOWN])}{more}", "dim")])
    against = "." if on is None else shlex.quote(f"{name}@{on}")
    return [*result, ["    ", Piece(f"flux trace diff {name} {against}", "cyan")]]


def _ends(execution: Record, replayed: Record | None) -> str:
    was = execution.maybe_number("status")
    before = f"{was:g}" if was is not None else execution.text("outcome")
    if replayed is None:
        return before
    if (stopped := replayed.maybe_text("stopped")) is not None:
        return f"{before} → not known: {stopped}"
    status = replayed.maybe_number("status")
    after = f"{status:g}" if status is not None else "no answer"
    error = replayed.data.get("error")
    if error is not None:
        text, where = render.error_parts(error)
        after += f"  {text}" + (f"  {where}" if where else "")
    return f"{before} → {after}"


def _undecided(guard: Record, width: int) -> list[Line]:
    result: list[Line] = []
    for one in guard.records("undecided"):
        names = [str(name) for name in one.items("names")]
        shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
        head = f"⤳ {one.number('count'):>4g}  undecided"
        result += [[], ["  ", Piece(head, "bold yellow")]]
        result += [["          " + line] for line in wrap(f"{one.text('reason')}  ({shown})", width - 10)]
    return result


def _entries(guard: Record, width: int) -> list[Line]:
    """Entries that cover nothing."""
    unused: Sequence[Record] = guard.records("unused")
    if not unused:
        return []
    told = ", ".join(one.text("signature") + ("" if one.flag("holds") else " (over)") for one in unused)
    text = f"flux.accept.toml has entries that cover nothing here: {told}"
    result: list[Line] = [[]]
    result += [["  ", Piece(line, "dim")] for line in wrap(text, width - 2)]
    return result
