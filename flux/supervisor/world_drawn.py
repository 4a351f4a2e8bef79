"""What a record shows of sequences that no row has: the answers to ``select nextval('...')``."""

from flux.calls import read_statement
from flux.execution import Execution
from flux.sql_world import find_drawn


def list_drawn(original: Execution, schema: str) -> dict[str, list[int]]:
    """Return what sequences of ``schema`` gave to statements that asked one for a number, in order."""
    drawn: dict[str, list[int]] = {}
    for call in original.calls:
        statement = read_statement(call)
        if statement is None or statement.rows is None or "nextval" not in statement.columns:
            continue
        names = find_drawn(statement.sql, schema)
        column = statement.columns.index("nextval")
        if len(names) == 1:
            numbers = [row[column] for row in statement.rows]
            drawn.setdefault(names[0], []).extend(number for number in numbers if isinstance(number, int))
    return drawn
