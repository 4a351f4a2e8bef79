"""What is told in JSON and has no member ``schema``: bodies of errors over HTTP, and lines of a server's log.

What they are is known from where they stand: the content type of the one, the stream of the other. Both are read by
programs that have never heard of Flux, and have the members that those look for.
"""

from typing import Any

from flux.deploy_history import Cause
from flux.documents.executions import DIRTY, NAME, OUTCOMES, SHA, TRIGGERS
from flux.documents.shape import (
    Kind,
    Schema,
    either,
    flag,
    listing,
    maybe,
    milliseconds,
    moment,
    record,
    text,
    texts,
    untagged,
    whole,
    word,
)  # fmt: skip

_REMEDY = text("The next step; may be empty.")
_EXIT = whole("What a command ends with for it.")
_PROBLEM = record("An answer of 400 and above that Flux gives, and why (RFC 9457).", {
    "type": {"description": "The title is that of the status.", "const": "about:blank"},
    "title": text("The status in words."),
    "status": whole("HTTP status."),
    "code": text("For programs: `NOT_FOUND`, `INPUT_VALIDATION_ERROR`, what the function gave; in answers of the "
                 "console's API also Flux's own, such as `FLX101`."),
    "detail": text("For people."),
    "request_id": maybe(text("UUID of the execution; null where the request was refused before there was one.")),
}, {
    "violations": listing("Of an input that is not valid: what is wrong with it.", record("One thing.", {
        "path": text("Where in the input."), "message": text("What is wrong there."),
    })),
    "flux": text(f"{NAME} From `flux dev` only."),
    "why": text("The command that says why. From `flux dev` only."),
    "remedy": _REMEDY,
    "exit": _EXIT,
})  # fmt: skip

_WHO = {
    "worker": whole("Number of the process that says it, where there are several."),
    "tenant": text("Whose affair it is."),
}
_TOO_LONG = "Missing where the line would be too long with it."
_SERVED = {
    "deployment": text("Id of the deployment."), "sha": text(SHA), "dirty": flag(DIRTY),
    "functions": whole("How many functions are served."), "held": flag("It is served until a file is saved."),
}  # fmt: skip


def _line(
    event: str, what: str, level: str, members: dict[str, Schema] | None = None, **optional: Schema
) -> dict[str, Any]:
    levels = ("info", "error") if event == "execution" else (level,)
    return record(what, {
        "time": moment("When it was said."),
        "level": word("How bad it is.", levels),
        "event": {"description": "What happened.", "const": event},
        "message": text("The same in words, for people."),
        **(members or {}),
    }, {name: member for name, member in (_WHO | optional).items() if name not in (members or {})})  # fmt: skip


_LINES = (
    _line("begin", "The project is read.", "info", {
        "version": text("Flux's."), "project": text("Name of the project."),
        "branch": maybe(text("The branch that is checked out.")), "sha": text(SHA),
        "changed_files": whole("How many files have changes that are not committed."),
    }),
    _line("step", "A step of the start is done.", "info", {
        "step": text("Which."), "detail": text("What was done."), "elapsed_ms": milliseconds("How long it took."),
    }),
    _line("ready", "Requests are taken.", "info", {
        "url": text("Where."), "functions": whole("How many functions are served."), "pid": whole("The process."),
        "elapsed_ms": milliseconds("How long the start took."),
    }, watched=texts(f"What is served anew when it is saved. {_TOO_LONG}")),
    _line("reload", "Files were saved, and are served.", "info", {
        "code": text("The code, as records name it."), "functions": whole("How many functions are served."),
        "elapsed_ms": milliseconds("How long it took."),
    }, changed=texts(f"The files, at most 20. {_TOO_LONG}")),
    *(_line(cause.value, what, "info", _SERVED) for cause, what in (
        (Cause.DEPLOY, "Somebody deployed."), (Cause.ROLLBACK, "Somebody rolled back."))),
    _line("execution", "An execution has ended: told with `--log-requests`.", "info", {
        "id": text("Its UUID."), "name": text(NAME), "tenant": text("Whose it is."),
        "trigger": word("What began it.", TRIGGERS), "function": text("Name of the function."),
        "outcome": word("How it ended.", OUTCOMES), "elapsed_ms": milliseconds("How long it ran."),
        "calls": whole("How many host calls it made."), "mutations": whole("How many changes of rows it made."),
        "sha": text(SHA), "dirty": flag(DIRTY),
    }, method=text("HTTP method of the request."), path=text("Path of the request, without its query."),
       route=text("The route that matched."), status=whole("HTTP status of the answer."),
       parent=text("UUID of the execution that caused it, or of its attempt before."),
       error_type=text("Name of the exception's class, or what ended it."), error_message=maybe(text("What it said."))),
    _line("note", "Something to know.", "warning"),
    _line("output", "Code printed something while it was imported.", "info"),
    _line("problem", "Something failed, and the server goes on.", "error", {
        "code": text("Flux's code: `flux explain CODE`."), "remedy": _REMEDY,
        "serving": flag("The last good code is served."), "stack": text("The traceback of the code; may be empty."),
    }),
    _line("crash", "Flux itself failed.", "error", {"stack": text("Where.")}),
    _line("failed", "The server could not start, or go on.", "error", {
        "code": text("Flux's code: `flux explain CODE`."), "remedy": _REMEDY, "exit": _EXIT,
    }),
    _line("stopping", "It drains: requests in flight are finished.", "info"),
)  # fmt: skip

KINDS: tuple[Kind, ...] = (
    untagged("http-problem", ("application/problem+json",), _PROBLEM),
    untagged("server-log", ("flux dev --log-format json", "flux serve --log-format json"),
             either("A line that a server writes to stderr, by its `event`.", *_LINES)),
)  # fmt: skip
