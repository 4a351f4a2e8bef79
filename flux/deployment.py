"""A deployment: code at one git SHA (or a dirty tree), ready to run."""

import attrs

from flux.hostcall import Position


@attrs.frozen
class Function:
    """One function of a deployment, as its decorator and ``flux.toml`` describe it."""

    name: str
    """Name by which it is invoked; unique in its deployment."""
    route: str | None
    """``METHOD /path/{parameter}``, or None when it has none."""
    position: Position
    """Where it is defined."""
    runtime: str = "python"
    """Which guest SDK runs it."""
    atomic: bool = True
    """True: all its database work is one transaction, committed when it returns."""
    isolation: str | None = None
    """Isolation level that the decorator asks for, or None for the project's."""
    timeout_s: float | None = None
    """Time limit that the decorator asks for, in seconds, or None."""
    cron: str | None = None
    """Schedule in cron's five fields, or None."""
    middleware: tuple[str, ...] | None = None
    """Names of middleware in order, or None when the decorator names none."""
    retries: int = 0
    """How often a job of it that failed is tried again; of a request, how often it may be run again after a
    serialisation failure, beyond the default."""
    input_schema: str | None = None
    """What it takes, as JSON Schema in JSON text, as the guest describes it; None where it takes anything."""
    description: str = ""
    """What its author says of it: in Python, the handler's docstring."""


@attrs.frozen
class Deployment:
    """Code, ready to run."""

    id: str
    """Hash of the artifact: same files, same id."""
    sha: str
    """Git commit, 40 hexadecimal digits, or ``nogit-…``."""
    dirty: bool
    """The tree had changes that the commit has not."""
    branch: str | None
    """Name of the branch, when there is one."""
    folder: str
    """Where its files are on this machine."""
    functions: tuple[Function, ...]
    """By name, in order."""
