"""What a guest process says that its code declares, read without belief in it."""

import json
import math
from collections.abc import Sequence
from typing import Any

import attrs

from flux.deployment import Function
from flux.errors import FluxError
from flux.hostcall import Position
from flux.limits import parse_duration_s
from flux.sandbox.base import BadFunctionError


@attrs.frozen
class Declared:
    """All that the code of one process declares."""

    functions: tuple[Function, ...]
    middleware: tuple[Position, ...]
    """Where each middleware is defined, under its name."""


def read_declared(functions: Sequence[Any], middleware: Sequence[Any], runtime: str | None = None) -> Declared:
    """Return what a process says of its code; ``runtime`` is that of all functions, None where each says its own.

    Raises as `read_function`.
    """
    more = {} if runtime is None else {"runtime": runtime}
    return Declared(
        tuple(read_function({**item, **more}) for item in functions),
        tuple(Position(str(item["file"]), int(item["line"]), str(item["name"])) for item in middleware),
    )


def read_function(item: dict[str, Any]) -> Function:
    """Return a function as a guest process describes it.

    Raises `BadFunctionError` for what can't be served, and TypeError, KeyError or ValueError for what is no
    description at all.
    """
    timeout = item["timeout"]
    where = f"{item['file']}:{item['line']}"
    if isinstance(timeout, str):
        try:
            timeout = parse_duration_s(timeout)
        except FluxError as error:
            raise BadFunctionError(
                f"{where}  timeout of {item['name']}: {error.message}", remedy=error.remedy
            ) from error
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise BadFunctionError(
            f"{where}  timeout of {item['name']} must be above zero, not {timeout}",
            remedy='write seconds, or text such as "10s"',
        )
    return Function(
        name=str(item["name"]),
        route=None if item["route"] is None else str(item["route"]),
        position=Position(str(item["file"]), int(item["line"]), str(item["name"])),
        runtime=str(item["runtime"]),
        atomic=bool(item["atomic"]),
        isolation=None if item["isolation"] is None else str(item["isolation"]),
        timeout_s=None if timeout is None else float(timeout),
        retries=int(item["retries"]),
        cron=None if item["cron"] is None else str(item["cron"]),
        middleware=None if item["middleware"] is None else tuple(str(name) for name in item["middleware"]),
        input_schema=_read_schema(item.get("input")),
        description=str(item.get("description") or ""),
    )


def _read_schema(said: Any) -> str | None:
    if said is None:
        return None
    if not isinstance(said, dict):
        raise TypeError("what a function takes is described by an object")
    return json.dumps(said, ensure_ascii=False)
