"""What is asked of the console, read strictly: a misspelt parameter must not become a list of everything."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import msgspec

from flux.errors import OperatorError
from flux.message import RequestHead
from flux.supervisor.present import Document

Query = Mapping[str, str]


@attrs.frozen
class Question:
    """What a path asks."""

    method: str
    ask: Callable[[Query], Awaitable[Document]]
    allowed: tuple[str, ...] = ()
    """Parameters that it takes."""


class BadQueryError(OperatorError):
    """The request to the console says something that has no meaning there."""

    code = "FLX621"


def read_query(head: RequestHead, allowed: Sequence[str]) -> dict[str, str]:
    """Return the query; a name that is not ``allowed``, or is given twice, is refused, and so is a zero byte.

    The path's parts are names as well, and are refused with one for the same reason.
    """
    query: dict[str, str] = {}
    if "\0" in head.path:
        raise BadQueryError("the path has a zero byte", remedy="leave it out: no text of PostgreSQL's has one")
    for name, value in head.query:
        if name not in allowed:
            known = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise BadQueryError(f'{head.path} has no parameter "{name}"', remedy=known)
        if name in query:
            raise BadQueryError(f'"{name}" is given twice', remedy="say it once")
        if "\0" in value:
            raise BadQueryError(f"{name} has a zero byte", remedy="leave it out: no text of PostgreSQL's has one")
        query[name] = value
    return query


def needed(query: Query, name: str) -> str:
    """Return what must be there."""
    if not query.get(name):
        raise BadQueryError(f'"{name}" is missing', remedy=f"add {name}=... to the query")
    return query[name]


def number(query: Query, name: str, default: int, most: int) -> int:
    """Return a number from 1 to ``most``."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise BadQueryError(f'{name} is "{text}"', remedy=f"write a number from 1 to {most}")
    return int(text)


def flag(query: Query, name: str, *, default: bool) -> bool:
    """Return what 0 and 1 say."""
    text = query.get(name)
    if text is None:
        return default
    if text not in ("0", "1"):
        raise BadQueryError(f'{name} is "{text}"', remedy="write 0 or 1")
    return text == "1"


def read_data(body: bytes) -> bytes:
    """Return the input of an invoke as it was written, so that no number loses a digit."""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        msgspec.json.decode(body)  # What Raw skips over is checked only here.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body is not a JSON object: {error}", remedy='send {"data": ...}, with any JSON as its value'
        ) from error
    if unknown := sorted(members.keys() - {"data"}):
        raise BadQueryError(f"the body has {json.dumps(unknown[0])}", remedy='its one member is "data"')
    return bytes(members["data"]) if "data" in members else b"null"
