"""What every kind of sandbox offers to those above it.

A *sandbox* holds one deployment's code, imported and ready. It hands out
*workers*; a worker runs one execution at a time and speaks the wire of
`flux.wire`. Nothing above this line knows whether a worker is a forked process,
a pooled one or a wasm isolate.
"""

from typing import TYPE_CHECKING, Protocol

import attrs

from flux.errors import GuestError, OperatorError

if TYPE_CHECKING:  # A process of wasm guests needs neither, and to import them takes it a fifth of its start.
    from flux.deployment import Function
    from flux.execution import Level


@attrs.frozen
class Eviction:
    """Why a guest was ended, or not begun, that had done nothing wrong by itself."""

    why: str
    """A sentence."""
    bytes_max: int
    """The memory that all guests of its process may hold together."""


@attrs.frozen
class Exit:
    """How a worker ended."""

    exit_code: int | None
    """What it passed to exit, or None when a signal ended it."""
    signal: int | None
    """Number of that signal."""
    output: str = ""
    """The last of what it wrote past the SDK: an interpreter's dying words. Both numbers are None when
    nobody is left who could say how it ended."""
    is_stopped: bool = False
    """It was stopped where `Meter.stop_at` had said."""
    eviction: Eviction | None = None
    """It had to go for what it and its neighbours held together."""


@attrs.frozen
class Reading:
    """What a meter shows when its guest is over."""

    fuel: int
    """What the guest had burnt since its start."""
    memory_sha256: str = ""
    """Of all its memory, if that was asked for."""
    unheard: bytes = b""
    """What it had put on the wire and nobody has received."""


@attrs.frozen
class ImportFailure:
    """One module that can't be imported."""

    module: str
    """File, relative to the project."""
    type: str
    """Class of the exception."""
    message: str
    file: str
    """Innermost file of the project on the stack."""
    line: int
    traceback: str
    """As Python prints it, paths relative to the project."""


class ImportFailedError(GuestError):
    """The project's code can't be imported; the server keeps the last good code."""

    code = "FLX517"

    def __init__(
        self,
        failures: tuple[ImportFailure, ...],
        *,
        remedy: str = "fix it: flux dev tries again when it is saved, flux serve when it is deployed or started again",
    ) -> None:
        first = failures[0]
        more = "" if len(failures) == 1 else f" (and {len(failures) - 1} more modules fail)"
        super().__init__(
            f"{first.file}:{first.line}  {first.type}: {first.message}{more}",
            remedy=remedy,
        )
        self.failures = failures


class BadFunctionError(GuestError):
    """A function's declaration can't be served: a malformed route, an unknown limit."""

    code = "FLX516"


class SandboxUnavailableError(OperatorError):
    """No worker can be had from a sandbox."""

    code = "FLX421"


class Meter(Protocol):
    """Counts what one guest burns. The count is an exact position: the same guest with the same answers has the
    same at the same place, on any machine."""

    def stop_at(self, fuel: int) -> None:
        """Let the guest come to ``fuel`` and no farther. To be said before its start."""

    def ask_memory(self) -> None:
        """Have the guest's memory hashed when it is over. To be said before its start."""

    def slice_by(self, fuel: int) -> None:
        """Cut the guest's time into slices of ``fuel``, which changes nothing that it sees. Before its start."""

    async def wait_reading(self) -> Reading | None:
        """Wait until the guest is over and return what it came to; None when nobody is left to say so."""


class Worker(Protocol):
    """One guest, for one execution at a time."""

    @property
    def pid(self) -> int:
        """Process that runs it."""

    @property
    def served(self) -> int:
        """Executions that it has finished."""

    @property
    def meter(self) -> Meter | None:
        """What counts its fuel, which then stands in front of each of its frames (`flux.wire`)."""

    async def start(self, document: bytes) -> None:
        """Hand over what to run: one line of JSON, without its newline."""

    async def receive(self) -> bytes:
        """Wait for bytes on the wire; empty when the guest has closed it."""

    async def send(self, data: bytes) -> None:
        """Put bytes on the wire. A guest that is gone is no error here: `receive` tells."""

    def send_nowait(self, data: bytes) -> int:
        """Put on the wire what it takes without waiting; return how many bytes. All, when the guest is gone."""

    def take_output(self) -> str:
        """Return what it wrote past the SDK since the last time: the last of it, as text."""

    def kill(self) -> None:
        """End it now."""

    def has_ended(self) -> bool:
        """Whether it is known to have ended, if not yet how."""

    async def wait_exit(self) -> Exit:
        """Wait until it has ended and say how."""


class Sandbox(Protocol):
    """One deployment's code, ready to run."""

    @property
    def functions(self) -> "tuple[Function, ...]":
        """What the code declares."""

    @property
    def level(self) -> "Level":
        """Which walls are up."""

    async def acquire(self, *, fresh: bool = False) -> Worker:
        """Return a worker that has run nothing yet, or whose last execution ended well (``warm``).

        ``fresh``: the former, whatever else is there.
        """

    async def release(self, worker: Worker, *, reusable: bool) -> None:
        """Give a worker back. One that is not ``reusable`` is ended. It waits for nothing and can't be cancelled."""
