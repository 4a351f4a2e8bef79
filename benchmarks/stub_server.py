"""What the measured servers talk to: a payment provider, and a collector of OpenTelemetry data.

    python benchmarks/stub_server.py

Prints its port. It answers each POST at once with the same JSON, and counts requests and bytes by path;
``GET /counts`` tells them. It ends when its stdin is closed.
"""

import asyncio
import json
import os
import sys
from collections import Counter

ANSWER = json.dumps({"id": "cus_123", "object": "customer", "livemode": False}).encode()
counts: Counter[str] = Counter()
bytes_received: Counter[str] = Counter()


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).decode("latin-1")
            first, *fields = head.split("\r\n")
            length = 0
            for field in fields:
                name, _, value = field.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            path = first.split(" ")[1]
            body, kind = ANSWER, "application/json"
            if path == "/counts":
                body = json.dumps({"counts": counts, "bytes": bytes_received}).encode()
            else:
                counts[path] += 1
                bytes_received[path] += end + 4 + length
                if path == "/v1/traces":
                    body, kind = b"", "application/x-protobuf"  # An empty ExportTraceServiceResponse.
            assert self._transport is not None
            self._transport.write(
                f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                + body
            )


async def main() -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Conversation, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
