"""A request's body as it comes: held in memory, or on its way to where the handler keeps what is too large for that.

A body is held until it turns out larger than may be held. Then all of it goes to the handler's `Upload`, piece by
piece as it comes, and no more of it is read than the upload has taken: a disk that is slow slows the client down. Which
of the two it will be is known at once where the client says how long the body is.
"""

from collections.abc import Callable

from flux.message import Admission, Upload


class BodyCollector:
    """One body. `close` it where the request comes to nothing."""

    def __init__(self, admission: Admission, length: int | None, hold: Callable[[int], None]) -> None:
        """``length`` is what the client says, or None; ``hold`` counts bytes that are held (less than none: let go)."""
        self._admission = admission
        self._hold = hold
        self._held = bytearray()
        self.upload: Upload | None = None
        """Where the body goes; None while it is held."""
        self.bytes_max = get_bytes_max(admission)
        """How large it may be."""
        if length is not None and length > admission.body_bytes_max:
            self._open()

    def _open(self) -> None:
        assert self._admission.open_upload is not None, "a body that nothing takes is refused by its size"
        self.upload = self._admission.open_upload()

    async def take(self, piece: bytes) -> None:
        """Take the next piece."""
        if not piece:
            return
        if self.upload is None and len(self._held) + len(piece) > self._admission.body_bytes_max:
            self._open()
        if self.upload is None:
            self._held += piece
            self._hold(len(piece))
            return
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            self._hold(-len(held))
            await self.upload.write(held)
        await self.upload.write(piece)

    def finish(self) -> bytes:
        """Return the body, where it was held."""
        return bytes(self._held)

    def close(self) -> None:
        """Let go of what has come."""
        if self.upload is not None:
            self.upload.close()


def get_bytes_max(admission: Admission) -> int:
    """Return how large a body may be, held or not."""
    return max(admission.body_bytes_max, admission.upload_bytes_max)
