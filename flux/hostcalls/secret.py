"""``secret``: names that functions use instead of values.

A *handle* stands for a secret: the host puts the value in its place in outbound
headers and bodies, so neither the function nor the record ever holds it. Code
that must have the value (to compute an HMAC) asks for it with ``reveal``; what is
recorded then is the handle.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments

HANDLE = re.compile(rb"flux-secret:([A-Za-z_][A-Za-z0-9_]{0,99}):([0-9a-f]{16})")


class TenantSecrets:
    """The secrets of one tenant, and the handles of one execution."""

    def __init__(self, secret_of_name: Mapping[str, str], key: bytes) -> None:
        self._secret_of_name = secret_of_name
        self._key = key

    def _get(self, name: str) -> str:
        value = self._secret_of_name.get(name)
        if value is None:
            known = ", ".join(sorted(self._secret_of_name)) or "none"
            raise HostCallFailed(
                "SecretMissing",
                f"no secret is named {name}; this project has {known}",
                code="FLX422",
                details={"secret": name},
            )
        return value

    def handle(self, name: str) -> str:
        """Return the handle of ``name``; raise `HostCallFailed` when there is no such secret."""
        self._get(name)
        return f"flux-secret:{name}:{self._mac(name)}"

    def _mac(self, name: str) -> str:
        # A handle that was not given out here is left as it is: text from outside can't conjure a secret.
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:16]

    def reveal(self, name: str) -> str:
        """Return the value of ``name``; raise `HostCallFailed` when there is no such secret."""
        return self._get(name)

    def substitute(self, data: bytes) -> bytes:
        """Return ``data`` with the handles given out here replaced by their values."""
        if b"flux-secret:" not in data:
            return data

        def replace(match: re.Match[bytes]) -> bytes:
            name = match[1].decode()
            if hmac.compare_digest(self._mac(name).encode(), match[2]):
                return self._get(name).encode()
            return match[0]

        return HANDLE.sub(replace, data)

    def hide(self, data: bytes) -> bytes:
        """Return ``data`` with every secret's value replaced by its handle: the way to the record."""
        for name, value in self._secret_of_name.items():
            if value and value.encode() in data:
                data = data.replace(value.encode(), self.handle(name).encode())
        return data


async def _handle(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("secret.handle", arguments, str)
    return context.secrets.handle(str(arguments[0]))


async def _reveal(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("secret.reveal", arguments, str)
    return context.secrets.reveal(str(arguments[0]))


HANDLE_CALL = HostCallKind(name="secret.handle", effect=Effect.OBSERVES, perform=_handle, immediate=True)
"""A handle for the secret of this name."""

REVEAL = HostCallKind(name="secret.reveal", effect=Effect.OBSERVES, perform=_reveal, immediate=True)
"""The value of the secret of this name; the record keeps its handle."""
