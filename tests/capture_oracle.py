"""Whether the log of changes is true: the rows before, plus the log, must be the rows after.

The rows are read by a second client (``psql``, a process of its own) before and
after, each as the text of its JSON. The log is applied to the rows before, with
multisets and nothing clever: a change whose before-image is not there cannot be
applied, and says so. The same goes for NOTICEs, which are decoded here from
their description in docs/design/010-capture.md, not with Flux's own code.
"""

import contextlib
import hashlib
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import attrs

from flux.store.postgres import Connection, ConnectOptions, Notice, connect
from tests.postgres_server import PostgresServer

GUEST = "flux_guest_acme"
PINNED = (
    "set timezone='UTC'; set datestyle='ISO, MDY'; set intervalstyle='postgres'; set extra_float_digits=1; "
    "set bytea_output='hex'; set lc_monetary='C'; "
)
"""How the log renders values, whatever the session's own settings."""

ROW = "to_json(whole_row)::text"  # no column is called so

HEADER = ("version", "op", "xid", "ordinal", "seq", "relid", "depth", "rows", "cut", "key", "mac")
"""What a NOTICE's message is an array of."""

Image = tuple[str, str | None, str | None]
"""A table, a row's image before and its image after."""

Rows = dict[str, Counter[str]]
"""The rows of each table, as JSON text."""


@attrs.frozen
class Change:
    """One changed row, from the log or from a NOTICE."""

    xid: str
    ordinal: int
    seq: int
    table: str
    op: str
    depth: int
    key: str | None
    before: str | None
    after: str | None
    outside: bool = False


@attrs.frozen
class Told:
    """A NOTICE of the capture, decoded."""

    header: dict[str, Any]
    table: str
    befores: tuple[str, ...]
    afters: tuple[str, ...]
    is_genuine: bool

    @property
    def ordinal(self) -> int:
        """Number of the statement in its transaction."""
        return int(self.header["ordinal"])

    @property
    def seq(self) -> int:
        """Of the last row logged with it."""
        return int(self.header["seq"])


@attrs.frozen
class CapturedDatabase:
    """A database with Flux's schema and the tenant "acme", whose schema is "shop"."""

    server: PostgresServer
    name: str

    def start_over(self) -> None:
        """Leave nothing but Flux and an empty schema for the tenant."""
        self.psql("drop schema if exists shop cascade")
        self.psql("truncate flux.mutation, flux.ddl; select flux.ensure_guest_role('acme', 'shop', 'pw')")

    def psql(self, sql: str, *, user: str = "") -> str:
        """What a second client gets; statements run one after another, each on its own."""
        return self.server.psql(sql, self.name, user=user)

    def script(self, sql: str, *, user: str = "") -> str:
        """As a script on stdin, where COPY finds its rows."""
        done = subprocess.run(
            [self.server.bin_dir / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.name,
             "-h", self.server.host, "-p", str(self.server.port), "-U", user or self.server.user],
            input=sql, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def lines(self, sql: str) -> list[tuple[str | None, ...]]:
        """Rows of text that may hold anything: each value travels in hexadecimal."""
        printed = self.psql(PINNED + sql)
        return [
            tuple(None if part == "-" else bytes.fromhex(part).decode() for part in line.split("|"))
            for line in printed.splitlines()
        ]

    def tables(self) -> list[tuple[str, str]]:
        """The user tables: as the log names them, and as SQL does. A partition is part of its root."""
        named = self.lines(
            f"select {_hex('n.nspname')}, {_hex('c.relname')}, {_hex('c.oid::regclass::text')} "
            "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' "
            "and n.nspname !~ '^pg_' and n.nspname not in ('flux', 'information_schema')"
        )
        return [(f"{schema}.{table}", str(place)) for schema, table, place in named]

    def rows(self) -> Rows:
        """The rows of all user tables, read in one go: each line has its table's number before it."""
        tables = self.tables()
        rows: Rows = {table: Counter() for table, _ in tables}
        if tables:
            of_each = [
                f"select {_hex(str(number) + '::text')}, {_hex(ROW)} from {place} whole_row"
                for number, (_, place) in enumerate(tables)
            ]
            for number, row in self.lines(" union all ".join(of_each)):
                rows[tables[int(str(number))][0]][str(row)] += 1
        return rows

    def changes(self) -> list[Change]:
        """The whole log, in order."""
        columns = ["xid::text", "ordinal::text", "seq::text", "schema_name || '.' || table_name", "op::text",
                   "depth::text", "key", "before::text", "after::text", "outside::text"]  # fmt: skip
        fields = self.lines(f"select {', '.join(map(_hex, columns))} from flux.mutation order by seq")
        return [
            Change(
                xid=str(xid), ordinal=int(str(ordinal)), seq=int(str(seq)), table=str(table), op=str(op),
                depth=int(str(depth)), key=key, before=before, after=after, outside=outside == "true",
            )
            for xid, ordinal, seq, table, op, depth, key, before, after, outside in fields
        ]  # fmt: skip

    def forget_changes(self) -> None:
        """Empty the log: what was set up is not what is tested."""
        self.psql("truncate flux.mutation")

    def notice_secret(self) -> str:
        """What the server signs NOTICEs with."""
        return self.psql("select value from flux.instance where key = 'notice_secret'")

    def options(self, user: str = GUEST) -> ConnectOptions:
        """How the driver gets in."""
        return ConnectOptions(
            host=self.server.host, port=self.server.port, user=user, database=self.name, json_as_text=True
        )


@attrs.frozen
class Guest:
    """A guest's connection, and the NOTICEs that came over it."""

    connection: Connection
    notices: list[Notice]

    def told(self, secret: str) -> list[Told]:
        """The capture's NOTICEs so far."""
        return [decode_notice(notice, secret) for notice in self.notices if notice.sqlstate == "FX001"]


@contextlib.asynccontextmanager
async def open_guest(database: CapturedDatabase, user: str = GUEST) -> AsyncIterator[Guest]:
    """A connection that keeps what it is told."""
    connection = await connect(database.options(user))
    notices: list[Notice] = []
    connection.on_notice = notices.append
    try:
        yield Guest(connection, notices)
    finally:
        connection.terminate()


def decode_notice(notice: Notice, secret: str) -> Told:
    """A NOTICE's parts, and whether the server of that secret made it."""
    head, separator, mac = notice.message.rpartition(',"')
    befores, afters = notice.detail or "", notice.hint or ""
    signed = f"{secret}{head}{len(befores)} {len(afters)}"
    wanted = hashlib.sha256(signed.encode()).hexdigest()[:32]
    return Told(
        header=dict(zip(HEADER, json.loads(notice.message), strict=False)),
        table=f"{notice.schema}.{notice.table}",
        befores=tuple(split_array(befores)),
        afters=tuple(split_array(afters)),
        is_genuine=bool(separator) and mac == wanted + '"]',
    )


def split_array(text: str) -> Iterable[str]:
    """The elements of a JSON array, each in its own text; parsing would lose -0 and spaces."""
    if not text:
        return
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    position = 1
    while position < len(text) - 1:
        start = position + len(text[position:]) - len(text[position:].lstrip(", \n\r\t"))
        _, position = decoder.raw_decode(text, start)
        yield text[start:position]


def apply(rows: Rows, changes: Iterable[Image], *, in_order: bool = True) -> Rows:
    """``rows`` after ``changes``, each a table, an image before and an image after.

    NOTICEs of a trigger's changes come before those of the statement that fired it: for them ``in_order``
    is false, and only the sum has to be right.
    """
    result = {table: Counter(counter) for table, counter in rows.items()}
    for table, before, after in changes:
        held = result.setdefault(table, Counter())
        if before is not None:
            assert held[before] > 0 or not in_order, f"{table} has no such row to take away: {before}"
            held[before] -= 1
        if after is not None:
            held[after] += 1
    missing = {table: -counter for table, counter in result.items() if -counter}
    assert not missing, f"rows were taken away that were never there: {missing}"
    return without_empty(result)


def without_empty(rows: Rows) -> Rows:
    """Tables that hold rows, so that a table made or dropped empty is no difference."""
    return {table: +counter for table, counter in rows.items() if +counter}


def images(changes: Iterable[Change]) -> list[Image]:
    """What `apply` takes, from the log."""
    return [(change.table, change.before, change.after) for change in changes]


def told_images(told: Iterable[Told]) -> list[Image]:
    """What `apply` takes, from NOTICEs; a statement's deletions come before its insertions."""
    return [
        image
        for each in told
        for image in [*((each.table, before, None) for before in each.befores),
                      *((each.table, None, after) for after in each.afters)]
    ]  # fmt: skip


def check_chains(changes: Iterable[Change]) -> None:
    """Each change of a key starts from the image with which the one before it ended."""
    last: dict[tuple[str, str], str | None] = {}
    for change in changes:
        if change.key is None:
            continue
        place = (change.table, change.key)
        if place in last:
            assert change.before == last[place], f"{change} does not follow {last[place]}"
        last[place] = change.after


def _hex(expression: str) -> str:
    return f"coalesce(encode(convert_to({expression}, 'UTF8'), 'hex'), '-')"
