"""Documents about executions that were run again: replays, comparisons, incidents, bisects, guarded deploys."""

from flux.bisect import Mark, Purpose
from flux.deploy_history import Cause
from flux.documents.executions import (
    CALL,
    DEPLOYMENT,
    DIRTY,
    DIVERGENCE,
    ERROR,
    HEARTBEAT,
    LOG_MEMBERS,
    MUTATION,
    NOT_STORED,
    OUTCOMES,
    OUTPUT,
    POSITION,
    PROBLEM,
    SHA,
    SUMMARY,
    end,
)  # fmt: skip
from flux.documents.shape import (
    Kind,
    Schema,
    Shared,
    anything,
    counts,
    either,
    flag,
    kind,
    listing,
    maybe,
    milliseconds,
    moment,
    number,
    of,
    record,
    tag,
    text,
    texts,
    whole,
    word,
)  # fmt: skip
from flux.guard import Finding
from flux.interleave_verdict import TogetherVerdict
from flux.matching import Grade
from flux.matching_session import Source
from flux.trace_diff import Mark as DiffMark
from flux.trace_diff import Part
from flux.trace_diff import Verdict as DiffVerdict
from flux.trace_noise import Noise
from flux.verdict import Verdict

ON = "What it ran on: `.` for the project's folder, a commit, or null for the code that is on record."
CODE = record("The code that it ran on.", {
    "deployment": text(DEPLOYMENT),
    "sha": text(SHA),
    "dirty": flag(DIRTY),
    "is_recorded": flag("It is the code that the original ran on."),
})  # fmt: skip
FIDELITY = record("How well the rebuilt database answered.", {
    "matched": whole("Statements that the recording has too."),
    "equal": whole("Those that were answered as then."),
})  # fmt: skip
ORIGINAL = record("How it ended then.", {
    "status": maybe(whole("HTTP status of the answer.")),
    "outcome": word("How it ended.", OUTCOMES),
})  # fmt: skip
_REPLAYED_OUTCOME = word("How it ended; `stopped`: it was not left to come to an end.", (*OUTCOMES, "stopped"))
_REPLAYED_STATUS = maybe(whole("HTTP status of the answer; null where it was stopped."))
HELD = Shared("held", record("A push to the queue that was held: none is made by a replay.", {
    "seq": whole("Number of the call in the replay."),
    "kind": text("Name of the host call."),
    "arguments": anything("By name."),
    "grade": word("How it compares with the record.", Grade),
    "location": maybe(of(POSITION, "The line that pushed.")),
}))  # fmt: skip
VERDICT = word("What became of the execution.", Verdict)
_SOURCES = (Source.RECORDED, Source.WORLD, Source.BORROWED, Source.FIXTURE, Source.LIVE, Source.HELD)

_REPLAY = {
    "execution": of(SUMMARY, "The original."),
    "on": maybe(text(ON)),
    "code": CODE,
    "verdict": VERDICT,
    "reason": text("Why that is the verdict."),
    "original": ORIGINAL,
    "replayed": record("How it ended now.", {
        "status": _REPLAYED_STATUS,
        "outcome": _REPLAYED_OUTCOME,
        "elapsed_ms": milliseconds("How long it ran."),
        "output": maybe(of(OUTPUT, "Null where it was stopped, or is left out.")),
        "execution": maybe(text("Name under which the replay is on record; null: it is on none.")),
    }),
    "grades": counts("How many calls compare how with the record.", Grade),
    "fidelity": FIDELITY,
    "answers": counts("How many calls were answered from where: the recording, the rebuilt database, another "
                      "execution, what was given, the real host; or held.", _SOURCES),
    "sent": whole("How many requests left Flux: those to hosts that were said to be live."),
    "held": listing("Pushes to the queue.", of(HELD)),
    "stopped": whole("1: it was stopped in front of what would have left Flux."),
    "relaxed_gates": whole("Always 0 here: see `flux.interleave/1`."),
    "notes": texts("What was not as it was then, a sentence each."),
    "synthetic": texts("Where a value stood in for one that is not on record."),
    "divergence": maybe(of(DIVERGENCE)),
    "waited_for": maybe(whole("Number of the call whose answer never came, on record and here.")),
}  # fmt: skip
_REPLAY_MAY = {
    "calls": listing("The calls side by side. Of many replays at once they may be left out, and the output.",
                     record("A pair.", {
        "grade": word("How the two compare.", Grade),
        "source": maybe(word("Where the replay's answer is from.", Source)),
        "recorded": maybe(of(CALL, "The record's call.")),
        "replayed": maybe(of(CALL, "The replay's call.")),
    })),
    "number": whole("Of many replays: its place in the window, the oldest is 0."),
}  # fmt: skip
REPLAY = Shared("replay", record("A replay.", {"schema": tag("replay")} | _REPLAY, _REPLAY_MAY))
UNREPLAYABLE = record("An execution that can't be replayed.", {
    "execution": of(SUMMARY),
    "verdict": {"description": "Always `unreplayable`.", "const": "unreplayable"},
    "reason": text("Why."),
    "number": whole("Its place in the window, the oldest is 0."),
})  # fmt: skip

# --- side by side ------------------------------------------------------------------------------------

_DIFFERENCE = {
    "where": text("What differs: `arguments.url`, `body.total`."),
    "name": maybe(text("A name that its value goes by.")),
}
_SIDES = {
    "a": anything("What A has there; missing: nothing."),
    "b": anything("What B has there; missing: nothing."),
}
FOUND = Shared("difference", record(
    "A value that differs.",
    _DIFFERENCE | {"follows": flag("It differs as the requests do, or as an answer did that was heard before.")},
    _SIDES,
))  # fmt: skip


def _pair(what: str, side: Schema, more: dict[str, Schema] | None = None) -> Schema:
    return record(what, {
        "mark": word("`=` same, `≈` differs as what was heard before does, `≠` differs, `↕` in another order, `−` "
                     "only A, `+` only B, `?` only one, as the other was stopped before.", DiffMark),
        "a": maybe(side),
        "b": maybe(side),
        "differences": listing("Values that differ.", of(FOUND)),
        **(more or {}),
    })  # fmt: skip


_CALL_PAIR = _pair("A call of each.", of(CALL), {
    "grade": maybe(word("How a replay's call compares with the record.", Grade)),
})  # fmt: skip
_ROW_PAIR = _pair("A change of a row of each.", of(MUTATION))
_LOG_PAIR = _pair("A line of the log of each.", record("A line.", LOG_MEMBERS))
FIRST = Shared("first_difference", record("Where two executions part.", {
    "part": word("In what.", Part),
    "index": whole("Place in that part's list."),
    "a": anything("A's side, as it stands there; null where there is none."),
    "b": anything("B's side, as it stands there; null where there is none."),
    "differences": listing("Values that differ.", of(FOUND)),
}, {
    "mark": word("How the two compare.", DiffMark),
    "grade": maybe(word("Of a replay's call: how it compares with the record.", Grade)),
}))  # fmt: skip
_RAN = listing("Code that only this one ran.", record("A function.", {
    "file": text("Relative to the project."),
    "function": text("Its name."),
    "lines": listing("Numbers of lines that ran.", whole("From 1.")),
    "whole": flag("The other did not run the function at all."),
}))  # fmt: skip
_DIFF = {
    "verdict": word("What the differences amount to.", DiffVerdict),
    "reason": text("Why that is the verdict."),
    "a": of(SUMMARY, "A: the earlier, or the record."),
    "b": of(SUMMARY, "B: the other, or the replay."),
    "same_code": flag("Both ran the same deployment."),
    "replay": maybe(record("How B came about, where it is a replay.", {
        "on": maybe(text(ON)), "verdict": VERDICT, "reason": text("Why that is the verdict."),
        "stopped": maybe(text("Why it did not come to an end of its own.")),
    })),
    "first_difference": maybe(of(FIRST)),
    "input": listing("Differences of what came in.", of(FOUND)),
    "calls": listing("The calls side by side.", _CALL_PAIR),
    "outcome": maybe(listing("Differences of what went out; null: one was stopped before.", of(FOUND))),
    "state": maybe(listing("The rows side by side; null: what a replay changed is not on record.", _ROW_PAIR)),
    "logs": listing("The logs side by side.", _LOG_PAIR),
    "only_a": _RAN,
    "only_b": _RAN,
    "left_out": counts("How many values were left out, by why they are noise."),
    "left_out_values": maybe(listing("Those values, where `all` was asked for.", record("A value.", {
        "in": text("In which part, and where in it."), "kind": word("Why it is noise.", Noise), **_DIFFERENCE,
    }, _SIDES))),
    "notes": texts("What the comparison rests on, a sentence each."),
}  # fmt: skip

# --- together ----------------------------------------------------------------------------------------

_ROWS = "Rows, by column."
_FOUND_ROWS = listing(_ROWS, anything("A row."))
_TOGETHER = record("What became of all of them.", {
    "executions": listing("Each of them.", record("An execution.", {
        "execution": of(SUMMARY),
        "verdict": VERDICT,
        "reason": text("Why that is the verdict."),
        "held": listing("Pushes to the queue.", of(HELD)),
        "original": ORIGINAL,
        "replayed": record("How it ended now.", {"status": _REPLAYED_STATUS, "outcome": _REPLAYED_OUTCOME}),
        "attempts": record("How often it was run, as it met others.", {
            "recorded": whole("Then."), "replayed": whole("Now."),
        }),
    })),
    "tables": listing("The tables that they wrote.", record("A table.", {
        "table": text("Its name."),
        "same": flag("The rows are those of then."),
        "recorded": whole("How many rows there were then."),
        "replayed": whole("How many there are now."),
        "only_recorded": _FOUND_ROWS,
        "only_replayed": _FOUND_ROWS,
    })),
    "held_back": whole("How often one waited for its turn."),
    "relaxed_gates": whole("How often the order of then could not be kept."),
    "relaxed": texts("Where, a sentence each."),
    "fidelity": FIDELITY,
})  # fmt: skip
_CHECK_ROWS = listing("The rows that the check found.", anything("A row, by column."))

# --- incidents ---------------------------------------------------------------------------------------

RUN = {
    "state": word("How it stands.", ("running", "done", "cancelled", "failed")),
    "began_at": moment("When it was begun."),
    "ended_at": maybe(moment("When it ended.")),
    "problem": maybe(of(PROBLEM, "Why it failed.")),
}
NO_RUN = {"description": "No such run is known.", "const": "none"}
_WINDOW = {
    "name": maybe(text("Its name, where it was pinned.")),
    "since": moment("Where it begins."),
    "until": moment("Where it ends."),
}
_EXECUTIONS = whole("How many executions began in it.")
_FAILED = whole("How many of these failed.")
_VERDICTS = counts("How many had which verdict.")

# --- bisects -----------------------------------------------------------------------------------------

MARK = word("What a run means for its commit.", Mark)
_END_OF_SEARCH = {
    "sha": text("The commit."),
    "verdict": maybe(text("What became of the execution on it; null: it was not run.")),
    "mark": maybe(word("What that means for the commit.", Mark)),
    "runs": whole("How many runs of it were made."),
    "reason": maybe(text("Why.")),
}
_BISECT_RUN = {
    "sha": text("The commit."),
    "verdict": text("What became of the execution on it."),
    "mark": MARK,
    "elapsed_ms": milliseconds("How long it took."),
    "reason": text("Why."),
    "subject": text("First line of the commit's message."),
    "execution": text("Name of the execution that decided."),
    "replay": maybe(text("Name of its replay, where that is on record.")),
    "cached": flag("Nothing was run: it had been before."),
}
_LEFT_OUT = listing("Executions that have no part in it.", record("An execution.", {
    "execution": text("Its name."), "reason": text("Why not."),
}))  # fmt: skip
_FINDING = {
    "commit": text("The commit."),
    "author": text("Who wrote it."),
    "date": moment("When."),
    "subject": text("First line of its message."),
    "files": listing("Files that it changed.", record("A file.", {
        "path": text("In the repository."),
        "added": maybe(whole("Lines added; null: it is no text.")),
        "removed": maybe(whole("Lines removed; null: it is no text.")),
    })),
    "hunks": listing("Changed pieces of code, those that ran where these are known.", record("A piece.", {
        "file": text("In the repository."), "line": whole("Where it begins."),
        "lines": texts("With `+`, `-` or a space in front."),
    })),
    "hunks_were_run": flag("These are the pieces that the execution ran."),
    "changed_path": flag("It changed a line in the stack or the calls of the failure."),
    "hunks_left_out": whole("How many more there are."),
}  # fmt: skip
FINDING = Shared("finding", record("What a commit is, and which part of it ran.",
                                   {"schema": tag("bisect-finding")} | _FINDING))  # fmt: skip
_PLAN = {
    "executions": listing("What is to be run on each commit.", of(SUMMARY)),
    "left_out": _LEFT_OUT,
    "bad": record("Where it fails.", {
        "sha": text("The commit."),
        "source": word("Who says so.", ("given", "record")),
        "dirty": flag(DIRTY),
        "recorded": flag("The failure is on record there."),
    }),
    "goods": listing("Where it may pass, to be tried in this order.", record("A commit.", {
        "sha": text("The commit."),
        "source": text("Why it is thought of."),
        "execution": maybe(text("Name of an execution that passed on it.")),
    })),
    "functions_from": maybe(text("Commit whose functions are laid over each commit.")),
}  # fmt: skip
PLAN = Shared("plan", record("Where a bisect begins.", {"schema": tag("bisect-plan")} | _PLAN))
_BISECT = {
    "first_bad": maybe(text("The commit that broke it; null: none can be named.")),
    "candidates": texts("The commits that it may be."),
    "refused": maybe(text("Flux's code for why there is no answer.")),
    "reason": maybe(text("Why there is none, or no single one.")),
    "good": maybe(record("The good end.", _END_OF_SEARCH)),
    "bad": record("The bad end.", _END_OF_SEARCH | {"recorded": flag("The failure is on record there.")}),
    "steps": listing("The runs of the search, in order.", record("A run.", _BISECT_RUN)),
    "skipped": whole("How many commits could not be judged."),
    "proof": maybe(listing("The runs that prove it: of the commit and its parents.", record("A commit.", {
        "role": word("Which it is.", ("parent", "commit")), **_END_OF_SEARCH,
    }))),
    "runs": whole("How many runs were made."),
    "bound": maybe(whole("How many a search of so many commits may take; null: it never began.")),
    "doubted": flag("The commit changed no line of the failure's stack or calls, so more runs had to speak for it."),
    "cached": whole("How many runs had been made before."),
    "left_out": _LEFT_OUT,
    "finding": maybe(of(FINDING)),
    "first_difference": maybe(of(FIRST, "Where the runs on the commit and on its parent part.")),
    "log": maybe(text("Path of the log, in the form of `git bisect log`.")),
}  # fmt: skip
_BISECT_OF_PAGE = record("The answer, once there is one.", {"schema": tag("bisect")} | _BISECT | {
    "said": record("The same in sentences.", {
        "ends": texts("What each end was seen to do."),
        "proofs": texts("What the commit and its parents were seen to do."),
        "more": text("What took more runs than usual; may be empty."),
    }),
})  # fmt: skip
_BEGUN_BISECT = {
    "execution": of(SUMMARY),
    "plan": maybe(of(PLAN)),
    "commits": maybe(whole("How many commits there are to choose from, once that is known.")),
    "steps": listing("The runs so far, in order.", record("A run.", _BISECT_RUN | {
        "purpose": word("What it is for.", Purpose),
        "run": whole("Which run of its commit, from 1."),
        "wanted": whole("How many runs of it were wanted by then."),
    })),
    "answer": maybe(_BISECT_OF_PAGE),
    **RUN,
}  # fmt: skip

# --- deploys -----------------------------------------------------------------------------------------

_DEPLOYED = {"deployment": text(DEPLOYMENT), "sha": text(SHA), "dirty": flag(DIRTY)}
_ACCEPTANCE = record("An entry of `flux.accept.toml`.", {
    "signature": text("The group that it is for."),
    "what": text("The change, in words."),
    "reason": text("Why it is meant."),
    "until": text("The last day on which it holds: a date."),
    "holds": flag("It holds today."),
})  # fmt: skip
_GUARD = {
    "passes": flag("The code may be served."),
    "refusals": texts("Why not, a sentence each."),
    "total": whole("How many executions were replayed."),
    "counts": counts("How many of them showed what.", Finding),
    "groups": listing("Executions that changed in the same way; failing ones first, then the largest.", record(
        "A group.", {
        "signature": text("Its name, the same in another run."),
        "finding": word("What they show.", Finding),
        "function": text("Name of the function."),
        "effect": text("What is another one."),
        "root": maybe(text("The call where the two part, where it is not the effect itself.")),
        "count": whole("How many there are.", least=1),
        "names": texts("Names of the first of them."),
        "accepted": flag("An entry accepts it."),
        "acceptance": maybe(_ACCEPTANCE),
        "entry": maybe(text("The entry that would accept it.")),
        "example": record("The smallest of them.", {
            "execution": of(SUMMARY),
            "replayed": maybe(record("How it ended on the new code.", {
                "status": maybe(whole("HTTP status of the answer.")),
                "error": maybe(of(ERROR)),
                "stopped": maybe(text("Why it did not come to an end of its own.")),
            })),
            "first_difference": maybe(of(FIRST)),
        }),
    })),
    "undecided": listing("Why some can't be judged.", record("A reason.", {
        "reason": text("In words."), "count": whole("How many."), "names": texts("Names of the first of them."),
    })),
    "undecided_share_max": number("Which share of them may be undecided, 0 to 1."),
    "unused": listing("Entries that cover nothing of this.", _ACCEPTANCE),
    "asked": whole("How many executions were asked for."),
    "looked_at": whole("Among how many of the latest they were chosen."),
    "strata": whole("How many kinds of executions these are: by function, route, and how it ended."),
    "not_whole": whole("How many of these were left aside: cut off, or their records are not whole."),
    "not_seen": texts("Functions that no execution shows."),
}  # fmt: skip
GUARD = Shared("guard", record("What the replays before a deploy show.", {"schema": tag("guard")} | _GUARD))
DESTRUCTIVE = listing("Steps that take something away.", record("A step.", {
    "path": text("The migration."), "line": whole("Line in it."), "what": text("What goes."),
}))  # fmt: skip
_SWITCH = {
    **_DEPLOYED,
    "branch": maybe(text("Name of the branch.")),
    "functions": texts("Names of the functions."),
    "deployed": flag("It is served now."),
    "unchanged": flag("It was served before."),
    "before": maybe(record("What was served before.", _DEPLOYED)),
    "elapsed_ms": milliseconds("How long it took."),
    "migrations": texts("Migrations that were applied."),
    "destructive": DESTRUCTIVE,
    "notes": texts("What is to be known of it, a sentence each."),
    "gate": maybe(of(GUARD, "What the replays before it show, where it was guarded.")),
}
_DEPLOY = Shared("deploy", record("How a deploy ended.", {"schema": tag("deploy")} | _SWITCH))

KINDS: tuple[Kind, ...] = (
    kind("replay", "An execution that was run again.", ("flux replay ID", "POST executions/ID/replay"), _REPLAY,
         _REPLAY_MAY),
    kind("replays", "Begins the stream of the replays of a window.", ("POST replays",), {
        "on": maybe(text(ON)),
        "total": whole("How many executions are to be replayed."),
        "not_stored": NOT_STORED,
    }, lines=(
        of(REPLAY), UNREPLAYABLE, HEARTBEAT, end({"replayed": whole("How many were.")}),
    )),
    kind("expected", "Executions that are to be replayed soon were taken note of.", ("POST expect",), {
        "executions": whole("How many."),
    }),
    kind("trace-diff", "Two executions side by side.",
         ("flux trace diff A B", "GET executions/A/diff/B", "POST executions/ID/diff"), _DIFF),
    kind("interleave", "Executions that were replayed at once.",
         ("flux incident replay --interleave", "flux replay ID --interleave", "POST interleave"), {
        "on": maybe(text(ON)),
        "code": CODE,
        "verdict": word("What they show together.", TogetherVerdict),
        "reason": text("Why that is the verdict."),
        "total": whole("How many executions."),
        "transactions": whole("How many transactions."),
        "check": maybe(record("What the check found; null: none was asked for.", {
            "recorded": _CHECK_ROWS, "replayed": _CHECK_ROWS, "in_turn": maybe(_CHECK_ROWS),
        })),
        "together": _TOGETHER,
        "in_turn": maybe(_TOGETHER),
        "notes": texts("What was not as it was then, a sentence each."),
        "effects_left": {"description": "Always 0: nothing left Flux.", "const": 0},
    }),
    kind("incident", "A window of time.", ("flux incident pin NAME WINDOW", "GET incidents/WINDOW", "POST incidents"),
         _WINDOW, {
        "executions": _EXECUTIONS,
        "failed": _FAILED,
        "log_since": maybe(moment("Of one that was pinned: where the log of row changes begins, if in the window.")),
    }),
    kind("incidents", "The windows that have a name.", ("flux incident list", "GET incidents"), {
        "incidents": listing("By when they were pinned.", record("A window.", _WINDOW | {
            "pinned_at": moment("When it was given its name."), "executions": _EXECUTIONS, "failed": _FAILED,
        })),
    }),
    kind("incident-replay", "The replays of a window, counted.", ("flux incident replay WINDOW",), {
        "window": text("As it was written."),
        "on": text(ON),
        "total": whole("How many executions."),
        "verdicts": _VERDICTS,
        "groups": listing("By failure.", record("A failure.", {
            "failure": text("In a line."),
            "count": whole("How many failed so."),
            "verdicts": _VERDICTS,
            "names": texts("Their names."),
        })),
        "effects_left": {"description": "Always 0: nothing left Flux.", "const": 0},
        "executions": listing("Each of them.", either("A replay, or why there is none.", of(REPLAY), UNREPLAYABLE)),
    }),
    kind("incident-run", "How far the replays of a window are.",
         ("POST incidents/WINDOW/replay", "GET incidents/WINDOW/replay"), {
        "window": text("Its two times, with `..` between."),
        "state": word("How it stands; of `none`, no other member is there.",
                      ("none", "running", "done", "cancelled", "failed")),
    }, {
        **{name: shape for name, shape in RUN.items() if name != "state"},
        "on": text(ON),
        "total": whole("How many executions are to be replayed."),
        "not_stored": NOT_STORED,
        "replayed": whole("How many were."),
        "left_ms": maybe(milliseconds("About how long the rest takes.")),
        "verdicts": _VERDICTS,
        "groups": listing("By failure.", record("A failure.", {
            "failure": text("In a line."),
            "count": whole("How many failed so."),
            "verdicts": listing("By verdict.", record("A verdict.", {
                "verdict": VERDICT,
                "count": whole("How many had it."),
                "reasons": listing("By reason.", record("A reason.", {
                    "reason": text("In words."), "count": whole("How many."),
                    "names": texts("Names of the first fifty."),
                })),
            })),
        })),
        "notes": listing("What was not as it was then.", record("A note.", {
            "note": text("A sentence."), "count": whole("Of how many replays."),
        })),
        "codes": whole("On how many deployments they ran: more than one, where the code was saved meanwhile."),
        "held": listing("What they would have pushed to the queue.", record("Pushes.", {
            "function": text("To which function."), "grade": text("How they compare with the record."),
            "count": whole("How many."),
        })),
        "effects_left": whole("How many requests left Flux."),
    }, more={
        "if": {"properties": {"state": {"const": "none"}}, "additionalProperties": True},
        "else": {"required": ["began_at", "ended_at", "problem", "on", "total", "not_stored", "replayed", "left_ms",
                              "verdicts", "groups", "notes", "codes", "held", "effects_left"]},
    }),
    kind("bisect-plan", "Where a bisect would begin.", ("GET executions/ID/bisect", "POST bisect/plan"), _PLAN),
    kind("bisect-graph", "The commits between the two ends of a bisect.", ("POST bisect/graph",), {
        "commits": listing("Each: the commit and its parents.", texts("Commits.")),
        "likelier": texts("Those that touch what the execution ran."),
    }),
    kind("bisect-probe", "An execution was run on a commit.", ("POST bisect/probe",), {
        "execution": text("Name of the execution."),
        "commit": text("The commit."),
        "subject": text("First line of its message."),
        "verdict": text("What became of the execution, or why it was not run."),
        "reason": text("Why."),
        "built": flag("The code could be made ready."),
        "cached": flag("Nothing was run: it had been before."),
        "elapsed_ms": milliseconds("How long it took."),
        "replay": maybe(of(REPLAY)),
        "name": maybe(text("Name under which the replay is on record.")),
    }),
    kind("bisect-finding", "What a commit is, and which part of it ran.", ("POST bisect/finding",), _FINDING),
    kind("bisect", "Which commit broke it.", ("flux bug bisect ID",), _BISECT),
    kind("bisect-run", "How far a bisect is.", ("POST bisects/ID", "GET bisects/ID"), {
        "execution": of(SUMMARY),
        "state": word("How it stands; of `none`, plan and problem say where it would begin, or why it can't.",
                      ("none", "running", "done", "cancelled", "failed")),
        "plan": maybe(of(PLAN)),
        "problem": maybe(of(PROBLEM)),
    }, {name: shape for name, shape in _BEGUN_BISECT.items() if name not in ("execution", "state", "plan", "problem")},
       more={
        "if": {"properties": {"state": {"const": "none"}}, "additionalProperties": True},
        "else": {"required": ["commits", "steps", "answer", "began_at", "ended_at"]},
    }),
    kind("bisect-runs", "The bisects that the server remembers.", ("GET bisects",), {
        "runs": listing("The latest first.", record("A bisect.", {"schema": tag("bisect-run")} | _BEGUN_BISECT)),
    }),
    kind("guard", "What the replays before a guarded deploy show: the `gate` of `flux.deploy/1`.",
         ("flux deploy --guard N",), _GUARD),
    kind("guarded", "Begins the stream of a guarded deploy.", ("POST deploy/guarded",), {
        "asked": whole("How many executions are to be replayed, at most."),
    }, lines=(
        record("How far it is.", {"judged": whole("How many were judged."), "of": whole("Of how many.")}),
        HEARTBEAT,
        end({"deploy": maybe(of(_DEPLOY, "How the deploy ended; null where it was not come to."))}),
    )),
    kind("deploy", "How a deploy ended.", ("flux deploy", "POST deploy"), _SWITCH),
    kind("rollback", "How a rollback ended.", ("flux rollback", "POST rollback"), _SWITCH),
    kind("deployments", "What was served.", ("flux deployments", "GET deployments"), {
        "deployments": listing("The latest first.", record("A deployment.", _DEPLOYED | {
            "branch": maybe(text("Name of the branch.")),
            "functions": texts("Names of the functions."),
            "current": flag("It is served now."),
            "cause": word("Why it was served.", Cause),
            "at": moment("When it was served last."),
            "deploys": whole("How often it came to be served."),
            "executions": whole("How many executions it has."),
            "failed": whole("How many of these failed."),
            "runtime": {"description": "What ran it: names and versions.", "type": "object",
                        "additionalProperties": {"type": "string"}},
            "kept": flag("Its code is still here."),
        })),
    }),
)  # fmt: skip
