"""The project of a history: the files of a state, and the request that its fault breaks.

It is a shop of one handler. What an order costs is computed in ``functions/pricing.py``, where most faults are; one of
them is in a statement of the handler, one in the package of rates. Each can be seen by the one request that is `BODY`,
and all other code answers it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from tests.histories.model import OTHER, State
from tests.wheels import write_wheel

PATH = "/orders"
BODY: Mapping[str, object] = {
    "product": 1, "quantity": "1,200", "people": 0, "country": "xx", "zone": "xx", "coupon": None,
}  # fmt: skip
"""A country without a rate, nobody to share with, no coupon, a quantity as people write it."""
RESULT_CENTS = 1_080_000
"""What code without a fault makes of it: 1,200 of 900 cents each."""
DATABASE = """\
create table products (id int primary key, cents int not null);
create table orders (id bigint generated always as identity primary key, product int not null, cents int not null);
insert into products values (1, 900), (2, 250);
"""


@attrs.frozen
class Kit:
    """How the projects of a history are made."""

    stub_port: int | None = None
    """Of a server on loopback that each order calls, behind the point at which the faults are."""
    wheels: bool = False
    """The dependency is a package in ``wheels/`` that is installed; else a module of the project's own."""


def list_files(state: State, kit: Kit) -> dict[str, bytes]:
    """Path and content of each file of the project."""
    files = {
        "flux.toml": _configure(kit),
        ".gitignore": ".flux/\n__pycache__/\n",
        "functions/shop.py": _write_handler(state, kit),
        "functions/pricing.py": _write_pricing(state, kit),
        "migrations/001_start.sql": DATABASE,
    }
    for number in range(1, state.migrations):
        files[f"migrations/{number + 1:03}_note.sql"] = f"alter table orders add column note_{number} text;\n"
    for number, changed in enumerate(state.fillers):
        files[f"functions/filler_{number}.py"] = (
            f'"""Nothing that an order needs."""\n\nCHANGED = {changed}\n'
        )
    found = {path: text.encode() for path, text in files.items()}
    if kit.wheels:
        found[f"wheels/rates-{state.dependency}-py3-none-any.whl"] = _pack(state.dependency)
        found["requirements.txt"] = f"--no-index\n--find-links wheels\nrates=={state.dependency}\n".encode()
    else:
        found["functions/rates.py"] = _write_rates(state.dependency).encode()
    return found


def _configure(kit: Kit) -> str:
    text = '[project]\nname = "shop"\n[recording]\nself_check_s = 0\n'
    return text if kit.stub_port is None else f'{text}[http]\nallow = ["127.0.0.1:{kit.stub_port}"]\n'


def _write_handler(state: State, kit: Kit) -> str:
    column = "price_cents" if "column" in state.faults else "cents"
    charge = ""
    if kit.stub_port is not None:
        charge = (
            f'    await ctx.http.post("http://127.0.0.1:{kit.stub_port}/charges", json={{"cents": cents}})\n'
        )
    imports = "from functions import nothing_of_this_name\n" if state.broken == "import" else ""
    other = '    warehouse = input["warehouse"]\n' if OTHER in state.faults else ""
    status = ""
    if "status" in state.faults:
        status = '    if len(input["quantity"]) > 4:\n        raise HTTPError(503, "OVERLOADED", "so many")\n'
    return (
        f'"""Orders."""\n\nfrom flux_guest import HTTPError, function\n\n'
        f'{imports}from functions.pricing import amount\n\n\n@function("POST {PATH}")\n'
        f"async def order(ctx, input):\n{other}"
        f'    product = await ctx.db.query_one("select id, {column} as cents from products where id = $1", '
        f'input["product"])\n{status}'
        '    cents = amount(product["cents"], input)\n'
        "    made = await ctx.db.query_one(\n"
        '        "insert into orders (product, cents) values ($1, $2) returning id", product["id"], cents\n'
        "    )\n"
        f'{charge}    return {{"order": made["id"], "cents": cents}}\n'
    )


def _write_pricing(state: State, kit: Kit) -> str:
    faults = state.faults
    quantity = 'int(input["quantity"])' if "parse" in faults else 'int(input["quantity"].replace(",", ""))'
    people = 'input["people"]' if "zero" in faults else '(input["people"] or 1)'
    rate = 'COUNTRIES[input["country"]]' if "key" in faults else 'COUNTRIES.get(input["country"], 0)'
    coupon = 'input["coupon"].strip()' if "none" in faults else '(input["coupon"] or "").strip()'
    zone = 'input["zone"].upper()' if "half:case" in faults else 'input["zone"]'
    zones = '{"xx": 1}' if "half:table" in faults else '{"xx": 1, "XX": 1}'
    steps = [f"quantity = {quantity}", f"rate = {rate}", f"coupon = {coupon}", f"zone = ZONES[{zone}]"]
    if state.style == 1:
        steps = ["# What was asked for, and from where.", *steps, ""]
    if state.style == 2:
        steps = [*steps[2:], *steps[:2]]
    if "flaky" in faults:
        steps.append(FLAKY)
    price = f"cents * quantity * zone // {people}"
    steps += (
        ["if coupon:", "    return 0", f"price = {price}", "return price + vat(price, rate)"]
        if state.style != 1
        else [f"price = 0 if coupon else {price}", "return price + vat(price, rate)"]
    )
    body = "\n".join(f"    {line}" if line else "" for step in steps for line in step.split("\n"))
    imports = "from rates import vat" if kit.wheels else "from functions.rates import vat"
    tail = "\n(" if state.broken == "syntax" else ""
    return (
        f'"""What an order costs."""\n\n{imports}\n\nCOUNTRIES = {{"de": 19, "fr": 20}}\nZONES = {zones}\n\n\n'
        f"def amount(cents, input):\n{body}\n{tail}"
    )


FLAKY = """\
import os, zlib
if zlib.crc32(str(os.fstat(0).st_ino).encode()) % 2:
    raise RuntimeError("an odd descriptor")"""
"""The kernel numbers the pipes of each worker anew, and no replay holds that: it fails in every second run, about."""


def _write_rates(version: str) -> str:
    """The package of rates: of 2.0, a rate of nothing is an error."""
    refusal = ""
    if version == "2.0":
        refusal = '    if not rate:\n        raise LookupError("there is no such rate")\n'
    return f'"""Rates, {version}."""\n\n\ndef vat(cents, rate):\n{refusal}    return cents * rate // 100\n'


def _pack(version: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="flux-wheel-") as folder:
        return write_wheel(
            Path(folder), "rates", {"rates.py": _write_rates(version)}, version=version
        ).read_bytes()
