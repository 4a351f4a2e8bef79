"""What a function gets as ``input``: the body's fields over the query's and the path's.

Pure. JSON is read by what the body is, not only by its declared type, because
``curl -d`` declares a form whatever it sends. A body that is declared as JSON and is
none is the client's mistake, and told with its place; any other body is left to the
function (``ctx.request.body``).
"""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import parse_qsl

from flux import values

FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 10_000


class UnreadableInputError(ValueError):
    """The body is declared as JSON and can't be read; the message says where."""


def read_input(
    params: Mapping[str, str], query: Sequence[tuple[str, str]], content_type: str, body: bytes
) -> object:
    """Return the function's input; raise `UnreadableInputError`.

    An object's fields win over the query's, and these over the path's. Any other JSON value is the input
    itself when there is nothing to merge it with, else it stands under ``body``.
    """
    fields: dict[str, object] = {**params, **dict(query)}
    if not body.strip():
        return fields
    kind = content_type.partition(";")[0].strip().lower()
    declared = kind == "application/json" or kind.endswith("+json")
    if declared or (kind in ("", FORM, "text/plain") and body.lstrip()[:1] in (b"{", b"[")):
        try:
            document = parse_json(body)
        except UnreadableInputError:
            if declared:
                raise
        else:
            if isinstance(document, dict):
                return {**fields, **document}
            return {**fields, "body": document} if fields else document
    if kind == FORM:
        try:
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=FIELDS_MAX
            )
        except ValueError:
            return fields  # Not a form after all; the function has the body as it came.
        return {**fields, **dict(pairs)}
    return fields


def parse_json(data: bytes) -> object:
    """Return the JSON value in ``data``, which must be able to travel to a guest; raise `UnreadableInputError`."""
    try:
        document = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
        values.encode(document)
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1} is 0x{data[error.start]:02x}"
        raise UnreadableInputError(f"the body is not UTF-8: {where}") from error
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}"
        raise UnreadableInputError(f"the body is not JSON: {error.msg} {where}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableInputError(f"the body is not JSON that can be used: {error}") from error
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
