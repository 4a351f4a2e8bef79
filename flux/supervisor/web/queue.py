"""The queue and the schedules: what waits, what runs, what is not tried again and why, and when what is due is next.

A job's payload is on no page but its executions', where it is redacted.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.executions import quote_word
from flux.supervisor.web.page import Asked, Page

JOBS_SHOWN = 100
TICKS_SHOWN = 200
STATES = ("waiting", "running", "dead", "done", "all")
_TONES = {"waiting": "", "running": "", "done": "good", "dead": "bad"}


@attrs.frozen
class Job:
    """A job."""

    id: str
    function: str
    state: str
    tone: str
    when: str
    """What was, is or is to be at that time."""
    at: str
    tries: str
    """How often it was tried, and how many of these went wrong by themselves."""
    cause: str
    """Name of the execution that pushed it; empty where none is on record."""
    cause_href: str
    cause_call: int | None
    execution: str
    """Name of its last attempt's."""
    error: str
    is_dead: bool
    act: str
    """What has it run again; empty where it can't be."""


@attrs.frozen
class Depth:
    """What the queue holds of one function."""

    function: str
    href: str
    due: int
    delayed: int
    running: int
    dead: int
    oldest: str
    """For how long the oldest has been due."""


@attrs.frozen
class Tick:
    """A time at which a function was to run, and what became of it."""

    at: str
    word: str
    tone: str
    execution: str
    """Name of its run."""
    more: str
    """What was left out before it."""


@attrs.frozen
class Schedule:
    """Times at which a function runs."""

    function: str
    text: str
    when: str
    """What is at that time: nothing to say where it is due."""
    at: str
    is_paused: bool
    last: Tick | None
    href: str
    """Its history."""
    act: str
    verb: str


def build_queue(documents: Mapping[str, Any], asked: Asked) -> Page:
    """Jobs and schedules."""
    queue, cron = documents["queue"], documents["cron"]
    state, function = asked.query.get("state", ""), asked.query.get("function", "")
    command = "flux queue list"
    command += f" --state {quote_word(state)}" if state else ""
    command += f" --function {quote_word(function)}" if function else ""
    return Page(
        title="Queue and cron",
        template="queue.html",
        area="queue",
        context={
            "counts": [(word, queue["counts"][word]) for word in STATES if word in queue["counts"]],
            "depths": [_make_depth(each) for each in queue["functions"]],
            "jobs": [_make_job(job, asked.now) for job in queue["jobs"]],
            "is_cut": len(queue["jobs"]) >= JOBS_SHOWN,
            "state": words.cut(state),
            "function": words.cut(function),
            "states": [("not done", link_jobs("", function), not state)]
            + [(word, link_jobs(word, function), state == word) for word in STATES],
            "everyone": link_jobs(state, ""),
            "schedules": [make_schedule(each, asked.now) for each in cron["schedules"]],
        },
        command=command,
        scripts=("acts.js",),
    )


def build_cron(documents: Mapping[str, Any], asked: Asked) -> Page:
    """One function's schedules, and what became of their times."""
    history = documents["history"]
    function = str(history["function"])
    own = [each for each in documents["cron"]["schedules"] if each["function"] == function]
    return Page(
        title=f"{words.cut(function)} on schedule",
        template="cron.html",
        area="queue",
        context={
            "function": words.cut(function),
            "schedules": [make_schedule(each, asked.now) for each in own],
            "ticks": [make_tick(tick, asked.now) for tick in history["ticks"]],
            "is_cut": len(history["ticks"]) >= TICKS_SHOWN,
        },
        command=f"flux cron history {quote_word(words.cut(function))}",
        scripts=("acts.js",),
    )


def link_jobs(state: str, function: str) -> str:
    """Return the address of jobs in a state, of a function; empty means any."""
    return words.link("queue", state=state, function=function)


def _make_depth(depth: Mapping[str, Any]) -> Depth:
    function = str(depth["function"])
    return Depth(
        function=words.cut(function),
        href=link_jobs("", function),
        due=depth["due"],
        delayed=depth["delayed"],
        running=depth["running"],
        dead=depth["dead"],
        oldest=words.duration(depth["oldest_due_ms"]) if depth["due"] else "",
    )


def _make_job(job: Mapping[str, Any], now: datetime) -> Job:
    state, id, cause = str(job["state"]), str(job["id"]), job["cause"]
    is_dead = state == "dead"
    pushed_by = "" if cause is None else words.cut(str(cause["execution"] or cause["id"]), 40)
    call = None if cause is None else cause["call"]
    when, at = _tell_when(job, now)
    return Job(
        id=words.cut(id, 40),
        function=words.cut(str(job["function"])),
        state=words.cut(state, 20),
        tone=_TONES.get(state, ""),
        when=when,
        at=words.clock(at, now) or "?",
        tries=_count_tries(job),
        cause=pushed_by,
        cause_href="" if not pushed_by else words.link_execution(pushed_by) + ("" if call is None else f"#call-{call}"),
        cause_call=call,
        execution=words.cut(str(job["execution"] or ""), 40),
        error=words.cut(str(job["error"] or ""), words.ERROR_ROOM),
        is_dead=is_dead,
        act=words.link("act", "queue", id, "retry") if is_dead else "",
    )


def _tell_when(job: Mapping[str, Any], now: datetime) -> tuple[str, str | None]:
    match job["state"]:
        case "waiting":
            return "is to run" if words.read_moment(job["run_at"]) > now else "due", job["run_at"]
        case "running":
            return "since", job["claimed_at"]
    return "ended", job["ended_at"]


def _count_tries(job: Mapping[str, Any]) -> str:
    """``attempt 3, 2 failed``; what ended an attempt from outside is counted apart, as Flux does it."""
    said = [f"attempt {job['attempt']}"] if job["attempt"] else ["not tried yet"]
    said += [f"{job['failures']} failed"] if job["failures"] else []
    said += [f"{job['lost']} cut off"] if job["lost"] else []
    return ", ".join(said)


def make_schedule(schedule: Mapping[str, Any], now: datetime) -> Schedule:
    """Return a schedule, and what pauses or resumes its function."""
    function, zone = str(schedule["function"]), str(schedule["time_zone"])
    is_paused = schedule["paused_at"] is not None
    due = schedule["paused_at"] if is_paused else schedule["next"]
    verb = "resume" if is_paused else "pause"
    return Schedule(
        function=words.cut(function),
        text=words.cut(str(schedule["schedule"]) + (f" {zone}" if zone != "UTC" else "")),
        when="paused since" if is_paused else "never again" if due is None else "",
        at=words.clock(due, now),
        is_paused=is_paused,
        last=None if schedule["last"] is None else make_tick(schedule["last"], now),
        href=words.link("cron", function),
        act=words.link("act", "cron", function, verb),
        verb=verb,
    )


def make_tick(tick: Mapping[str, Any], now: datetime) -> Tick:
    """Return what became of a time: its run, or why there was none."""
    at, execution = words.clock(tick["tick"], now), ""
    match tick["fate"]:
        case "overlap":
            word, tone = "left out: the run before it was not done", "warn"
        case "missed":
            word, tone = "left out: no server was there", "warn"
        case _:
            state = str(tick["state"] or "?")
            word, tone = words.cut(state, 20), _TONES.get(state, "")
            execution = words.cut(str(tick["execution"] or ""), 40)
    more = f"{words.count(tick['left_out'], 'time')} before it left out" if tick["left_out"] else ""
    return Tick(at, word, tone, execution, more)
