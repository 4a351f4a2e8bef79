"""Following a value back, from the execution that met it to where it came from.

`flux.origins.find_source` takes one step: where had this execution that value from? If it had read it in a row, the
version of the row that it saw (by its own snapshot) has a writer, and the walk goes on there. If it was a job or was
invoked, and had the value as its input, the walk goes on in the execution that pushed or invoked it. Each step is one
look-up of a record, and there are at most `STEPS_MAX`.
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

import attrs

from flux import calls
from flux.evidence import Origin, OriginStep, RowWriter
from flux.execution import Execution
from flux.origins import Cell, FromAnswer, FromInput, FromRow, Source, Unclear, find_source, hands_over
from flux.store.postgres import Pool
from flux.store.reading import NoSuchExecutionError, get_execution

STEPS_MAX = 12

FindWriter = Callable[[Execution, Cell], Awaitable[RowWriter | None]]
"""Return who had written a value that an execution read, by what the reading statement could see."""


async def find_origin(pool: Pool, writer: RowWriter, find_writer: FindWriter) -> Origin | None:
    """Return the way that the value which ``writer`` wrote had come; None when it is not a column's value."""
    if writer.column is None or writer.value is None:
        return None
    steps: list[OriginStep] = []
    value = calls.read_json(writer.value.encode("utf-8", "surrogatepass"))
    current: RowWriter | None = writer
    while current is not None and len(steps) < STEPS_MAX:
        assert current.column is not None, "only columns are followed"
        if current.outside or current.migration is not None or current.execution_id is None:
            steps.append(_row_step(current, None))
            return Origin(writer, tuple(steps), _written_by(current))
        execution = await _read(pool, current.execution_id)
        if execution is None:
            steps.append(_row_step(current, None))
            return Origin(writer, tuple(steps), "its record is gone", is_known=False)
        call = _find_call(execution, current)
        steps.append(_row_step(current, call))
        if call is None:
            return Origin(writer, tuple(steps), "which call wrote it is not on record", is_known=False)
        source = find_source(execution, value, current.column, call)
        while isinstance(source, FromInput) and (parent := await _find_parent(pool, execution)) is not None:
            handing = execution.trigger.call
            if (
                handing is None
                or not hands_over(parent, value, current.column, handing)
                or len(steps) >= STEPS_MAX
            ):
                break
            steps.append(OriginStep(parent.name, parent.function, handing, child=execution.name))
            execution = parent
            source = find_source(execution, value, current.column, handing)
        if isinstance(source, FromRow):
            found = await find_writer(execution, source.cell)
            steps[-1] = attrs.evolve(steps[-1], read_call=source.cell.call)
            if found is None:
                end = f"who wrote {source.cell.table}.{source.cell.column} before is not known"
                return Origin(writer, tuple(steps), end, is_known=False)
            current = found
            continue
        return Origin(
            writer, tuple(steps), _describe_end(execution, source), is_known=not isinstance(source, Unclear)
        )
    return Origin(writer, tuple(steps), f"it is followed no further than {STEPS_MAX} steps", is_known=False)


def _row_step(writer: RowWriter, call: int | None) -> OriginStep:
    return OriginStep(writer.execution, writer.function, call, writer=writer)


def _find_call(execution: Execution, writer: RowWriter) -> int | None:
    """Return the host call that made a change of a row."""
    return next(
        (call for xid, ordinal, call in execution.ordinals if (xid, ordinal) == (writer.xid, writer.ordinal)),
        None,
    )


async def _read(pool: Pool, execution_id: UUID) -> Execution | None:
    try:
        return (await get_execution(pool, execution_id))[1]
    except NoSuchExecutionError:
        return None


async def _find_parent(pool: Pool, execution: Execution) -> Execution | None:
    """Return who pushed or invoked an execution. The attempt before, which an HTTP request has too, is none."""
    if execution.parent is None or execution.trigger.kind not in ("queue", "invoke"):
        return None
    parent = await _read(pool, execution.parent)
    is_attempt = (
        parent is not None and execution.trigger.kind == "invoke" and parent.attempt < execution.attempt
    )
    if parent is not None and is_attempt and parent.function == execution.function:
        return await _find_parent(pool, parent)
    return parent


def _written_by(writer: RowWriter) -> str:
    if writer.migration is not None:
        return f"the migration {writer.migration} wrote it"
    return "it was written outside Flux" if writer.outside else "its record is gone"


def _describe_end(execution: Execution, source: Source) -> str:
    match source:
        case FromInput():
            words = {"http": "its request", "queue": "its payload", "cron": "its input"}
            return f"it came in with {words.get(execution.trigger.kind, 'its input')}"
        case FromAnswer(call, host):
            return f"{host or 'another host'} had answered it, in call {call}"
        case Unclear(reason):
            return reason
    raise AssertionError("a row has a writer")
