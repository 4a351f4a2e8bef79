"""One editor's conversation in the Debug Adapter Protocol, about one execution.

https://microsoft.github.io/debug-adapter-protocol/specification. A `Session` takes one message at a time and gives the
messages that answer it; whoever carries them does the reading and writing (`flux.cli.dap_serve`). The program that is
debugged lies in the past, so nothing ever runs between two messages: a request that moves is answered, and the event
that it has stopped follows at once. At an end it stops too, and does not terminate, as one can go back from there.

``stepBack`` is ``next`` the other way. With the granularity ``instruction`` a step is one event.

A message that is wrong gets an answer that says so, and the conversation goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from flux.cli.dap_sources import Sources
from flux.cli.dap_values import Held, Values
from flux.cli.debug_clock import Clock
from flux.cli.debug_walk import Place, Walk
from flux.errors import FluxError, OperatorError
from flux.expression import parse_expression
from flux.sanitize import sanitize
from flux.stepping import KINDS, Search, step_back_over, step_in, step_out, step_over

THREAD = 1
BREAKPOINTS_MAX = 50
"""Each that is set is looked for with a run of its own."""
CAPABILITIES = {
    "supportsConfigurationDoneRequest": True,
    "supportsConditionalBreakpoints": True,
    "supportsDataBreakpoints": True,
    "supportsEvaluateForHovers": True,
    "supportsStepBack": True,
    "supportsSteppingGranularity": True,
}
Message = dict[str, Any]


class BadRequestError(OperatorError):
    """A request of the protocol that can't be done as it is."""

    code = "FLX683"
    exit_code = 2


@attrs.frozen
class Breakpoint:
    """A line, or a name whose change is waited for."""

    id: int
    place: Place | None
    name: str = ""


class Session:
    """See the module."""

    def __init__(
        self,
        open_walk: Callable[[int | None], Walk],
        read_clock: Callable[[], Clock],
        root: Path | None,
        at: int | None = None,
    ) -> None:
        """``root`` is the project's folder here, where its files are looked for; ``at`` where one begins."""
        self._open_walk = open_walk
        self._read_clock = read_clock
        self._root = root
        self._at = at
        self._walk: Walk | None = None
        self._clock: Clock | None = None
        self._sources: Sources | None = None
        self._values = Values(self._look_up)
        self._seq = 0
        self._ids = 0
        self._first_line = self._first_column = 1
        """How the client counts."""
        self._lines: dict[str, list[Breakpoint]] = {}
        """By what the client named their file with."""
        self._names: list[Breakpoint] = []
        self._is_known = False
        """The client has said who it is."""
        self.is_over = False
        """The client has gone."""
        self._requests: dict[str, Callable[[Message], Iterator[Message]]] = {
            "initialize": self._initialize,
            "launch": self._launch,
            "attach": self._launch,
            "configurationDone": self._configuration_done,
            "disconnect": self._disconnect,
            "setBreakpoints": self._set_breakpoints,
            "setExceptionBreakpoints": lambda _asked: iter([{}]),
            "dataBreakpointInfo": self._describe_name,
            "setDataBreakpoints": self._set_names,
            "threads": self._list_threads,
            "stackTrace": self._list_stack,
            "scopes": self._list_scopes,
            "variables": self._list_variables,
            "evaluate": self._evaluate,
            "source": self._show_source,
            "next": lambda asked: self._step(asked, step_over(self._walked.here)),
            "stepIn": lambda asked: self._step(asked, step_in()),
            "stepOut": lambda asked: self._step(asked, step_out(self._walked.here)),
            "stepBack": lambda asked: self._step(asked, step_back_over(self._walked.here)),
            "continue": lambda _asked: self._run(ahead=True),
            "reverseContinue": lambda _asked: self._run(ahead=False),
            "pause": lambda _asked: iter([{}, self._stopped("pause")]),
        }

    def handle(self, message: Message) -> list[Message]:
        """Return what answers a message, in the order in which it is to be sent."""
        command, number = message.get("command"), message.get("seq")
        answer = {
            "type": "response",
            "request_seq": number if type(number) is int else 0,
            "command": command if isinstance(command, str) else "",
        }
        try:
            body, *events = self._do(message)
        except FluxError as error:
            return [self._number(answer | failure(error))]
        answered = answer | {"success": True} | ({"body": body} if body else {})
        return [self._number(answered), *map(self._number, events)]

    def refuse(self, error: FluxError) -> Message:
        """Return what answers bytes that are no message."""
        return self._number({"type": "response", "request_seq": 0, "command": ""} | failure(error))

    def _number(self, message: Message) -> Message:
        self._seq += 1
        return {"seq": self._seq} | message

    def _do(self, message: Message) -> Iterator[Message]:
        command = message.get("command")
        if message.get("type") != "request" or not isinstance(command, str):
            raise BadRequestError("this message is no request", remedy='{"seq": 1, "type": "request", "command": ...}')
        if command not in self._requests:
            raise BadRequestError(f'the debugger knows no request "{command[:60]}"')
        if not self._is_known and command != "initialize":
            raise BadRequestError(f"{command} came before initialize")
        asked = message.get("arguments")
        if asked is not None and not isinstance(asked, dict):
            raise BadRequestError(f"the arguments of {command} are an object")
        yield from self._requests[command](asked or {})

    @property
    def _walked(self) -> Walk:
        if self._walk is None:
            raise BadRequestError("nothing is debugged yet", remedy="launch or attach comes first")
        return self._walk

    # Beginning and end

    def _initialize(self, asked: Message) -> Iterator[Message]:
        self._first_line = 0 if asked.get("linesStartAt1") is False else 1
        self._first_column = 0 if asked.get("columnsStartAt1") is False else 1
        self._is_known = True
        yield CAPABILITIES

    def _launch(self, asked: Message) -> Iterator[Message]:
        at = asked.get("at", self._at)
        if at is not None and (type(at) is not int or at < 1):
            raise BadRequestError('"at" is the number of an event')
        walk = self._open_walk(at)
        self._walk, self._sources, self._at = walk, Sources(walk, self._root), at
        yield {}
        for note in list_notes(walk):
            yield event("output", {"category": "important", "output": sanitize(note) + "\n"})
        yield event("initialized")

    def _configuration_done(self, _asked: Message) -> Iterator[Message]:
        here = self._walked.here
        yield {}
        if here.kind == "exception" and self._at is None:
            detail = self._walked.event(here.number).maybe_text("detail") or ""
            yield self._stopped("exception", "it failed here", text=sanitize(detail))
        else:
            yield self._stopped("entry")

    def _disconnect(self, _asked: Message) -> Iterator[Message]:
        self.is_over = True
        yield {}

    # What stops it

    def _set_breakpoints(self, asked: Message) -> Iterator[Message]:
        source = want(asked, "source", dict)
        wanted = asked.get("breakpoints") or []
        if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
            raise BadRequestError('"breakpoints" are a list of objects')
        walk, sources = self._walked, self._get_sources()
        key, file, reason = sources.find(source)
        kept: list[Breakpoint] = []
        told: list[Message] = []
        for number, each in enumerate(wanted):
            self._ids += 1
            line = want(each, "line", int) + 1 - self._first_line
            try:
                if file is None or number >= BREAKPOINTS_MAX:
                    raise BadRequestError(reason or f"a file has {BREAKPOINTS_MAX} breakpoints at most")
                place = self._read_place(file, line, each)
                walk.check_line(file, line)
            except FluxError as error:
                told.append({"id": self._ids, "verified": False, "message": sanitize(tell(error))})
                continue
            kept.append(Breakpoint(self._ids, place))
            told.append({"id": self._ids, "verified": True, "line": want(each, "line", int)})
        self._lines[key] = kept
        yield {"breakpoints": told}

    def _read_place(self, file: str, line: int, asked: Message) -> Place:
        if asked.get("hitCondition") or asked.get("logMessage"):
            raise BadRequestError("a breakpoint here has a condition, and neither a count nor a message")
        condition = asked.get("condition") or None
        if condition is not None:
            parse_expression(str(condition))
        return Place(file, line, condition if condition is None else str(condition))

    def _describe_name(self, asked: Message) -> Iterator[Message]:
        name, reference = want(asked, "name", str), asked.get("variablesReference")
        held = self._values.find(reference, name) if type(reference) is int else None
        expression = name if held is None and reference is None else (held.expression if held else None)
        if expression is None or not self._walked.by_line:
            yield {"dataId": None, "description": f"{sanitize(name)} can't be followed: no expression leads to it"}
            return
        parse_expression(expression)
        yield {"dataId": expression, "description": sanitize(expression), "accessTypes": ["write"]}

    def _set_names(self, asked: Message) -> Iterator[Message]:
        wanted = want(asked, "breakpoints", list)
        kept, told = [], []
        for each in wanted[:BREAKPOINTS_MAX]:
            self._ids += 1
            name = want(each, "dataId", str) if isinstance(each, dict) else ""
            kept.append(Breakpoint(self._ids, None, parse_expression(name).text))
            told.append({"id": self._ids, "verified": True})
        self._names = kept
        yield {"breakpoints": told}

    # What moves

    def _step(self, asked: Message, search: Search) -> Iterator[Message]:
        walk = self._walked
        if asked.get("granularity") == "instruction":
            search = Search(KINDS, search.ahead)
        yield {}
        yield from self._arrive(walk.find(search), {"reason": "step"}, ahead=search.ahead)

    def _run(self, *, ahead: bool) -> Iterator[Message]:
        walk = self._walked
        found: list[tuple[int, Message]] = []
        for each in [*(each for some in self._lines.values() for each in some), *self._names]:
            if each.place is not None:
                if (at := walk.run([each.place], ahead=ahead)) is not None:
                    found.append((at[0], {"reason": "breakpoint", "hitBreakpointIds": [each.id]}))
            elif (change := walk.find_change(each.name, ahead=ahead)) is not None:
                text = sanitize(f"{each.name} was changed by {change.place}")
                stop = {"reason": "data breakpoint", "hitBreakpointIds": [each.id], "description": text, "text": text}
                found.append((change.event, stop))
        yield {"allThreadsContinued": True} if ahead else {}
        if found:
            yield from self._arrive(*(min if ahead else max)(found, key=lambda each: each[0]), ahead=ahead)
        else:
            yield from self._arrive(None, {}, ahead=ahead)

    def _arrive(self, number: int | None, why: Message, *, ahead: bool) -> Iterator[Message]:
        walk = self._walked
        walk.go(number or (walk.find_end() if ahead else 1))
        self._values.clear()
        if number is None:
            yield self._stopped("pause", walk.end if ahead else "it begins here")
        else:
            yield self._stopped(**why)

    def _stopped(self, reason: str, description: str = "", **more: Any) -> Message:
        said = {"reason": reason, "threadId": THREAD, "allThreadsStopped": True}
        return event("stopped", said | ({"description": description} if description else {}) | more)

    # What is seen

    def _list_threads(self, _asked: Message) -> Iterator[Message]:
        walk = self._walk
        name = "not launched yet"
        if walk is not None:
            self._clock = self._clock or self._read_clock()
            summary, here = walk.told.record("execution"), walk.here
            kind = "event" if walk.by_line else "host call"
            name = f"{summary.text('name')} · {kind} {here.number:,} of {walk.total:,} · {self._clock.tell(here.asked)}"
        yield {"threads": [{"id": THREAD, "name": sanitize(name)}]}

    def _list_stack(self, asked: Message) -> Iterator[Message]:
        entries = self._list_entries()
        start = asked.get("startFrame") if type(asked.get("startFrame")) is int else 0
        levels = asked.get("levels") if type(asked.get("levels")) is int else 0
        first = max(0, start or 0)
        last = first + levels if levels and levels > 0 else len(entries)
        frames = [
            {
                "id": number + 1, "name": sanitize(function), "line": line - 1 + self._first_line,
                "column": self._first_column,
            } | self._get_sources().describe(file)
            for number, (file, line, function) in enumerate(entries)
        ]  # fmt: skip
        yield {"stackFrames": frames[first:last], "totalFrames": len(frames)}

    def _list_entries(self) -> list[tuple[str, int, str]]:
        walk = self._walked
        stack = [
            (each.text("file"), int(each.number("line")), each.text("function"))
            for each in walk.frame().records("stack")
        ]
        here = walk.here
        return stack or [(here.file, here.line, here.function or here.kind)]

    def _list_scopes(self, asked: Message) -> Iterator[Message]:
        walk = self._walked
        up = self._read_frame(want(asked, "frameId", int))
        frame = walk.frame(up)
        names = [
            Held(name, value, name if walk.by_line and name.isidentifier() else None, up)
            for name, value in frame.record("locals").data.items()
        ]
        if "returned" in frame.data and not up:
            names.append(Held("(returned)", frame.get("returned"), None, up))
        title, hint = ("Locals", {"presentationHint": "locals"}) if walk.by_line else ("Call", {})
        reference = self._values.hold(names)
        yield {"scopes": [{"name": title, "variablesReference": reference, "expensive": False} | hint]}

    def _list_variables(self, asked: Message) -> Iterator[Message]:
        start = asked.get("start") if type(asked.get("start")) is int else 0
        count = asked.get("count") if type(asked.get("count")) is int else 0
        reference = want(asked, "variablesReference", int)
        found = self._values.unfold(reference, max(0, start or 0), max(0, count or 0))
        if found is None:
            raise BadRequestError(f"there is no value {reference}: it was of another event")
        yield {"variables": found}

    def _evaluate(self, asked: Message) -> Iterator[Message]:
        expression = want(asked, "expression", str).strip()
        up = self._read_frame(asked["frameId"]) if type(asked.get("frameId")) is int else 0
        parsed = parse_expression(expression)
        (value,) = self._look_up([parsed.text], up)
        if isinstance(value, dict) and value.get("$type") == "unseen":
            raise BadRequestError(str(value.get("text")))
        described = self._values.describe_value(Held(parsed.text, value, parsed.text, up))
        yield {"result": described.pop("value")} | described

    def _look_up(self, expressions: Sequence[str], up: int) -> list[Any]:
        return [value for _, value in self._walked.look_up(", ".join(expressions), up)]

    def _read_frame(self, frame: int) -> int:
        if not 1 <= frame <= len(self._list_entries()):
            raise BadRequestError(f"there is no frame {frame} here")
        return frame - 1

    def _show_source(self, asked: Message) -> Iterator[Message]:
        source = asked.get("source")
        reference = source.get("sourceReference") if isinstance(source, dict) else None
        text = self._get_sources().read(reference or asked.get("sourceReference"))
        if text is None:
            raise BadRequestError("there is no such source")
        yield {"content": text}

    def _get_sources(self) -> Sources:
        if self._sources is None:
            raise BadRequestError("nothing is debugged yet", remedy="launch or attach comes first")
        return self._sources


def list_notes(walk: Walk) -> list[str]:
    """Return what is to be known before one looks: whether it is what is on record, and at what granularity."""
    from flux.cli.trace_debug import is_faithful

    told = walk.told
    notes = [str(note) for note in told.items("notes")]
    if not is_faithful(told):
        reason = told.maybe_text("reason") or "it went another way"
        notes.insert(0, f"what is shown is not what is on record: {reason}")
    return notes


def failure(error: FluxError) -> Message:
    """Return the part of an answer that tells of an error."""
    text = sanitize(tell(error))
    number = int(error.code[3:])
    body = {"error": {"id": number, "format": "{text}", "variables": {"text": text}, "showUser": True}}
    return {"success": False, "message": text, "body": body}


def tell(error: FluxError) -> str:
    """Return an error on one line."""
    return f"{error.code}  {error.message}" + (f" ({error.remedy})" if error.remedy else "")


def event(name: str, body: Message | None = None) -> Message:
    """Return an event of the protocol."""
    return {"type": "event", "event": name} | ({} if body is None else {"body": body})


def want(asked: Message, name: str, kind: type) -> Any:
    """Return an argument that must be there."""
    value = asked.get(name)
    if type(value) is not kind:
        raise BadRequestError(f'"{name}" is missing, or is no {kind.__name__}')
    return value
