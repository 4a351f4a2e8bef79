"""What one outbound POST costs in CPU: Flux's client beside httpcore's.

    python benchmarks/outbound_http.py

A stub server in a process of its own answers on loopback; this process sends POSTs
one after the other over a kept connection and counts its own CPU. The sides take
turns, so that a noisy machine is noisy for all of them; medians, with the spread.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import httpcore
import trio

from flux.grants import Grants
from flux.hostcall import Effect
from flux.hostcalls.base import CallContext
from flux.hostcalls.http import REQUEST, HttpClient
from flux.hostcalls.http_outbound import OutboundPolicy, OutboundRequest
from flux.limits import Limits

BODY = json.dumps({"email": "ada@example.com", "plan": "free"}).encode()
ANSWER_BODY = json.dumps({"id": "cus_123", "object": "customer", "livemode": False}).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)
Post = Callable[[], Awaitable[bytes]]


def serve() -> None:
    """Answer every request with `ANSWER` until stdin closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def answer(peer: socket.socket) -> None:
        data = b""
        while received := peer.recv(65536):
            data += received
            while b"\r\n\r\n" in data and len(data.partition(b"\r\n\r\n")[2]) >= len(BODY):
                data = data.partition(b"\r\n\r\n")[2][len(BODY) :]
                peer.sendall(ANSWER)

    def accept() -> None:
        while True:
            peer, _address = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            threading.Thread(target=answer, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


class NoSecrets:
    """A function without secrets."""

    def handle(self, name: str) -> str:
        return name

    def reveal(self, name: str) -> str:
        return name

    def substitute(self, data: bytes) -> bytes:
        return data


async def measure_cpu_us(post: Post, requests: int) -> float:
    """Return microseconds of this process's CPU a request."""
    for _ in range(50):
        assert await post() == ANSWER_BODY
    started_s = time.process_time()
    for _ in range(requests):
        await post()
    return (time.process_time() - started_s) / requests * 1e6


async def compare(port: int, rounds: int, requests: int) -> None:
    """Print a line for each side."""
    url = f"http://127.0.0.1:{port}/v1/customers"
    grants = Grants.parse([f"127.0.0.1:{port}"])
    header = (("content-type", "application/json"),)
    with HttpClient() as client:
        async with httpcore.AsyncConnectionPool() as pool:

            async def with_client() -> bytes:
                response = await client.request(
                    OutboundRequest("POST", url, header, BODY), OutboundPolicy("acme", grants)
                )
                return response.body

            context = CallContext(
                tenant="acme", function="f", grants=grants, limits=Limits(), database=None, http=client,
                clock=None, entropy=None, secrets=NoSecrets(),  # type: ignore[arg-type]
            )  # fmt: skip

            async def with_host_call() -> bytes:
                options = {"headers": [list(pair) for pair in header], "body": BODY.decode()}
                answer = await REQUEST.perform(context, ["POST", url, options], 1)
                assert isinstance(answer, dict)
                body: str = answer["body"]
                return body.encode()

            async def with_httpcore() -> bytes:
                response = await pool.request("POST", url, headers=header, content=BODY)
                content: bytes = response.content
                return content

            sides: dict[str, Post] = {
                "flux client": with_client,
                "flux http.request": with_host_call,
                "httpcore pool": with_httpcore,
            }
            found: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(rounds):
                for name, post in sides.items():
                    found[name].append(await measure_cpu_us(post, requests))
    assert REQUEST.effect is Effect.LEAVES
    for name, times_us in found.items():
        print(
            f"{name:20} {statistics.median(times_us):6.0f} us CPU a POST   "
            f"({min(times_us):.0f} to {max(times_us):.0f}, {rounds} rounds of {requests})"
        )


def main() -> None:
    """Start the stub, compare, stop the stub."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=500)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stub:
        assert stub.stdout is not None and stub.stdin is not None
        try:
            trio.run(compare, int(stub.stdout.readline()), arguments.rounds, arguments.requests)
        finally:
            stub.stdin.close()


if __name__ == "__main__":
    main()
