"""``flux why --prove``: the experiment, as the server tells of it."""

import time
from collections.abc import Mapping
from typing import Any

from flux.cli.client import Client
from flux.cli.failures import MalformedAnswer
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, wrap
from flux.cli.work import follow_work

PROGRESS_EVERY_S = 1.0
EFFECTS = {"same failure": "✗", "other failure": "≠", "passed": "✓", "past it": "✓", "refused": "≠", "undecided": "?"}


def run_proof(client: Client, id: str, story: Screen | None) -> tuple[Record, list[Record]]:
    """Have the server make the experiment; return what it shows, and each run. Who gives up waiting stops it."""
    runs: list[Record] = []
    flips = runs_max = 0
    told_s = time.monotonic()
    for answer in follow_work(client.stream_work("executions", id, "prove", body="{}")):
        line = answer.record
        if (run := line.maybe_record("run")) is not None:
            runs.append(run)
            if story is not None and time.monotonic() - told_s >= PROGRESS_EVERY_S:
                told_s = time.monotonic()
                story.line(Piece(f"  run {len(runs)} of at most {runs_max}: {run.text('effect')}", "dim"))
        elif (end := line.maybe_record("end")) is not None:
            if story is not None:
                story.line(Piece(f"  {len(runs)} runs, nothing left the sandbox", "dim"))
            return end.record("proof"), runs
        elif "heartbeat" not in line.data:
            line.of_schema("flux.proof/1")
            flips, runs_max = int(line.number("flips")), int(line.number("runs_max"))
            if story is not None:
                told = f"  {flips} flips to try, in at most {runs_max} runs, each a replay: ctrl-c stops it"
                story.line(Piece(told, "dim"))
    raise MalformedAnswer("the answer ends without a proof", remedy="see the server's log")


def add_proof(why: Mapping[str, Any], proof: Record) -> dict[str, Any]:
    """Return the answer of ``flux why`` with what the experiment shows in front of its facts."""
    return {**why, "facts": [*proof.data["facts"], *why["facts"]], "proof": proof.data}


def run_lines(runs: list[Record], width: int) -> list[Line]:
    """Every run: what was flipped, and what became of it."""
    result: list[Line] = [[], ["  ", Piece("runs", "bold")]]
    for run in runs:
        effect = run.text("effect")
        flips = run.records("flips")
        what = " and ".join(flip.text("text") for flip in flips) or "nothing flipped"
        why = f" ({run.text('reason')})" if effect == "undecided" else ""
        first, *rest = wrap(f"{effect}: {what}{why}", width - 10)
        result.append([f"  {run.number('number'):>4g} ", Piece(EFFECTS.get(effect, "?"), "cyan"), f" {first}"])
        result += [["         " + line] for line in rest]
    return result
