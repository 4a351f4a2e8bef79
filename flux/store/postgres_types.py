"""Types: what a statement's columns and parameters are in Python.

asyncpg has a codec for each of Postgres's own types and makes them for types
built of those, once it is told what a type is made of. A `TypeRegistry` is told:
it asks the server about a type the first time a statement uses it. Where asyncpg
would bend a value, the codecs of `flux.store.column_values` take its place; what
has no exact form in Python is Postgres's own text.
"""

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from flux.store import column_values as values
from flux.store.asyncpg_seam import UnsupportedClientFeatureError

_AS_TEXT = {
    600: "point", 601: "lseg", 602: "path", 603: "box", 604: "polygon", 628: "line", 718: "circle",
    1560: "bit", 1562: "varbit", 3220: "pg_lsn", 2970: "txid_snapshot", 5038: "pg_snapshot",
}  # fmt: skip
"""Types for which asyncpg has classes of its own, or numbers that mean nothing: here Postgres's text."""

_IN_PYTHON: list[tuple[int, str, Callable[[Any], Any], Callable[[Any], Any], str]] = [
    (1082, "date", values.encode_date, values.decode_date, "tuple"),
    (1083, "time", values.encode_time, values.decode_time, "tuple"),
    (1114, "timestamp", values.encode_timestamp, values.decode_timestamp, "tuple"),
    (1184, "timestamptz", values.encode_timestamptz, values.decode_timestamptz, "tuple"),
    (1186, "interval", values.encode_interval, values.decode_interval, "tuple"),
]
"""Types for which asyncpg would bend a value: it writes 9999-12-31 as infinity, and a month as 30 days."""

_IN_PYTHON_JSON = [
    (114, "json", values.encode_json, values.decode_json, "binary"),
    (3802, "jsonb", values.encode_jsonb, values.decode_jsonb, "binary"),
]

DESCRIBE_TYPES = """
select t.oid, n.nspname as ns, t.typname as name, t.typtype as kind,
       case when t.typtype = 'd' then t.typbasetype end as basetype,
       format_type(t.typbasetype, null) as basetype_name,
       e.oid as elemtype, e.typdelim::text as elemdelim, format_type(e.oid, null) as elemtype_name,
       coalesce(r.rngsubtype, m.rngsubtype) as range_subtype,
       format_type(coalesce(r.rngsubtype, m.rngsubtype), null) as range_subtype_name,
       (select array_agg(a.atttypid order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) as attrtypoids,
       (select array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) as attrnames
  from pg_catalog.pg_type t
  join pg_catalog.pg_namespace n on n.oid = t.typnamespace
  left join pg_catalog.pg_type e on t.typlen = -1 and t.typelem <> 0 and e.oid = t.typelem
  left join pg_catalog.pg_range r on r.rngtypid = t.oid
  left join pg_catalog.pg_range m on m.rngmultitypid = t.oid
 where t.oid = any($1)
"""
"""What types are: by kind, and made of what. One look-up by number, where asyncpg's own recursive
query is dear enough to be compiled by the server."""

BUILT_IN_OID_MAX = 9999
"""Higher numbers are handed out by each cluster for itself, and mean something else in the next."""

_built_in_types: dict[int, dict[str, Any]] = {}
"""Descriptions of the types that are the same on every server, so that one connection asks for all."""


def set_codecs(settings: Any, *, json_as_text: bool) -> None:
    for oid, name in _AS_TEXT.items():
        settings.set_builtin_type_codec(oid, name, "pg_catalog", "scalar", "text", "text")
    for oid, name, encode, decode, form in _IN_PYTHON + ([] if json_as_text else _IN_PYTHON_JSON):
        settings.add_python_codec(oid, name, "pg_catalog", [], "scalar", encode, decode, form)


@attrs.define
class TypeRegistry:
    """The types one connection has met."""

    settings: Any
    """asyncpg's registry of codecs."""

    known: dict[int, dict[str, Any]] = attrs.field(factory=dict)
    """What the server said about types, by number."""

    def find(self, oid: int) -> dict[str, Any] | None:
        return self.known.get(oid) or _built_in_types.get(oid)

    def undescribed(self, oids: Iterable[int]) -> set[int]:
        """Those among ``oids``, and what they are made of, that the server has to be asked about."""
        asked: set[int] = set()
        for oid in oids:
            described = self.find(oid)
            if described is None:
                asked.add(oid)
            else:
                asked |= self.undescribed(part for part in _parts(described) if not self._has_codec(part))
        return asked

    def learn(self, asked: set[int], descriptions: Iterable[dict[str, Any]]) -> None:
        """Take in the server's answer; a type of which it says nothing is one we may not see: text."""
        for described in descriptions:
            oid = described["oid"]
            (_built_in_types if oid <= BUILT_IN_OID_MAX else self.known)[oid] = described
            asked.discard(oid)
        for oid in asked:
            self.known[oid] = {"oid": oid, "ns": "pg_catalog", "name": f"type {oid}", "kind": b"?"}

    def forget(self) -> None:
        """Ask the server again about everything: a type has changed its shape."""
        for oid, described in self.known.items():
            self.settings.remove_python_codec(oid, described["name"], described["ns"])
        self.known.clear()
        self.settings.clear_type_cache()

    def register(self, oid: int) -> None:
        """Make values of type ``oid`` readable and writable."""
        described = self.find(oid)
        assert described is not None, f"type {oid} is registered before it is described"
        if described["kind"] == b"?" or self._has_codec(oid):
            # A codec that is there and still does not do is a pseudo-type's, anyarray for one.
            self._register_as_text(described)
            return
        try:
            parts = self._with_parts(oid)
            for part in parts:
                if part["kind"] == b"c" and not self._has_codec(part["oid"]):
                    self._register_composite(part)
            self.settings.register_data_types(parts)
        except UnsupportedClientFeatureError:
            # Of newer servers' types, and of composites and ranges made of something that travels as
            # text, asyncpg knows no binary form. Their text is exact, and every type has one.
            self._register_as_text(described)

    def _register_as_text(self, described: dict[str, Any]) -> None:
        self.settings.set_builtin_type_codec(
            described["oid"], described["name"], described["ns"], "scalar", "text", "text"
        )

    def _register_composite(self, described: dict[str, Any]) -> None:
        oid, parts = described["oid"], self._with_parts(described["oid"])
        for part in parts:
            if part["kind"] == b"c" and part["oid"] != oid and not self._has_codec(part["oid"]):
                self._register_composite(part)
        self.settings.add_python_codec(
            oid, described["name"], described["ns"], parts, "composite", _same, _fields, "tuple"
        )

    def _with_parts(self, oid: int) -> list[dict[str, Any]]:
        """The descriptions of ``oid`` and all it is made of, parts first."""
        described = self.find(oid)
        if described is None or described["kind"] == b"?":
            return []
        parts: list[dict[str, Any]] = []
        for part in _parts(described):
            parts += (each for each in self._with_parts(part) if each not in parts)
        return [*parts, described]

    def _has_codec(self, oid: int) -> bool:
        return self.settings.get_data_codec(oid) is not None


def _parts(described: dict[str, Any]) -> list[int]:
    single = [described.get(name) for name in ("basetype", "elemtype", "range_subtype")]
    return [oid for oid in single if oid] + list(described.get("attrtypoids") or ())


def _same(value: Any) -> Any:
    return value


def _fields(record: Any) -> dict[str, Any]:
    return dict(record.items())
