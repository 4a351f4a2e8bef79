"""Bodies of any size as a user meets them: a real server, Python and JavaScript, the command line.

What travelled is measured here with SHA-256, and never asked of Flux.
"""

import hashlib
import os
import signal
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.streams import large

PYTHON = """\
import hashlib
from flux_guest import function


@function("GET /lines/{count}")
async def lines(ctx, input):
    await ctx.db.execute("insert into asked values ($1)", int(input["count"]))

    async def make():
        for number in range(int(input["count"])):
            yield f"line {number}\\n"
        if "fail" in input:
            raise KeyError("half")

    return ctx.response(make(), headers={"content-type": "text/csv"})


@function("GET /plain")
def plain(ctx, input):
    for row in ctx.db.query("select count(*) from asked"):
        yield str(row["count"])
    yield b"\\xff" * 3_000_000


@function("PUT /up")
async def up(ctx, input):
    digest = hashlib.sha256()
    async for piece in ctx.request.stream():
        digest.update(piece)
    return {"sha256": digest.hexdigest(), "size": ctx.request.size, "input": input}


@function("PUT /whole")
async def whole(ctx, input):
    return len(ctx.request.body)
"""
JAVASCRIPT = """\
import { defineFunction } from "@flux/guest";
export const there = defineFunction({ route: "PUT /js", handler: ({ ctx }) => {
  async function* back() { for await (const piece of ctx.request.stream()) yield piece; }
  return ctx.response(back(), { headers: { "x-size": String(ctx.request.size) } });
} });
"""
TOML = '[limits]\nbody = "64KiB"\nstream = "8MiB"\nmemory = "128MiB"\n'
UPLOAD = os.urandom(2_500_000)


def make_project(folder: Path) -> Path:
    return write_project(
        folder, {"main.py": PYTHON, "back.js": JAVASCRIPT, "large.py": large.FUNCTIONS}, toml=TOML,
        migrations={"001_asked.sql": "create table asked (n int);"},
    )  # fmt: skip


def test_answers_and_uploads_of_any_size(database: Database, tmp_path: Path) -> None:
    with running_dev(make_project(tmp_path), database) as server:
        check_answers(server, database)
        check_uploads(server)
        # ``python -m tests.streams.large`` does this with larger ones, and with several processes.
        seen = large.exercise(server, 3 * large.MIB + 1)
        assert large.is_bounded(seen) and seen.pieces == 4, seen
        assert seen.verdicts == ("identical", "outside")
        assert large.list_spooled(server.process.pid) == [], "every body was let go"
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(60)
        assert list((tmp_path / ".flux" / "spool").iterdir()) == []


def check_answers(server: DevServer, database: Database) -> None:
    expected = b"".join(b"line %d\n" % number for number in range(120_000))
    answer = server.request("GET", "/lines/120000")
    assert (answer.status, answer.body) == (200, expected)
    assert answer.headers["content-length"] == str(len(expected))
    head = server.request("HEAD", "/lines/120000")
    assert (head.headers["content-length"], head.body) == (str(len(expected)), b"")
    output = server.json("trace", answer.flux_id)["output"]
    assert output["body_format"] == "streamed"
    digest = hashlib.sha256(expected).hexdigest()
    pieces = sum(call["kind"] == "response.write" for call in server.json("trace", answer.flux_id)["calls"])
    assert pieces > 1
    assert output["streamed"] == {"sha256": digest, "bytes": len(expected), "pieces": pieces}
    said = f"{len(expected):,} bytes, streamed, written in {pieces} pieces SHA-256 {digest}"
    assert said in " ".join(server.command("trace", answer.flux_id).stdout.split())
    for more in ([], ["--on", "."]):
        assert server.json("replay", answer.flux_id, *more)["verdict"] == "identical"
    failed = server.request("GET", "/lines/90000?fail=1")
    assert failed.status == 500 and b"line 1" not in failed.body
    assert database.psql("select count(*) from asked where n = 90000") == "0"
    assert server.json("replay", failed.flux_id, exit_code=1)["verdict"] == "same failure"
    plain = server.request("GET", "/plain")
    assert plain.body == b"2" + b"\xff" * 3_000_000
    assert plain.headers["content-type"] == "application/octet-stream"
    too_much = server.request("GET", "/lines/900000")
    assert too_much.status == 500 and b"FLX715" not in too_much.body and b"8MiB are allowed" in too_much.body
    (server.project / "functions" / "main.py").write_text(PYTHON.replace("line {number}", "row {number}"))
    changed = server.json("replay", answer.flux_id, "--on", ".", exit_code=1)
    assert changed["verdict"] == "changed", changed


def check_uploads(server: DevServer) -> None:
    digest = hashlib.sha256(UPLOAD).hexdigest()
    said = {"sha256": digest, "size": len(UPLOAD), "input": {"a": "1"}}
    answer = server.request("PUT", "/up?a=1", UPLOAD)
    assert answer.json == said
    seen = server.json("trace", answer.flux_id)["input"]
    assert (seen["body"], seen["streamed"]) == (None, {"sha256": digest, "bytes": len(UPLOAD), "pieces": 3})
    replay = server.json("replay", answer.flux_id, exit_code=1)
    assert (replay["verdict"], replay["divergence"]["kind"]) == ("outside", "unheard")
    assert f"{len(UPLOAD)} bytes whose SHA-256 is {digest}" in server.command("export", answer.flux_id, "--curl").stdout
    case = server.json("export", answer.flux_id, "--case", "-o", "up.fluxcase")
    assert [f"not its {len(UPLOAD):,} bytes" in lack for lack in case["lacks"]] == [True]
    assert server.json("replay", "up.fluxcase", exit_code=1)["verdict"] == "outside"
    there_and_back = server.request("PUT", "/js", UPLOAD)
    assert there_and_back.body == UPLOAD and there_and_back.headers["x-size"] == str(len(UPLOAD))
    assert server.request("PUT", "/js", b"small").body == b"small"
    whole = server.request("PUT", "/whole", UPLOAD)
    assert whole.status == 500 and b"ctx.request.stream()" in whole.body
    assert server.request("PUT", "/whole", b"12345").json == 5
