"""How long a transaction may last, told to the server with its BEGIN: it ends it though its client is gone."""

import re


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
