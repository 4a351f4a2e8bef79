"""The load: closed-loop HTTP clients over kept connections, in a process of their own.

    python benchmarks/load.py PORT WORKLOAD [--seconds 3] [--connections 16] [--first 0] [--host NAME]

Each connection sends a request, waits for the whole answer and sends the next: so many requests are in
flight as there are connections. It is one epoll loop over plain sockets, which costs about 20 us of
CPU a request: with the server's own work at 1 ms or more, the client is not what is measured. One
line of JSON is the answer. An answer that is not a 2xx counts as failed and is not among the times.

Servers of all sides hear the same bytes: the requests are those of `benchmarks.workloads`.
"""

import argparse
import json
import select
import socket
import time
from collections import Counter

import attrs

from benchmarks.figures import get_percentile
from benchmarks.workloads import WORKLOADS

ANSWER_S_MAX = 60.0
HOST = "127.0.0.1"
HOST_LINE = b"Host: 127.0.0.1\r\n"
"""As `benchmarks.workloads` writes it."""


@attrs.frozen
class Load:
    """What the clients saw."""

    count: int
    """Answers of 2xx."""
    failed: dict[str, int]
    """Other answers, by status."""
    first_failure: str
    """The first of those, whole; empty without any."""
    elapsed_s: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    """Of the clients themselves."""

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.count / self.elapsed_s


@attrs.define
class _Client:
    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""
    needed: int = -1
    """Bytes of the whole answer, once its head is here."""

    def receive(self) -> tuple[int, bytes] | None:
        """Take what has come; return the status and the answer when that is whole."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed a connection in the middle: {self.received[:300]!r}")
        self.received += data
        if self.needed < 0:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.needed = end + 4 + _content_length(self.received[:end])
        if len(self.received) < self.needed:
            return None
        status = int(self.received[9:12])
        answer, self.received, self.needed = self.received, b"", -1
        return status, answer


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def run_load(
    port: int, workload: str, seconds: float, connections: int, first: int, host: str = HOST
) -> Load:
    """Send requests number ``first`` and on for so many seconds."""

    def make_request(number: int) -> bytes:
        return WORKLOADS[workload].make_request(number).replace(HOST_LINE, b"Host: %b\r\n" % host.encode(), 1)

    times_s: list[float] = []
    failed: Counter[str] = Counter()
    first_failure = ""
    poll = select.epoll()
    clients: dict[int, _Client] = {}
    for _ in range(connections):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        clients[peer.fileno()] = _Client(peer)
        poll.register(peer.fileno(), select.EPOLLIN)
    number = first
    cpu, started = time.process_time(), time.perf_counter()
    deadline = started + seconds
    for client in clients.values():
        client.sent = time.perf_counter()
        client.socket.sendall(make_request(number))
        number += 1
    in_flight = len(clients)
    while in_flight:
        ready = poll.poll(ANSWER_S_MAX)
        if not ready:
            raise TimeoutError(f"{in_flight} requests were not answered within {ANSWER_S_MAX:.0f} s")
        for descriptor, _event in ready:
            client = clients[descriptor]
            received = client.receive()
            if received is None:
                continue
            status, answer = received
            now = time.perf_counter()
            if 200 <= status < 300:
                times_s.append(now - client.sent)
            else:
                failed[str(status)] += 1
                first_failure = first_failure or answer.decode(errors="replace")
            if now >= deadline:
                in_flight -= 1
                continue
            client.sent = now
            client.socket.sendall(make_request(number))
            number += 1
    elapsed_s = time.perf_counter() - started
    for client in clients.values():
        client.socket.close()
    return Load(
        count=len(times_s),
        failed=dict(failed),
        first_failure=first_failure,
        elapsed_s=elapsed_s,
        p50_ms=get_percentile(times_s, 50) * 1000 if times_s else 0.0,
        p99_ms=get_percentile(times_s, 99) * 1000 if times_s else 0.0,
        cpu_s=time.process_time() - cpu,
    )


def main() -> None:
    """Run one round and print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first request: each has its own values"
    )
    parser.add_argument("--host", default=HOST, help="the name of the host that is asked for")
    options = parser.parse_args()
    load = run_load(
        options.port, options.workload, options.seconds, options.connections, options.first, options.host
    )
    print(json.dumps(attrs.asdict(load)))


if __name__ == "__main__":
    main()
