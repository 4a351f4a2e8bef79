"""Make every attempt inside the jail of a process of wasm guests: ``run_in_host.py LEVEL USER STAGE``.

A program of its own, so that it can be run as somebody else. LEVEL and USER are as ``run_attempts.py`` has them, STAGE
is ``loading`` or ``serving``. It prints one JSON document.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from flux.sandbox.jail import ENVIRONMENT, find_tenant_uid
from flux.sandbox.jail_plan import Plan

sys.path.insert(0, str(Path(__file__).parent))
from run_attempts import write_guest
from targets import lay_out, list_what_was_reached

HERE = Path(__file__).parent
PATIENCE_S = 300.0


def main(level: str, user: str, stage: str) -> None:
    """Make the attempts and print the results."""
    uid = find_tenant_uid("escape") if user == "own" else None
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as place:
        guest = Path(place)
        with lay_out(Path(outside)) as laid:
            write_guest(guest, "worker", laid.targets)
            before = laid.look(guest)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                plan = Plan(
                    level, os.getpid(), theirs.fileno(), "wasm", project=place, functions="functions", uid=uid,
                    data_bytes_max=400 * 2**20, guest_memory_bytes_max=2**28,
                )  # fmt: skip
                attempts = guest / "functions" / "attempts.py"
                inside = [
                    str(HERE / "inside_host.py"),
                    plan.encode(),
                    stage,
                    str(attempts),
                    json.dumps(laid.targets),
                ]
                done = subprocess.run(
                    [sys.executable, "-s", "-P", *inside], env=dict(ENVIRONMENT), cwd="/", pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
                )  # fmt: skip
            reached = list_what_was_reached(laid, before, guest)
    assert done.returncode == 0, done.stderr
    print(json.dumps({"results": json.loads(done.stdout), "reached": reached}))


if __name__ == "__main__":
    main(*sys.argv[1:])
