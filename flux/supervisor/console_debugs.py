"""The console's questions for who steps through an execution on a page.

``POST debugs/ID`` goes somewhere and looks; the body says from where, whither, and what is to be seen there, all of it
optional::

    {"at": 118, "up": 1, "expression": "order.total", "watch": "total",
     "go": "next" | "step" | "out" | "prev" | "back" | "forward" | "begin" | "end" | "failure",
     "to": "signup.py:16 if total > 100", "change": "total", "ahead": false}

``GET debugs/ID`` shows again what was looked at: a page is made of it, and who may only read runs nothing. The
answers are kept in sessions (`flux.supervisor.debug_sessions`); ``POST debugs/ID/end`` ends one. How executions are
looked at, and which questions that takes, is `flux.supervisor.console_debug`'s.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import attrs
import msgspec
import trio

from flux.errors import OperatorError
from flux.expression import parse_expression, parse_expressions
from flux.stepping import Search, Step, read_target, step_back_over, step_in, step_out, step_over
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.artifacts import CodeGoneError
from flux.supervisor.console_debug import SOURCES, UP_MAX, DebugHost, look, read_code
from flux.supervisor.console_query import BadQueryError, Query, Question
from flux.supervisor.debug_history import read_history
from flux.supervisor.debug_room import DebugPart
from flux.supervisor.debug_sessions import IDLE_S, DebugSession, DebugSessions, Stand
from flux.supervisor.debug_view import list_calls, list_rows, tell_time
from flux.supervisor.debug_walk import Walk, Window
from flux.supervisor.present import Document, encode, show_moment, summary_json
from flux.supervisor.work_stream import Start

PARAMETERS = ("at", "up", "expression", "watch")
"""Of a page's address, and of ``GET``: see `flux.supervisor.debug_sessions.Stand`."""
EVENTS_BEFORE, EVENTS_AFTER = 12, 12
LINES_AROUND = 10
HISTORIES_MAX = 4
FILES_MAX = 16
QUESTION_S_MAX = 300.0
"""For the runs of one question: each is ended a minute in, or by the function's own limit if that is more."""
TEXT_MAX = 1_000
"""Characters of an expression, or of a place."""
EVENT_MAX = 10**12
_T = TypeVar("_T")
_EXAMPLE = '{"at": 118, "go": "prev"}, or {} for where it failed'


class QuestionTooLongError(OperatorError):
    """One question took longer than others can be kept waiting."""

    code = "FLX688"


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    at: int | None = None
    up: int = 0
    expression: str = ""
    watch: str = ""
    go: Literal["next", "step", "out", "prev", "back", "forward", "begin", "end", "failure"] | None = None
    to: str | None = None
    change: str | None = None
    ahead: bool = True

    @property
    def moves(self) -> bool:
        """Whether it leads elsewhere, and does not only look."""
        return self.go is not None or self.to is not None or self.change is not None


class _End(msgspec.Struct, forbid_unknown_fields=True):
    session: int | None = None


class DebugsDesk:
    """Answers them, for one tenant."""

    def __init__(
        self, pool: Pool, host: DebugHost, start: Start, find: Callable[[str], Awaitable[reading.Summary]],
        now: Callable[[], datetime], part: DebugPart, count_erasures: Callable[[], Awaitable[int]],
        idle_s: float = IDLE_S,
    ) -> None:  # fmt: skip
        """``find`` returns the execution that a text means; ``start`` runs something beside an answer; ``part`` is what
        sessions may take; ``count_erasures`` is that of `flux.store.erasures`, of the tenant."""
        self._count_erasures = count_erasures
        self._pool = pool
        self._host = host
        self._find = find
        self._now = now
        self._idle_s = idle_s
        self.sessions = DebugSessions(start, part, idle_s)
        """Those that are open."""

    def find(self, method: str, path: list[str], body: bytes) -> Question | None:
        """Return what is asked below ``debugs``, or None when nothing is there."""
        match path:
            case [name] if method == "POST":
                return Question("POST", partial(self._go, name, body))
            case [name]:
                return Question("GET", partial(self._show, name), PARAMETERS)
            case [name, "end"]:
                return Question("POST", partial(self._end, name, body))
        return None

    async def _show(self, name: str, query: Query) -> Document:
        """Return what was looked at; of what nobody has looked at only that."""
        stand = _read_stand(query)
        summary = await self._find(name)
        self.sessions.forget(await self._count_erasures())
        session = self.sessions.find(summary.id)
        seen = None if session is None else session.find(stand)
        return _read_answer(seen) if seen is not None else {
            "schema": "flux.debug-session/1", "state": "none", "execution": summary_json(summary), **_address(stand),
        }  # fmt: skip

    async def _end(self, name: str, body: bytes, _query: Query) -> Document:
        number = _decode(body, _End).session
        summary = await self._find(name)
        was_open = self.sessions.end(summary.id, number)
        return {"schema": "flux.debug-session/1", "state": "none", "execution": summary_json(summary),
                "ended": was_open}  # fmt: skip

    async def _go(self, name: str, body: bytes, _query: Query) -> Document:
        order = _read_order(body)
        key = (await self._find(name)).id

        self.sessions.forget(await self._count_erasures())

        async def make(number: int) -> DebugSession:
            erasures = await self._count_erasures()
            summary, execution = await reading.get_execution(self._pool, key)
            told = summary_json(summary)

            async def ask(question: Document) -> Document:
                return await look(execution, told, self._host, encode(question))

            return DebugSession(number, execution, told, Walk(ask), self._now(), trio.current_time(), erasures)

        return await self.sessions.ask(key, make, partial(self._answer_in_time, order=order))

    async def _answer_in_time(self, session: DebugSession, *, order: _Order) -> Document:
        """Answer, and give up the run that goes on where that takes too long: others wait for its place."""
        try:
            with trio.fail_after(QUESTION_S_MAX):
                return await self._answer(session, order=order)
        except trio.TooSlowError:
            name = session.execution.name
            raise QuestionTooLongError(
                f"{name} was run again for {QUESTION_S_MAX:g} s to answer that, and there is no answer yet",
                remedy=f"go a shorter way, or ask flux trace debug {name}, which waits for longer",
            ) from None

    async def _answer(self, session: DebugSession, *, order: _Order) -> Document:
        """Go where ``order`` says, and return what is to be seen there."""
        at, said = await _move(session.walk, order)
        # Who goes elsewhere looks at the function that runs there.
        stand = Stand(at, 0 if order.moves and at != order.at else order.up, order.expression, order.watch)
        data = session.find(stand)
        if data is None:
            data = encode(await self._look(session, stand))
            session.keep(stand, data)
        if order.at is None and not order.moves:
            # An address without a number stands where it failed: it has the same answer.
            session.keep(attrs.evolve(stand, at=None), data)
        return _read_answer(data) | {"said": said}

    async def _look(self, session: DebugSession, stand: Stand) -> Document:
        at, window = await session.walk.see(stand.at)
        head = window.head
        document: Document = {
            "schema": "flux.debug-session/1", "state": "open", "session": session.number,
            "opened_at": show_moment(session.opened_at), "idle_s": self._idle_s,
            **{name: head[name] for name in ("execution", "granularity", "verdict", "reason", "divergence", "notes")},
            "total": window.total, "ended": window.ended, **_address(stand), "at": at, "event": None, "events": [],
            "frame": None, "source": None, "history": None, "said": "",
        }  # fmt: skip
        if at is None:
            return document
        here = window.step(at)
        document["event"] = window.events[at]
        around = range(at - EVENTS_BEFORE, at + EVENTS_AFTER + 1)
        document["events"] = [window.events[number] for number in around if number in window.events]
        document["frame"] = frame = await _find_frame(session.walk, window, stand, at)
        file, line = here.file, here.line
        if frame is not None and stand.up and stand.up < len(frame["stack"]):
            entry = frame["stack"][stand.up]
            file, line = entry["file"], entry["line"]
        document["source"] = await self._find_source(session, file, line)
        if stand.watch:
            document["history"] = await _find_history(session, stand.watch, at)
        asked = here.asked
        document |= list_calls(session.execution, asked, here.heard) | list_rows(session.execution, asked, here.heard)
        return document | {"between": tell_time(session.execution, asked)}

    async def _find_source(self, session: DebugSession, file: str, line: int) -> Document | None:
        """Return the lines around one, as they ran; None where they are not kept, or the name is no file of code."""
        if not file.endswith(SOURCES):
            return None
        if file not in session.sources:
            if len(session.sources) >= FILES_MAX:
                session.sources.clear()
            try:
                folder = await self._host.find_code(session.execution)
                session.sources[file] = (await trio.to_thread.run_sync(read_code, Path(folder), {file})).get(file)
            except CodeGoneError:
                session.sources[file] = None
        lines = session.sources[file]
        if lines is None or not 0 < line <= len(lines):
            return None
        first = max(1, line - LINES_AROUND)
        shown = lines[first - 1 : line + LINES_AROUND]
        return {"file": file, "line": line, "first": first, "lines": [text[:TEXT_MAX] for text in shown]}


def _read_answer(data: bytes) -> Document:
    """Return an answer as it is sent again: what is in it stays as it was written."""
    return msgspec.json.decode(data, type=dict[str, msgspec.Raw])


def _address(stand: Stand) -> Document:
    return {"at": stand.at, "up": stand.up, "expression": stand.expression, "watch": stand.watch}


async def _find_frame(walk: Walk, window: Window, stand: Stand, at: int) -> Document | None:
    """Return what names held, in the function that is meant, and what was looked up there."""
    if not stand.up and not stand.expression:
        return window.frames.get(at)
    question: Document = {"at": at, "list": False, "up": stand.up}
    if stand.expression:
        question["expression"] = stand.expression
    told: Document | None = (await walk.ask(question))["frame"]
    return told


async def _find_history(session: DebugSession, name: str, at: int) -> Document:
    """Return all values of a name; those nearest to ``at`` where there is no room for all."""
    history = session.histories.pop(name, None)
    if history is None or not history.serves(at):
        history = await read_history(session.walk.ask, name, at)
    session.histories[name] = history
    while len(session.histories) > HISTORIES_MAX:
        session.histories.popitem(last=False)
    return history.show(at)


async def _move(walk: Walk, order: _Order) -> tuple[int | None, str]:
    """Return where ``order`` leads, and what is to be said of it."""
    at, window = await walk.see(None if order.go == "failure" else order.at)
    if at is None:
        return None, ""
    if order.to is not None:
        return await _run(walk, at, order)
    if order.change is not None:
        found = await walk.find_change(at, order.change, ahead=order.ahead)
        side = "after" if order.ahead else "before"
        return (at, f"{order.change} did not change {side} event {at:,}") if found is None else (found, "")
    match order.go:
        case None | "failure":
            return at, ""
        case "begin":
            return 1, ""
        case "end":
            return (await walk.find_end(window)), ""
        case "back":
            return max(1, at - 1), "it begins here" if at <= 2 else ""
        case "forward":
            on = await walk.reach(at + 1)
            if on is None:
                return at, _end(window)
            return on, "it ends here" if window.ended and on == window.total else ""
        case way:
            here = window.step(at)
            search = {"next": step_over, "prev": step_back_over, "out": step_out}.get(way, _step_in)(here)
            found = await walk.find(at, search)
            if found is not None:
                return found, ""
            return (await walk.find_end(window), _end(window)) if search.ahead else (1, "it begins here")


def _end(window: Window) -> str:
    return "it ends here" if window.ended else "no event behind this one is known"


async def _run(walk: Walk, at: int, order: _Order) -> tuple[int, str]:
    assert order.to is not None, "it is asked for"
    target = read_target(order.to)
    question: Document = {} if target.file is None else {"file": target.file, "line": target.line}
    if target.condition is not None:
        question["condition"] = target.condition
    found = await walk.run(at, question, ahead=order.ahead)
    if found is None:
        return at, f"not {'after' if order.ahead else 'before'} event {at:,}: {order.to}"
    return found, ""


def _step_in(_here: Step) -> Search:
    return step_in()


def _read_order(body: bytes) -> _Order:
    order = _decode(body, _Order)
    if sum(each is not None for each in (order.go, order.to, order.change)) > 1:
        raise BadQueryError("one goes to one place at a time", remedy='"go", or "to", or "change"')
    for text in (order.to, order.change):
        if text is not None and not 0 < len(text.strip()) <= TEXT_MAX:
            raise BadQueryError("it is not said whither", remedy='"to": "signup.py:42", or "change": "total"')
    _check_stand(Stand(order.at, order.up, order.expression, order.watch))
    return order


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(f"the body can't be read: {error}", remedy=f"send {_EXAMPLE}") from error


def _read_stand(query: Query) -> Stand:
    """Return what a page's address says."""
    numbers: dict[str, int | None] = {}
    for name in ("at", "up"):
        text = query.get(name) or None
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 12):
            raise BadQueryError(f'{name} is "{text[:80]}"', remedy=f"{name}=118, a number")
        numbers[name] = None if text is None else int(text)
    stand = Stand(numbers["at"], numbers["up"] or 0, query.get("expression", ""), query.get("watch", ""))
    _check_stand(stand)
    return stand


def _check_stand(stand: Stand) -> None:
    if stand.at is not None and not 1 <= stand.at <= EVENT_MAX:
        raise BadQueryError(f"event {stand.at} does not exist", remedy="events count from 1")
    if not 0 <= stand.up < UP_MAX:
        raise BadQueryError(f'"up" is {stand.up}', remedy=f"0 to {UP_MAX - 1}")
    for text in (stand.expression, stand.watch):
        if len(text) > TEXT_MAX:
            raise BadQueryError("an expression is too long", remedy=f"at most {TEXT_MAX} characters")
    if stand.expression:
        parse_expressions(stand.expression)
    if stand.watch:
        parse_expression(stand.watch)
