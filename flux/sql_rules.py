"""Which SQL a guest may not send, and what to use instead.

Postgres itself enforces who may touch what: guests have a role of their own. What
it would not refuse is a guest that ends the transaction which Flux holds for it, or
changes the session that the next execution will use. Those statements are known by
their first words. (A second statement in the same text never runs: the extended
protocol takes one.)
"""

import re

# A comment ends at a carriage return as well (Postgres' scan.l). White space here is more than
# Postgres skips, which takes the rest for a name: then nobody runs what is refused here.
_SKIPPED = re.compile(r"\s+|--[^\n\r]*")
_WORD = re.compile(r"[A-Za-z_]+")

_TRANSACTION = "Flux holds the execution's transaction: use ctx.db.transaction(), or raise to roll back"
_SESSION = "a session's settings belong to Flux: the next execution would inherit them"
_PREPARED = "statements are prepared by themselves: send the SQL with its parameters"

REFUSALS = {
    "begin": _TRANSACTION,
    "start": _TRANSACTION,
    "commit": _TRANSACTION,
    "end": _TRANSACTION,
    "rollback": _TRANSACTION,
    "abort": _TRANSACTION,
    "savepoint": _TRANSACTION,
    "release": _TRANSACTION,
    "set": _SESSION,
    "reset": _SESSION,
    "discard": _SESSION,
    "prepare": _PREPARED,
    "execute": _PREPARED,
    "deallocate": _PREPARED,
    "copy": "COPY moves data past the host call: insert rows with a multi-row INSERT or unnest()",
    "listen": "a function can't wait for notifications: it ends with its request",
    "unlisten": "a function can't wait for notifications: it ends with its request",
    "load": "libraries are loaded by the database's owner",
    "vacuum": "maintenance is the database owner's",
    "checkpoint": "maintenance is the database owner's",
    "cluster": "maintenance is the database owner's",
}
"""What is refused, by first word, and what to do instead."""


def get_first_word(sql: str) -> str:
    """Return the statement's first word in lower case, comments skipped; empty when there is none."""
    position = 0
    while position < len(sql):
        if word := _WORD.match(sql, position):
            return word[0].lower()
        if skipped := _SKIPPED.match(sql, position):
            position = skipped.end()
        elif sql.startswith("/*", position):
            depth, position = 1, position + 2
            while depth and position < len(sql):  # Comments nest in SQL.
                if sql.startswith("/*", position):
                    depth, position = depth + 1, position + 2
                elif sql.startswith("*/", position):
                    depth, position = depth - 1, position + 2
                else:
                    position += 1
        elif sql[position] in ";(":
            position += 1
        else:
            return ""
    return ""


def find_refusal(sql: str) -> str | None:
    """Return why a guest may not send ``sql`` and what to use instead, or None when it may."""
    word = get_first_word(sql)
    advice = REFUSALS.get(word)
    return None if advice is None else f"{word.upper()} is refused: {advice}"
