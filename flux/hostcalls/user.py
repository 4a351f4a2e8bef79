"""``user``: who an execution runs for, as the project's own code says.

Setting ``ctx.user`` tells the host, which writes it down; it answers nothing, and what the function does goes on as
if nobody had been told. So a replay needs no answer for it and compares nothing: a function that acts upon another
user does other things, and these are compared. Like log lines it is the driver's to keep, and this file says what
it is allowed to be.
"""

import json

from flux import values
from flux.hostcall import HostCallRequest

NAME = "user.set"
"""Takes the user, as JSON has it; answers nothing."""
USER_BYTES_MAX = 64 * 1024


class BadUserError(ValueError):
    """A guest sent something else than a user under its name."""


def read_user(request: HostCallRequest) -> bytes:
    """Return the user in ``request`` as JSON, empty where there is none any more; raise `BadUserError`."""
    match values.decode(request.arguments):
        case [None]:
            return b""
        case [said]:
            return encode_user(said)
    raise BadUserError(f"{NAME} takes one value")


def encode_user(user: object) -> bytes:
    """Return ``user`` as JSON; raise `BadUserError` where it is none, or too large."""
    try:
        data = json.dumps(user, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadUserError(f"a user is plain JSON: {error}") from error
    if len(data) > USER_BYTES_MAX:
        raise BadUserError(f"a user has at most {USER_BYTES_MAX:,} bytes of JSON, not {len(data):,}")
    return data
