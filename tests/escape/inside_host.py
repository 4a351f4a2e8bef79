"""In the jail of a process of wasm guests: make each attempt with machine code's rights, and print how it went.

Run by ``run_in_host.py`` as ``inside_host.py PLAN STAGE ATTEMPTS TARGETS``. It builds the jail as such a process
does, engine and all, and makes each attempt in a child of its own, which puts on the system call lists of STAGE
(``loading`` or ``serving``) by itself: past them nothing can be forked. So each stands where somebody would who has got
out of a guest's WebAssembly.
"""

import importlib.util
import json
import os
import select
import sys
from pathlib import Path
from typing import Any

from flux.sandbox import jail_main, wasm_filter, wasm_main
from flux.sandbox.jail_linux import die_with_parent
from flux.sandbox.jail_plan import Plan
from flux.sandbox.jail_seccomp import install

PATIENCE_S = 120.0
LATER = b"later"
"""In the place of the first list, which the children put on."""


def main(text: str, stage: str, path: str, targets: dict[str, Any]) -> None:
    """Build the jail and make the attempts."""
    attempts = load_attempts(path)
    plan = Plan.decode(text)
    die_with_parent(plan.parent)
    os.dup2(plan.control, jail_main.CONTROL, inheritable=False)
    host = wasm_main.prepare(plan)
    vars(jail_main)["make_loading_filter"] = lambda: LATER
    vars(jail_main)["install"] = install_later
    jail_main._build(plan)
    results = {name: make(attempts, name, targets, host, stage) for name in attempts.ATTEMPTS}
    sys.stdout.write(json.dumps(results))


def install_later(program: bytes, *, all_threads: bool = False) -> None:
    """Put a filter on, unless it is the first one."""
    if program is not LATER:
        install(program, all_threads=all_threads)


def load_attempts(path: str) -> Any:
    """Import the attempts while their file can still be read."""
    spec = importlib.util.spec_from_file_location("attempts", Path(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(
    attempts: Any, name: str, targets: dict[str, Any], host: wasm_main.Host, stage: str
) -> dict[str, Any]:
    """Make one attempt in a child; return how it went."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 0)
        os.closerange(4, 64)
        install(wasm_filter.make_loading_filter())
        if stage == "serving":
            host._confine(jail_main._confine_host)
        os.write(0, json.dumps(attempts.run_attempt(name, targets)).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096) if select.select([reader], [], [], PATIENCE_S)[0] else b'{"got": "hangs"}'
    os.close(reader)
    if not said:
        _, status = os.waitpid(child, 0)
        return {"got": None, "refused": f"signal {os.WTERMSIG(status)}"}
    result: dict[str, Any] = {"refused": None, **json.loads(said)}
    return result


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
