"""Reading an answer, with distrust.

A `Record` is a JSON object and where it stands in the answer. Asking it for a
field that is missing or of another kind raises `MalformedAnswer`, which names the
place (``executions[3].elapsed_ms``): what cannot be read must never look like
nothing was there. Unknown fields are let be, so an older command reads a newer server.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from flux.cli.failures import MalformedAnswer

_MISSING = object()


class Record:
    """One JSON object of an answer."""

    __slots__ = ("data", "where")

    def __init__(self, data: Any, where: str = "") -> None:
        if not isinstance(data, dict):
            raise _malformed(where or "the answer", "an object", data)
        self.data: Mapping[str, Any] = data
        """The object as it was sent."""
        self.where = where
        """Its path in the answer; empty for the answer itself."""

    def of_schema(self, schema: str) -> "Record":
        """This record, if it says that it is one of these."""
        said = self.data.get("schema")
        if said == schema:
            return self
        if isinstance(said, str) and said.rpartition("/")[0] == schema.rpartition("/")[0]:
            raise MalformedAnswer(
                f"the server speaks {said}, this command understands {schema}",
                remedy="use the flux command of the server's version (flux --version)",
            )
        raise _malformed(self.path("schema"), f'"{schema}"', said)

    def path(self, key: str) -> str:
        """Where a field of this record stands in the answer."""
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str) -> Any:
        """The field as it is; it must be there."""
        value = self.data.get(key, _MISSING)
        if value is _MISSING:
            raise _malformed(self.path(key), "a value", value)
        return value

    def text(self, key: str) -> str:
        """A field that is text."""
        value = self.get(key)
        if not isinstance(value, str):
            raise _malformed(self.path(key), "text", value)
        return value

    def maybe_text(self, key: str) -> str | None:
        """A field that is text, null or absent."""
        return None if self.data.get(key) is None else self.text(key)

    def number(self, key: str) -> float:
        """A field that is a number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise _malformed(self.path(key), "a number", value)
        return value

    def maybe_number(self, key: str) -> float | None:
        """A field that is a number, null or absent."""
        return None if self.data.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """A field that is true or false; absent counts as false."""
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise _malformed(self.path(key), "true or false", value)
        return value

    def record(self, key: str) -> "Record":
        """A field that is an object."""
        return Record(self.get(key), self.path(key))

    def maybe_record(self, key: str) -> "Record | None":
        """A field that is an object, null or absent."""
        return None if self.data.get(key) is None else self.record(key)

    def items(self, key: str) -> list[Any]:
        """A field that is a list."""
        value = self.get(key)
        if not isinstance(value, list):
            raise _malformed(self.path(key), "a list", value)
        return value

    def records(self, key: str) -> "list[Record]":
        """A field that is a list of objects."""
        return list(self._records(key))

    def _records(self, key: str) -> "Iterator[Record]":
        for index, item in enumerate(self.items(key)):
            yield Record(item, f"{self.path(key)}[{index}]")


def _malformed(where: str, wanted: str, found: Any) -> MalformedAnswer:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    got = (
        "nothing"
        if found is _MISSING
        else "null"
        if found is None
        else kinds.get(type(found), "something else")
    )
    return MalformedAnswer(
        f"the server's answer has {got} at {where}, where {wanted} belongs",
        remedy="compare versions (flux --version, flux doctor); if they agree, please report this",
    )
