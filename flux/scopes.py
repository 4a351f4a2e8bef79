"""What a token of the console allows.

Scopes of the console are steps, each with what is below it. They are no finer than what holds: whoever may deploy can
run any code with the project's secrets, and so can do all that ``write`` does.

    read     see what was recorded, functions, checks, names of secrets
    write    also run things: invoke, replays, bisect, jobs, schedules, incidents
    deploy   also say which code is served
    admin    also secrets, tokens, and what removes records

A request that this module does not know needs ``write`` if it is a POST: a question that is added and forgotten here is
open to nobody who may only look.
"""

from collections.abc import Collection
from enum import IntEnum


class Scope(IntEnum):
    """A step; a higher one has the lower ones."""

    READ = 1
    WRITE = 2
    DEPLOY = 3
    ADMIN = 4

    @property
    def word(self) -> str:
        """As it is written."""
        return self.name.lower()


WORDS = tuple(scope.word for scope in Scope)
_DEPLOYS = frozenset({"deploy", "rollback"})
_ADMIN = frozenset({"secrets", "tokens", "tenants", "records"})


def get_needed(method: str, area: str) -> Scope:
    """Return what a request needs; ``area`` is the first word of its path below ``/_flux/api/``."""
    if area in ("tokens", "tenants"):  # Their list tells who else is there.
        return Scope.ADMIN
    if method in ("GET", "HEAD"):
        return Scope.READ
    if area in _ADMIN:
        return Scope.ADMIN
    return Scope.DEPLOY if area in _DEPLOYS else Scope.WRITE


def allows(words: Collection[str], needed: Scope) -> bool:
    """Say whether a token with these scopes may do what needs ``needed``. Words of other kinds allow nothing here."""
    return any(Scope[word.upper()] >= needed for word in words if word in WORDS)
