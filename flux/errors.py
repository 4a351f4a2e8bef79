"""The errors that people meet, in three branches, by whose move it is.

Raise an `OperatorError` when the person who runs Flux can fix it, a
`GuestError` when a user's function broke its side of the contract, and a
`BrokenInvariantError` when Flux itself is wrong. Every class has a code and a
page, ``docs/errors/FLX….md``, that says what it means, why it happens and what
to do. A message names the thing, the place and the next step: the first goes
into ``message``, the last into ``remedy``.

Codes by area: 1xx looking things up, 2xx environment and database, 3xx replay,
4xx sandbox and grants, 5xx project and functions, 6xx HTTP, 7xx recording,
9xx broken invariants.
"""

from typing import ClassVar


class FluxError(Exception):
    """What every error of Flux's own has: a code, a message and a next step."""

    code: ClassVar[str] = "FLX900"
    exit_code: ClassVar[int] = 2
    """What the command line exits with: 2 usage, 3 no such id, 5 unreachable; ``docs/cli.md`` has them all."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        """Names the thing and the place, in one or more lines."""
        self.remedy = remedy
        """The next step, in words or as a command; may be empty when ``message`` already says it."""

    def __str__(self) -> str:
        return f"{self.code}  {self.message}" + (f"\n        {self.remedy}" if self.remedy else "")


class OperatorError(FluxError):
    """The person who runs Flux can fix this."""


class GuestError(FluxError):
    """A user's function broke its side of the contract."""

    code = "FLX400"


class BrokenInvariantError(FluxError):
    """Flux is wrong about itself: please report."""

    code = "FLX901"
    exit_code = 70
