"""Plant secrets in requests, and look for them in everything that Flux has written.

Anybody can run it::

    python -m tests.secrets.planted --count 1000

A real ``flux dev`` serves functions that do with secrets what functions do: they come in headers, cookies, bodies,
queries and forms, as they are, in base64 and URL-encoded; they go into parameters of statements, log lines,
exceptions, answers and jobs. Each secret is another one. Then its database is dumped, each record is read whole,
journals and what the server has printed are read, each execution is exported as a case; and nowhere may one of the
secrets be found, in any of these forms. Last, some of the executions are replayed, and must do the same again.

The project's own tables are not looked at, nor the log of their rows: what a function stores there it means to be
there, and docs/security.md says so.
"""

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import attrs
import trio

from flux.store.reading import get_execution
from tests.conftest import Database, create_database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import running_postgres

FUNCTIONS = """\
import base64
from urllib.parse import quote

from flux_guest import function


@function("POST /use/{id}")
async def use(ctx, input):
    secret = input["password"]
    encoded = base64.b64encode(secret.encode()).decode()
    await ctx.db.query("select $1::text as a, $2::text as b", secret, encoded)
    await ctx.db.query("select length($1) as n", quote(secret))
    ctx.log.info(f"the password is {secret}", encoded=encoded, quoted=quote(secret))
    print("printed", secret, ctx.request.headers.get("authorization"))
    await ctx.queue.push("later", {"password": secret, "note": encoded})
    if input.get("fails"):
        raise ValueError(f"{secret} is no good, nor is {encoded}")
    return {"password": secret, "echo": [encoded, quote(secret)], "cookie": ctx.request.headers.get("cookie")}


@function()
async def later(ctx, input):
    ctx.log.info("later " + input["password"])
    await ctx.db.query("select $1::text as a", input["note"])
"""
TOML = """\
[recording]
redact = ["header:authorization", "header:cookie", "header:x-key", "json:$.password", "json:$.card.number"]
"""
REPLAYED = 3
IN_A_REQUEST = 5


@attrs.define
class Tally:
    """What came out."""

    planted: int = 0
    looked_at: dict[str, int] = attrs.Factory(dict)
    """Bytes of each place."""
    found: list[str] = attrs.Factory(list)
    """Secrets that were found: which, in what form, and where."""
    replayed: int = 0
    other: list[str] = attrs.Factory(list)
    """Replays that did not do the same again."""


def make_secret(chance: random.Random) -> str:
    """A secret with characters that every encoding writes otherwise."""
    return "".join(chance.choice("abcdefghijkmnpqrstuvwxyz0123456789+/ &=%ü") for _ in range(18)).strip() + "!Zq"


def forms_of(secret: str) -> dict[str, bytes]:
    """The secret as it may be written."""
    data = secret.encode()
    return {
        "as it is": data,
        "in JSON": json.dumps(secret)[1:-1].encode(),
        "base64": base64.b64encode(data).rstrip(b"=")[:-1],
        "base64 for URLs": base64.urlsafe_b64encode(data).rstrip(b"=")[:-1],
        "URL-encoded": quote(secret).encode(),
        "form-encoded": quote_plus(secret).encode(),
        "hexadecimal": data.hex().encode(),
    }


def send(server: DevServer, chance: random.Random, number: int, tally: Tally) -> list[str]:
    """Send one request full of secrets; return them."""
    bearer, cookie, key, password, card = (make_secret(chance) for _ in range(IN_A_REQUEST))
    body = {"password": password, "card": {"number": card}, "fails": number % 3 == 0}
    headers = {
        "authorization": f"Bearer {base64.b64encode(bearer.encode()).decode()}",
        "cookie": f"session={quote(cookie)}; theme=dark-blue",
        "x-key": quote(key),
    }
    answer = server.request("POST", f"/use/{number}", body, headers)
    assert answer.status == (500 if body["fails"] else 200), answer.body
    tally.planted += IN_A_REQUEST
    return [bearer, cookie, key, password, card]


def wait_jobs(database: Database) -> None:
    deadline = time.monotonic() + 120
    while database.psql("select count(*) from flux.job where state in ('waiting', 'running')") != "0":
        assert time.monotonic() < deadline, "the jobs do not end"
        time.sleep(0.1)


async def read_records(database: Database) -> bytes:
    """Each record, whole."""
    pool = database.pool()
    async with pool.acquire() as connection:
        ids = [row[0] for row in await connection.fetch("select id from flux.execution")]
    parts = [str(attrs.asdict((await get_execution(pool, each))[1])) for each in ids]
    await pool.aclose()
    return "\n".join(parts).encode("utf-8", "surrogateescape")


def read_places(server: DevServer, database: Database, names: list[str]) -> dict[str, bytes]:
    """All that Flux has written."""
    dump = subprocess.run(
        [database.server.bin_dir / "psql", "-XqAt", "-h", database.server.host, "-p", str(database.server.port),
         "-U", database.server.user, database.name, "-c",
         "select t::text from (select to_json(e) t from flux.summary e union all select to_json(j) from flux.job j "
         "union all select to_json(b) from flux.blob b union all select to_json(l) from flux.deployment l) s"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    cases = b""
    for name in names[:REPLAYED]:
        path = server.project / f"{name}.fluxcase"
        done = server.command("export", name, "--case", "-o", str(path))
        assert done.returncode == 0, done.stderr
        cases += path.read_bytes() + server.command("replay", str(path), "--isolation", "core").stdout.encode()
    journal = b"".join(
        path.read_bytes() for path in (server.project / ".flux" / "journal").rglob("*") if path.is_file()
    )
    logs = server.command("logs", "--since", "1d", "--json").stdout.encode()
    shown = b"".join(server.command("trace", name, "--json").stdout.encode() for name in names[:REPLAYED])
    return {
        "records": trio.run(read_records, database), "tables": dump, "cases": cases, "journals": journal,
        "logs": logs, "traces": shown, "what the server printed": "\n".join(server.story).encode(),
    }  # fmt: skip


def run(folder: Path, database: Database, *, count: int, seed: int = 1) -> Tally:
    """Plant at least ``count`` secrets, and look for them."""
    chance = random.Random(seed)
    tally = Tally()
    project = write_project(folder, {"secrets.py": FUNCTIONS}, toml=TOML)
    with running_dev(project, database) as server:
        secrets: list[str] = []
        while tally.planted < count:
            secrets += send(server, chance, tally.planted // IN_A_REQUEST, tally)
        wait_jobs(database)
        listed = server.json("trace", "list", "-n", "1000", "-q", "function:use")["executions"]
        names = [execution["name"] for execution in listed]
        places = read_places(server, database, names)
        tally.looked_at = {name: len(data) for name, data in places.items()}
        for secret in secrets:
            for form, data in forms_of(secret).items():
                tally.found += [f"{secret!r} {form} in {name}" for name, whole in places.items() if data in whole]
        for name in names[:REPLAYED]:
            done = server.command("replay", name, "--json")  # Exit code 1 where it fails again, as it must.
            assert done.returncode in (0, 1), done.stderr
            replay = json.loads(done.stdout)
            tally.replayed += 1
            if replay["divergence"] is not None:
                tally.other.append(f"{name}: {replay['verdict']}: {replay['divergence']}")
    return tally


def main() -> int:
    """Run it and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args()
    with running_postgres() as server, tempfile.TemporaryDirectory() as folder:
        tally = run(Path(folder), create_database(server), count=said.count, seed=said.seed)
    print(f"{tally.planted} secrets planted; found: {len(tally.found)}")
    print(", ".join(f"{name} {size:,} bytes" for name, size in tally.looked_at.items()))
    print(f"{tally.replayed} executions replayed; {len(tally.other)} did something else")
    for line in [*tally.found[:20], *tally.other]:
        print(f"  {line}")
    return 1 if tally.found or tally.other else 0


if __name__ == "__main__":
    sys.exit(main())
