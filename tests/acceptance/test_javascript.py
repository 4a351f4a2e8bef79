"""JavaScript, TypeScript and wasm functions as their users meet them: served, explained, reloaded."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.dev_process import (
    DevServer,
    database_url,
    run_flux,
    running_dev,
    start_dev,
    wait_ready,
    write_project,
)
from tests.postgres_server import PostgresServer
from tests.wasm_guests import assemble

HELLO = """\
import { defineFunction } from "@flux/guest";

export default defineFunction({
  route: "GET /hello",
  handler: async ({ input, ctx }) => {
    ctx.log.info("saying hello", { name: input.name });
    const { two } = await ctx.db.queryOne("select 1 + 1 as two");
    return { hello: input.name, two };
  },
});
"""
PAY = """\
import { defineFunction, HTTPError, type Context } from "@flux/guest";
import { fee, type Money } from "./fees.js";

interface Input {
  amount: Money;
  plan?: string;
}

/** Everything below stands where it stands: the types above it are erased, their lines are not. */
const LIMITS: Record<string, number> = {
  free: 100,
  pro: 10_000,
};

type Order = {
  id: number;
  total: number;
  paid: boolean;
  note?: string;
};

function check(order: Order | null, plan: string): Order {
  if (order === null) {
    throw new HTTPError(404, "NOT_FOUND", "no such order");
  }
  if (order.total > LIMITS[plan]!) {
    throw new HTTPError(409, "CONFLICT", "too much");
  }
  return order;
}

export default defineFunction({
  name: "pay",
  route: "POST /orders/{id}/pay",
  timeout: "5s",
  handler: async ({ input, ctx }: { input: Input & { id: string }; ctx: Context }) => {
    const order = (await ctx.db.orders.findOne({ id: Number(input.id) })) as Order | null;
    const checked = check(order, input.plan ?? "free");
    await ctx.db.orders.update({ id: checked.id }, { paid: true });
    const charged = fee(input.amount);
    if (charged > 50) {
      throw new Error(`a fee of ${charged} is not plausible`);
    }
    return { id: checked.id, charged };
  },
});
"""
FEES = """\
export type Money = number;

export const fee = (amount: Money): Money => amount / 10;
"""
PYTHON = """\
from flux_guest import function


@function("GET /python")
async def python(ctx, input):
    return {"language": "Python"}
"""
ORDERS = "create table orders (id int primary key, total int, paid bool default false);" + (
    "insert into orders values (1, 80), (2, 800);"
)


def write_shop(folder: Path) -> Path:
    project = write_project(folder, {"hello.js": HELLO, "python.py": PYTHON}, migrations={"001.sql": ORDERS})
    folder = project / "functions" / "payments"
    folder.mkdir()
    (folder / "create.ts").write_text(PAY)
    (folder / "fees.ts").write_text(FEES)
    (project / "functions" / "greet.wasm").write_bytes(assemble("greet", '{"route": "GET /greet"}'))
    return project


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[DevServer]:
    """One for all that begin with code that is good; who changes a file puts it back."""
    with running_dev(write_shop(tmp_path_factory.mktemp("shop")), make_database(postgres18)) as server:
        yield server


def test_four_languages_stand_side_by_side(server: DevServer) -> None:
    assert server.request("GET", "/hello?name=you").json == {"hello": "you", "two": 2}
    assert server.request("POST", "/orders/1/pay", {"amount": 100}).json == {"id": 1, "charged": 10}
    assert server.request("GET", "/greet").json == {"greeting": "hello from wasm"}
    assert server.request("GET", "/python").json == {"language": "Python"}
    listed = server.json("function", "list")["functions"]
    assert {one["name"]: one["runtime"] for one in listed} == {
        "hello": "javascript",
        "pay": "typescript",
        "greet": "wasm",
        "python": "python",
    }
    trace = server.json("trace", server.request("GET", "/hello?name=me").flux_id)
    assert [call["kind"] for call in trace["calls"]] == ["db.query"]
    assert trace["calls"][0]["location"] == {"file": "functions/hello.js", "line": 7, "function": "handler"}
    assert [line["message"] for line in trace["logs"]] == ["saying hello"]
    assert trace["sandbox"]["kind"] == "wasm"


def test_why_names_the_line_of_a_typescript_function(server: DevServer) -> None:
    line = PAY.splitlines().index("      throw new Error(`a fee of ${charged} is not plausible`);") + 1
    assert line == 42
    failed = server.request("POST", "/orders/1/pay", {"amount": 1000})
    assert failed.status == 500
    why = server.json("why", failed.flux_id)
    assert why["failure"]["location"] == {"file": "functions/payments/create.ts", "line": 42, "function": "handler"}
    assert why["failure"]["message"] == "a fee of 100 is not plausible"
    assert [(one["table"], one["committed"]) for one in why["mutations"]] == [("orders", False)]
    shown = server.command("why", failed.flux_id)
    assert "functions/payments/create.ts:42" in shown.stdout


def test_an_http_error_is_answered_as_it_says(server: DevServer) -> None:
    missing = server.request("POST", "/orders/9/pay", {"amount": 1})
    assert (missing.status, missing.json["code"], missing.json["detail"]) == (404, "NOT_FOUND", "no such order")
    assert server.request("POST", "/orders/2/pay", {"amount": 1}).status == 409


UNLOADABLE = [
    ("bad.js", "export default 1 +;\n", "functions/bad.js:1", "SyntaxError"),
    ("bad.ts", "const a = 1;\n\nenum Color { Red }\n", "functions/bad.ts:3", 'Red: "red"'),
    ("bad.ts", 'import x from "lodash";\nx();\n', "functions/bad.ts:1", "is a package"),
    ("bad.js", '\nimport { x } from "./no/such.js";\n', "functions/bad.js:2", "there is no file"),
    ("bad.js", 'import fs from "node:fs";\n', "functions/bad.js:1", "without Node"),
    ("bad.ts", 'import {\n  Money,\n  fee,\n} from "./payments/fees";\n', "functions/bad.ts:2", "import type"),
    ("bad.js", "const a = null;\na.b();\n", "functions/bad.js:2", "TypeError"),
    (
        "bad.js",
        'import { defineFunction } from "@flux/guest";\n\nexport default defineFunction({ rout: "GET /x" });\n',
        "functions/bad.js:3",
        'there is no option "rout"',
    ),
    ("bad.wasm", "not wasm at all", "functions/bad.wasm:1", "does not begin as a WebAssembly module does"),
]


def test_what_can_not_be_loaded_is_told_with_its_place(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    # Nothing good but what one of the bad ones imports: each of them has all that there is loaded anew.
    good = {"hello.js": HELLO, "payments/fees.ts": FEES}
    project = write_project(tmp_path, good)
    functions = project / "functions"
    (functions / "bad.js").write_text(UNLOADABLE[0][1])
    server = start_dev(project, "--database-url", database_url(make_database(postgres18)))
    try:
        told = 0
        for file, code, place, says in UNLOADABLE:
            # One bad file takes the place of another: in between there is nothing good that could be served.
            (functions / file).write_text(code)
            for old in set(functions.glob("bad.*")) - {functions / file}:
                old.unlink()
            server.wait_story(says, after=told)
            server.wait_story(place, after=told)
            server.wait_story("nothing is served until it is mended", after=told)
            told = len(server.story)
        (functions / file).unlink()
        wait_ready(server)
        assert server.request("GET", "/hello?name=x").status == 200
        assert server.stop() == 0
    finally:
        server.kill()


def test_a_changed_file_is_served_at_once(server: DevServer) -> None:
    path = server.project / "functions" / "payments" / "fees.ts"
    told = len(server.story)
    path.write_text(FEES.replace("/ 10", "/ 20"))
    server.wait_story("reload", after=told)
    assert server.request("POST", "/orders/1/pay", {"amount": 100}).json == {"id": 1, "charged": 5}
    told = len(server.story)
    path.write_text(FEES)
    server.wait_story("reload", after=told)


def test_two_functions_of_one_name_are_refused_whatever_their_languages(server: DevServer) -> None:
    told = len(server.story)
    path = server.project / "functions" / "python.js"
    path.write_text(HELLO.replace("/hello", "/other"))
    server.wait_story("a function named python exists already", after=told)
    told = len(server.story)
    path.unlink()
    server.wait_story("reload", after=told)
    assert run_flux(server.project, "explain", "FLX516").returncode == 0
