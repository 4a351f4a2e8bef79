"""An editor, as far as the Debug Adapter Protocol goes: it shares no code with Flux, and believes nothing.

Each message that comes is held to the protocol's own JSON schema, in the copy that ``debugpy`` brings, and to its
order: numbers that go up by one, an answer to each request before the next is sent.
"""

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema


@cache
def schema() -> dict[str, Any]:
    """The protocol's schema."""
    found = importlib.util.find_spec("debugpy")  # Found, not imported: it would watch this process.
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "_vendored" / "pydevd" / "_pydevd_bundle" / "_debug_adapter"
    read = json.loads((folder / "debugProtocol.json").read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


@cache
def validator(definition: str) -> Any:
    """What holds a message to one of the schema's definitions."""
    whole = schema()
    assert definition in whole["definitions"], definition
    return jsonschema.Draft4Validator({**whole, "$ref": f"#/definitions/{definition}"})


def check(message: dict[str, Any], definition: str) -> None:
    """Hold a message to one of the schema's definitions."""
    validator(definition).validate(message)


class DapClient:
    """Sends requests and reads what answers them."""

    def __init__(self, read: Callable[[], bytes], write: Callable[[bytes], object]) -> None:
        self._read, self._write = read, write
        self._bytes = b""
        self._asked = 0
        self._told = 0
        self.events: list[dict[str, Any]] = []
        """Those that nobody has waited for yet."""

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a request and return its answer's body; it must have been done."""
        answer = self._exchange(command, arguments)
        assert answer["success"] is True, answer
        check(answer, command[0].upper() + command[1:] + "Response")
        return answer.get("body")

    def refused(self, command: str, **arguments: Any) -> str:
        """Send a request that must fail, and return what is said."""
        answer = self._exchange(command, arguments)
        assert answer["success"] is False, answer
        check(answer, "ErrorResponse")
        return str(answer["message"])

    def wait(self, name: str) -> dict[str, Any]:
        """Return the body of the next event of this name."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return dict(event.get("body") or {})
            message = self.receive()
            assert message["type"] == "event", message
            self.events.append(message)

    def stops(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Move, and return how it stopped."""
        self.ask(command, threadId=1, **arguments)
        return self.wait("stopped")

    def top(self) -> tuple[str, int]:
        """Return the function and the line that one stands in."""
        frame = self.ask("stackTrace", threadId=1)["stackFrames"][0]
        return frame["name"], frame["line"]

    def names(self, frame: int = 1) -> dict[str, dict[str, Any]]:
        """Return the variables of a frame by their names."""
        (scope,) = self.ask("scopes", frameId=frame)["scopes"]
        return {each["name"]: each for each in self.inside(scope["variablesReference"])}

    def inside(self, reference: int, **arguments: int) -> list[dict[str, Any]]:
        """Unfold a value."""
        return list(self.ask("variables", variablesReference=reference, **arguments)["variables"])

    def _exchange(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self._asked += 1
        request = {"seq": self._asked, "type": "request", "command": command, "arguments": arguments}
        check(request, command[0].upper() + command[1:] + "Request") if command != "haunt" else None
        body = json.dumps(request).encode()
        self._write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while True:
            message = self.receive()
            if message["type"] == "response":
                assert message["request_seq"] == self._asked
                assert message["command"] == command
                return message
            self.events.append(message)

    def receive(self) -> dict[str, Any]:
        """Read one message."""
        while b"\r\n\r\n" not in self._bytes:
            self._take()
        head, _, rest = self._bytes.partition(b"\r\n\r\n")
        name, _, length = head.partition(b": ")
        assert name == b"Content-Length"
        while len(rest) < int(length):
            self._take()
            rest = self._bytes[len(head) + 4 :]
        self._bytes = rest[int(length) :]
        message = json.loads(rest[: int(length)])
        self._told += 1
        assert message["seq"] == self._told
        if message["type"] == "event":
            check(message, message["event"][0].upper() + message["event"][1:] + "Event")
        assert isinstance(message, dict)
        return message

    def _take(self) -> None:
        data = self._read()
        assert data, "the adapter has hung up"
        self._bytes += data
