"""The requests that are measured, written once for all sides.

Each workload says what the client sends, and `FUNCTIONS` does it with Flux; `benchmarks.peer_fastapi` and
`benchmarks.peer_dbos` do the same statements with asyncpg. Request number n has values of its own, so that no two
requests in flight meet at one row by design: what is measured is the path, not the waiting for locks.
"""

import json
from collections.abc import Callable, Mapping

import attrs

PEOPLE = 10_000
PRODUCTS = 10_000
DISTRICTS = 1_000
LINES = 5
"""Of a TPC-C-like order, which has 5 to 15 there."""
CPU_ROUNDS = 20_000
_STEP = 7919
"""A prime: consecutive requests go to rows far apart, and each row has its turn."""

SCHEMA = f"""
create table people (id int primary key, email text not null, plan text not null);
insert into people select i, 'person' || i || '@example.com', 'free' from generate_series(1, {PEOPLE}) i;
create table users (
    id bigint generated always as identity primary key, email text not null unique, plan text not null, customer text
);
create table products (id int primary key, name text not null, price numeric not null, stock int not null);
insert into products select i, 'product ' || i, i / 100.0, 1000000 from generate_series(1, {PRODUCTS}) i;
create table orders (
    id bigint generated always as identity primary key, product int not null, amount int not null,
    total numeric not null, placed_at timestamptz not null default now()
);
create table lines (
    id bigint generated always as identity primary key, order_id bigint not null references orders, note text not null
);
create table jobs (id bigint generated always as identity primary key, kind text not null, payload text not null);
create table districts (id int primary key, next_order int not null, tax_percent int not null);
insert into districts select i, 1, i % 20 from generate_series(1, {DISTRICTS}) i;
create table new_orders (
    district int not null references districts, number int not null, customer int not null references people,
    primary key (district, number)
);
create table order_lines (
    district int not null, number int not null, line int not null, product int not null references products,
    amount int not null, total_cents int not null,
    primary key (district, number, line), foreign key (district, number) references new_orders
);
"""
TABLES = ("people", "users", "products", "orders", "lines", "jobs", "districts", "new_orders", "order_lines")
"""Of the schema."""

FIND_PERSON = "select id, email, plan from people where id = $1"
FIND_USER = "select id from users where email = $1"
ADD_USER = "insert into users (email, plan) values ($1, 'free') returning id"
SET_CUSTOMER = "update users set customer = $1 where id = $2"
ADD_JOB = "insert into jobs (kind, payload) values ($1, $2)"
FIND_PRODUCT = "select price from products where id = $1"
ADD_ORDER = "insert into orders (product, amount, total) values ($1, $2, $3) returning id"
ADD_LINE = "insert into lines (order_id, note) values ($1, $2)"
TAKE_STOCK = "update products set stock = stock - $1 where id = $2"

TAKE_NUMBER = "update districts set next_order = next_order + 1 where id = $1 returning next_order, tax_percent"
FIND_CUSTOMER = "select email, plan from people where id = $1"
ADD_NEW_ORDER = "insert into new_orders (district, number, customer) values ($1, $2, $3)"
FIND_PRICE = "select name, (price * 100)::int as cents from products where id = $1"
TAKE_FROM_STOCK = "update products set stock = stock - $1 where id = $2 returning stock"
ADD_ORDER_LINE = (
    "insert into order_lines (district, number, line, product, amount, total_cents) values ($1, $2, $3, $4, $5, $6)"
)

COMPUTE = """\
def compute(rounds: int, seed: int) -> int:
    for _ in range(rounds):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
    return seed
"""
"""What is computed where nothing is asked for: source text, so that guests have the same."""

FUNCTIONS = f'''\
from flux_guest import Context, function


@function("POST /noop")
async def noop(ctx: Context, input: dict) -> dict:
    return {{"ok": True}}


@function("GET /people/{{id}}")
async def get_person(ctx: Context, input: dict) -> dict:
    return await ctx.db.query_one("{FIND_PERSON}", int(input["id"]))


@function("POST /signup")
async def sign_up(ctx: Context, input: dict) -> dict:
    email = input["email"]
    if await ctx.db.query("{FIND_USER}", email):
        raise ctx.error(409, "TAKEN", "this address has an account")
    answer = await ctx.http.post("http://127.0.0.1:STUB_PORT/v1/customers", json={{"email": email}})
    user = await ctx.db.query_one("{ADD_USER}", email)
    await ctx.db.execute("{SET_CUSTOMER}", answer.json()["id"], user["id"])
    await ctx.db.execute("{ADD_JOB}", "welcome", email)
    return {{"id": user["id"]}}


@function("POST /orders")
async def place_order(ctx: Context, input: dict) -> dict:
    product, amount = input["product"], input["amount"]
    found = await ctx.db.query_one("{FIND_PRODUCT}", product)
    order = await ctx.db.query_one("{ADD_ORDER}", product, amount, found["price"] * amount)
    await ctx.db.execute("{ADD_LINE}", order["id"], input["note"])
    await ctx.db.execute("{TAKE_STOCK}", amount, product)
    await ctx.db.execute("{ADD_JOB}", "ship", str(order["id"]))
    return {{"id": order["id"]}}


@function("POST /new-order")
async def new_order(ctx: Context, input: dict) -> dict:
    district, customer = input["district"], input["customer"]
    taken = await ctx.db.query_one("{TAKE_NUMBER}", district)
    await ctx.db.query_one("{FIND_CUSTOMER}", customer)
    number, total = taken["next_order"], 0
    await ctx.db.execute("{ADD_NEW_ORDER}", district, number, customer)
    for line, item in enumerate(input["items"]):
        product = await ctx.db.query_one("{FIND_PRICE}", item["product"])
        await ctx.db.query_one("{TAKE_FROM_STOCK}", item["amount"], item["product"])
        cents = product["cents"] * item["amount"]
        await ctx.db.execute("{ADD_ORDER_LINE}", district, number, line, item["product"], item["amount"], cents)
        total += cents
    return {{"number": number, "total_cents": total * (100 + taken["tax_percent"]) // 100}}


@function("POST /compute")
async def answer_compute(ctx: Context, input: dict) -> dict:
    return {{"value": compute(input["rounds"], input["seed"])}}


{COMPUTE}'''


@attrs.frozen
class Workload:
    """One kind of request."""

    title: str
    """What it does, for tables."""
    make_request: Callable[[int], bytes]
    """Gives the bytes of request number n."""
    trigger: Callable[[int], tuple[str, str, Mapping[str, str], object]]
    """Gives method, path, path parameters and body of the same request, for who asks without HTTP."""
    function: str
    """That answers it with Flux."""


def _encode(method: str, path: str, body: object) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load/1\r\nAccept: */*\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    content = json.dumps(body)
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return f"{head}{content}".encode()


def _noop(_number: int) -> tuple[str, str, Mapping[str, str], object]:
    return "POST", "/noop", {}, {"hello": "world"}


def _point(number: int) -> tuple[str, str, Mapping[str, str], object]:
    person = str(number * _STEP % PEOPLE + 1)
    return "GET", f"/people/{person}", {"id": person}, None


def _signup(number: int) -> tuple[str, str, Mapping[str, str], object]:
    return "POST", "/signup", {}, {"email": f"new{number}@example.com", "plan": "free"}


def _order(number: int) -> tuple[str, str, Mapping[str, str], object]:
    return (
        "POST",
        "/orders",
        {},
        {"product": number * _STEP % PRODUCTS + 1, "amount": 2, "note": f"order {number}"},
    )


def _new_order(number: int) -> tuple[str, str, Mapping[str, str], object]:
    # In ascending order, so that two orders in flight never wait for each other in a circle.
    products = sorted((number * LINES + line) * _STEP % PRODUCTS + 1 for line in range(LINES))
    items = [{"product": product, "amount": 1 + product % 10} for product in products]
    customer = number * _STEP % PEOPLE + 1
    return "POST", "/new-order", {}, {"district": number % DISTRICTS + 1, "customer": customer, "items": items}


def _compute(number: int) -> tuple[str, str, Mapping[str, str], object]:
    return "POST", "/compute", {}, {"rounds": CPU_ROUNDS, "seed": number}


def _workload(
    title: str, trigger: Callable[[int], tuple[str, str, Mapping[str, str], object]], function: str
) -> Workload:
    def make_request(number: int) -> bytes:
        method, path, _params, body = trigger(number)
        return _encode(method, path, body)

    return Workload(title, make_request, trigger, function)


WORKLOADS: Mapping[str, Workload] = {
    "noop": _workload("no-op", _noop, "noop"),
    "point": _workload("point SELECT", _point, "get_person"),
    "signup": _workload("sign-up", _signup, "sign_up"),
    "order": _workload("five statements", _order, "place_order"),
    "tpcc": _workload("a TPC-C-like order of 18 statements", _new_order, "new_order"),
    "cpu": _workload(f"{CPU_ROUNDS:,} rounds of arithmetic", _compute, "answer_compute"),
}
SHORT = ("noop", "point", "signup", "order")
"""Those of few statements, where what Flux adds is most of a request."""
