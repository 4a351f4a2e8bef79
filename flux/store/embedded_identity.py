"""Who PostgreSQL runs as.

PostgreSQL refuses to run as root, and initdb refuses a user id that has no
passwd entry. An ordinary user is simply that user. For root there are two ways
out: a *user namespace*, in which the process is told that it is somebody else
while its files stay root's (so a virtual environment in root's own closed home
stays readable), or *dropping* to an ordinary user for good, who must then be
able to reach the programs and the directory.

This module only lists the candidates, best first. Which of them works on this
machine is found out by trying: a kernel, a container's seccomp filter and a
file mode three folders up each have their say, and none can be asked.
"""

import os
import pwd
from pathlib import Path

import attrs

from flux.errors import OperatorError

NAMESPACE_UID = 1000
"""Who root pretends to be, where the machine has such a user; else the first ordinary passwd entry."""

FALLBACK_USERS = ("postgres", "nobody")
"""Users whom root drops to when user namespaces are refused."""


class PostgresIdentityError(OperatorError):
    """PostgreSQL will not run as root, and no other identity works here."""

    code = "FLX204"


@attrs.frozen
class Identity:
    """One way to be somebody."""

    kind: str
    """``self``, ``namespace`` or ``user``, as the launcher understands it."""

    uid: int
    """User id as PostgreSQL will see it."""

    gid: int
    """Group id as PostgreSQL will see it."""

    owner_uid: int
    """User id that the cluster's files have, seen from outside."""

    owner_gid: int
    """Group id that the cluster's files have, seen from outside."""

    description: str
    """For messages: ``as user "nobody"``."""

    @property
    def argument(self) -> str:
        """What the launcher is told."""
        return self.kind if self.kind == "self" else f"{self.kind}:{self.uid}:{self.gid}"


def list_identities(directory: Path, user: str | None) -> list[Identity]:
    """Candidates for a cluster in ``directory``, best first; empty when this machine knows none."""
    uid, gid = os.geteuid(), os.getegid()
    entries = {entry.pw_uid: entry for entry in pwd.getpwall()}
    if user is not None:
        return [_named(user, uid)]
    as_ourselves = Identity("self", uid, gid, uid, gid, f"as user id {uid}")
    namespaced: list[Identity] = []
    ordinary = sorted(entry for entry in entries if entry != 0)
    if ordinary:
        inner = entries[NAMESPACE_UID if NAMESPACE_UID in entries else ordinary[0]]
        namespaced.append(
            Identity("namespace", inner.pw_uid, inner.pw_gid, uid, gid, "in a user namespace of its own")
        )
    if uid != 0:
        # Containers like to run under a user id that no passwd file knows.
        return [as_ourselves] if _has_entry(uid) else namespaced
    dropped = [_dropped(entries[entry.pw_uid]) for entry in _fallbacks(directory, entries)]
    # A cluster that already belongs to somebody stays theirs; a new one stays ours where that can be.
    owner = directory.stat() if directory.exists() else None
    if owner is not None and owner.st_uid != 0:
        name = f"as user id {owner.st_uid}, who owns the directory"
        owned = Identity("user", owner.st_uid, owner.st_gid, owner.st_uid, owner.st_gid, name)
        return [owned, *namespaced, *(identity for identity in dropped if identity.uid != owner.st_uid)]
    return [*namespaced, *dropped]


def _fallbacks(directory: Path, entries: dict[int, pwd.struct_passwd]) -> list[pwd.struct_passwd]:
    """Whose folder it is (``sudo flux dev`` in somebody's home), then the usual system users."""
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    by_name = {entry.pw_name: entry for entry in entries.values()}
    wanted = [entries.get(existing.stat().st_uid), *(by_name.get(name) for name in FALLBACK_USERS)]
    unique = {entry.pw_uid: entry for entry in wanted if entry is not None and entry.pw_uid != 0}
    return list(unique.values())


def _named(user: str, uid: int) -> Identity:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise PostgresIdentityError(
            f'PostgreSQL is to run as user "{user}", and this machine has no such user',
            remedy=f"useradd --system {user}, or name another user, or leave the choice to Flux",
        ) from None
    if entry.pw_uid == 0:
        raise PostgresIdentityError(
            f'PostgreSQL is to run as user "{user}", who is root, and it refuses root',
            remedy="name an ordinary user, or leave the choice to Flux",
        )
    if uid == entry.pw_uid:
        return Identity("self", uid, entry.pw_gid, uid, os.getegid(), f'as user "{user}"')
    if uid != 0:
        raise PostgresIdentityError(
            f'PostgreSQL is to run as user "{user}", and only root may become somebody else; we are {uid}',
            remedy=f"run Flux as root or as {user}, or leave the choice to Flux",
        )
    return _dropped(entry)


def _dropped(entry: pwd.struct_passwd) -> Identity:
    return Identity(
        "user", entry.pw_uid, entry.pw_gid, entry.pw_uid, entry.pw_gid, f'as user "{entry.pw_name}"'
    )


def _has_entry(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)  # may know more than getpwall: directory services need not be listable
    except KeyError:
        return False
    return True
