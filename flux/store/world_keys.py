"""Foreign keys in a world, as triggers that do what the server's own do.

A temporary table can't refer to one that is not, so no copy can have a foreign key. What it demands is asked by queries
instead, of whatever stands for the other table: a copy, a view, or the table itself, which is as it was. SQLSTATE,
message and constraint are those of the server's own check (``ri_triggers.c``).
"""

from collections.abc import Set as AbstractSet

from flux.sql_world import quote
from flux.store.world_catalog import Catalog, ForeignKey
from flux.store.world_rows import literal

GUARD = "pg_catalog.current_setting('flux.filling', true) is distinct from 'on'"
"""Holds while it is the guest that writes, and not the world that is being filled."""
FILLING = "coalesce(pg_catalog.current_setting('flux.filling', true), '') = 'on'"
"""The opposite."""
_RESTRICT_VERSION = 180000
"""From this version on, RESTRICT has an SQLSTATE and a message of its own."""


def list_key_triggers(
    catalog: Catalog,
    copies: dict[str, str],
    shadowed: AbstractSet[str],
    refused: dict[str, str],
    server_version: int,
) -> tuple[list[str], list[str]]:
    """Return the statements that make the triggers, and what can't be checked, a sentence each.

    ``copies`` has the tables that are written, and for each the one in ``pg_temp`` that has its triggers.
    """
    statements: list[str] = []
    notes: list[str] = []
    for key in catalog.foreign_keys:
        of_child = key.child_schema == catalog.schema and key.child in copies
        of_parent = key.parent_schema == catalog.schema and key.parent in copies
        if not (of_child or of_parent) or key.definition.endswith("NOT ENFORCED"):
            continue
        if "PERIOD" in key.definition:
            notes.append(f"foreign key {key.name} of {key.child}, of periods, is not checked in a replay")
            continue
        maker = _Maker(key, catalog.schema, copies, shadowed, refused, server_version)
        if of_child:
            statements.append(maker.of_child())
        if of_parent:
            statements += maker.of_parent()
    return statements, notes


class _Maker:
    def __init__(
        self,
        key: ForeignKey,
        schema: str,
        copies: dict[str, str],
        shadowed: AbstractSet[str],
        refused: dict[str, str],
        server_version: int,
    ) -> None:
        self._key = key
        self._copies = copies
        self._refused = refused
        self._is_child_here = key.child_schema == schema
        self._is_parent_here = key.parent_schema == schema
        self._child = _place(key.child_schema, key.child, schema, shadowed)
        self._parent = _place(key.parent_schema, key.parent, schema, shadowed)
        self._server_version = server_version

    def of_child(self) -> str:
        key = self._key
        values = [f"($1).{quote(name)}" for name in key.child_columns]
        there = self._exists(self._parent, key.parent_columns, values)
        if self._is_parent_here and key.parent in self._refused:
            there = _refuse(key.parent, self._refused[key.parent])
        nulls = " or ".join(f"{value} is null" for value in values)
        if key.match == "f" and len(values) > 1:
            nulls = " and ".join(f"{value} is null" for value in values)
        is_well = f"select {nulls} or {there}"
        if key.is_deferrable:
            # By then the row may be gone, or be another.
            is_well += f" or not {self._exists(self._child, key.child_columns, values)}"
        unchanged = _all_same(values, [f"($2).{quote(name)}" for name in key.child_columns])
        return self._check(
            f"RI_flux_c_{key.number}" if not key.is_deferrable else key.name,
            self._copies[key.child],
            f"insert or update of {_columns(key.child_columns)}",
            is_well,
            f"select {unchanged} or ({is_well})",
            "23503",
            f'insert or update on table "{key.child}" violates foreign key constraint "{key.name}"',
            _detail(key.child_columns, values, f'is not present in table "{key.parent}".'),
            is_deferrable=key.is_deferrable,
        )

    def of_parent(self) -> list[str]:
        key = self._key
        return [self._of_parent("delete", key.on_delete), self._of_parent("update", key.on_update)]

    def _of_parent(self, event: str, action: str) -> str:
        key = self._key
        gone = [f"($2).{quote(name)}" for name in key.parent_columns]
        unchanged = (
            _all_same([f"($1).{quote(name)}" for name in key.parent_columns], gone)
            if event == "update"
            else "false"
        )
        referred = self._exists(self._child, key.child_columns, gone)
        if self._is_child_here and key.child in self._refused:
            referred = _refuse(key.child, self._refused[key.child])
        events = "delete" if event == "delete" else f"update of {_columns(key.parent_columns)}"
        name = f"RI_flux_{event[0]}_{key.number}"
        table = self._copies[key.parent]
        if action not in ("a", "r"):
            return (
                f"create trigger {quote(name)} after {events} on pg_temp.{quote(table)} for each row when ({GUARD}) "
                f"execute function flux_world.act_on_rows("
                + ", ".join(
                    literal(text)
                    for text in (
                        f"select not ({unchanged}) and {referred}",
                        self._action(event, action),
                        key.child if key.child not in self._copies or not self._is_child_here else "",
                    )
                )
                + ")"
            )
        is_well = f"select {unchanged} or not {referred}"
        if action == "a":
            is_well += f" or {self._exists(self._parent, key.parent_columns, gone)}"
        is_restrict = action == "r" and self._server_version >= _RESTRICT_VERSION
        what = "RESTRICT setting of foreign key" if is_restrict else "foreign key"
        is_deferrable = key.is_deferrable and action == "a"
        # With its own name, SET CONSTRAINTS finds it; but one table can't have two of a name.
        has_own_name = (
            is_deferrable
            and event == "delete"
            and (key.child, key.child_schema)
            != (
                key.parent,
                key.parent_schema,
            )
        )
        return self._check(
            key.name if has_own_name else name,
            table,
            events,
            is_well,
            is_well,
            "23001" if is_restrict else "23503",
            f'update or delete on table "{key.parent}" violates {what} constraint "{key.name}" '
            f'on table "{key.child}"',
            _detail(
                key.parent_columns, gone,
                f'is {"" if is_restrict else "still "}referenced from table "{key.child}".',
            ),
            is_deferrable=is_deferrable,
        )  # fmt: skip

    def _action(self, event: str, action: str) -> str:
        key = self._key
        where = " and ".join(
            f"c.{quote(child)} = ($2).{quote(parent)}"
            for child, parent in zip(key.child_columns, key.parent_columns, strict=True)
        )
        if action == "c" and event == "delete":
            return f"delete from {self._child} c where {where}"
        columns = key.child_columns
        if action == "c":
            values = [f"($1).{quote(name)}" for name in key.parent_columns]
        else:
            values = ["null" if action == "n" else "default"] * len(columns)
            _, is_some, rest = key.definition.partition(
                "ON DELETE SET " + ("NULL (" if action == "n" else "DEFAULT (")
            )
            if is_some and event == "delete":
                # Names of only some of its columns, as the server has put them into quotes.
                named = [part.strip().strip('"') for part in rest.partition(")")[0].split(",")]
                columns = tuple(name for name in columns if name in named)
        changes = ", ".join(f"{quote(name)} = {value}" for name, value in zip(columns, values, strict=False))
        return f"update {self._child} c set {changes} where {where}"

    def _exists(self, place: str, columns: tuple[str, ...], values: list[str]) -> str:
        same = " and ".join(f"x.{quote(name)} = {value}" for name, value in zip(columns, values, strict=True))
        return f"exists (select from {place} x where {same})"

    def _check(
        self,
        name: str,
        table: str,
        events: str,
        is_well: str,
        is_well_updated: str,
        sqlstate: str,
        message: str,
        detail: str,
        *,
        is_deferrable: bool,
    ) -> str:
        key = self._key
        arguments = (
            is_well, is_well_updated, sqlstate, key.name, key.child_schema, key.child, message, detail,
        )  # fmt: skip
        when = ""
        if is_deferrable:
            when = f"deferrable initially {'deferred' if key.is_deferred else 'immediate'} "
        return (
            f"create constraint trigger {quote(name)} after {events} on pg_temp.{quote(table)} {when}for each row "
            f"when ({GUARD}) execute function flux_world.check_rows({', '.join(literal(text) for text in arguments)})"
        )


def _place(schema: str, table: str, own_schema: str, shadowed: AbstractSet[str]) -> str:
    if schema == own_schema and table in shadowed:
        return f"pg_temp.{quote(table)}"
    return f"{quote(schema)}.{quote(table)}"


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join(quote(name) for name in names)


def _all_same(left: list[str], right: list[str]) -> str:
    pairs = zip(left, right, strict=True)
    return "(" + " and ".join(f"{one} is not distinct from {other}" for one, other in pairs) + ")"


def _detail(columns: tuple[str, ...], values: list[str], rest: str) -> str:
    names = literal(", ".join(columns))
    texts = ", ".join(values)
    listed = f"pg_catalog.concat_ws(', ', {texts})"
    return f"select pg_catalog.concat('Key (', {names}, ')=(', {listed}, ') ', {literal(rest)})"


def _refuse(table: str, reason: str) -> str:
    return f"flux_world.refuse({literal(f'{table} can not be asked: {reason}')})"
