"""What the gateway costs beside bare h11 on trio.

Two servers answer the same no-op POST over 16 loopback connections: the gateway
with everything it checks, and the shortest server that h11 and trio allow, which
checks nothing and has no deadlines. Rounds are interleaved, so that a noisy
machine is noisy for both. Each server is a process of its own; this one is the
client, so with two cores neither waits for the other.

    python benchmarks/gateway.py [--rounds 5] [--round-s 2]
"""

import argparse
import multiprocessing
import multiprocessing.connection
import select
import socket
import statistics
import time
from functools import partial

import h11
import trio

from flux.message import HttpRequest, HttpResponse, RequestHead
from flux.supervisor.gateway import GatewayLimits, open_listeners, serve_http

CONNECTIONS = 16
REQUEST = (
    b"POST /echo HTTP/1.1\r\nHost: localhost:4000\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
    b'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"hello":"x"}'
)


class NoOp:
    """Answers everything with the same two bytes."""

    def body_bytes_max(self, head: RequestHead) -> int:  # noqa: ARG002 - the protocol's
        return 1024 * 1024

    async def handle(self, request: HttpRequest) -> HttpResponse:  # noqa: ARG002 - the protocol's
        return HttpResponse(200, (("content-type", "text/plain"),), b"ok")


async def serve_gateway(ports: "multiprocessing.connection.Connection") -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    ports.send(listeners[0].socket.getsockname()[1])
    await serve_http(listeners, NoOp(), GatewayLimits(), drain=trio.Event(), on_crash=print)


async def serve_bare(ports: "multiprocessing.connection.Connection") -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ports.send(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(answer_bare, listeners)


async def answer_bare(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif type(event) is h11.EndOfMessage:
            answer = connection.send(
                h11.Response(
                    status_code=200, headers=[("content-type", "text/plain"), ("content-length", "2")]
                )
            )
            answer += connection.send(h11.Data(data=b"ok")) + connection.send(h11.EndOfMessage())
            await stream.send_all(answer)
            connection.start_next_cycle()
        elif type(event) is h11.ConnectionClosed:
            return


SERVERS = {"gateway": serve_gateway, "bare h11": serve_bare}


def run_server(name: str, ports: "multiprocessing.connection.Connection") -> None:
    trio.run(partial(SERVERS[name], ports))


def measure_round(port: int, round_s: float) -> tuple[float, float]:
    """Return requests a second, and the 99th percentile of the waiting time in milliseconds."""
    waits_s: list[float] = []
    clients = {}
    poll = select.epoll()
    for _ in range(CONNECTIONS):
        client = socket.create_connection(("127.0.0.1", port))
        clients[client.fileno()] = client
        poll.register(client.fileno(), select.EPOLLIN)
    started = time.perf_counter()
    sent = dict.fromkeys(clients, started)
    for client in clients.values():
        client.send(REQUEST)
    while (now := time.perf_counter()) - started < round_s:
        for descriptor, _ in poll.poll(1):
            answer = clients[descriptor].recv(4096)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            now = time.perf_counter()
            waits_s.append(now - sent[descriptor])
            sent[descriptor] = now
            clients[descriptor].send(REQUEST)
    elapsed_s = time.perf_counter() - started
    for client in clients.values():
        client.recv(4096)  # The bare server would not survive the reset of an unread answer.
        client.close()
    waits_s.sort()
    return len(waits_s) / elapsed_s, waits_s[int(len(waits_s) * 0.99)] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-s", type=float, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    servers = {}
    ports = {}
    for name in SERVERS:
        receiving, sending = context.Pipe(duplex=False)
        servers[name] = context.Process(target=run_server, args=(name, sending))
        servers[name].start()
        ports[name] = receiving.recv()
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    p99s_ms: dict[str, list[float]] = {name: [] for name in SERVERS}
    try:
        for _ in range(options.rounds):
            for name, port in ports.items():
                rate, p99_ms = measure_round(port, options.round_s)
                rates[name].append(rate)
                p99s_ms[name].append(p99_ms)
    finally:
        for server in servers.values():
            server.kill()
            server.join()
    for name in SERVERS:
        print(
            f"{name:10} {statistics.median(rates[name]):8,.0f} requests/s "
            f"({min(rates[name]):,.0f} to {max(rates[name]):,.0f})   "
            f"p99 {statistics.median(p99s_ms[name]):.2f} ms"
        )


if __name__ == "__main__":
    main()
