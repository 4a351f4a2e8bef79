"""``secret``: names that functions use instead of values.

A *handle* stands for a secret: the host puts the value in its place in outbound
headers and bodies, so neither the function nor the record ever holds it. Code
that must have the value (to compute an HMAC) asks for it with ``reveal``; what is
recorded then is the handle.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping

from flux.hidden import HIDDEN_CHARACTERS_MIN, HiddenValues
from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments

HANDLE = re.compile(rb"flux-secret:([A-Za-z_][A-Za-z0-9_]{0,99}):([0-9a-f]{32})")


class TenantSecrets:
    """The secrets of one tenant."""

    def __init__(self, secret_of_name: Mapping[str, str], key: bytes) -> None:
        self._secret_of_name = dict(secret_of_name)
        self._key = key

    def replace(self, secret_of_name: Mapping[str, str]) -> None:
        """Take others from now on; executions in progress keep those that they began with."""
        self._secret_of_name = dict(secret_of_name)

    def list_too_short(self) -> list[str]:
        """Names of secrets that are too short to be looked for in what is recorded."""
        return sorted(
            name for name, value in self._secret_of_name.items() if 0 < len(value) < HIDDEN_CHARACTERS_MIN
        )

    def find_in(self, data: bytes) -> list[str]:
        """Return the names of secrets whose value occurs in ``data``, as it is or as JSON writes it."""
        named = self._secret_of_name.items()
        return sorted(name for name, value in named if HiddenValues([(value, name)]).hide(data) is not data)

    def find(self, name: str) -> str | None:
        """Return a secret's value, for what Flux itself does with it; None when there is no such secret."""
        return self._secret_of_name.get(name)

    def of_execution(self, seed: bytes) -> "ExecutionSecrets":
        """Return them for one execution: its handles follow from its seed, so a replay has the same."""
        return ExecutionSecrets(self._secret_of_name, hmac.new(self._key, seed, hashlib.sha256).digest())


class ExecutionSecrets:
    """The secrets of a tenant for one execution, and the handles that it was given."""

    def __init__(self, secret_of_name: Mapping[str, str], key: bytes) -> None:
        self._secret_of_name = secret_of_name
        self._key = key
        self._given: dict[str, str] = {}
        """The handles that were asked for, by name."""

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

    def _make_handle(self, name: str, value: str) -> str:
        # Of the value too: a record then tells whether a secret has the value still that it had.
        said = f"{name}\0{value}".encode("utf-8", "surrogatepass")
        return f"flux-secret:{name}:{hmac.new(self._key, said, hashlib.sha256).hexdigest()[:32]}"

    def handle(self, name: str) -> str:
        """Return the handle of ``name``; raise `HostCallFailed` when there is no such secret."""
        handle = self._make_handle(name, self._get(name))
        self.give(name, handle)
        return handle

    def give(self, name: str, handle: str) -> None:
        """Take ``handle`` for the secret's from now on: a replay hands out those of the record."""
        self._given[name] = handle

    def reveal(self, name: str) -> str:
        """Return the value of ``name``; raise `HostCallFailed` when there is no such secret."""
        return self._get(name)

    def substitute(self, data: bytes) -> bytes:
        """Return ``data`` with the handles given out to this execution replaced by their values.

        Any other text that looks like a handle is left as it is: one from outside, guessed or seen in another
        execution's record, conjures no secret. In JSON a handle stands in a string, so there the value is written
        as JSON writes it.
        """
        if b"flux-secret:" not in data:
            return data
        is_json = _is_json(data)

        def replace(match: re.Match[bytes]) -> bytes:
            name = match[1].decode()
            if name in self._given and hmac.compare_digest(self._given[name].encode(), match[0]):
                value = self._get(name)
                return (json.dumps(value, ensure_ascii=False)[1:-1] if is_json else value).encode()
            return match[0]

        return HANDLE.sub(replace, data)

    def stand_ins(self) -> list[tuple[str, str]]:
        """Return each value with its handle: what stands for it in the record."""
        return [(value, self._make_handle(name, value)) for name, value in self._secret_of_name.items()]


def _is_json(data: bytes) -> bool:
    if data.lstrip()[:1] not in (b"{", b"[", b'"'):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


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
