"""Documents about rows: their versions, who wrote their columns, what they were and what became of them."""

from flux.documents.executions import MIGRATION, NOT_STORED, OUTSIDE, SHA, VERSION
from flux.documents.shape import (
    Kind,
    Schema,
    anything,
    flag,
    kind,
    listing,
    mapping,
    maybe,
    moment,
    of,
    record,
    text,
    texts,
    whole,
    word,
)  # fmt: skip

_TABLE = text("The table, with its schema: `public.users`.")
_MORE = flag("There are more than were asked for.")
_NOTES = texts("What can't be told from the record, a sentence each.")
_WRITER = {
    "execution": maybe(text("Name of the execution.")),
    "function": maybe(text("Name of its function.")),
    "method": maybe(text("HTTP method of its request.")),
    "path": maybe(text("Path of its request.")),
    "at": maybe(moment("When.")),
    "sha": maybe(text(SHA)),
    "migration": MIGRATION,
    "outside": OUTSIDE,
}
_ROW = {"type": "object"}
_SNAPSHOT = text("PostgreSQL's snapshot that saw them so.")


def _moment(what: str) -> Schema:
    return record(what, {"time": moment("The time."), "snapshot": _SNAPSHOT})


KINDS: tuple[Kind, ...] = (
    kind("state-history", "Every version of a row.", ("flux state history TABLE KEY", "GET state/history"), {
        "versions": listing("In order; those that were rolled back have no number.", of(VERSION)),
        "notes": _NOTES,
        "not_stored": NOT_STORED,
    }),
    kind("state-blame", "Who wrote each column of a row.", ("flux state blame TABLE KEY", "GET state/blame"), {
        "table": _TABLE,
        "key": anything("The primary key, by column."),
        "exists": flag("The row is there now."),
        "columns": mapping("By column.", record("A column.", {
            "value": anything("Its value."),
            **_WRITER,
            "reason": maybe(text("Why the writer is not known.")),
            "after": maybe(moment("It was written after this change.")),
            "before": maybe(moment("It was written before this change.")),
        })),
        "deleted": maybe(record("Who deleted the row.", _WRITER)),
        "rolled_back": listing("Changes that were rolled back.", of(VERSION)),
        "not_stored": NOT_STORED,
    }),
    kind("state-at", "Rows as they were.", ("flux state at TABLE", "GET state/at"), {
        "table": _TABLE,
        "as_of": record("As of when.", {
            "time": maybe(moment("The time; null where a snapshot says it.")),
            "execution": maybe(text("Name of the execution that found them so.")),
            "snapshot": _SNAPSHOT,
        }),
        "rows": listing("Rows, by column.", {"description": "A row.", **_ROW}),
        "keys": listing("Their primary keys, in the same order.", anything("By column; null for a table without.")),
        "gaps": listing("Places of rows that were not as their last recorded change had left them.", whole("From 0.")),
        "lost": mapping("Columns that some of the rows lack, by name.", text("Why.")),
        "notes": _NOTES,
        "more": _MORE,
        "written": maybe(record("Of a single row: the last change that the moment saw.", _WRITER)),
        "not_stored": NOT_STORED,
    }),
    kind("state-diff", "What became of rows.", ("flux state diff TABLE", "GET state/diff"), {
        "table": _TABLE,
        "from": _moment("From when."),
        "to": _moment("Until when."),
        "changes": listing("Rows that are not the same.", record("A row.", {
            "key": anything("The primary key, by column; null for a table without."),
            "op": word("What became of it, all in all.", ("insert", "update", "delete")),
            "before": maybe({"description": "The row then, by column.", **_ROW}),
            "after": maybe({"description": "The row afterwards, by column.", **_ROW}),
            "count": whole("How many changes that took; without a key, how many such rows came or went."),
            "gap": flag("It was found otherwise than its last recorded change had left it."),
            "writers": listing("The latest who changed it, newest first.", record("A change.", {
                name: _WRITER[name] for name in ("execution", "function", "at", "sha", "migration", "outside")
            })),
        })),
        "undone": whole("How many rows were changed and are as they were."),
        "notes": _NOTES,
        "more": _MORE,
        "not_stored": NOT_STORED,
    }),
)  # fmt: skip
