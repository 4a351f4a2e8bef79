"""A process that puts another master key into force and is killed while it does: ``python -m tests.rotation_program``.

It takes a folder with a master key, a socket's folder, a port, a user and a database, then reads numbers from stdin,
one a line. For each it forks a child that kills itself (SIGKILL) right before so many of the steps that leave something
behind: a file's name or its bytes on the disk, an update, a commit. It answers ``killed``, or ``done`` where the child
came to its end first.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from flux.hostcalls.secret import TenantSecrets
from flux.store.postgres import Connection, ConnectOptions, Pool, TlsMode
from flux.supervisor.master_key import MasterKey
from flux.supervisor.rotation import rotate
from flux.supervisor.vault import Vault


def main() -> None:
    folder, host, port, user, database = sys.argv[1:]
    options = ConnectOptions(host=host, port=int(port), user=user, database=database, tls=TlsMode.DISABLE)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            arm(int(line))
            trio.run(run, Path(folder), options)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        print("killed" if status else "done", flush=True)


def arm(steps: int) -> None:
    left = [steps]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if function is not execute or "update flux." in arguments[1]:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
            return function(*arguments, **named)

        return call

    for name in ("fsync", "link", "unlink", "replace"):
        setattr(os, name, counted(getattr(os, name)))
    execute, commit = Connection.execute, Connection.commit
    Connection.execute = counted(execute)  # type: ignore[method-assign]
    Connection.commit = counted(commit)  # type: ignore[method-assign]


async def run(folder: Path, options: ConnectOptions) -> None:
    pool = Pool(options, 2)
    await rotate(Vault(pool, "main", MasterKey(folder), TenantSecrets({}, b"k"), {}))
    await pool.aclose()


if __name__ == "__main__":
    main()
