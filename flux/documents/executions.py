"""Documents about executions: in short, whole, why they ended so, and the failures among them."""

from flux.documents.shape import (
    Kind,
    Schema,
    Shared,
    anything,
    either,
    flag,
    kind,
    listing,
    maybe,
    milliseconds,
    moment,
    of,
    record,
    tag,
    text,
    texts,
    where_text,
    whole,
    word,
)  # fmt: skip
from flux.failure import Kind as FailureKind
from flux.jobs import State
from flux.mutation import Operation
from flux.prove import Effect
from flux.verdict import Verdict

OUTCOMES = ("returned", "raised", "killed", "exited", "interrupted")
TRIGGERS = ("http", "queue", "cron", "invoke", "replay")

NOT_STORED = whole("How many executions that have ended are not stored yet, and are not looked at here.")
NAME = "Name of the execution: eight letters and digits."
SHA = "Commit of the code; `nogit-` and a digest where the project is in no repository."
DIRTY = "The code had changes that were not committed."
DEPLOYMENT = "Id of the deployment: the same code, files and all, has the same."

POSITION = Shared("location", record("A line of code.", {
    "file": text("Relative to the project where the file is the project's."),
    "line": whole("From 1; 0 where it is not known."),
    "function": text("Name of the function that the line is in."),
}))  # fmt: skip
"""Where in the code."""

ERROR = Shared("error", record("What went wrong, in short.", {
    "type": text("Name of the exception's class, or what ended the execution."),
    "message": maybe(text("What it said.")),
    "location": maybe(of(POSITION, "Where in the project's code; null where that is not known.")),
}))  # fmt: skip

_SUMMARY = {
    "id": text("Its UUID."),
    "name": text(NAME),
    "trigger": word("What began it.", TRIGGERS),
    "function": text("Name of the function."),
    "method": maybe(text("HTTP method of the request; null where no request began it.")),
    "path": maybe(text("Path of the request, without its query.")),
    "route": maybe(text("The route that matched, as `/orders/{id}`.")),
    "status": maybe(whole("HTTP status of the answer; null where there was none.")),
    "outcome": word("How it ended.", OUTCOMES),
    "error": maybe(of(ERROR, "What went wrong; null where it answered.")),
    "signature": maybe(text("What failures of one kind have in common; null where it did not fail.")),
    "started_at": moment("When it began."),
    "elapsed_ms": milliseconds("How long it ran."),
    "calls": whole("How many host calls it made."),
    "mutations": whole("How many changes of rows it made, those that were rolled back among them."),
    "sha": text(SHA),
    "dirty": flag(DIRTY),
    "deployment": text(DEPLOYMENT),
    "parent": maybe(text("UUID of the execution that caused it, or of its attempt before.")),
    "attempt": whole("Which attempt it was, from 1.", least=1),
    "replay_of": maybe(text("Name of the execution that it replays.")),
    "tenant": text("Whose it is."),
    "completeness": text("`whole`, or sentences that say what the record lacks."),
}
SUMMARY = Shared("summary", record("An execution in short.", {"schema": tag("summary")} | _SUMMARY))

BODY_FORMATS = ("json", "text", "bytes", "streamed", "empty")
BODY = {
    "body": anything("JSON as it was written, a text, or `{\"$bytes\": base64}`; null: empty, or streamed."),
    "body_format": word("How the body is shown.", BODY_FORMATS),
}
STREAMED = record("What was known of a body that went by in pieces.", {
    "bytes": whole("Its size."),
    "sha256": text("Its digest, in hexadecimal digits."),
    "pieces": whole("In how many calls it was read or written."),
})  # fmt: skip
_PAIRS = "By name; a name that is repeated has a list, in order."


def _pairs(what: str) -> Schema:
    value = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    return {"description": f"{what} {_PAIRS}", "type": "object", "additionalProperties": value}


REQUEST = Shared("request", record(
    "The request that began an execution.",
    {
        "method": text("HTTP method."),
        "path": text("Path, without the query."),
        "params": _pairs("Parameters of the route."),
        "query": _pairs("Parameters of the query."),
        "headers": _pairs("Headers."),
        "client": maybe(text("Address of the client.")),
        "auth": maybe(record("Who asks, as the gateway has verified it.", {
            "kind": word("How it was verified.", ("jwt", "api_key")),
            "subject": maybe(text("Who it is.")),
        }, {
            "claims": anything("What the token says."),
            "scopes": anything("What the key may do."),
        })),
        **BODY,
    },
    {"streamed": STREAMED},
))  # fmt: skip

_STATUS = maybe(whole("HTTP status of the answer; null where nobody was answered."))
OUTPUT = Shared("output", either(
    "What went out, or what came instead.",
    record("The function answered.", {
        "status": _STATUS, "headers": _pairs("Headers."), **BODY,
    }, {"streamed": STREAMED}),
    record("It raised, and nothing caught that.", {
        "status": _STATUS,
        "raised": record("What was raised.", {
            "type": text("Name of the exception's class."), "message": text("What it said."),
            "cause": maybe(text("`Type: message` of the exception that it was raised from.")),
        }),
        "code": text("The code in the answer, such as `FUNCTION_ERROR`."),
        "violations": anything("Of an input that is not valid: a list of {path, message}; else an empty list."),
    }),
    record("A limit ended it.", {
        "status": _STATUS,
        "killed": record("Which.", {
            "limit": text("Name of the limit: `timeout`, `memory`, `host_calls` and so on."),
            "allowed": text("Its value, as people write it: `10s`, `256MiB`."),
            "origin": text("Who set it: `flux.toml:12`, `@function(timeout=...)`, `Flux's default`."),
            "detail": text("What was seen; empty where that says no more."),
        }),
    }),
    record("Its process ended, without an answer.", {
        "status": _STATUS,
        "exited": record("How.", {
            "exit_code": maybe({"description": "Exit code.", "type": "integer"}),
            "signal": maybe(whole("Number of the signal that ended it.")),
            "detail": text("The last lines that it wrote, or what is known of why."),
        }),
    }),
    record("It was cut off from outside.", {
        "status": _STATUS, "interrupted": record("Why.", {"reason": text("In words.")}),
    }),
))  # fmt: skip

STACK = listing("Frames of what was raised, from the outermost to the innermost.", record("A frame.", {
    "file": text("Relative to the project where the file is the project's."),
    "line": whole("From 1."),
    "function": text("Name of the function."),
    "user": flag("It is code of the project, not of a library."),
    "source": text("The line's text; empty where it can't be read."),
}))  # fmt: skip

_CALL = {
    "seq": whole("Its number among the calls of the execution, from 1."),
    "task": whole("Which of the function's tasks asked."),
    "kind": text("Name of the host call: `db.query`, `http.request`."),
    "arguments": anything("By name where they have names, else the list that they are."),
    "result": anything("What the function received; null where it failed or was not answered."),
    "error": maybe(record("What the function saw raised.", {
        "type": text("Name of the error."),
        "message": text("What it said."),
        "code": maybe(text("A SQLSTATE, or a code of Flux's.")),
        "details": anything("More of it, by name."),
    })),
    "answered": maybe(whole("Its place among the answers; null: it was never answered.")),
    "started_ms": milliseconds("When it was asked, since the execution's start."),
    "elapsed_ms": milliseconds("How long the answer took."),
    "location": maybe(of(POSITION, "The project's line that asked.")),
}  # fmt: skip
CALL = Shared("call", record("A host call.", _CALL))
CALL_MEMBERS = _CALL

_MUTATION = {
    "schema_name": text("PostgreSQL's schema that the table is in."),
    "table": text("Name of the table."),
    "key": anything("The primary key, by column; null for a table without one, or a whole table."),
    "op": word("What was done.", Operation),
    "before": anything("The row before, by column; null for an insert."),
    "after": anything("The row after, by column; null for a delete."),
    "committed": flag("False: it was made and rolled back."),
    "call": maybe(whole("Number of the host call that made it, where that is known.")),
    "depth": whole("1: by the statement itself; more: by a trigger or a cascade."),
    "xid": whole("Id of the transaction (xid8)."),
    "at": maybe(moment("When it was made; null where that is not known.")),
}
MUTATION = Shared("mutation", record("A row before and after.", _MUTATION))
MIGRATION = maybe(text("Path of the migration that made it, where one did."))
OUTSIDE = flag("No execution made it: it was written past Flux.")
VERSION = Shared("version", record("One version of a row: the change, and who made it.", _MUTATION | {
    "version": maybe(whole("Its number among the row's versions, from 1; null where it was rolled back.")),
    "at": moment("When it was made."),
    "execution": maybe(text("Name of the execution that made it.")),
    "function": maybe(text("Name of that one's function.")),
    "sha": maybe(text(SHA)),
    "outside": OUTSIDE,
    "migration": MIGRATION,
    "gap": flag("The row was not as the version before had left it: something else changed it in between."),
}))  # fmt: skip

_LOG = {
    "line": whole("Its number among the lines of the execution, from 1.", least=1),
    "level": word("How serious it is; `stdout` and `stderr` were printed.",
                  ("debug", "info", "warning", "error", "stdout", "stderr")),
    "message": text("What was said."),
    "fields": anything("What was said beside it, by name."),
    "location": maybe(of(POSITION, "The line that logged it.")),
}  # fmt: skip
LOG = Shared("log", record("A line that a function logged or printed.", {
    "schema": tag("log"),
    "at": moment("When it was logged."),
    **_LOG,
    "execution": text(NAME),
    "function": text("Name of the function."),
}))  # fmt: skip
LOG_MEMBERS = _LOG

SPAN = Shared("span", record("A span, as OpenTelemetry's protocol has it in JSON.", {
    "traceId": text("32 hexadecimal digits."),
    "spanId": text("16 hexadecimal digits."),
    "parentSpanId": text("16 hexadecimal digits; empty where it has none."),
    "name": text("Method and route, the function, or the host call."),
    "kind": whole("1 internal, 2 server, 3 client, 4 producer, 5 consumer."),
    "startTimeUnixNano": text("Nanoseconds since the Unix epoch."),
    "endTimeUnixNano": text("Nanoseconds since the Unix epoch."),
    "attributes": listing("What is known of it.", record("An attribute.", {
        "key": text("Its name."),
        "value": record("Its value, of one type.", {}, {
            "intValue": text("A whole number, in digits."), "stringValue": maybe(text("A text.")),
        }),
    })),
    "status": record("Whether it failed.", {"code": whole("0 unset, 2 error.")}, {"message": text("Why it failed.")}),
}, {
    "links": listing("Spans that it has to do with and that are not above it.", record("A link.", {
        "traceId": text("32 hexadecimal digits."), "spanId": text("16 hexadecimal digits."),
    })),
}))  # fmt: skip

JOB = Shared("job", record("A job of the queue. Its payload is shown by its executions alone.", {
    "id": text("Its UUID."),
    "function": text("Which function it is for."),
    "state": word("How it stands.", State),
    "attempt": whole("Attempts that were begun."),
    "failures": whole("Attempts that failed."),
    "lost": whole("Attempts whose server was lost."),
    "pushed_at": moment("When it was pushed."),
    "run_at": moment("When it is, or was, due."),
    "claimed_at": maybe(moment("When its latest attempt began.")),
    "ended_at": maybe(moment("When it was done, or dead.")),
    "error": maybe(text("What the latest failed attempt said.")),
    "has_key": flag("It was pushed with an idempotency key."),
    "cause": maybe(record("What pushed it.", {
        "execution": maybe(text("Name of the execution; null where its record is gone.")),
        "id": text("Its UUID."),
        "call": maybe(whole("Number of its host call.")),
    })),
    "execution": maybe(text("Name of the latest attempt's execution.")),
}))  # fmt: skip

DIVERGENCE = Shared("divergence", record("Where a replay left its recording.", {
    "kind": word("How: another question, one more (`new` or `extra`), one less, the same by another way, bytes that "
                 "are on no record; or it logged, or ended with, something else.",
                 ("changed", "new", "extra", "missing", "fuel", "unheard", "log", "outcome")),
    "seq": whole("Number of the host call, or of the log line; 0 at the end."),
    "recorded": anything("What the recording has there: {kind, arguments, location}, {level, message, fields, "
                         "location}, a text, or null."),
    "replayed": anything("What the replay did, likewise."),
    "location": maybe(of(POSITION, "The line that the replay was at.")),
}))  # fmt: skip

_RECORD = {
    "input": anything("The request; of an execution that no request began, its data."),
    "output": maybe(of(OUTPUT, "Null where it was cut off.")),
    "user": anything("What `ctx.user` was last; null where nobody has said."),
    "stack": STACK,
    "calls": listing("Its host calls, in the order of their numbers.", of(CALL)),
    "mutations": listing("The rows that it changed, in order.", of(MUTATION)),
    "logs": listing("The lines that it logged, in order.", of(LOG)),
    "sandbox": record("What it ran in.", {
        "kind": text("`process` or `wasm`."),
        "isolation": text("`process`, `core` or `strict`."),
        "clock": text("How strongly its clock was held: `vdso`, `python` or `wasm`."),
        "served_before": maybe(whole("How many executions its worker had served before it; null: not known.")),
    }),
    "limits": listing("The limits in force.", record("A limit.", {
        "name": text("As in `flux.toml`."), "value": text("As people write it."), "origin": text("Who set it."),
    })),
    "transactions": listing("Its transactions, in order.", record("A transaction.", {
        "isolation": text("`read committed`, `repeatable read` or `serializable`."),
        "snapshot": text("`pg_current_snapshot()` at its start."),
        "xid": maybe(whole("Its id (xid8); null where it wrote nothing.")),
        "committed": flag("False: it was rolled back."),
        "begun_by": {"description": "Number of the host call that began it.", "type": "integer"},
    })),
    "cause": maybe(record("What made it run, where another execution did.", {
        "execution": text("Name of that one."),
        "call": maybe(whole("Number of the host call.")),
        "job": maybe(text("UUID of the job that it is an attempt at.")),
    })),
}  # fmt: skip
_SPANS = listing("The execution and its calls as spans, the execution first.", of(SPAN))
_FAMILY = {
    "children": listing("Executions that it caused: invoked ones, attempts at its jobs.", of(SUMMARY)),
    "jobs": listing("Jobs that it pushed.", of(JOB)),
    "replays": listing("Replays of it, and what they showed.", record("A replay.", {
        "execution": maybe(text("Name of the replay; null: it is on no record of its own.")),
        "on": maybe(text("The code that was asked for: `.`, a commit, or null: the recorded.")),
        "deployment": text(DEPLOYMENT),
        "sha": text(SHA),
        "dirty": flag(DIRTY),
        "verdict": word("How it compares.", Verdict),
        "reason": text("Why that is the verdict."),
        "divergence": maybe(of(DIVERGENCE)),
        "is_check": flag("Flux made it to check itself."),
        "at": moment("When it was made."),
    })),
}  # fmt: skip
_INPUT_OF_REQUEST = where_text("method", {"input": of(REQUEST)})
TRACE = {**_SUMMARY, **_RECORD, "spans": _SPANS, **_FAMILY}

FACT = Shared("fact", record("One line of an explanation.", {
    "mark": word("`●`: it is on record; `≈`: the rule infers it; `↻`: it was tried.", ("●", "≈", "↻")),
    "rule": text("Name of the rule that says it."),
    "text": text("What it says."),
    "call": maybe(whole("Number of the host call that shows it.")),
}))  # fmt: skip
FLIP = Shared("flip", record("One thing that the execution heard, made otherwise.", {
    "site": text("What was made otherwise."),
    "text": text("In words."),
    "call": maybe(whole("Number of the host call.")),
    "peer": maybe(text("Name of the execution that the other value is from.")),
}))  # fmt: skip
PROOF = Shared("proof", record("What an experiment showed.", {
    "causes": listing("Sets of flips that change how it ends.", record("A set.", {
        "flips": listing("What was flipped together.", of(FLIP)),
        "effect": word("What became of the execution.", Effect),
        "status": maybe(whole("HTTP status of the answer then.")),
        "runs": listing("Names of the runs that show it.", maybe(text("A name; null where it was not stored."))),
    })),
    "is_smallest": flag("No smaller set was found, and there was room to look for one."),
    "is_needed": flag("Of each set, every flip is needed."),
    "control": record("The runs with nothing flipped.", {
        "runs": listing("Their names.", maybe(text("A name; null where it was not stored."))),
        "effect": word("What became of them.", Effect),
    }),
    "runs": whole("How many runs were made."),
    "runs_max": whole("How many may be made."),
    "untried": listing("What was not tried.", of(FLIP)),
    "left_out": texts("What could not be flipped, or was not as it was, a sentence each."),
    "facts": listing("What it shows, as lines of an explanation.", of(FACT)),
}))  # fmt: skip

_WHY = {
    "execution": of(SUMMARY),
    "failure": maybe(record("What failed; null where nothing did.", {
        "kind": word("What kind of failure it is.", FailureKind),
        "type": text("Name of the exception's class, or of what ended it."),
        "message": text("What it said."),
        "location": maybe(of(POSITION, "Where in the project's code.")),
        "call": maybe(whole("Number of the host call whose error it is.")),
        "signature": maybe(text("What failures of one kind have in common; null of an answer that it chose.")),
        "is_answer": flag("It is an answer that the function chose, such as a 404, and no fault."),
    })),
    "verdict_text": texts("The explanation in a sentence or two."),
    "facts": listing("What it rests on, the most telling first.", of(FACT)),
    "mutations": listing("The rows that it changed, in order.", of(MUTATION)),
    "next": texts("Commands that lead on."),
}  # fmt: skip
WHY = Shared("why", record("Why an execution ended as it did.", {"schema": tag("why")} | _WHY))

PROBLEM = Shared("problem", record("Why something ended before its end.", {
    "code": text("Flux's code: `flux explain CODE`."),
    "detail": text("What happened."),
    "remedy": text("The next step; may be empty."),
    "exit": whole("What a command ends with for it."),
}))  # fmt: skip
HEARTBEAT = record("Nothing was told for ten seconds, and the server lives.", {
    "heartbeat": {"description": "Always true.", "const": True},
})  # fmt: skip
GAP = record("Lines are missing here: the reader was too slow.", {"gap": whole("How many.", least=1)})


def end(members: dict[str, Schema], what: str = "The last line.") -> Schema:
    """The last line of a stream that ends."""
    problem = {"problem": maybe(of(PROBLEM, "What ended it; null: it is whole."))}
    return record(what, {"end": record("How it ended.", members | problem)})


KINDS: tuple[Kind, ...] = (
    kind("summary", "An execution in short.", ("flux tail", "GET tail"), _SUMMARY, lines=(HEARTBEAT, GAP)),
    kind("log", "A line that a function logged or printed.", ("flux logs", "GET logs"), {
        key: value for key, value in LOG.schema["properties"].items() if key != "schema"
    }, lines=(HEARTBEAT, GAP)),
    kind("executions", "Executions, the latest first.", ("flux trace list", "GET executions"), {
        "executions": listing("Those that match.", of(SUMMARY)),
        "not_stored": NOT_STORED,
    }),
    kind("trace", "Everything that one execution did.", ("flux trace ID", "GET executions/ID"), TRACE,
         more=_INPUT_OF_REQUEST),
    kind("record", "One execution whole, without what follows from others (`children`, `jobs`, `replays`) or from "
         "itself (`spans`).", ("flux records export", "GET records/export"), _SUMMARY | _RECORD,
         more=_INPUT_OF_REQUEST, lines=(
        record("The last line.", {"end": record("How it ended.", {
            "records": whole("How many lines there were."),
            "last": maybe(text("UUID of the last one: `after` it the rest comes.")),
            "not_stored": NOT_STORED,
            "problem": maybe(record("What ended it; null: these were all.", {
                "code": text("Flux's code."), "message": text("What happened."), "remedy": text("The next step."),
            })),
        })}),
    )),
    kind("call", "One host call of an execution.", ("flux trace ID --call N", "flux mcp"), {
        "execution": text(NAME), "call": of(CALL),
    }),
    kind("execution-page", "What the console's page of an execution shows: of very many calls, some.",
         ("GET executions/ID/page",), {
        "trace": record("As of `flux.trace/1`, without spans, and with the calls of this passage.",
                        {"schema": tag("trace")} | _SUMMARY | _RECORD | _FAMILY) | _INPUT_OF_REQUEST,
        "why": of(WHY),
        "passage": record("Which of the calls these are.", {
            "total": whole("How many calls the execution made."),
            "found": whole("How many of them have the text that was looked for."),
            "first": whole("Place of the first one here among those that were found, from 0."),
            "places": listing("Places of those that are here, among all.", whole("From 0.")),
            "wrong": listing("The first ten that went wrong, wherever they are.", record("A call.", {
                "seq": whole("Its number."), "place": whole("Its place among those that were found, from 0."),
            })),
            "wrong_count": whole("How many went wrong."),
        }),
    }),
    kind("why", "Why an execution ended as it did.", ("flux why ID", "GET executions/ID/why"), _WHY, {
        "proof": of(PROOF, "Of `flux why --prove`: what the experiment showed."),
    }),
    kind("proof", "Begins the stream of an experiment: what is to be tried.", ("POST executions/ID/prove",), {
        "execution": of(SUMMARY),
        "flips": whole("How many flips there are to try."),
        "runs_max": whole("How many runs may be made."),
    }, lines=(
        record("One run has ended.", {"run": record("Which, and how.", {
            "number": whole("Which run it was, from 1.", least=1),
            "flips": listing("What was flipped.", of(FLIP)),
            "effect": word("What became of the execution.", Effect),
            "status": maybe(whole("HTTP status of the answer then.")),
            "execution": maybe(text("Name of the run; null where it was not stored.")),
            "reason": text("Why it counts as that."),
        })}),
        HEARTBEAT,
        end({"proof": maybe(of(PROOF, "What all of them show; null where it was ended before."))}),
    )),
    kind("errors", "Failures by kind.", ("flux errors", "GET errors"), {
        "groups": listing("Kinds of failures, the most frequent first.", record("A kind.", {
            "signature": text("What they have in common."),
            "count": whole("How many executions failed so.", least=1),
            "first": moment("When the first of them began."),
            "last": moment("When the latest of them began."),
            "sample": text("Name of the latest."),
            "functions": texts("Functions that failed so."),
            "error": of(ERROR, "Of the latest."),
        })),
        "not_stored": NOT_STORED,
    }),
    kind("activity", "How many executions began when, replays not among them.", ("GET activity",), {
        "since": moment("Where the first piece of time begins."),
        "until": moment("Where the last one ends."),
        "buckets": listing("Sixty pieces of equal length, in order.", record("A piece.", {
            "at": moment("Where it begins."),
            "executions": whole("How many began in it."),
            "failed": whole("How many of these failed."),
        })),
    }),
    kind("invoke", "What a function returned.", ("flux invoke NAME", "POST invoke/NAME"), {
        "status": maybe(whole("HTTP status that a request would have been answered with.")),
        **BODY,
        "execution": of(SUMMARY),
    }),
    kind("functions", "The functions that are served.", ("flux function list", "GET functions"), {
        "functions": listing("By name.", record("A function.", {
            "name": text("Its name."),
            "route": maybe(text("`POST /signup`; null: no request leads to it.")),
            "runtime": text("`python`, `javascript` or `wasm`."),
            "grants": texts("What it may reach: `db`, `http:api.stripe.com`."),
            "auth": maybe(record("What the gateway asks of a request.", {
                "kind": text("`jwt`, `api_key` or both, as in `flux.toml`."),
                "scopes": texts("What the token or key has to allow."),
            })),
            "middleware": texts("What a request goes through, outermost first."),
            "sha": text(SHA),
            "error": maybe(text("Why newer code is not served.")),
        })),
    }),
    kind("html", "The page of an execution in one file, without scripts.", ("GET executions/ID/html",), {
        "execution": text(NAME), "text": text("The page."),
    }),
    kind("pytest", "A recorded failure as a test.", ("POST executions/ID/pytest",), {
        "execution": text(NAME),
        "text": text("The file."),
        "runs": whole("How many runs making it smaller took."),
        "is_smallest": flag("Nothing of it can be left out."),
    }),
    kind("export", "A case file was written.", ("flux export ID --case",), {
        "execution": text(NAME),
        "file": text("Its path."),
        "bytes": whole("Its size."),
        "lacks": texts("What a replay of it will not have, a sentence each."),
    }),
)  # fmt: skip
