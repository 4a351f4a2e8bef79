"""The control: the same attempts with no jail, as an ordinary user. Prints the names of those that succeed.

Without it the suite could be a list of calls that fail anywhere. Run as somebody who owns nothing,
each attempt in a session of its own, with a parent of its own to attack.
"""

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from run_attempts import write_guest
from targets import lay_out

PATIENCE_S = 60.0
NEEDS_A_JAIL = {"use_up_descriptors_of_the_machine", "reserve_all_addresses"}
"""They ask for a bound, and an ordinary process has whatever its shell has set."""


def main() -> None:
    """Make each attempt and print which ones succeed."""
    assert os.geteuid() != 0, "root's attempts would succeed on the machine of whoever tests"
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as place:
        write_guest(Path(place), "worker", {})
        sys.path.insert(0, place)
        with lay_out(Path(outside)) as laid:
            attempts = importlib.import_module("functions.attempts")
            importlib.import_module("functions.clocks")  # It adds its own.
            succeeded = [
                name
                for name in attempts.ATTEMPTS
                if name not in NEEDS_A_JAIL and succeeds(name, laid.targets)
            ]
            for path in laid.targets["left_outside"]:
                Path(path).unlink(missing_ok=True)
        print(json.dumps(succeeded))


def succeeds(name: str, targets: dict[str, object]) -> bool:
    """Make one attempt in a grandchild; whether it got what it wanted."""
    from functions.attempts import run_attempt

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.dup2(os.pipe()[1], 1)  # Some send to it.
            # Those that take what they are given stop at a few gigabytes.
            resource.setrlimit(resource.RLIMIT_AS, (1 << 45, 1 << 45))
            result = run_attempt(name, targets)
            os.write(writer, b"1" if result["refused"] is None else b"0")
            os._exit(0)
        os.wait()
        os._exit(0)
    os.close(writer)
    # One that stops its parent, or itself, has not said anything by then.
    said = os.read(reader, 1) if select.select([reader], [], [], PATIENCE_S)[0] else b""
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return said == b"1"


if __name__ == "__main__":
    main()
