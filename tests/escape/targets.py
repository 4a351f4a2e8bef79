"""What an escape would reach: secrets, sockets, a process, shared memory. And whether anything did.

The oracle is on this side. What a guest says of its attempts is one thing; that the files are as
they were, that no socket heard anything and that the victim lives is the other.
"""

import ctypes
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

SECRET_VARIABLE = "SECRET_OF_THE_SUPERVISOR"
IPC_CREAT, IPC_EXCL, IPC_RMID = 0o1000, 0o2000, 0


@attrs.frozen
class Laid:
    """What was laid out."""

    targets: dict[str, Any]
    """What guests are told of it; ``left_outside`` are files that some attempts would leave there."""
    folder: Path
    listener: socket.socket
    unix: socket.socket
    abstract: socket.socket
    victim: "subprocess.Popen[bytes]"

    def look(self, guest: Path) -> dict[str, tuple[int, int, bytes]]:
        """Return mode, time of change and content of each file, below the folder and the guest's own."""
        return look_at_files(self.folder, guest)


@contextmanager
def lay_out(folder: Path) -> Iterator[Laid]:
    """Lay out in ``folder`` what must not be reached, open to everybody but for the jail."""
    folder.chmod(0o755)
    secret = secrets.token_hex()
    (folder / ".env.local").write_text(f"KEY={secret}\n")
    (folder / "journal").write_text("journal\n")
    (folder / "artifacts" / "other").mkdir(parents=True)
    (folder / "artifacts" / "other" / "secret.py").write_text(f"KEY = {secret!r}\n")
    (folder / "link").symlink_to("journal")
    os.environ[SECRET_VARIABLE] = secret
    libc = ctypes.CDLL(None, use_errno=True)
    # The machine has one set of keys, one /tmp and one root folder, and others attempt the same at the same time.
    key = 1 + secrets.randbelow(2**31 - 1)
    shared = libc.shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0o666)
    assert shared >= 0
    created = f"created-by-a-guest-{secrets.token_hex(4)}"
    # Inheritable on purpose: a descriptor that the supervisor forgot to close.
    leaked = os.open(folder / ".env.local", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    victim = subprocess.Popen(["sleep", "3600"], env={})
    name = f"flux-escape-{secrets.token_hex(4)}"
    try:
        with (
            socket.socket() as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract,
        ):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            unix.bind(str(folder / "socket"))
            (folder / "socket").chmod(0o777)
            abstract.bind(b"\0" + name.encode())
            for each in (listener, unix, abstract):
                each.setblocking(False)
            yield Laid(
                targets={
                    "env_local": str(folder / ".env.local"),
                    "journal": str(folder / "journal"),
                    "artifacts": str(folder / "artifacts"),
                    "other_artifact": str(folder / "artifacts" / "other" / "secret.py"),
                    "link": str(folder / "link"),
                    "supervisor": os.getpid(),
                    "victim": victim.pid,
                    "port": listener.getsockname()[1],
                    "unix": str(folder / "socket"),
                    "abstract": name,
                    "shared_memory_key": key,
                    "left_outside": [f"/tmp/{created}", f"/dev/shm/{created}", f"/{created}"],
                    "memory_bytes": 512 * 2**20,
                    "variable": SECRET_VARIABLE,
                    "secret": secret,
                    "is_root": os.geteuid() == 0,
                },
                folder=folder,
                listener=listener,
                unix=unix,
                abstract=abstract,
                victim=victim,
            )
    finally:
        victim.kill()
        victim.wait()
        os.close(leaked)
        libc.shmctl(shared, IPC_RMID, None)
        del os.environ[SECRET_VARIABLE]


def look_at_files(*folders: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return each file below the folders with its mode, time of change and content."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            about = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (about.st_mode, about.st_ctime_ns, content)
    return found


def list_what_was_reached(laid: Laid, before: dict[str, tuple[int, int, bytes]], guest: Path) -> list[str]:
    """Return what an escape has left, seen from outside; nothing if there was none."""
    reached = []
    for name in ("listener", "unix", "abstract"):
        endpoint = getattr(laid, name)
        try:
            endpoint.accept() if name == "listener" else endpoint.recv(100)
        except BlockingIOError:
            continue
        reached.append(f"{name} heard something")
    if laid.victim.poll() is not None:
        reached.append("the victim was ended")
    after = laid.look(guest)
    reached += [path for path in sorted(after.keys() | before) if after.get(path) != before.get(path)]
    for path in laid.targets["left_outside"]:
        if Path(path).exists():
            reached.append(path)
    return reached
