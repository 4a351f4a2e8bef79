"""The second example: the six tests of TechEmpower's benchmarks answer by its rules, and repeat."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from tests.conduit_app import EXAMPLE, replay_all
from tests.dev_process import running_dev
from tests.shell_blocks import read_steps


def test_the_six_tests_answer_by_the_rules_and_repeat(tmp_path: Path) -> None:
    project = tmp_path / "techempower"
    shutil.copytree(EXAMPLE.parent / "techempower", project)
    with running_dev(project) as server:
        answer = server.request("GET", "/json")
        assert (answer.json, answer.headers["content-type"]) == ({"message": "Hello, World!"}, "application/json")
        answer = server.request("GET", "/plaintext")
        assert (answer.body, answer.headers["content-type"]) == (b"Hello, World!", "text/plain")
        assert set(server.request("GET", "/db").json) == {"id", "randomNumber"}
        counts = {"": 1, "?queries=": 1, "?queries=0": 1, "?queries=foo": 1, "?queries=501": 500, "?queries=20": 20}
        for query, count in counts.items():
            assert len(server.request("GET", f"/queries{query}").json) == count, query
        serve, ask = read_steps("examples/techempower/README.md")
        assert serve.line == "flux dev" and ask.shown is not None
        line = ask.line.replace("127.0.0.1:4000", f"127.0.0.1:{server.port}")
        printed = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout
        assert re.sub("[0-9]+", "N", printed) == re.sub("[0-9]+", "N", ask.shown.strip())
        written = server.request("GET", "/updates?queries=20").json
        assert len({one["id"] for one in written}) == 20
        numbers = ",".join(str(one["id"]) for one in written)
        kept = json.loads(server.command(
            "db", "query", f"select id, random_number from world where id in ({numbers})", "--json"
        ).stdout)  # fmt: skip
        assert {tuple(row) for row in kept["rows"]} == {(one["id"], one["randomNumber"]) for one in written}
        page = server.request("GET", "/fortunes").body.decode()
        assert page.count("<tr>") == 14 and "&lt;script&gt;" in page and "<script>" not in page
        assert page.index("Additional fortune") < page.index("After enough") and "フレームワーク" in page
        verdicts = replay_all(server)
        assert set(verdicts) == {"identical"} and len(verdicts["identical"]) == 12, verdicts
