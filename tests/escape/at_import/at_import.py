"""The same attempts, made while the module is imported: then it runs in the zygote, which may do a little more."""

import json
import os
import pathlib

from flux_guest import Context, function
from functions import clocks
from functions.attempts import ATTEMPTS, run_attempt

SKIPPED = {"kill_the_zygote", "kill_a_thread_of_the_zygote", "kill_the_group"}
"""It is the zygote itself that runs this, and nothing keeps a process from ending itself."""
TARGETS = json.loads((pathlib.Path(__file__).parent / "targets.json").read_text())
RESULTS = {}
assert clocks.ATTEMPTS is ATTEMPTS  # It has added its own.

for _name in ATTEMPTS:
    if _name not in SKIPPED:
        _reader, _writer = os.pipe()
        # Each in a process of its own, as some end it and others would change it for those that follow.
        _child = os.fork()
        if _child == 0:
            # What can be done to the host over the zygote's socket, 3, has tests of its own.
            os.dup2(_writer, 0)
            os.closerange(3, 256)
            os.write(0, json.dumps(run_attempt(_name, TARGETS)).encode())
            os._exit(0)
        os.close(_writer)
        _, _status = os.waitpid(_child, 0)
        _said = os.read(_reader, 4096)
        os.close(_reader)
        RESULTS[_name] = (
            json.loads(_said) if _said else {"got": None, "refused": f"signal {os.WTERMSIG(_status)}"}
        )


@function()
def tell(ctx: Context, input: dict) -> dict:
    """Return how each went."""
    return RESULTS
