"""Run every attempt in a jail and print how each went: ``run_attempts.py LEVEL USER WHERE``.

A program of its own, so that it can be run as somebody else. LEVEL is strict or core; USER is
``own`` for a user id of the tenant's own, ``same`` for whoever we are; WHERE is ``worker``, each
attempt in a fresh one, or ``import``, while the module is imported. It prints one JSON document.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.jail import find_tenant_uid
from flux.sandbox.process import ProcessSandbox

sys.path.insert(0, str(Path(__file__).parent))
from targets import Laid, lay_out, list_what_was_reached

HERE = Path(__file__).parent
PATIENCE_S = 240.0


async def run(sandbox: ProcessSandbox, function: str, **inputs: Any) -> Any:
    """Run a function in a fresh worker; return its answer, or how it ended."""
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document(function, **inputs))
        talk = Talk(worker)
        with trio.move_on_after(PATIENCE_S):
            while (frame := await talk.hear()) is not None:
                if frame[0] == "return":
                    return json.loads(frame[1]["body"])
                if frame[0] == "raise":
                    return {"got": None, "refused": f"{frame[1]['type']}: {frame[1]['message']}"}
            ended = await worker.wait_exit()
            if ended.signal is not None:
                return {"got": None, "refused": f"signal {ended.signal}"}
            return {"got": f"ended with {ended.exit_code}: {ended.output}", "refused": None}
        return {"got": None, "refused": "hangs"}
    finally:
        await sandbox.release(worker, reusable=False)


async def try_in_workers(sandbox: ProcessSandbox, laid: Laid) -> dict[str, Any]:
    """Make each attempt in a fresh worker."""
    names = await run(sandbox, "names")
    return {name: await run(sandbox, "attempt", name=name, targets=laid.targets) for name in names}


def write_guest(folder: Path, where: str, laid_targets: dict[str, Any]) -> None:
    """Write the project whose code makes the attempts."""
    functions = folder / "functions"
    shutil.copytree(HERE / "guest" / "functions", functions, ignore=shutil.ignore_patterns("__pycache__"))
    if where == "import":
        shutil.copy(HERE / "at_import" / "at_import.py", functions)
        (functions / "targets.json").write_text(json.dumps(laid_targets))
    for path in (folder, functions, *functions.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)


async def main(level: str, user: str, where: str) -> None:
    """Make the attempts and print the results."""
    uid = find_tenant_uid("escape") if user == "own" else None
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as place:
        guest = Path(place)
        with lay_out(Path(outside)) as laid:
            write_guest(guest, where, laid.targets)
            before = laid.look(guest)
            async with trio.open_nursery() as nursery:
                sandbox = ProcessSandbox(
                    guest, "functions", isolation=level, uid=uid, on_output=sys.stderr.write
                )
                await nursery.start(sandbox.run)
                results = (
                    await run(sandbox, "tell") if where == "import" else await try_in_workers(sandbox, laid)
                )
                restarts = sandbox.restarts
                nursery.cancel_scope.cancel()
            reached = list_what_was_reached(laid, before, guest)
    print(json.dumps({"results": results, "reached": reached, "restarts": restarts}))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
