"""Documents of commands that work on the project's folder, its database, or on Flux itself."""

from flux.documents.replays import DESTRUCTIVE
from flux.documents.shape import (
    Kind,
    anything,
    flag,
    kind,
    listing,
    maybe,
    record,
    text,
    texts,
    whole,
    word,
)  # fmt: skip

_PENDING = texts("Paths of migrations that this database has not had.")
_DRIFT = listing("Where folder and database do not agree.", record("A migration.", {
    "kind": word("What is wrong.", ("changed", "missing", "out of order")),
    "path": text("Its path."),
    "detail": text("In a sentence."),
}))  # fmt: skip
_AGAINST = word("What the live schema is compared with.", ("schema.sql", "migrations"))
_DONE = texts("Paths of the migrations that were applied.")
_CODE = text("`FLX204`.")
_TITLE = text("In a few words.")

KINDS: tuple[Kind, ...] = (
    kind("init", "A project was made.", ("flux init DIR",), {
        "folder": text("Its folder."), "files": texts("The files that were written, in it."),
    }),
    kind("eject", "A plain application was written of a project.", ("flux eject DIR",), {
        "folder": text("Its folder."),
        "files": texts("The files that were written, in it."),
        "left_out": listing("What could not come along.", record("Something of the project.", {
            "what": text("A file of the project, a function, a secret, or a key of `flux.toml`."),
            "why": text("The reason, and what to do instead."),
        })),
    }),
    kind("build", "The packages that the functions need are installed.", ("flux build",), {
        "environment": maybe(record("Where; null: the project names none.", {
            "key": text("What it was made of, as a digest."),
            "folder": text("Where the packages are."),
            "source": text("The file that names them."),
            "installer": text("What installed them, with its version."),
            "ran_code": flag("Installing ran code of theirs."),
            "built": flag("It was made just now."),
            "packages": listing("Each of them.", record("A package.", {
                "name": text("Its name."), "version": text("Its version."),
            })),
        })),
    }),
    kind("target", "Files were written that have something else run Flux.", ("flux deploy --target TARGET",), {
        "target": word("What is to run it.", ("systemd", "docker", "k8s")),
        "files": texts("Their paths in the project."),
        "next": texts("What is left to be done."),
    }),
    kind("config", "Every setting.", ("flux config list",), {
        "settings": listing("Each of them.", record("A setting.", {
            "key": text("`limits.timeout`, or a variable's name."),
            "value": anything("As in the file; null: nothing is set, and nothing is the default."),
            "source": text("`flux.toml:12`, `environment` or `default`."),
            "hidden": flag("The value, or a part of it, is not shown."),
        })),
    }),
    kind("db-diff", "The live schema and what it is to be.", ("flux db diff",), {
        "against": _AGAINST,
        "pending": _PENDING,
        "drift": _DRIFT,
        "differences": listing("Objects that are not the same.", record("An object.", {
            "kind": text("`table`, `column`, `index` and so on."),
            "name": text("Its name."),
            "change": word("As the live schema has it.", ("missing", "extra", "changed")),
            "live": maybe(text("Its definition in the live schema.")),
            "wanted": maybe(text("What it is to be.")),
        })),
    }),
    kind("db-push", "The live schema was brought to what it is to be.", ("flux db push",), {
        "against": _AGAINST,
        "statements": listing("What was run.", record("A statement.", {
            "sql": text("SQL."), "destructive": maybe(text("What it took away.")),
        })),
        "done": _DONE,
    }),
    kind("db-migrate", "Migrations.", ("flux db migrate",), {
        "applied": whole("How many had been applied before."),
        "pending": _PENDING,
        "drift": _DRIFT,
        "destructive": DESTRUCTIVE,
        "dry_run": flag("Nothing was done."),
        "done": _DONE,
    }),
    kind("db-reset", "The project's tables were removed, and made again.", ("flux db reset",), {
        "removed": record("What was removed.", {"tables": texts("Tables."), "schemas": texts("Schemas.")}),
        "records_removed": whole("How many executions' records were."),
        "done": _DONE,
    }),
    kind("db-query", "What a statement answered.", ("flux db query SQL",), {
        "columns": listing("In order.", record("A column.", {
            "name": text("Its name."), "type": text("PostgreSQL's name of its type."),
        })),
        "rows": listing("In order.", listing("A row.", anything("A value; what JSON lacks is tagged."))),
        "tag": text("PostgreSQL's word for what was done: `SELECT 1`."),
    }),
    kind("explain", "The page of an error code.", ("flux explain CODE", "flux mcp"), {
        "code": _CODE, "title": _TITLE, "text": text("The page, in Markdown."),
    }),
    kind("explain-list", "All error codes.", ("flux explain",), {
        "codes": listing("In order.", record("A code.", {"code": _CODE, "title": _TITLE})),
    }),
    kind("schemas", "The kinds of documents that have a schema.", ("flux schema",), {
        "kinds": listing("By name.", record("A kind.", {
            "name": text("What the document's `schema` says: `flux.trace/1`."),
            "what": text("What such a document is."),
            "sources": texts("Commands that print it with --json, and questions that it answers."),
        })),
    }),
    kind("completion", "What makes the tab key know Flux's commands.", ("flux completion SHELL",), {
        "shell": word("For which shell.", ("bash", "zsh", "fish")), "script": text("The script."),
    }),
    kind("version", "Which Flux this is.", ("flux --version",), {"version": text("Its version.")}),
    kind("error", "Why a command has no answer: on stderr, where stdout is empty or was cut.", ("every command",), {
        "code": text("Flux's code: `flux explain CODE`."),
        "message": text("What happened."),
        "remedy": text("The next step; may be empty."),
        "exit": whole("The exit code."),
    }),
)  # fmt: skip
