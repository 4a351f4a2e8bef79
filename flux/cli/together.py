"""``flux incident replay --interleave``: the executions of a window at once, in the order that was recorded.

They run in a database of their own. The answer says whether the rows and the answers of then come out, what a
check of the user's finds then and now, and which executions answered otherwise. Exit code 0 when the check
finds nothing and none fails; without a check, whether rows are right can't be told, and it is 1.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flux.cli import render
from flux.cli.client import INVOKE_TIMEOUT_S, Client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, wrap
from flux.interleave import count_overlapping
from flux.interleave_verdict import FINE_TOGETHER, TogetherVerdict, count

FINE = frozenset(verdict.value for verdict in FINE_TOGETHER)
MARKS = {
    TogetherVerdict.FIXED.value: ("✓", "bold green"),
    TogetherVerdict.CLEAN.value: ("✓", "bold green"),
    TogetherVerdict.STILL_WRONG.value: ("✗", "bold red"),
    TogetherVerdict.FAILS.value: ("✗", "bold red"),
    TogetherVerdict.REPRODUCED.value: ("=", "bold yellow"),
    TogetherVerdict.CHANGED.value: ("≠", "bold yellow"),
}
ROWS_SHOWN = 5


def replay_together(
    client: Client, summaries: Sequence[Record], on: str, check: str | None, *, in_turn: bool
) -> Record:
    """Ask the server to replay them at once."""
    body: dict[str, Any] = {"executions": [one.text("id") for one in summaries], "in_turn": in_turn}
    if check is not None:
        body["check"] = check
    answer = client.post("interleave", body=json.dumps(body), timeout_s=INVOKE_TIMEOUT_S, on=on)
    return answer.record.of_schema("flux.interleave/1")


def lines(told: Record, on: str, width: int) -> list[Line]:
    """The whole answer."""
    code = "the project's folder" if on == "." else f"commit {on}"
    result: list[Line] = [
        [Piece(f"replayed at once on {code}, in a database of its own · nothing left the sandbox", "dim")],
        [],
    ]
    mark, style = MARKS.get(told.text("verdict"), ("?", "bold yellow"))
    reason = wrap(told.text("reason"), width - 4)
    result.append([Piece(f"{mark} {told.text('verdict')}", style)])
    result += [[f"  {line}"] for line in reason]
    result += _check_lines(told, width)
    result += _together_lines(told.data["together"], "together", width)
    if told.data["in_turn"] is not None:
        result += _together_lines(told.data["in_turn"], "one after another", width)
    for note in told.data["notes"]:
        result += [
            ["  note: " + line if n == 0 else "        " + line]
            for n, line in enumerate(wrap(note, width - 8))
        ]
    result += [
        [],
        [
            f"{told.data['total']} executions · {told.data['transactions']} transactions · 0 effects left the sandbox"
        ],
    ]
    if told.data["check"] is None:
        result += render.next_lines(
            [("--check 'select … having count(*) > 1'", "say what must not be: any row is a finding")], width
        )
    return result


def overlapping_line(summaries: Sequence[Record]) -> str | None:
    """What a replay of one after another can't show; None when none of them ran at the same time."""
    intervals = [_interval(one) for one in summaries]
    overlapping = count_overlapping(intervals)
    if not overlapping:
        return None
    return f"{overlapping} of these ran at the same time as another; a race between them is replayed by --interleave"


def _interval(summary: Record) -> tuple[int, int]:
    began = datetime.fromisoformat(summary.text("started_at").replace("Z", "+00:00"))
    began_ns = round(began.timestamp() * 1e6) * 1000
    return began_ns, began_ns + round((summary.maybe_number("elapsed_ms") or 0) * 1e6)


def _check_lines(told: Record, width: int) -> list[Line]:
    check = told.data["check"]
    if check is None:
        return []
    result: list[Line] = [[], [Piece("the check finds", "bold")]]
    for title, rows in (
        ("then", check["recorded"]),
        ("now", check["replayed"]),
        ("one after another", check["in_turn"]),
    ):
        if rows is None:
            continue
        result.append(["  ", f"{title:<18}", Piece(count(len(rows), "row"), "bold red" if rows else "green")])
        result += _row_lines("    ", rows, width)
    return result


def _together_lines(together: Mapping[str, Any], title: str, width: int) -> list[Line]:
    fidelity = together["fidelity"]
    facts = (
        f"{fidelity['equal']} of {fidelity['matched']} statements answered as then · "
        f"{count(together['held_back'], 'time')} held back · {count(together['relaxed_gates'], 'gate')} relaxed"
    )
    result: list[Line] = [[], [Piece(title, "bold"), Piece(f"   {facts}", "dim")]]
    for sentence in together["relaxed"]:
        result += [["    " + line] for line in wrap(f"relaxed: {sentence}", width - 4)]
    for one in together["executions"]:
        then, now = one["original"]["status"], one["replayed"]["status"]
        again = one["attempts"]["replayed"]
        text = f"  {one['execution']['name']}  {then} → {now if now is not None else 'stopped'}"
        if again > 1:
            text += f"   {again} attempts"
        if then != now:
            result.append([Piece(text, "yellow")])
    for table in together["tables"]:
        if table["same"]:
            continue
        result.append(
            [
                "  ",
                Piece(table["table"], "bold"),
                f"   {table['recorded']} rows then, {table['replayed']} now",
            ]
        )
        result += _row_lines("    only then  ", table["only_recorded"], width)
        result += _row_lines("    only now   ", table["only_replayed"], width)
    return result


def _row_lines(indent: str, rows: Sequence[object], width: int) -> list[Line]:
    shown: list[Line] = []
    for row in rows[:ROWS_SHOWN]:
        text = json.dumps(row, ensure_ascii=False)
        shown += [[indent + line] for line in wrap(text, width - len(indent))]
    if len(rows) > ROWS_SHOWN:
        shown.append([Piece(f"{indent}… {len(rows) - ROWS_SHOWN} more: --json", "dim")])
    return shown
