"""Documents about the steps of one execution."""

from flux.documents.executions import CALL_MEMBERS, DIVERGENCE, POSITION, SUMMARY
from flux.documents.shape import (
    Kind,
    Shared,
    anything,
    flag,
    kind,
    listing,
    mapping,
    maybe,
    milliseconds,
    moment,
    of,
    record,
    text,
    texts,
    whole,
    word,
)  # fmt: skip
from flux.stepping import KINDS as EVENT_KINDS
from flux.verdict import Verdict

_EVENT_KIND = word("What happened.", sorted(EVENT_KINDS))
_PLACE = {
    "file": text("Relative to the project; empty where it is not known."),
    "line": whole("From 1; 0 where it is not known."),
    "function": text("Name of the function; empty where it is not known."),
}
EVENT = Shared("event", record("A step of the execution.", {
    "event": whole("Its number, from 1.", least=1),
    "kind": _EVENT_KIND,
    **_PLACE,
    "frame": whole("Which call of a function it is in: tells those apart that run at the same time."),
    "caller": whole("The call of a function that called that one; 0: none."),
    "call": {"description": "Number of the last host call by then; -1: none.", "type": "integer"},
    "heard": whole("How many answers to host calls had come by then."),
    "detail": maybe(text("More of it: the exception, the host call.")),
    "source": maybe(text("The line, where its code is kept.")),
}))  # fmt: skip
FRAME = Shared("frame", record("What names held at a step.", {
    "event": whole("Number of the step.", least=1),
    "kind": maybe(_EVENT_KIND),
    "file": maybe(text("Relative to the project.")),
    "line": maybe(whole("From 1.")),
    "function": maybe(text("Name of the function.")),
    "source": maybe(text("The line, where its code is kept.")),
    "locals": anything("What its names held, by name."),
    "stack": listing("Who had called, the innermost first.", of(POSITION)),
}, {
    "returned": anything("Of a return: what."),
    "values": listing("What was looked up here.", record("A value.", {
        "expression": text("As it was asked."), "value": anything("What it was."),
    })),
}))  # fmt: skip
_VALUE = record("A value that a name or an expression had.", {
    "event": whole("Number of the step.", least=1),
    **_PLACE,
    "frame": whole("Which call of a function it is in."),
    "value": anything("The value; of several expressions, by expression; true, where a place alone was looked for."),
})  # fmt: skip
_ABOUT = {
    "granularity": word("What its steps are.", ("line", "host call")),
    "verdict": maybe(word("How the run that showed them compares with the record; null: none was made.", Verdict)),
    "reason": maybe(text("Why that is the verdict.")),
    "divergence": maybe(of(DIVERGENCE)),
    "notes": texts("What was not as it was, a sentence each."),
    "total": whole("How many steps are known."),
    "ended": flag("They are all. False: the execution was killed, and this is as far as is known."),
}
_AT = maybe(whole("The step that is stood at.", least=1))
_ADDRESS = {
    "at": _AT,
    "up": whole("Of which function that had called, counted from the innermost, names are shown."),
    "expression": text("What is looked up; may be empty."),
    "watch": text("The name whose values are told; may be empty."),
}
_CALL = record("A host call.", CALL_MEMBERS | {
    "whole": flag("Arguments and result are here; they are left out where they are large."),
    "heard": flag("It had been answered by then."),
})  # fmt: skip
_ROW = record("A row that the execution changed, as of this step.", {
    "schema_name": text("PostgreSQL's schema that the table is in."),
    "table": text("Name of the table."),
    "key": anything("The primary key, by column."),
    "row": anything("The row, by column; null: it was not there, is not known, or is left out as it is large."),
    "exists": maybe(flag("It was there; null: not known, as a call that changes it was on its way.")),
    "whole": flag("False: the row is left out."),
    "since": maybe(whole("Number of the call that made it so.")),
    "until": maybe(whole("Number of the call that changes it.")),
    "committed": flag("That change was not rolled back."),
})  # fmt: skip
_OPEN = {
    "session": whole("Number of the session."),
    "opened_at": moment("When it was opened."),
    "idle_s": {"description": "After so many seconds without a question it ends.", "type": "number"},
    **_ABOUT,
    "event": maybe(of(EVENT, "The step that is stood at.")),
    "events": listing("Steps around it.", of(EVENT)),
    "frame": maybe(of(FRAME, "What names hold there.")),
    "source": maybe(record("The code around it, as it ran.", {
        "file": text("Relative to the project."),
        "line": whole("The line."),
        "first": whole("Number of the first line that is here."),
        "lines": texts("Lines."),
    })),
    "history": maybe(record("The values of the name that is watched.", {
        "watch": text("The name."),
        "values": listing("Those nearest to the step, in order.", _VALUE),
        "values_left_out": whole("How many are not here."),
    })),
    "said": text("What is to be said of where it led; may be empty."),
}  # fmt: skip
_SHOWN = {
    "calls": listing("Host calls around the step.", _CALL),
    "calls_before": whole("How many there are before these."),
    "calls_after": whole("How many there are after these."),
    "rows": listing("Rows, those that were changed last first.", _ROW),
    "row_count": whole("How many rows were changed."),
    "rows_unplaced": whole("Changes that are of no step, as their key or their call is not known."),
    "between": record("Between which moments the step was, since the execution's start.", {
        "from_ms": milliseconds("Not before."), "to_ms": milliseconds("Not after."),
    }),
}  # fmt: skip

KINDS: tuple[Kind, ...] = (
    kind("debug", "Steps of one execution.", ("flux trace debug ID", "POST executions/ID/debug"), {
        "execution": of(SUMMARY),
        **_ABOUT,
        "at": _AT,
        "events": listing("Steps around it.", of(EVENT)),
        "frame": maybe(of(FRAME, "What names hold there.")),
        "frames": listing("Likewise of steps around it, as far as that was asked for.", of(FRAME)),
        "values": listing("What was looked for, in order.", _VALUE),
        "values_left_out": whole("How many are not here."),
    }, {
        "source": record("The file that was asked for, as it ran.", {
            "file": text("Relative to the project."), "text": maybe(text("Its text; null: it is not kept.")),
        }),
    }),
    kind("debug-session", "Where somebody stands among the steps of an execution.",
         ("GET debugs/ID", "POST debugs/ID", "POST debugs/ID/end"), {
        "state": word("Of `none` there is no session, or nothing was looked at there.", ("none", "open")),
        "execution": of(SUMMARY),
    }, {
        "ended": flag("All steps are known; of a session that is ended: it was open."),
        **_ADDRESS,
        **{name: shape for name, shape in _OPEN.items() if name != "ended"},
        **_SHOWN,
    }, more={
        "if": {"properties": {"state": {"const": "open"}}, "additionalProperties": True},
        "then": {"required": [*_ADDRESS, *_OPEN]},
    }),
    kind("page", "What a page of the console shows, as it is sent to the page itself.", ("the console",), {
        "page": text("Name of the page."),
        "documents": mapping("Documents of the API, by what they are to the page.", {"type": "object"}),
    }),
    kind("session", "Somebody signed in to the console, or out.", ("the console",), {}),
)  # fmt: skip
