"""The master key: what opens the keys of tenants. It is on the machines that serve, and never in a database.

It comes from ``FLUXRT_MASTER_KEY`` (64 hexadecimal digits), else from ``.flux/master.key``, which is made when the
first secret is set. Servers of one database on several machines need the same key, so they are given it by
the variable. It is taken out of the environment once it is read: programs that the server starts don't inherit it.
"""

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from flux.errors import OperatorError
from flux.sealing import KEY_BYTES

VARIABLE = "FLUXRT_MASTER_KEY"
FILE = "master.key"
_KEY = re.compile(r"[0-9a-fA-F]{64}\s*\Z")


class MasterKeyError(OperatorError):
    """There is no master key, or it is none."""

    code = "FLX800"


class MasterKey:
    """Where this server's master key is."""

    def __init__(self, flux_folder: Path) -> None:
        self._path = flux_folder / FILE
        said = os.environ.pop(VARIABLE, None)
        self._said = None if said is None else _read(said, VARIABLE)

    def get(self) -> bytes:
        """Return the key; raise `MasterKeyError` where there is none."""
        if (key := self._find()) is None:
            raise MasterKeyError(
                f"secrets are kept sealed in the database, and the key to them is neither in {self._path} nor "
                f"in {VARIABLE}",
                remedy=f"put {FILE} back to where it was, or start the server with {VARIABLE}",
            )
        return key

    def get_or_make(self) -> bytes:
        """Return the key, made if there is none yet."""
        if (key := self._find()) is not None:
            return key
        # Several processes may serve this folder: one of them makes it, whole or not at all, and all read the same.
        draft = self._path.with_name(f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "w", encoding="ascii") as file:
                    file.write(secrets.token_hex(KEY_BYTES) + "\n")
                    file.flush()
                    os.fsync(file.fileno())  # Sealed values may not outlive it.
                with contextlib.suppress(FileExistsError):
                    os.link(draft, self._path)
            finally:
                draft.unlink()
            _sync_folder(self._path.parent)
        except OSError as error:
            raise MasterKeyError(
                f"{self._path} can't be made: {error.strerror}", remedy=f"make its folder writable, or set {VARIABLE}"
            ) from error
        return self.get()

    def _find(self) -> bytes | None:
        if self._said is not None:
            return self._said
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MasterKeyError(f"{self._path} can't be read: {error.strerror}") from error
        with open(descriptor, encoding="ascii", errors="replace") as file:
            found = os.fstat(descriptor)
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
                raise MasterKeyError(
                    f"{self._path} can be read by others: its mode is {stat.S_IMODE(found.st_mode):04o}, its owner "
                    f"user {found.st_uid}",
                    remedy=f"chmod 600 {self._path}; if somebody may have read it, set each secret anew",
                )
            return _read(file.read(1000), str(self._path))


def _sync_folder(folder: Path) -> None:
    """Have the names in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(text: str, place: str) -> bytes:
    if not _KEY.match(text):
        raise MasterKeyError(f"{place} holds no key: 64 hexadecimal digits", remedy="make one: openssl rand -hex 32")
    return bytes.fromhex(text.strip())
