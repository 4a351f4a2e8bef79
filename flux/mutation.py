"""A mutation: one row before and after, and whether it stayed."""

import enum

import attrs


class Operation(enum.StrEnum):
    """What happened to the row."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"


OPERATION_OF_LETTER = {
    "I": Operation.INSERT,
    "U": Operation.UPDATE,
    "D": Operation.DELETE,
    "T": Operation.TRUNCATE,
}
"""The capture triggers' one-letter form."""


@attrs.frozen
class Mutation:
    """A row before and after."""

    schema: str
    """Schema of the table."""
    table: str
    """Name of the table, without its schema."""
    key: str | None
    """Primary key as a JSON object, e.g. ``{"id":42}``; None for a table without one."""
    op: Operation
    before: str | None
    """The row as JSON before the change; None for an insert."""
    after: str | None
    """The row as JSON after the change; None for a delete."""
    committed: bool
    """False: it was made and rolled back, nothing of it is left."""
    xid: int
    """Transaction id (xid8) that made it."""
    ordinal: int = 0
    """Number of the capturing statement within the transaction, from 1; 0 when unknown."""
    depth: int = 1
    """1: by the statement itself; more: by a trigger or a cascade."""
    call: int | None = None
    """Seq of the host call that made it, when known."""
    at_ns: int = 0
    """When, in nanoseconds since the Unix epoch; 0 when unknown."""
