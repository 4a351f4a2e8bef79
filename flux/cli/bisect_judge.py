"""Who says what a replay means for its commit: the verdict, an expression, or a program of the user's.

A program is run here, beside the person who named it, and never by the server: one that ran what it is sent would be
a shell for whoever reaches it. It gets the replay as JSON on its standard input and answers by its exit code, as for
``git bisect run``: 0 good, 125 skip, any other up to 127 bad.
"""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from flux.bisect import Mark, mark_verdict
from flux.cli.record import Record
from flux.errors import OperatorError
from flux.fail_if import Expression, Unknown, evaluate

SKIP_STATUS = 125
BAD_STATUS_MAX = 127


class CheckFailedError(OperatorError):
    """The program of ``--check`` says nothing about a commit."""

    code = "FLX557"


@attrs.frozen
class Judgement:
    """What a run says of its commit."""

    mark: Mark
    reason: str


Judge = Callable[[Record], Judgement]
"""Of a probe that was built, as the server answers it."""


def judge_by_verdict(probe: Record, *, any_failure: bool) -> Judgement:
    """Take the verdict's word: the same failure is bad, or any."""
    return Judgement(mark_verdict(probe.text("verdict"), any_failure=any_failure), probe.text("reason"))


def judge_by_expression(probe: Record, expression: Expression) -> Judgement:
    """Ask ``--fail-if`` of the answer."""
    replay = probe.record("replay")
    if replay.record("replayed").text("outcome") == "stopped" or replay.text("verdict") == "unfaithful":
        return Judgement(Mark.SKIP, replay.text("reason"))
    held = evaluate(expression, make_subject(replay.data))
    if isinstance(held, Unknown):
        return Judgement(Mark.SKIP, f"--fail-if: {held.reason}")
    what = f"status {replay.record('replayed').number('status'):g}"
    return Judgement(Mark.BAD if held else Mark.GOOD, f"--fail-if {'holds' if held else 'does not hold'}: {what}")


def make_subject(replay: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an expression can speak of, from a replay's document. See `flux.fail_if.NAMES`."""
    replayed = replay["replayed"]
    output = replayed.get("output") or {}
    raised = output.get("raised") or {}
    killed = output.get("killed") or {}
    return {
        "status": replayed.get("status"),
        "outcome": replayed.get("outcome"),
        "verdict": replay.get("verdict"),
        "error": raised.get("type") or ("Killed" if killed else None),
        "message": raised.get("message") or killed.get("limit"),
        "body": output.get("body"),
        "headers": output.get("headers"),
    }


def judge_by_program(probe: Record, command: str) -> Judgement:
    """Ask ``--check``."""
    replay = probe.record("replay")
    if replay.text("verdict") == "unfaithful":
        return Judgement(Mark.SKIP, replay.text("reason"))
    try:
        status = _run(shlex.split(command), json.dumps(replay.data, ensure_ascii=False).encode(errors="replace"))
    except OSError as error:
        raise CheckFailedError(
            f"--check: {command} can't be run: {error.strerror}", remedy="name a program that is there, with its path"
        ) from error
    if status == SKIP_STATUS:
        return Judgement(Mark.SKIP, f"--check says that it can't tell: exit {SKIP_STATUS}")
    if not 0 <= status <= BAD_STATUS_MAX:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with exit code {status}"
        raise CheckFailedError(
            f"--check: {command} {how}, which says nothing of commit {probe.text('commit')[:7]}",
            remedy=f"0 is good, {SKIP_STATUS} skip, 1 to {BAD_STATUS_MAX} bad",
        )
    return Judgement(Mark.GOOD if status == 0 else Mark.BAD, f"--check ended with exit code {status}")


def _run(command: list[str], said: bytes) -> int:
    """Run a program that reads ``said``; return its exit code, or the negative of the signal that ended it.

    Whoever is interrupted meanwhile takes it along. `subprocess.run` does not where that falls into the moment in which
    the program has begun and its number is not known yet, so there an interrupt waits.
    """
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        # What it says is part of the story: stdout is for the answer.
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr.fileno())
    finally:
        signal.signal(signal.SIGINT, before)
    with program:
        try:
            if interrupts:
                raise KeyboardInterrupt
            program.communicate(said)
        except BaseException:
            program.kill()
            raise
    return program.returncode
