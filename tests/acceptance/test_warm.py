"""Whose worker was warm is on record, and told wherever it may matter: the trace, the reason, a replay, the doctor."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Database
from tests.dev_process import run_flux, running_dev, write_project
from tests.postgres_server import PostgresServer

FUNCTIONS = {
    "app.py": """
import os

from flux_guest import function

calls = 0


@function("POST /count")
def count(ctx, input):
    global calls
    calls += 1
    if calls > 1:
        raise ValueError(f"call {calls} of the process")
    return {"pid": os.getpid()}
""",
    "script.js": """
import { defineFunction } from "@flux/guest";

export default defineFunction({ route: "POST /script", handler: () => ({ ok: true }) });
""",
}


def test_a_warm_worker_is_told_wherever_what_it_kept_may_matter(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    project = write_project(tmp_path, FUNCTIONS, toml="[sandbox]\nwarm = 50\n")
    with running_dev(project, make_database(postgres18)) as server:
        first = server.request("POST", "/count", {})
        assert first.status == 200
        # The worker that comes back is the first that is asked, as soon as it can serve again.
        while (warm := server.request("POST", "/count", {})).status == 200:
            pass
        script = server.request("POST", "/script", {})

        def served_before(name: str) -> int | None:
            return server.json("trace", name)["sandbox"]["served_before"]  # type: ignore[no-any-return]

        assert [served_before(one.flux_id) for one in (first, warm, script)] == [0, 1, 0]
        assert "warm (had served 1)" in server.command("trace", warm.flux_id).stdout
        assert "warm" not in server.command("trace", first.flux_id).stdout

        facts = {fact["rule"]: fact["text"] for fact in server.json("why", warm.flux_id, exit_code=0)["facts"]}
        assert "it had served an execution before" in facts["warm-worker"]

        # The replay begins as the first did, though warm workers wait: it does not fail, and says what it lacks.
        replay = server.json("replay", warm.flux_id, exit_code=1)
        assert (replay["verdict"], replay["replayed"]["status"]) == ("diverged", 200)
        assert any("worker was warm" in note for note in replay["notes"])
        assert not any("warm" in note for note in server.json("replay", first.flux_id)["notes"])

        running = {check["name"]: check for check in server.json("doctor")["checks"]}
        assert running["warm"]["detail"].endswith(": count")
        assert "up to 50 executions" in running["warm"]["detail"]
    stopped = run_flux(project, "doctor")
    assert "functions/app.py" in stopped.stdout and "script.js" not in stopped.stdout
