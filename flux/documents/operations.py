"""Documents about running a server: queue, schedules, secrets, tokens, tenants, what is kept, and how it is."""

from flux.documents.executions import JOB, OUTCOMES
from flux.documents.shape import (
    Kind,
    anything,
    counts,
    flag,
    kind,
    listing,
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
from flux.jobs import State
from flux.schedule import Fate

_TICK = {
    "tick": moment("The time of the schedule."),
    "fate": word("What became of it: it was run, the run before was not done, or no server was there.", Fate),
    "left_out": whole("How many ticks before it were left out."),
    "state": maybe(word("How its job stands; null: it was not run.", State)),
    "execution": maybe(text("Name of its job's latest execution that has ended.")),
    "status": maybe(whole("HTTP status of that one.")),
    "outcome": maybe(word("How that one ended.", OUTCOMES)),
}
_SCHEDULE = {
    "schedule": text("As cron writes it: `0 3 * * *`."),
    "time_zone": text("In which it is meant."),
}
_CHECKS = listing("What was looked at.", record("A check.", {
    "name": text("What."),
    "ok": flag("It is as it should be."),
    "detail": text("What was found."),
    "remedy": text("The next step; may be empty."),
}))  # fmt: skip
_TOKEN = {
    "name": text("Its name."),
    "kind": word("Whom it is for: who asks the console, or who asks the project's routes.", ("console", "api")),
    "scopes": texts("What it allows."),
    "good": flag("It may be used."),
    "created_at": moment("When it was made."),
    "expires_at": maybe(moment("From when on it is refused; null: it does not expire.")),
    "revoked_at": maybe(moment("From when on it is refused, as it was revoked or rotated.")),
    "last_used_at": maybe(moment("When it was used last, to a minute.")),
}
_SERVES = {
    "url": text("Where requests are taken."),
    "pid": whole("The process that serves."),
    "functions": listing("What is served.", record("A function.", {
        "trigger": text("HTTP method, `cron`, or empty."),
        "path": text("The route's path, or the schedule; may be empty."),
        "function": text("Its name."),
        "grants": texts("What it may reach."),
    })),
}  # fmt: skip
_DRY_RUN = flag("It was only counted.")

KINDS: tuple[Kind, ...] = (
    kind("dev", "A server takes requests.", ("flux dev",), _SERVES),
    kind("serve", "A server takes requests.", ("flux serve",), _SERVES),
    kind("queue", "Jobs of the queue.", ("flux queue list", "flux queue dead-letter", "GET queue"), {
        "jobs": listing("Those that match, the latest first.", of(JOB)),
        "counts": counts("How many jobs there are, by state."),
        "functions": listing("How much of each function is not done.", record("A function.", {
            "function": text("Its name."),
            "due": whole("Jobs that are due."),
            "delayed": whole("Jobs that are due later."),
            "running": whole("Jobs that run."),
            "dead": whole("Jobs that are not tried again."),
            "oldest_due_ms": milliseconds("For how long the oldest has been due."),
        })),
    }),
    kind("job", "A job that waits again.", ("flux queue retry ID", "POST queue/ID/retry"), {"job": of(JOB)}),
    kind("cron", "Schedules.", ("flux cron list", "flux cron pause NAME", "flux cron resume NAME", "GET cron",
         "POST cron/FUNCTION/pause", "POST cron/FUNCTION/resume"), {
        "schedules": listing("Each of them.", record("A schedule.", {
            "function": text("Name of the function."),
            **_SCHEDULE,
            "next": maybe(moment("When it is due next; null while it is paused.")),
            "paused_at": maybe(moment("Since when it is paused.")),
            "last": maybe(record("What became of its last tick.", _TICK)),
        })),
    }),
    kind("cron-history", "What became of a function's ticks.",
         ("flux cron history NAME", "GET cron/FUNCTION/history"), {
        "function": text("Name of the function."),
        "ticks": listing("The latest first.", record("A tick.", _SCHEDULE | _TICK)),
    }),
    kind("secrets", "Secrets: names, never values.",
         ("flux secrets list", "flux secrets set NAME", "flux secrets delete NAME", "GET secrets", "POST secrets/NAME",
          "POST secrets/NAME/delete"), {
        "secrets": listing("By name.", record("A secret.", {
            "name": text("Its name."),
            "stored": flag("The database has a value, sealed."),
            "local": flag("`.env.local` has a value, which goes first."),
            "changed_at": maybe(moment("When the stored value was set.")),
        })),
    }),
    kind("master-key", "Another master key seals the secrets.",
         ("flux secrets rotate", "POST secrets/master-key/rotate"), {
        "secrets": whole("How many values are sealed with it."),
        "tenants": listing("Likewise of each tenant.", record("A tenant.", {
            "name": text("Its name."),
            "secrets": whole("How many values are sealed with it."),
            "closed": whole("How many are as they were: they open with no key, or are too many."),
        })),
    }),
    kind("token", "A token was made: the only time that it is shown.",
         ("flux token create NAME", "flux token rotate NAME", "POST tokens", "POST tokens/rotate"), {
        "token": text("The token."), **_TOKEN,
    }),
    kind("tokens", "Tokens, without their values.",
         ("flux token list", "flux token revoke NAME", "GET tokens", "POST tokens/revoke"), {
        "tokens": listing("Revoked ones too.", record("A token.", _TOKEN)),
    }),
    kind("tenants", "Tenants.", ("flux tenant list", "flux tenant show NAME", "flux tenant add NAME",
         "flux tenant set NAME", "flux tenant remove NAME", "GET tenants", "GET tenants/NAME", "POST tenants",
         "POST tenants/NAME/set", "POST tenants/NAME/remove"), {
        "tenants": listing("By name.", record("A tenant.", {
            "name": text("Its name."),
            "url": text("By which the machine that serves reaches it."),
            "hosts": texts("Names of hosts whose requests are its."),
            "folder": text("Its project's folder."),
            "up": flag("It is served."),
            "problem": maybe(text("Why it is not.")),
            "database": word("`made`: Flux made its database; `given`: it was named by a URL.", ("made", "given")),
            "quotas": record("What it may use; null: as much as there is.", {
                "weight": whole("Its share where several wait for their turn: 200 has two turns while 100 has one."),
                "concurrency": whole("Executions at a time."),
                "memory_bytes": whole("What their memory limits may come to together, in bytes."),
                "requests_per_minute": maybe(whole("Requests in a minute.")),
                "storage_bytes": maybe(whole("Size of its database, in bytes.")),
                "cpu_ms_per_minute": maybe(whole("Processor time in a minute, in milliseconds.")),
            }),
            "use": maybe(record("What it uses now; null while it is not served.", {
                "running": whole("Executions that run."),
                "waiting": whole("Executions that wait for a turn."),
                "turns_kept": whole("Turns that are kept for it."),
                "memory_bytes": whole("Memory that is set aside for what runs, in bytes."),
                "requests": maybe(whole("Requests of a minute's quota that are used; null without a quota.")),
                "storage_bytes": maybe(whole("Size of its database, in bytes; null: not measured yet.")),
                "cpu_ms": maybe(whole("Processor time of a minute's quota that is used, in milliseconds; null "
                                      "without a quota.")),
                "cpu_ms_total": whole("Processor time since its server has started, in milliseconds."),
                "refused": counts("Requests that were refused since then, by what they met.",
                                  ("turns", "memory", "requests", "cpu", "storage", "stopped")),
            })),
            "added_at": maybe(moment("When it was added.")),
        })),
    }),
    kind("records-pruned", "What was old was taken out of the records.", ("flux records prune", "POST records/prune"), {
        "dry_run": _DRY_RUN,
        "retention_days": whole("For how many days records are kept."),
        "error_retention_days": whole("For how many days those of failures are."),
        "executions": whole("How many executions were, or would be, taken out."),
        "kept_errors": whole("How many older ones are kept because they failed."),
        "kept_pinned": whole("How many are kept for a pinned incident alone."),
        "log_days": whole("Days of the log of changes that were taken out."),
        "log_rows": whole("Rows of it."),
        "log_since": maybe(moment("From where on the log is kept; null: nothing of it is that old.")),
        "blobs": whole("Values that no record needs any more."),
        "waiting": whole("Days that somebody holds: they go the next time."),
    }),
    kind("records-forgotten", "A row was taken out of the records.",
         ("flux records forget TABLE KEY", "POST records/forget"), {
        "dry_run": _DRY_RUN,
        "table": text("The table, with its schema: `public.users`."),
        "key": anything("The primary key, by column."),
        "exists": flag("The row is still in its table: what it has now stays."),
        "values": whole("Different values that were looked for."),
        "values_shared": whole("Of them, those that can't be told from others'."),
        "executions": whole("How many executions held some of them."),
        "calls": whole("How many host calls did."),
        "replays": whole("How many of the executions are replays."),
        "changes": whole("Changes of the row, in the log."),
        "elsewhere": counts("Changes of other rows that held a value of the row's own, by table."),
        "blobs": whole("Stored values."),
        "jobs": whole("Jobs that had failed for good."),
        "jobs_waiting": whole("In a dry run: jobs that are to run and hold such values."),
        "pinned": texts("Pinned incidents that some of the executions are in."),
        "not_stored": whole("How many executions have ended and are not stored yet."),
    }),
    kind("redact-test", "What the rules of redaction would take out.", ("flux redact FILE", "POST redact/test"), {
        "rules": texts("The rules in force."),
        "execution": maybe(text("Name of the execution that was tried; null: a document was.")),
        "document": anything("The document as it would be stored; null: an execution was tried."),
        "taken": listing("What would be taken out.", record("A value.", {
            "part": text("Of what."), "path": maybe(text("The path in it; null: all of the part.")),
        })),
    }),
    kind("checks", "How the server is.", ("GET checks",), {"checks": _CHECKS}),
    kind("doctor", "Whether everything that Flux needs is here, and how the server is.", ("flux doctor",), {
        "checks": _CHECKS,
    }),
    kind("live", "The process answers.", ("GET /_flux/live",), {"live": flag("Always true.")}),
    kind("health", "Whether requests should be sent here.", ("GET /_flux/health",), {
        "ready": flag("They should."),
        "reasons": listing("Why not.", record("A reason.", {
            "name": word("What it is.", ("draining", "deployment", "database")),
            "code": maybe(text("Flux's code for it, where an error is behind it.")),
        })),
    }),
)  # fmt: skip
