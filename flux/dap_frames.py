"""The frames of the Debug Adapter Protocol: ``Content-Length: N``, an empty line, and N bytes of JSON.

https://microsoft.github.io/debug-adapter-protocol/overview#base-protocol: "The header part consists of header fields",
and there is one. So the first bytes of whoever speaks the protocol are that field's name, and a client that begins in
another way, as a browser does whose page was made to post to this port, is none of ours: nothing that it sends is
looked at any further. For the same reason there is no second field, and no second request after a malformed frame: it
can't be known where the next one begins.
"""

import json
from collections.abc import Mapping
from typing import Any

from flux.errors import OperatorError

HEAD_BYTES_MAX = 64
BODY_BYTES_MAX = 4 * 2**20
_NAME = b"content-length:"
_END = b"\r\n\r\n"


class BadFrameError(OperatorError):
    """What came is no frame of the protocol."""

    code = "FLX675"
    exit_code = 2


class FrameReader:
    """Takes frames out of bytes, however these are cut."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._length: int | None = None
        """Of the body that is being read; None while that is a head."""

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._bytes += data

    def next_body(self) -> bytes | None:
        """Return the body of the next frame, None where it is not whole yet; raise `BadFrameError`."""
        if self._length is None:
            self._length = self._read_head()
        if self._length is None or len(self._bytes) < self._length:
            return None
        body = bytes(self._bytes[: self._length])
        del self._bytes[: self._length]
        self._length = None
        return body

    def check_whole(self) -> None:
        """Raise `BadFrameError` where the bytes end within a frame."""
        if self._bytes or self._length is not None:
            raise BadFrameError("the connection ended within a frame")

    def _read_head(self) -> int | None:
        start = bytes(self._bytes[:HEAD_BYTES_MAX])
        if not _NAME.startswith(start[: len(_NAME)].lower()):
            shown = start.split(b"\r\n")[0].decode("ascii", errors="replace")
            raise BadFrameError(
                f'a frame begins with Content-Length, and this with "{shown}"',
                remedy="an editor's debug adapter client goes here, no browser and no other HTTP client",
            )
        head, end, _ = start.partition(_END)
        if not end:
            if len(self._bytes) >= HEAD_BYTES_MAX:
                raise BadFrameError("a frame's head has Content-Length, and nothing else")
            return None
        said = head[len(_NAME) :].strip(b" \t")
        if not said.isdigit() or len(said) > len(str(BODY_BYTES_MAX)) or int(said) > BODY_BYTES_MAX:
            shown = said.decode("ascii", errors="replace")
            raise BadFrameError(f'the length of a frame is "{shown}"', remedy=f"a number up to {BODY_BYTES_MAX:,}")
        del self._bytes[: len(head) + len(_END)]
        return int(said)


def read_message(body: bytes) -> dict[str, Any]:
    """Return the object that a body is; raise `BadFrameError`. The frames behind it can be read all the same."""
    try:
        found = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise BadFrameError(f"a frame's body is no JSON: {str(error) or 'it is nested too deeply'}") from error
    if not isinstance(found, dict):
        raise BadFrameError("a frame's body is an object, and this is another kind of JSON")
    return found


def write_frame(message: Mapping[str, Any]) -> bytes:
    """Return a message as it travels."""
    body = json.dumps(message).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
