"""The values of secrets, for code that runs again.

A record has handles where a function heard values, and what a function computes with a
handle is not what it computed: a signature, a log-in. So where a replay is answered from the
record, the guest hears the value that the secret has now, if it is the one of then. Whether
it is, what is recorded tells: both a handle and a token follow from the value, under a key
that is not in the record, so the value as it is now is redacted once more and compared.

A value that is another one now is not handed out: it would not give the answers of then
either, and nobody could tell why. The guest hears the handle, and the replay says so. What a
replay records is redacted as everything is, so no value is stored.
"""

import attrs

from flux import values
from flux.hostcall import HostCallRequest, HostCallResult
from flux.hostcalls.base import HostCallFailed
from flux.hostcalls.secret import HANDLE, HANDLE_CALL, REVEAL, ExecutionSecrets
from flux.redact import TOKEN, Redactor
from flux.verdict import Judgement, Verdict


class ReplayedSecrets:
    """The secrets of one execution that runs again."""

    def __init__(self, secrets: ExecutionSecrets, redactor: Redactor) -> None:
        self._secrets = secrets
        self._redactor = redactor
        self._lost: dict[str, str] = {}
        """What has become of those that the guest asked the value of and did not get, by name."""

    @property
    def are_whole(self) -> bool:
        """Whether the guest has had every value that it asked for."""
        return not self._lost

    def hear(self, request: HostCallRequest, recorded: HostCallResult) -> HostCallResult:
        """Return what the guest is to hear where ``recorded`` answers ``request``."""
        if request.name not in (REVEAL.name, HANDLE_CALL.name) or recorded.error is not None:
            return recorded
        match values.decode_json(request.arguments), values.decode_json(recorded.value):
            case [str(name)], str(said) if HANDLE.fullmatch(said.encode()) or TOKEN.match(said):
                pass
            case _:
                return recorded  # A caller has brought it, and it is what it is.
        if request.name == HANDLE_CALL.name:
            self._secrets.give(name, said)
            return recorded
        try:
            value = values.encode_json(self._secrets.reveal(name))
        except HostCallFailed:
            self._lost[name] = f"the secret {name}, whose value it asked for, has none any more"
            return recorded
        heard = attrs.evolve(recorded, value=value)
        if self._redactor.result(request, heard).value != recorded.value:
            self._lost[name] = f"the secret {name}, whose value it asked for, has another value now than it had then"
            return recorded
        return heard

    def tell(self) -> tuple[str, ...]:
        """Return what was not as it was, a sentence each."""
        return tuple(self._lost.values())

    def explain(self, judgement: Judgement) -> Judgement:
        """Return ``judgement`` with what may well be behind it in front of its reason."""
        if not self._lost or judgement.verdict in (Verdict.IDENTICAL, Verdict.SAME_FAILURE):
            return judgement
        return attrs.evolve(judgement, reason=f"{'; '.join(self.tell())}: {judgement.reason}")
