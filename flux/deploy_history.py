"""What was deployed, in order, and what "the one before" and "that one" mean in it.

Each switch to other code is a *deploy* on record: at a start, when a file is saved, by ``flux deploy`` or
``flux rollback``. The record only grows. Rolling back adds to it as well, so what comes before is not simply the line
above: a rollback takes back what it goes behind, and a second one goes further instead of returning to what the first
one left::

    deploy A, deploy B, deploy C            before C is B
    ... rollback to B                       before B is A, not C
    ... deploy D                            before D is B
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import attrs

from flux.errors import OperatorError

PREFIX_MIN = 4
"""The shortest beginning of a deployment's id or of a commit that is taken for one, as with git."""
SHOWN_MAX = 5


class NoEarlierDeployError(OperatorError):
    """There is nothing to roll back to."""

    code = "FLX541"
    exit_code = 3


class NoSuchDeployError(OperatorError):
    """No deploy on record is called that, or several are."""

    code = "FLX542"
    exit_code = 3


class Cause(StrEnum):
    """Why other code came to be served."""

    START = "start"
    """A server was started."""
    SAVE = "save"
    """A file of the project was saved under ``flux dev``."""
    DEPLOY = "deploy"
    """``flux deploy``."""
    ROLLBACK = "rollback"
    """``flux rollback``."""


@attrs.frozen
class Deployed:
    """Which code it is: the same files may have come from several commits."""

    deployment: str
    """Hash of the artifact."""
    sha: str
    """Git commit, or ``nogit-…``."""
    dirty: bool
    """The tree had changes that the commit has not."""

    @property
    def text(self) -> str:
        """As people read it: ``3f9c1e2+``."""
        return self.sha.removeprefix("nogit-")[:7] + "+" * self.dirty


@attrs.frozen
class Deploy:
    """One switch, on record."""

    code: Deployed
    """What has been served since."""
    branch: str | None
    """Name of the branch, when there was one."""
    functions: tuple[str, ...]
    """Names, in order."""
    cause: Cause
    """Why."""
    runtime: tuple[tuple[str, str], ...]
    """What ran it, by name: Python, the guest SDK, the WebAssembly engine."""
    at: datetime
    """When."""


def find_previous(history: Sequence[Deploy], current: Deployed | None) -> Deploy:
    """Return what ``flux rollback`` goes to from ``current``; raise `NoEarlierDeployError`.

    ``history`` is in order, the oldest first.
    """
    served: list[Deploy] = []
    for deploy in history:
        if deploy.cause is Cause.ROLLBACK and any(one.code == deploy.code for one in served):
            while served[-1].code != deploy.code:
                served.pop()
        elif not served or served[-1].code != deploy.code:
            served.append(deploy)
    while served and current is not None and served[-1].code == current:
        served.pop()
    if not served:
        raise NoEarlierDeployError(
            "nothing else was deployed before" if current is not None else "nothing is on record as deployed",
            remedy="flux deployments shows what is on record; flux deploy --on REF deploys any commit",
        )
    return served[-1]


def read_name(text: str) -> str:
    """Return the beginning of an id or a commit that ``text`` is, as `find_named` compares it."""
    return text.removesuffix("+").lower()


def find_named(history: Sequence[Deploy], text: str) -> Deploy:
    """Return the latest deploy whose deployment or commit begins with ``text``; raise `NoSuchDeployError`.

    A trailing ``+`` asks for the code that was not committed, as lists show it.
    """
    wanted = read_name(text)
    found: dict[Deployed, Deploy] = {}
    if len(wanted) >= PREFIX_MIN:
        for deploy in history:
            code = deploy.code
            is_it = code.deployment.startswith(wanted) or code.sha.removeprefix("nogit-").startswith(wanted)
            if is_it and (code.dirty or not text.endswith("+")):
                found[code] = deploy
    if len({code.deployment for code in found}) == 1:
        # The same files, whatever they were called: as they were committed, if they were, and as they were called last.
        return max(found.values(), key=lambda deploy: (not deploy.code.dirty, deploy.at))
    if not found:
        raise NoSuchDeployError(
            f'no deployment on record is called "{text[:80]}"',
            remedy=f"flux deployments shows them; {PREFIX_MIN} characters of an id or a commit are the least",
        )
    names = [f"{code.deployment} ({code.text})" for code in found]
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    raise NoSuchDeployError(
        f'"{text[:80]}" begins {len(found)} deployments: {", ".join(names[:SHOWN_MAX])}{more}',
        remedy="write more of the deployment's id, or a + behind the commit for what was not committed",
    )
