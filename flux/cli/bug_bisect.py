"""``flux bug bisect``: which commit broke it, with proof.

Replays what was recorded on one commit after the other, with nothing leaving and without touching the checkout, until
there is one that fails and whose parent passes. Exit code 0 when it is named, 1 when what is left is a range, and the
error's own where nothing can be said.
"""

import json
import re
from functools import partial
from pathlib import Path

import click

from flux.bisect import Found, Mark, Purpose
from flux.bisect_answer import find_refusal, make_document
from flux.bisect_search import Outcome, Run, Search
from flux.cli import bisect_show
from flux.cli.bisect_drive import Driver
from flux.cli.bisect_judge import Judge, judge_by_expression, judge_by_program, judge_by_verdict
from flux.cli.bisect_log import BisectLog, find_log
from flux.cli.client import INVOKE_TIMEOUT_S, Client, open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import EXIT_FINDING, EXIT_NOT_WHOLE, NoSuchId, UsageError
from flux.cli.incident_replay import list_executions, make_filter
from flux.cli.record import Record
from flux.cli.screen import Piece, Screen
from flux.cli.settings import settings
from flux.errors import FluxError
from flux.fail_if import parse_expression

EXPECTED = {Purpose.BAD_END: Mark.BAD, Purpose.GOOD_END: Mark.GOOD}
"""What the first run of an end says, unless it is none."""
_PINNED = re.compile(r"[a-z][a-z0-9_-]*")


@click.command()
@click.argument("what", metavar="ID or WINDOW", shell_complete=execution_ids)
@click.option("--good", metavar="REF", help="A commit on which it passed. Without it: the last one on record, or the "
              "first that has the function.")  # fmt: skip
@click.option("--bad", metavar="REF", help="A commit on which it fails. Without it: the one that was recorded.")
@click.option("--first-parent", is_flag=True, help="Take merges as one step: ask no commit of a merged branch.")
@click.option("--any-failure", is_flag=True, help="Any failure is bad, not only the one that was recorded.")
@click.option("--check", metavar="CMD", help="A program, run here, that gets each replay as JSON on its standard "
              "input: exit 0 good, 125 skip, else bad.")  # fmt: skip
@click.option("--fail-if", metavar="EXPR", help="What makes an answer bad: status != 201, body.plan == \"free\".")
@click.option("--functions-from", metavar="REF", help="Lay the function's file and flux.toml of that commit over each: "
              "for code that is older than the function.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Run everything, also what was run before.")
@click.option("--resume", is_flag=True, help="Go on from the log of a search that was interrupted.")
def command(
    what: str,
    good: str | None,
    bad: str | None,
    first_parent: bool,
    any_failure: bool,
    check: str | None,
    fail_if: str | None,
    functions_from: str | None,
    fresh: bool,
    resume: bool,
) -> int:
    """Find the commit that broke it: git's history, with your requests as the test.

    ID is an execution that failed; WINDOW is A..B, last:15m or a pinned incident, and means all that failed in it.
    Both ends are seen twice before the search; the commit that is found and its parents are doubted at its end. A
    commit that can't be judged is skipped and never guessed.
    """
    if sum((any_failure, check is not None, fail_if is not None)) > 1:
        raise UsageError(
            "flux bug bisect: --any-failure, --check and --fail-if each say what is bad", remedy="use one of them"
        )
    judge: Judge = partial(judge_by_verdict, any_failure=any_failure)
    if fail_if is not None:
        judge = partial(judge_by_expression, expression=parse_expression(fail_if))
    elif check is not None:
        judge = partial(judge_by_program, command=check)
    said = settings()
    story = None if said.quiet else Screen.stderr(colour=False if said.no_color else None)
    client = open_client()
    is_judged = check is not None or fail_if is not None
    plan = make_plan(client, what, good, bad, functions_from, is_judged=is_judged)
    names = [execution.text("name") for execution in plan.records("executions")]
    log = find_log(names[0])
    if resume and log is None:
        raise UsageError(
            "flux bug bisect: there is no project with a log here", remedy="run it in the project's folder"
        )
    question = {
        "executions": names, "first_parent": first_parent, "any_failure": any_failure, "check": check,
        "fail_if": fail_if, "functions_from": plan.maybe_text("functions_from"),
    }  # fmt: skip
    teller = _Teller(story)
    teller.begin(plan)
    search = Search(plan.data, first_parent=first_parent, is_fresh=fresh)
    driver = Driver(
        client, search, judge, first_parent=first_parent, tell=teller.run, tell_ends=teller.ends, log=log,
        question=question, resumes=resume,
    )  # fmt: skip
    outcome = driver.drive()
    return _answer(client, driver, outcome, log)


def make_plan(
    client: Client, what: str, good: str | None, bad: str | None, functions_from: str | None, *, is_judged: bool
) -> Record:
    """Ask the server where to begin with ``what``, an execution or a window."""

    def ask(names: list[str]) -> Record:
        order = {
            "executions": names, "good": good, "bad": bad, "functions_from": functions_from, "judged": is_judged,
        }  # fmt: skip
        answer = client.post("bisect", "plan", body=json.dumps(order), timeout_s=INVOKE_TIMEOUT_S)
        return answer.record.of_schema("flux.bisect-plan/1")

    is_window = ".." in what or what.startswith("last:")
    if not is_window:
        try:
            return ask([what])
        except NoSuchId as error:
            # Names of incidents and beginnings of executions' names look alike.
            if error.code != NoSuchId.code or _PINNED.fullmatch(what) is None:
                raise
            try:
                filter_ = make_filter(client, what, None)
            except FluxError:
                raise error from None
    else:
        filter_ = make_filter(client, what, None)
    summaries = list_executions(client, filter_)
    if not summaries:
        raise UsageError(f"flux bug bisect: nothing failed in {what}", remedy="a wider window: last:1h")
    return ask([summary.text("id") for summary in summaries])


class _Teller:
    """Tells the story as it goes."""

    def __init__(self, story: Screen | None) -> None:
        self._story = story
        self._number = 0
        self._marks: dict[str, Mark] = {}

    def begin(self, plan: Record) -> None:
        if self._story is not None:
            for line in bisect_show.target_lines(plan, self._story.width):
                self._story.line(*line)

    def ends(self, count: int) -> None:
        """Both ends are proved, and there are ``count`` commits to choose from."""
        if self._story is not None:
            asked = (count - 1).bit_length()
            text = f"{count} commit{'s' * (count != 1)} between, about {asked} to ask"
            self._story.line(Piece(text, "dim"))

    def run(self, run: Run) -> None:
        """A run was made. Those that only confirm are one line together."""
        self._number += run.purpose is Purpose.SEARCH
        before = self._marks.setdefault(run.commit, run.mark)
        is_last = run.number >= run.wanted
        is_news = run.mark != before or (run.number == 1 and run.mark != EXPECTED.get(run.purpose, run.mark))
        if self._story is not None and (is_last or is_news):
            self._story.line(*bisect_show.run_line(run, self._number, self._story.width))


def _answer(client: Client, driver: Driver, outcome: Outcome, log: BisectLog | None) -> int:
    """Print what came of it; return the exit code, or raise why there is nothing."""
    said, screen = settings(), Screen.stdout()
    refusal = find_refusal(outcome)
    has_log = log is not None and outcome.good is not None
    log_name = _shorten(log.path) if has_log and log is not None else None
    finding = diff = None
    if isinstance(outcome.end, Found):
        finding, diff = _ask_finding(client, driver, outcome.end)
    if said.json:
        told, parted = (None if one is None else one.data for one in (finding, diff))
        document = make_document(outcome, refusal, told, parted, log_name)
        screen.write_raw_json(json.dumps(document, ensure_ascii=False))
        if refusal is not None:
            return refusal.exit_code
    elif refusal is not None:
        raise refusal
    else:
        screen.page(
            bisect_show.lines(outcome, finding, diff, log_name, screen.width, quiet=said.quiet)
        )
    return 0 if isinstance(outcome.end, Found) else EXIT_FINDING


def _ask_finding(client: Client, driver: Driver, end: Found) -> tuple[Record, Record | None]:
    """Ask what the commit is, and how its run differs from its parent's."""
    finding = driver.ask_finding(end.commit, end.parents[0])
    assert finding is not None, "the commit was run"
    failing, passing = driver.search.find_pair(end.commit, end.parents[0])
    if failing is None or passing is None:
        return finding, None
    try:
        diff = client.get("executions", passing, "diff", failing).record.of_schema("flux.trace-diff/1")
    except FluxError as error:
        if error.exit_code != EXIT_NOT_WHOLE:
            raise
        return finding, None  # They can't be compared, and the answer says so.
    return finding, diff


def _shorten(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
