"""What is asked of a world, and what is said when there is none."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from flux.errors import OperatorError
from flux.store.migrate import UserMigration

ROWS_MAX = 1_000_000
"""Rows of a written table that are copied at most."""
ROWS_COPIED_MAX = 20_000
"""Rows of a written table that are copied at most if a copy of the rows that a replay touches does as well. To make a
world must not take seconds because somebody writes one row of a large table."""


class WorldError(OperatorError):
    """The database can't be rebuilt as the execution saw it."""

    code = "FLX313"
    exit_code = 6


@attrs.frozen
class WorldPlan:
    """What a world is to be."""

    schema: str
    """Where the guest's tables are."""
    snapshot: str
    """``pg_current_snapshot()`` of the recorded transaction."""
    started_at: datetime
    """About when the transaction began: what ``now()`` says, unless a recorded row tells better."""
    written: frozenset[str]
    """Tables of the schema that are copied."""
    inserted: Mapping[str, Sequence[Mapping[str, object]]] = attrs.Factory(dict)
    """By table, the rows that the recorded transaction inserted, as JSON has them and in their order: they tell what
    its sequences and its defaults gave, and what time it was."""
    drawn: Mapping[str, Sequence[int]] = attrs.Factory(dict)
    """By sequence, what the record shows that it gave, beside what became of rows."""
    seed: str = ""
    """What chance in the database is made of: ``random()`` and the like, where the record shows nothing."""
    migrations: Sequence[UserMigration] = ()
    """The project's, as the code to be replayed has them. Those that had not been applied then are, to the copies."""
    whole: frozenset[str] = frozenset()
    """Written tables of which more than touched rows are to be copied, if they have no more than ``rows_max``."""
    aside: frozenset[str] = frozenset()
    """Written tables whose rows are to be set aside when others have overtaken them."""
    rows_max: int = ROWS_MAX
    """Rows of a written table that are copied at most."""
    rows_copied_max: int = ROWS_COPIED_MAX
    """Likewise, where touched rows do as well."""
