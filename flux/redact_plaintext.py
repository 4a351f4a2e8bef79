"""Hiding in plain bytes of connections, by the rules of `flux.redact`.

What a function's library *sends* is only compared in a replay, so anything in it can be
replaced by something longer or shorter. What it *receives* is read again by the same
library in a replay, so there the bytes must stay a message: header fields may change
their length, bodies may not, for a Content-Length or the framing of a protocol says how
long they are. In bodies a stand-in is cut or filled to the length of the value.

This is best effort, and the docs say where it ends (docs/host-calls/net.md): a body that
is compressed, or a value that is torn between two chunks, is not seen through.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence

import attrs

from flux import values
from flux.hidden import HiddenValues
from flux.plaintext import Kind, Part, Received, Sent

CONNECTIONS_MAX = 1000
"""Connections that are kept track of. A host opens fewer for one execution."""

_HANDLE = b"flux-secret:"


@attrs.frozen
class Hiding:
    """What `flux.redact.Redactor` knows and does."""

    hidden: HiddenValues
    header: Callable[[str, str], str]
    """Takes name and value of a header field, returns the value as it may be stored."""
    url: Callable[[str], str]
    body: Callable[[bytes], bytes]
    """Takes a body that nobody reads again."""
    meet: Callable[[bytes], None]
    """Takes what may be JSON, and has the values in it that rules name hidden from now on."""
    token: Callable[[bytes], str]
    fields: Sequence[str]
    """Names that end the JSON paths of the rules."""


class PlaintextRedactor:
    """The connections of one execution."""

    def __init__(self, hiding: Hiding) -> None:
        self._hiding = hiding
        self._sent: dict[str, Sent] = {}
        self._received: dict[str, Received] = {}
        self._field: re.Pattern[bytes] | None = None
        if hiding.fields:
            names = b"|".join(re.escape(json.dumps(name)[1:-1].encode()) for name in hiding.fields)
            value = rb'"(?P<text>(?:[^"\\]|\\.)*)"?|(?P<number>-?[0-9][0-9.eE+-]*)'
            self._field = re.compile(rb'"(?:' + names + rb')"\s*:\s*(?:' + value + rb")", re.DOTALL)

    def sent(self, arguments: bytes) -> bytes:
        """Return the arguments of a ``net.send`` as they may be stored."""
        match values.decode_json(arguments):
            case [str(handle), (str() | dict()) as content, timeout]:
                data = _read(content)
                if data is None:
                    return arguments
                stream = self._sent.get(handle)
                if stream is None:
                    stream = Sent()
                    if len(self._sent) < CONNECTIONS_MAX:
                        self._sent[handle] = stream
                redacted = b"".join(map(self._hide_sent, stream.split(data)))
                if redacted == data:
                    return arguments
                return values.encode_json_canonical([handle, _write(redacted), timeout])
        return arguments  # Malformed: it was refused, and nothing of it was sent.

    def received(self, arguments: bytes, answer: bytes) -> bytes:
        """Return the answer of a ``net.recv`` as it may be stored."""
        asked = values.decode_json(arguments)
        content = values.decode_json(answer)
        data = _read(content)
        if not data or not isinstance(asked, list):
            return answer
        stream = self._received.get(str(asked[0]))
        if stream is None:
            stream = self._received[str(asked[0])] = Received()
        redacted = b"".join(map(self._hide_received, stream.split(data)))
        return answer if redacted == data else values.encode_json(_write(redacted))

    def _hide_sent(self, part: Part) -> bytes:
        match part.kind:
            case Kind.HEADER:
                return self._hide_header(part)
            case Kind.TARGET:
                return self._hiding.url(part.data.decode("latin-1")).encode("latin-1")
            case Kind.BODY:
                return self._hiding.hidden.hide(self._hiding.body(part.data))
            case Kind.PASSWORD:
                return self._hiding.token(part.data).encode()
        return part.data

    def _hide_received(self, part: Part) -> bytes:
        match part.kind:
            case Kind.HEADER:
                return self._hide_header(part)
            case Kind.BODY:
                return self._hide_in_place(part.data)
        return part.data

    def _hide_header(self, part: Part) -> bytes:
        value = part.data.decode("latin-1")
        # A secret that was revealed has its handle in the record, and a replay hears the handle. What is
        # hidden must come out the same in both, so what holds a secret is not made a token of.
        told = self._hiding.hidden.hide(_read_basic(value))
        if _HANDLE in told:
            return told
        plain = self._hiding.hidden.hide(part.data).decode("latin-1")
        return self._hiding.header(part.name, plain).encode("latin-1", "replace")

    def _hide_in_place(self, data: bytes) -> bytes:
        hiding = self._hiding
        if self._field is not None:
            filled = self._field.sub(self._fill, data)
            hiding.meet(data)
            data = filled
        return hiding.hidden.hide_in_place(data)

    def _fill(self, match: re.Match[bytes]) -> bytes:
        group = "number" if match["number"] is not None else "text"
        start, end = (place - match.start() for place in match.span(group))
        value = match[group]
        if group == "number":
            filled = b"9" * len(value)
        else:
            filled = self._hiding.token(value).encode()[: len(value)].ljust(len(value), b".")
        # The same stands for it wherever it goes from here: it is what a replay hears.
        self._hiding.hidden.add(_read_string(value), filled.decode())
        return match[0][:start] + filled + match[0][end:]


def _read_string(written: bytes) -> str:
    """Return what the inside of a JSON string says; what is torn, as it is written."""
    try:
        said: str = json.loads(b'"%b"' % written)
    except ValueError:
        return written.decode("utf-8", "surrogateescape")
    return said


def _read_basic(value: str) -> bytes:
    """Return credentials with the name and the password in them readable; any other value as it is."""
    scheme, space, credentials = value.partition(" ")
    if space and scheme.lower() == "basic":
        try:
            return f"{scheme} ".encode("latin-1") + base64.b64decode(credentials, validate=True)
        except binascii.Error:
            pass  # It is no Basic after all; as it is, it is looked at all the same.
    return value.encode("latin-1")


def _read(content: object) -> bytes | None:
    """Return the bytes of text or tagged bytes, as they stand in JSON; None for anything else."""
    match content:
        case str():
            return content.encode("utf-8", "surrogatepass")
        case {"$bytes": str(encoded)}:
            try:
                return base64.b64decode(encoded, validate=True)
            except binascii.Error:
                return None
    return None


def _write(data: bytes) -> object:
    return values.to_json(values.text_or_bytes(data))
