"""The master key: what opens the keys of tenants. It is on the machines that serve, and never in a database.

It comes from ``FLUXRT_MASTER_KEY`` (64 hexadecimal digits), else from ``.flux/master.key``, which is made when the
first secret is set. Servers of one database on several machines need the same key, so they are given it by
the variable. It is taken out of the environment once it is read: programs that the server starts don't inherit it.

While another key takes its place (`flux.supervisor.rotation`) there are two: ``.flux/master.key.new`` lies beside the
first, either opens, and the newer one seals. Nothing is held in memory, so that every process of a server has the keys
that are in force just then. Whoever reads a sealed value reads the keys after it, in a transaction that keeps the other
key from being put into force meanwhile (`flux.store.vault.holding_keys`).
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from flux.errors import OperatorError
from flux.sealing import KEY_BYTES

VARIABLE = "FLUXRT_MASTER_KEY"
FILE = "master.key"
NEW_FILE = "master.key.new"
_LOCK_FILE = "master.key.lock"
_KEY = re.compile(r"[0-9a-fA-F]{64}\s*\Z")


class MasterKeyError(OperatorError):
    """There is no master key, or it is none."""

    code = "FLX800"


class MasterKeyChangeError(OperatorError):
    """There can't be another master key here, or not now."""

    code = "FLX742"


class MasterKey:
    """Where this server's master key is."""

    def __init__(self, flux_folder: Path) -> None:
        self._path = flux_folder / FILE
        self._new_path = flux_folder / NEW_FILE
        said = os.environ.pop(VARIABLE, None)
        self._said = None if said is None else _parse(said, VARIABLE)

    def get_all(self) -> Sequence[bytes]:
        """Return the keys that open, the one that seals first; raise `MasterKeyError` where there is none."""
        if not (keys := self._find_all()):
            raise MasterKeyError(
                f"secrets are kept sealed in the database, and the key to them is neither in {self._path} nor "
                f"in {VARIABLE}",
                remedy=f"put {FILE} back to where it was, or start the server with {VARIABLE}",
            )
        return keys

    def get_or_make(self) -> bytes:
        """Return the key that seals, made if there is none yet."""
        if keys := self._find_all():
            return keys[0]
        # Several processes may serve this folder: one of them makes it, and all read the same.
        try:
            with contextlib.suppress(FileExistsError):
                _make_key(self._path)
        except OSError as error:
            raise MasterKeyError(
                f"{self._path} can't be made: {error.strerror}", remedy=f"make its folder writable, or set {VARIABLE}"
            ) from error
        return self.get_all()[0]

    @contextlib.contextmanager
    def changing(self) -> Iterator[bytes]:
        """Have another key beside the first, and in its place once the block ends; where it raises, both stay good.

        A key that an earlier block left behind is taken up again: some of what is sealed opens with that one only.
        """
        if self._said is not None:
            raise MasterKeyChangeError(
                f"this server's master key is given to it by {VARIABLE}, and Flux can't change what starts it",
                remedy=f"write the key into {self._path} (mode 0600), start without the variable, and say this again",
            )
        with _holding(self._path.with_name(_LOCK_FILE), self._path):
            if not self._find_all():
                raise MasterKeyChangeError(
                    f"there is no master key in {self._path}, so nothing is sealed with one",
                    remedy="the first flux secrets set makes it",
                )
            with _changing_file(self._path):
                with contextlib.suppress(FileExistsError):
                    _make_key(self._new_path)
                _sync_folder(self._path.parent)  # Also where it was there: who made it may not have come to this.
            yield self.get_all()[0]
            with _changing_file(self._path):
                self._new_path.replace(self._path)
                for draft in self._path.parent.glob(f".{FILE}.*"):
                    draft.unlink()  # Of a process that was killed: it holds a key that may have been in force.
                _sync_folder(self._path.parent)

    def _find_all(self) -> Sequence[bytes]:
        if self._said is not None:
            return (self._said,)
        # In this order: the newer one takes the other's place between two readings at most, and is seen by either.
        found = (_find_key(self._new_path), _find_key(self._path))
        return tuple(dict.fromkeys(key for key in found if key is not None))


@contextlib.contextmanager
def _holding(lock: Path, path: Path) -> Iterator[None]:
    """Be the only one who changes the key at ``path``. The kernel releases the lock, however the process ends."""
    with _changing_file(path):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "rb", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MasterKeyChangeError(
                f"{path} is being changed already", remedy="wait for that to end, and see what it says"
            ) from None
        yield


@contextlib.contextmanager
def _changing_file(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MasterKeyChangeError(
            f"{path} can't be changed: {error.strerror}",
            remedy="make its folder writable for the server, and say it again: what was done so far stays",
        ) from error


def _make_key(path: Path) -> None:
    """Make a key at ``path``, whole or not at all; raise `FileExistsError` where there is one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())  # Sealed values may not outlive it.
        os.link(draft, path)
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def _find_key(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MasterKeyError(f"{path} can't be read: {error.strerror}") from error
    with open(descriptor, encoding="ascii", errors="replace") as file:
        found = os.fstat(descriptor)
        if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
            raise MasterKeyError(
                f"{path} can be read by others: its mode is {stat.S_IMODE(found.st_mode):04o}, its owner "
                f"user {found.st_uid}",
                remedy=f"chmod 600 {path}; if somebody may have read it: flux secrets rotate, and set each secret anew",
            )
        return _parse(file.read(1000), str(path))


def _sync_folder(folder: Path) -> None:
    """Have the names in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(text: str, place: str) -> bytes:
    if not _KEY.match(text):
        raise MasterKeyError(f"{place} holds no key: 64 hexadecimal digits", remedy="make one: openssl rand -hex 32")
    return bytes.fromhex(text.strip())
