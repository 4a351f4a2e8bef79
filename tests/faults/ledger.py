"""A bank and a shop in which every loss shows, and what a second client finds in them.

A *trade* has a number that is used once. It moves money between two accounts (the bank-sum), and it enters an order
and a payment as TPC-C's transactions do, so that the conditions of consistency of TPC-C 3.3.2 hold in the shop: of
each district the next order's number, the orders, their lines and the year's takings agree with one another.

`check` asks ``psql`` whether money and goods are where the trades say, and whether the records say of each trade what
the tables do: every commit has exactly one record that says so, and no record says so of anything else.
"""

import random
from typing import Any

import attrs

from flux.execution import Execution, Returned
from flux.sandbox.scripted import Script, ScriptedGuest
from flux.supervisor.execute import Executed
from tests.conftest import Database
from tests.execution_world import sql

ACCOUNTS = 4
DISTRICTS = 3
ITEMS = 10
CENTS = 100_000
SCHEMA = f"""
create table account (id int primary key, cents bigint not null);
insert into account select n, {CENTS} from generate_series(1, {ACCOUNTS}) n;
create table transfer (id int primary key, source int not null, target int not null, cents bigint not null);
create table warehouse (id int primary key, takings bigint not null);
insert into warehouse values (1, 0);
create table district (id int primary key, next_order int not null, takings bigint not null);
insert into district select n, 1, 0 from generate_series(1, {DISTRICTS}) n;
create table orders (district int, number int, lines int not null, trade int not null unique,
    primary key (district, number));
create table order_line (district int, number int, line int, item int not null, quantity int not null,
    primary key (district, number, line));
create table stock (item int primary key, ordered bigint not null);
insert into stock select n, 0 from generate_series(1, {ITEMS}) n;
create table payment (trade int primary key, district int not null, cents bigint not null);
grant all on account, transfer, warehouse, district, orders, order_line, stock, payment to flux_guest_main;
"""
ATOMIC, BLOCK, RAISES, ASKS = "atomic", "block", "raises", "asks"
"""How trades are made: in the function's own transaction, in a block, in vain, with a question to a host outside."""
PATH = "/trades/"
"""And the trade's number: the path of its trigger, so that its records are known."""

# What is where, as a second client counts it; each column is to be 0.
BOOKS = f"""
select
  (select count(*) from account a where cents <> {CENTS}
     + coalesce((select sum(cents) from transfer where target = a.id), 0)
     - coalesce((select sum(cents) from transfer where source = a.id), 0)),
  (select count(*) from warehouse w where takings <> (select sum(takings) from district)),
  (select count(*) from district d where takings <>
     coalesce((select sum(cents) from payment where district = d.id), 0)),
  (select count(*) from district d where next_order - 1 <>
     coalesce((select max(number) from orders where district = d.id), 0)
     or next_order - 1 <> (select count(*) from orders where district = d.id)),
  (select count(*) from orders o where lines <>
     (select count(*) from order_line l where (l.district, l.number) = (o.district, o.number))),
  (select count(*) from order_line l where not exists
     (select from orders o where (l.district, l.number) = (o.district, o.number))),
  (select count(*) from stock s where ordered <>
     coalesce((select sum(quantity) from order_line where item = s.item), 0)),
  (select count(*) from transfer t full join orders o on o.trade = t.id full join payment p on p.trade = o.trade
     where t.id is null or o.trade is null or p.trade is null)
"""
BOOKS_SAY = (
    "accounts that are not what the transfers say", "warehouses beside their districts",
    "districts beside their payments", "districts beside their orders", "orders beside their lines",
    "lines of no order", "stock beside the lines", "trades that were made in part",
)  # fmt: skip

# A row's xmin is the low half of the id of the transaction that wrote it. One question: psql costs a process.
TRADES = """
with trade as materialized (select id, xmin::text::bigint as low from transfer),
record as materialized (
  select id, split_part(path, '/', 3)::int as trade, outcome, xid::text::bigint % 4294967296 as low
  from flux.execution where path like '/trades/%'),
marked as materialized (
  select r.trade, t.xid::text::bigint % 4294967296 as low
  from flux.transaction t join record r on r.id = t.execution),
logged as materialized (
  select (key::json ->> 'id')::int as trade, xid::text::bigint % 4294967296 as low
  from flux.mutation where table_name = 'transfer' and committed)
select 'there', id from trade
union all select distinct 'recorded', trade from record
union all select 'unrecorded', t.id from trade t where 1 <>
    (select count(*) from record r where (r.trade, r.low) = (t.id, t.low) and r.outcome = 'returned')
    + (select count(*) from marked m where (m.trade, m.low) = (t.id, t.low))
union all select 'phantom', r.trade from record r where r.outcome = 'returned'
    and not exists (select from trade t where t.id = r.trade and t.low = coalesce(r.low, t.low))
union all select 'phantom', m.trade from marked m
    where not exists (select from trade t where (t.id, t.low) = (m.trade, m.low))
union all select 'doubled', trade from record where outcome = 'returned' group by trade having count(*) > 1
union all select 'doubled', trade from marked group by trade having count(*) > 1
union all select 'unrecorded', t.id from trade t where 1 <>
    (select count(*) from logged l where (l.trade, l.low) = (t.id, t.low))
union all select 'phantom', l.trade from logged l
    where not exists (select from trade t where (t.id, t.low) = (l.trade, l.low))
"""


@attrs.define
class Told:
    """What callers heard, by the trade's number."""

    done: set[int] = attrs.field(factory=set)
    """It was answered that the trade is made."""
    failed: set[int] = attrs.field(factory=set)
    """It was answered that it is not."""
    refused: set[int] = attrs.field(factory=set)
    """Nothing ran, so there is no record either."""
    unknown: set[int] = attrs.field(factory=set)
    """It was answered as failed, and nobody said whether it is made, or somebody that it is."""

    def take(self, number: int, executed: Executed) -> None:
        """Note what a trade that ran was answered."""
        if isinstance(executed.outcome, Returned):
            self.done.add(number)
        elif _may_be_there(executed.execution):
            self.unknown.add(number)
        else:
            self.failed.add(number)


def _may_be_there(execution: Execution) -> bool:
    """Whether a failure's own record leaves room for a commit: it has one, or says that it is not known."""
    if any(transaction.committed and transaction.xid is not None for transaction in execution.transactions):
        return True
    return "CommitUnknown" in repr(execution.outcome) or any(
        "whether transaction" in sentence for sentence in execution.completeness
    )


@attrs.frozen
class Findings:
    """What a second client found that must not be, by the trade's number."""

    lost: frozenset[int]
    """Answered as made, and not there."""
    phantom: frozenset[int]
    """Answered or recorded as what it is not: there though it failed, or on record as committed and not there."""
    doubled: frozenset[int]
    """Recorded as committed more than once."""
    unrecorded: frozenset[int]
    """There, and not on record exactly once, or run and without a record, or its rows not logged exactly once."""
    books: tuple[str, ...]
    """What does not agree in bank and shop."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.phantom or self.doubled or self.unrecorded or self.books)

    def __str__(self) -> str:
        found = [
            f"{name}: trades {sorted(numbers)[:10]}"
            for name in ("lost", "phantom", "doubled", "unrecorded")
            if (numbers := getattr(self, name))
        ]
        return "; ".join([*found, *self.books]) or "nothing"


def check(database: Database, told: Told) -> Findings:
    """Ask a second client about everything, once all records are written."""
    said, books = database.psql(f"{TRADES}; {BOOKS}").rpartition("\n")[::2]
    numbers: dict[str, set[int]] = {
        name: set() for name in ("there", "recorded", "unrecorded", "phantom", "doubled")
    }
    for name, _, number in (line.partition("|") for line in said.split()):
        numbers[name].add(int(number))
    there, recorded = numbers["there"], numbers["recorded"]
    disagree = [
        f"{count} {what}" for count, what in zip(books.split("|"), BOOKS_SAY, strict=True) if count != "0"
    ]
    return Findings(
        lost=frozenset(told.done - there),
        phantom=frozenset(numbers["phantom"] | told.failed & there | told.refused & (there | recorded)),
        doubled=frozenset(numbers["doubled"]),
        unrecorded=frozenset(numbers["unrecorded"] | (told.done | told.failed | told.unknown) - recorded),
        books=tuple(disagree),
    )


def make_statements(number: int) -> list[tuple[str, list[Any]]]:
    """Return what trade ``number`` asks of the database; where it says $order, the order's number is meant."""
    chance = random.Random(number)
    source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
    cents, district, lines = chance.randint(1, 9), chance.randint(1, DISTRICTS), chance.randint(1, 3)
    items = chance.sample(range(1, ITEMS + 1), lines)
    the_order = f"(select number from orders where trade = {number})"
    return [
        ("update account set cents = cents - $1 where id = $2", [cents, source]),
        ("update account set cents = cents + $1 where id = $2", [cents, target]),
        ("insert into transfer values ($1, $2, $3, $4)", [number, source, target, cents]),
        (
            "with mine as (update district set next_order = next_order + 1, takings = takings + $3 where id = $1 "
            "returning next_order - 1 as number) insert into orders select $1, number, $4, $2 from mine",
            [district, number, cents, lines],
        ),
        (
            f"insert into order_line select $1, {the_order}, line, item, 1 "
            "from unnest($2::int[]) with ordinality as l (item, line)",
            [district, items],
        ),
        ("update stock set ordered = ordered + 1 where item = any ($1::int[])", [items]),
        ("insert into payment values ($1, $2, $3)", [number, district, cents]),
        ("update warehouse set takings = takings + $1 where id = 1", [cents]),
    ]


def make_trade(number: int, *, atomic: bool, raises: bool = False, url: str = "") -> Script:
    """Return the function that makes trade ``number``.

    Where it is not ``atomic``, it says itself where its transaction begins and ends. ``raises``: it fails at its end.
    ``url`` is asked in the middle, and the trade goes on only with an answer.
    """

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        statements = make_statements(number)
        depth = None if atomic else await guest.call("db.begin", None)
        for statement, values in statements[:4]:
            await guest.call(*sql(statement, *values))
        await guest.log("half of it")
        if url:
            await guest.call("http.request", "POST", url, {"body": f"trade {number}", "timeout_s": 0.4})
        for statement, values in statements[4:]:
            await guest.call(*sql(statement, *values))
        if raises:
            raise RuntimeError("on purpose")
        if not atomic:
            await guest.call("db.commit", depth)
        return f"trade {number} is made"

    return script
