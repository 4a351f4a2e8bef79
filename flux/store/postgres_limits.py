"""How long things may last: what is sent, by its size; and a transaction, which is told to the server with its BEGIN,
so that it ends it though its client is gone."""

import re
from collections.abc import Iterable

SLOW_LINE_BYTES_PER_S = 256 * 1024
"""A line that takes no more than this is still waited for: what is sent may take so much longer as it is larger."""


def sending_s(size_bytes: int) -> float:
    """How many seconds ``size_bytes`` may be on their way to the database, beside what the database does with them."""
    return size_bytes / SLOW_LINE_BYTES_PER_S


def arguments_sending_s(arguments: Iterable[object]) -> float:
    """The same for a statement's arguments, as far as they are large: bytes and texts."""
    return sending_s(sum(len(argument) for argument in arguments if isinstance(argument, bytes | str)))


def limit_transaction(server_version: str, most_s: float | None) -> str:
    """What goes behind a BEGIN so that the server ends the transaction after ``most_s`` seconds; None: it does not.

    Until 17 there are limits only of how long a statement takes, and of how long none comes.
    """
    if most_s is None:
        return ""
    names = ["transaction_timeout"]
    major = re.match(r"\d+", server_version)
    if major is not None and int(major[0]) < 17:
        names = ["statement_timeout", "idle_in_transaction_session_timeout"]
    return "".join(f"; set local {name} = {round(most_s * 1000)}" for name in names)
