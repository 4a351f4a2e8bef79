"""Who looks at the pages: a token that was shown once, and the cookie that stands for it since.

A page can't send the header that the API wants, so whoever opens the console shows a token to one address, and gets
a cookie that scripts can't read and no other site can have sent (``HttpOnly``, ``SameSite=Strict``). It means nothing
to the API. Behind it is the token itself, asked about anew at each request: one that expires or is revoked ends what
was begun with it, and its scopes hold for pages as they do for the API.

Cookies know no ports: two servers on one machine would take each other's, so the cookie's name has the port in it.
Sessions are kept in memory and end with the server, as its own token does.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable

import attrs
import trio

from flux.message import RequestHead

SESSION_S = 12 * 3600
"""After so long the token is to be shown again."""
SESSIONS_MAX = 200
"""Sessions at once; a further one ends the oldest."""
COOKIE = "flux_session_"
PATH = "/_flux/"


@attrs.frozen
class _Session:
    token: str
    ends_at: float


class Sessions:
    """Those that are open, by the digest of what the cookie holds."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def open(self, head: RequestHead, token: str) -> str:
        """Begin one for a token that was found good; return the ``Set-Cookie``."""
        value = secrets.token_urlsafe(32)
        self._sessions[_digest(value)] = _Session(token, self._clock() + SESSION_S)
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return _make_cookie(head, value, SESSION_S)

    def find_token(self, head: RequestHead) -> str | None:
        """Return the token of the session that a request belongs to; None when it belongs to none."""
        # A page on another port of this host can put a cookie of our name before ours, though never read or change
        # that one. It shall not sign anybody out: of those that are sent the one that is known counts.
        for key in map(_digest, _list_cookies(head)):
            session = self._sessions.get(key)
            if session is not None and self._clock() < session.ends_at:
                return session.token
            self._sessions.pop(key, None)
        return None

    def close(self, head: RequestHead) -> str:
        """End the session of a request; return the ``Set-Cookie`` that takes the cookie away."""
        for value in _list_cookies(head):
            self._sessions.pop(_digest(value), None)
        return _make_cookie(head, "", 0)


def _digest(value: str) -> bytes:
    # What is looked up is a digest, so the time that a look-up takes tells nothing about the values that are there.
    return hashlib.sha256(value.encode("latin-1", "replace")).digest()


def _name_cookie(head: RequestHead) -> str:
    _, _, port = (head.header("host") or "").rpartition(":")
    return COOKIE + (port if port.isascii() and port.isdigit() else "0")


def _make_cookie(head: RequestHead, value: str, seconds: int) -> str:
    fields = [f"{_name_cookie(head)}={value}", f"Path={PATH}", f"Max-Age={seconds}", "HttpOnly", "SameSite=Strict"]
    if (head.header("origin") or "").startswith("https://"):
        fields.append("Secure")
    return "; ".join(fields)


def _list_cookies(head: RequestHead) -> list[str]:
    wanted = _name_cookie(head)
    sent = ";".join(value for name, value in head.headers if name == "cookie")
    pairs = [pair.strip().partition("=") for pair in sent.split(";")]
    return [said for name, equals, said in pairs if equals and name == wanted]
