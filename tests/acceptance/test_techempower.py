"""The second example: the six tests of TechEmpower's benchmarks answer by its rules, and repeat."""

import json
import re
import shutil
import subprocess
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.conduit_app import EXAMPLE, replay_all
from tests.dev_process import Answer, DevServer, running_dev
from tests.shell_blocks import read_steps


def get(server: DevServer, path: str, content_type: str = "application/json") -> Answer:
    """Ask, and check the headers that the rules want of every answer, the content's type exactly."""
    answer = server.request("GET", path)
    assert answer.status == 200, (path, answer.body)
    assert answer.headers["content-type"] == content_type and answer.headers["server"] == "flux", path
    assert parsedate_to_datetime(answer.headers["date"]) and int(answer.headers["content-length"]) > 0, path
    return answer


def test_the_six_tests_answer_by_the_rules_and_repeat(tmp_path: Path) -> None:
    project = tmp_path / "techempower"
    shutil.copytree(EXAMPLE.parent / "techempower", project)
    with running_dev(project) as server:
        assert get(server, "/json").json == {"message": "Hello, World!"}
        assert get(server, "/plaintext", "text/plain").body == b"Hello, World!"
        assert set(get(server, "/db").json) == {"id", "randomNumber"}
        counts = {"": 1, "?queries=": 1, "?queries=0": 1, "?queries=foo": 1, "?queries=501": 500, "?queries=20": 20}
        for query, count in counts.items():
            assert len(get(server, f"/queries{query}").json) == count, query
        # Two calls for each row: as many as an execution may ask.
        for query, count in {"?queries=": 1, "?queries=foo": 1, "?queries=501": 500}.items():
            assert len({one["id"] for one in get(server, f"/updates{query}").json}) == count, query
        serve, ask = read_steps("examples/techempower/README.md")
        assert serve.line == "flux dev" and ask.shown is not None
        line = ask.line.replace("127.0.0.1:4000", f"127.0.0.1:{server.port}")
        printed = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout
        assert re.sub("[0-9]+", "N", printed) == re.sub("[0-9]+", "N", ask.shown.strip())
        written = get(server, "/updates?queries=20").json
        assert len({one["id"] for one in written}) == 20
        numbers = ",".join(str(one["id"]) for one in written)
        kept = json.loads(server.command(
            "db", "query", f"select id, random_number from world where id in ({numbers})", "--json"
        ).stdout)  # fmt: skip
        assert {tuple(row) for row in kept["rows"]} == {(one["id"], one["randomNumber"]) for one in written}
        page = get(server, "/fortunes", "text/html; charset=utf-8").body.decode()
        assert page.count("<tr>") == 14 and "&lt;script&gt;" in page and "<script>" not in page
        assert page.index("Additional fortune") < page.index("After enough") and "フレームワーク" in page
        verdicts = replay_all(server)
        assert set(verdicts) == {"identical"} and len(verdicts["identical"]) == 15, verdicts
