"""Runs one function of a project in a process of its own, without a server and without walls: for tests.

The host is then a test, on descriptor 3, and the function is the project's own code on the machine of who tests it.
It sees
the same world as behind the walls: the clock, randomness and sockets are the host's (`flux_guest._interpreter`), so
nothing of it leaves either, and it does the same each time.
"""

import os
import sys
from pathlib import Path

from flux_guest import _machine
from flux_guest._worker import Worker
from flux_guest.zygote import import_functions

_WIRE = 3
EXIT_NOT_IMPORTED = 3


def main(project: str, functions: str, wire: int) -> int:
    """Serve start documents on descriptor 0 until they end; return the exit code."""
    if wire != _WIRE:
        os.dup2(wire, _WIRE)
        os.close(wire)
    os.chdir(project)
    sys.path.insert(0, project)
    worker = Worker(project, warm=False, machine=_machine.hold())
    failures = import_functions(Path(project), functions, lambda _said: None)
    if failures:
        for failure in failures:
            os.write(2, f"{failure['traceback']}\n".encode())
        return EXIT_NOT_IMPORTED
    worker.attach()
    worker.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
