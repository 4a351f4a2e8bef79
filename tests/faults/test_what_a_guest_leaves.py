"""What an execution changes in its process is gone with it; a warm worker keeps what the docs say, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.conformance import make_document
from flux.sandbox.process import ProcessSandbox
from flux.session import RecordSession
from flux.supervisor.drive import Bounds, drive
from tests.guests.record_and_replay import RefusingHost
from tests.zygote_world import wait_rested

DOCS = Path(__file__).parents[2] / "docs" / "guest-api.md"
MODULE = """
import asyncio
import builtins
import contextvars
import decimal
import gc
import json
import logging
import os
import random
import signal
import sys
import time
import uuid
import warnings

from flux_guest import Context, function

COUNT = 0
CACHE = {}
VARIABLE = contextvars.ContextVar("variable", default="none")


class Shared:
    setting = "as it was written"


@function()
async def litter(ctx: Context, input):
    global COUNT
    COUNT += 1
    CACHE["secret"] = "of somebody"
    Shared.setting = "changed"
    os.environ["LITTER"] = "1"
    sys.path.insert(0, "/litter")
    sys.modules["litter"] = json
    builtins.litter = True
    json.loads = lambda *a, **k: {"forged": True}
    VARIABLE.set("changed")
    decimal.getcontext().prec = 3
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("error")
    signal.signal(signal.SIGUSR1, lambda *_: None)
    random.seed(7)
    sys.setrecursionlimit(500)
    gc.disable()
    ctx.litter = True
    os.open(__file__, os.O_RDONLY)
    asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    print("half a line", end="")
    return {}


@function()
async def look(ctx: Context, input):
    return {
        "module": COUNT,
        "cache": len(CACHE),
        "class": Shared.setting != "as it was written",
        "environment": "LITTER" in os.environ,
        "path": "/litter" in sys.path,
        "modules": "litter" in sys.modules,
        "builtins": hasattr(builtins, "litter"),
        "json": json.loads('{"a": 1}') != {"a": 1},
        "context variable": VARIABLE.get() != "none",
        "decimal": decimal.getcontext().prec == 3,
        "logging": any(isinstance(h, logging.NullHandler) for h in logging.getLogger().handlers),
        "warnings": any(f[0] == "error" for f in warnings.filters),
        "signal": signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL,
        "recursion": sys.getrecursionlimit() == 500,
        "collector": not gc.isenabled(),
        "descriptor": len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else count_descriptors(),
        "ctx": hasattr(ctx, "litter"),
        "tasks": len(asyncio.all_tasks()) - 1,
        "random": [random.random(), str(uuid.uuid4()), time.time(), time.monotonic()],
    }


def count_descriptors():
    found = 0
    for number in range(4, 64):
        try:
            os.fstat(number)
        except OSError:
            continue
        found += 1
    return found
"""
STAYS = {
    "module": 1,
    "cache": 1,
    "class": True,
    "environment": True,
    "path": True,
    "modules": True,
    "builtins": True,
    "json": True,
    "logging": True,
    "warnings": True,
    "signal": True,
    "recursion": True,
    "collector": True,
}
"""What the next execution on the same warm worker finds, and says so in the docs."""


async def run_twice(folder: Path, warm: int) -> list[dict[str, Any]]:
    """Let `look` see a worker, then one after `litter`; return what it saw."""
    (folder / "functions").mkdir()
    (folder / "functions" / "a.py").write_text(MODULE)
    seen, pids = [], []
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            sandbox = ProcessSandbox(folder, "functions", warm=warm, idle_target=1)
            await nursery.start(sandbox.run)
            for function in ("look", "litter", "look"):
                worker = await sandbox.acquire()
                pids.append(worker.pid)
                driven = await drive(
                    worker, make_document(function), RecordSession(), RefusingHost(), Bounds(Limits(), {}),
                    redactor=Redactor(RedactionRules(), b"seed"), keep_worker=warm > 1,
                )  # fmt: skip
                await sandbox.release(worker, reusable=driven.reusable)
                await wait_rested(sandbox)
                outcome = driven.outcome
                assert outcome is not None and outcome.kind == "returned", outcome
                seen.append(json.loads(outcome.body))
            nursery.cancel_scope.cancel()
    assert (len(set(pids)) == 1) is (warm > 1)
    return [seen[0], seen[2]]


async def test_a_fresh_worker_knows_nothing_of_the_execution_before(tmp_path: Path) -> None:
    before, after = await run_twice(tmp_path, warm=1)
    assert after == before


async def test_a_warm_worker_keeps_what_the_docs_say_and_nothing_else(tmp_path: Path) -> None:
    before, after = await run_twice(tmp_path, warm=1000)
    changed = {name: value for name, value in after.items() if value != before[name]}
    assert changed.pop("descriptor") == before["descriptor"] + 1
    assert changed == STAYS


@pytest.mark.parametrize("word", ["os.environ", "sys.path", "monkeypatch", "descriptors", "module", "warm"])
def test_the_docs_say_what_a_warm_worker_keeps(word: str) -> None:
    section = DOCS.read_text().partition("## Warm workers")[2].partition("\n## ")[0]
    assert word in section
