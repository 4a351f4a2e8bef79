"""Who is not stepped through carries nothing of what stepping through takes."""

import importlib.util
import json
from pathlib import Path

from tests.zygote_world import run, run_on, running, write_modules

TRACERS = {"flux_guest._trace", "flux_guest._look", "bdb", "debugpy", "pdb", "pydevd", "trace"}
"""Flux's own modules for it, and those with which Python's debuggers begin."""
LISTS = """
import sys

from flux_guest import function


@function()
def look(ctx, input):
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12 and later.
    tools = [] if monitoring is None else [monitoring.get_tool(number) for number in range(6)]
    return {
        "modules": sorted(sys.modules),
        "hooks": [str(each) for each in (sys.gettrace(), sys.getprofile(), *tools) if each is not None],
    }
"""


async def test_a_deployed_worker_has_no_module_of_a_tracer_in_its_memory_and_no_hook_set(tmp_path: Path) -> None:
    assert importlib.util.find_spec("flux_guest._trace") and importlib.util.find_spec("flux_guest._look")
    project = write_modules(tmp_path, a=LISTS)
    async with running(project, idle_target=1) as fresh, running(project, idle_target=1, warm=10) as warm:
        frames = [await run(fresh, "look")]
        worker = await warm.acquire()
        frames += [await run_on(worker, "look")]
        await warm.release(worker, reusable=False)
    for frame in frames:
        assert frame is not None and frame[0] == "return", frame
        found = json.loads(frame[1]["body"])
        assert "flux_guest._worker" in found["modules"], "it is the worker's own memory that was looked at"
        assert TRACERS.isdisjoint(found["modules"])
        assert found["hooks"] == []
