"""What a model may ask, and how each question becomes one of the console's API.

A `Tool` is a row of a table: its words, its arguments, the path that is asked and which argument goes where. All of
them are GETs, which Flux answers to a token of scope ``read``; this module has no way to send anything else. So
what is asked here changes nothing, replays nothing and runs nothing of the project.

Arguments come from a model, so they are checked as strictly as a command line: what is not known is refused, by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flux.cli.client import Client, find_server
from flux.cli.explain import find_page, title
from flux.cli.failures import NoSuchId
from flux.errors import OperatorError
from flux.fenced import read

TEXT_CHARACTERS_MAX = 2000
_NUMBER_MAX = 2**53 - 1
_NAME = re.compile(r"[A-Za-z0-9@_-]+")


class BadToolCallError(OperatorError):
    """A tool was called that there is not, or with arguments that it does not have."""

    code = "FLX761"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool."""

    name: str
    """As the model says it."""
    what: str
    """What it means, for the model."""
    kind: type[str] | type[int] | type[bool] = str
    """Text, a whole number, or yes and no."""
    is_needed: bool = False
    most: int | None = None
    """The largest number, of those that have one."""
    least: int = 1
    is_name: bool = False
    """It is a part of the path, in which a ``/`` would make another question of it."""

    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        said: dict[str, Any] = {"description": self.what}
        if self.kind is str:
            return said | {"type": "string", "minLength": 1, "maxLength": TEXT_CHARACTERS_MAX}
        if self.kind is bool:
            return said | {"type": "boolean"}
        said |= {"type": "integer", "minimum": self.least}
        return said if self.most is None else said | {"maximum": self.most}

    def check(self, value: Any, tool: str) -> str | int:
        """Return ``value`` as it is asked with; raise where it is not what the argument may be."""
        if self.kind is bool and isinstance(value, bool):
            return int(value)
        # To Python, True is a number.
        most = _NUMBER_MAX if self.most is None else self.most
        if self.kind is int and type(value) is int and self.least <= value <= most:
            return value
        if self.kind is str and isinstance(value, str) and self._is_text(value):
            return value
        wanted = {
            str: f"of letters, digits, @ and -, {TEXT_CHARACTERS_MAX} at most"
            if self.is_name
            else f"text of 1 to {TEXT_CHARACTERS_MAX} characters",
            int: f"a whole number from {self.least} to {most}",
            bool: "true or false",
        }[self.kind]
        raise BadToolCallError(f"{tool}: {self.name} has to be {wanted}", remedy=self.what)

    def _is_text(self, value: str) -> bool:
        return 0 < len(value) <= TEXT_CHARACTERS_MAX and (not self.is_name or _NAME.fullmatch(value) is not None)


@dataclass(frozen=True, slots=True)
class Tool:
    """One question."""

    name: str
    title: str
    what: str
    """What it answers, for the model."""
    schema: str
    """What the document says that it is."""
    path: tuple[str, ...] = ()
    """Below the API; ``{id}`` is the argument ``id``. Empty: it is answered here, and no server is asked."""
    query: Mapping[str, str] | None = None
    """Arguments that go into the query, and under which names."""
    arguments: tuple[Argument, ...] = ()


_ID = Argument(
    "id", "An execution: its name, such as qk3f81xa, its UUID, the beginning of either, @-1 (the latest) or "
    "@last-error.", is_needed=True, is_name=True,
)  # fmt: skip
_TABLE = Argument("table", "The table's name, such as users or public.users.", is_needed=True)
_KEY = Argument("key", "The primary key's value: 42; or a=1,b=2 where it has several columns.", is_needed=True)

TOOLS: tuple[Tool, ...] = (
    Tool(
        "list_executions", "List executions",
        "The latest executions (requests, jobs, scheduled runs, replays), newest first: route, status, error, code and "
        "time of each.",
        "flux.executions/1", ("executions",), {"filter": "q", "n": "n", "before": "before"},
        (
            Argument("filter", "Only those that match all of it: status:>=500 route:/signup since:1h. Other words are "
                     "until, function, error, sha, trigger (http, queue, cron, invoke, replay), outcome (returned, "
                     "raised, killed, exited, interrupted) and name; a - before one turns it round. Times are UTC."),
            Argument("n", "How many at most; without it 20.", int, most=1000),
            Argument("before", "Only those that began before this execution: the last one's name is the next page."),
        ),
    ),
    Tool(
        "show_execution", "Show one execution whole",
        "Everything that one execution did: input, host calls with arguments and results, rows changed, logs, output, "
        "what it caused. Long ones are shortened; `call` shows one call with its values at greater length.",
        "flux.trace/1", ("executions", "{id}"), {},
        (_ID, Argument("call", "Only this call, by its number (seq).", int, least=0)),
    ),
    Tool(
        "why", "Why an execution ended as it did",
        "The recorded facts that explain how an execution ended, and what rules infer from them; it says so where "
        "nothing can be told.",
        "flux.why/1", ("executions", "{id}", "why"), {}, (_ID,),
    ),
    Tool(
        "diff_executions", "Compare two executions",
        "Two recorded executions side by side: the first call that differs, input, outcome, rows and code.",
        "flux.trace-diff/1", ("executions", "{id}", "diff", "{other}"), {"all": "all"},
        (_ID, Argument("other", "The execution to compare it with, written as id is.", is_needed=True, is_name=True),
         Argument("all", "Also what is left out as noise: ids, times, random values.", bool)),
    ),
    Tool(
        "state_history", "A row's versions",
        "Every recorded version of one row: what changed, when, by which execution and commit; changes that were "
        "rolled back are marked.",
        "flux.state-history/1", ("state", "history"), {"table": "table", "key": "key", "n": "n"},
        (_TABLE, _KEY, Argument("n", "How many versions at most.", int, most=1000)),
    ),
    Tool(
        "state_blame", "Who wrote a row's columns",
        "For each column of one row, its value and the execution that wrote it.",
        "flux.state-blame/1", ("state", "blame"), {"table": "table", "key": "key"}, (_TABLE, _KEY),
    ),
    Tool(
        "state_at", "Rows as they were",
        "One row, or a table, as it was. Say as of when with exactly one of time, before and snapshot.",
        "flux.state-at/1", ("state", "at"),
        {name: name for name in ("table", "key", "time", "before", "snapshot", "n")},
        (
            _TABLE, Argument("key", _KEY.what + " Without it, all rows."),
            Argument("time", "As of then: RFC 3339, 14:00 (UTC), 15m or 2d (ago)."),
            Argument("before", "As this execution found it."),
            Argument("snapshot", "As this snapshot of PostgreSQL's saw it: 712:715:713."),
            Argument("n", "How many rows at most; without it 100.", int, most=10_000),
        ),
    ),
    Tool(
        "list_error_groups", "Failures by kind",
        "Executions that failed, grouped by what and where: how many, since when, and one of each to look at.",
        "flux.errors/1", ("errors",), {"since": "since", "n": "n"},
        (Argument("since", "Only failures since then: 1h, 2d, 14:00 (UTC), RFC 3339."),
         Argument("n", "How many groups at most.", int, most=1000)),
    ),
    Tool(
        "list_incidents", "Incidents",
        "Windows of time that somebody gave a name, and how many executions in each failed.",
        "flux.incidents/1", ("incidents",), {},
    ),
    Tool(
        "list_deployments", "Deployments",
        "What code was served, by commit: since when, by what cause, how many executions and how many failed.",
        "flux.deployments/1", ("deployments",), {"n": "n"}, (Argument("n", "How many at most.", int, most=1000),),
    ),
    Tool(
        "plan_bisect", "Where a bisect would begin",
        "Between which commits a search for the one that broke a failed execution would begin, and why those. Nothing "
        "is run: a person does that, with flux bug bisect.",
        "flux.bisect-plan/1", ("executions", "{id}", "bisect"),
        {"good": "good", "bad": "bad", "functions_from": "functions_from"},
        (_ID, Argument("good", "A commit or branch that is known to be good."),
         Argument("bad", "A commit or branch that is known to be bad."),
         Argument("functions_from", "A commit whose functions are laid over each commit, where old ones have none.")),
    ),
    Tool(
        "doctor", "The server's checks",
        "What is really in force on the server: isolation, recording, capture, dropped records, and what is wrong.",
        "flux.checks/1", ("checks",), {},
    ),
    Tool(
        "explain", "What an error code means",
        "Flux's own page about one of its error codes: what it means, why it happens, what to do.",
        "flux.explain/1", (), {}, (Argument("code", "FLX402, or 402.", is_needed=True),),
    ),
)  # fmt: skip
"""All of them, in the order in which they are listed."""

DEFAULTS: Mapping[str, Mapping[str, int]] = {"list_executions": {"n": 20}, "state_at": {"n": 100}}
"""More than these fills an answer with what nobody asked for."""


def input_schema(tool: Tool) -> dict[str, Any]:
    """What a tool may be called with, as JSON Schema."""
    return {
        "type": "object",
        "properties": {argument.name: argument.schema() for argument in tool.arguments},
        "required": [argument.name for argument in tool.arguments if argument.is_needed],
        "additionalProperties": False,
    }


def ask(name: str, said: Mapping[str, Any], server: str | None) -> Any:
    """Answer one call with a document, as `flux.fenced.read` gives it; raise what keeps it from being answered.

    ``server`` is what the command line said. The server is looked for anew each time: one that was started again
    has another token, and nobody starts this process again for that.
    """
    tool = _find(name)
    values: dict[str, str | int] = {**DEFAULTS.get(name, {}), **_check(tool, said)}
    if not tool.path:
        return _explain(str(values["code"]))
    path = [part.format(**values) if part.startswith("{") else part for part in tool.path]
    query: dict[str, Any] = {key: values.get(argument) for argument, key in (tool.query or {}).items()}
    client = Client(find_server(server))
    try:
        answer = client.get(*path, **query)
        answer.record.of_schema(tool.schema)
    finally:
        client.close()
    document = read(answer.text)
    return _only_call(document, values["call"]) if "call" in values else document


def _find(name: str) -> Tool:
    for tool in TOOLS:
        if tool.name == name:
            return tool
    names = ", ".join(tool.name for tool in TOOLS)
    raise BadToolCallError(f'there is no tool "{name[:100]}"', remedy=f"one of {names}")


def _check(tool: Tool, said: Mapping[str, Any]) -> dict[str, str | int]:
    known = {argument.name: argument for argument in tool.arguments}
    if unknown := sorted(said.keys() - known.keys()):
        raise BadToolCallError(
            f'{tool.name} has no argument "{unknown[0][:100]}"',
            remedy="it has " + (", ".join(known) or "none"),
        )
    # A model that has nothing to say of an argument says null.
    values = {key: known[key].check(value, tool.name) for key, value in said.items() if value is not None}
    for argument in tool.arguments:
        if argument.is_needed and argument.name not in values:
            raise BadToolCallError(f"{tool.name} needs {argument.name}", remedy=argument.what)
    return values


def _only_call(trace: Any, number: str | int) -> dict[str, Any]:
    calls = trace["calls"]
    for call in calls:
        if str(call["seq"]) == str(number):
            return {"schema": "flux.call/1", "execution": trace["name"], "call": call}
    have = f"its calls are {calls[0]['seq']} to {calls[-1]['seq']}" if calls else "it made none"
    raise NoSuchId(f"{trace['name']} has no call {number}: {have}", remedy="show_execution without call lists them")


def _explain(code: str) -> dict[str, Any]:
    name, path = find_page(code)
    return {"schema": "flux.explain/1", "code": name, "title": title(path), "text": path.read_text(encoding="utf-8")}
