"""Connections without HTTP: streams, sockets, select, and TLS that begins in the middle."""

import asyncio
import select
import selectors
import socket
import ssl

from flux_guest import Context, function


# Expect: returned 200; net.open 1
@function()
async def asyncio_streams(ctx: Context, input: dict) -> dict:
    reader, writer = await asyncio.open_connection(input["host"], input["lines_port"])
    writer.write(b"one\ntwo\n")
    await writer.drain()
    lines = [(await reader.readline()).decode() for _ in range(2)]
    writer.close()
    await writer.wait_closed()
    return {"lines": lines}


# Expect: returned 200; net.open 1, net.tls 1
@function()
async def asyncio_starts_tls(ctx: Context, input: dict) -> dict:
    reader, writer = await asyncio.open_connection(input["host"], input["lines_port"])
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go on\n"
    await writer.start_tls(ssl.create_default_context(), server_hostname=input["host"])
    writer.write(b"under tls\n")
    line = await reader.readline()
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    return {"line": line.decode(), "version": version}


# Expect: returned 200; net.open 1, net.tls 1
@function()
def a_socket_starts_tls(ctx: Context, input: dict) -> dict:
    with socket.create_connection((input["host"], input["lines_port"])) as sock:
        sock.sendall(b"STARTTLS\n")
        assert sock.recv(100) == b"go on\n"
        with ssl.create_default_context().wrap_socket(sock, server_hostname=input["host"]) as secure:
            secure.sendall(b"hello\n")
            return {"line": secure.recv(100).decode(), "cipher": secure.cipher()[0]}


# Expect: returned 200; net.open 1
@function()
def a_socket_as_a_file(ctx: Context, input: dict) -> dict:
    with socket.create_connection((input["host"], input["lines_port"]), timeout=60) as sock:
        with sock.makefile("rwb") as file:
            file.write(b"a\nb\nc\n")
            file.flush()
            sock.shutdown(socket.SHUT_WR)
            lines = [line.decode() for line in file]
        peer = sock.getpeername()
    return {"lines": lines, "port_is_kept": peer[1] == input["lines_port"]}


# Expect: returned 200; net.open 2
@function()
def waiting_for_two(ctx: Context, input: dict) -> dict:
    seen = []
    with selectors.DefaultSelector() as selector:
        for name in ("slow", "fast"):
            sock = socket.create_connection((input["host"], input["lines_port"]))
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, name)
            try:
                sock.recv(1)
            except BlockingIOError:
                sock.sendall(f"{name}\n".encode())
        while len(seen) < 2:
            for key, _mask in selector.select(5):
                seen.append((key.data, key.fileobj.recv(100).decode()))
                selector.unregister(key.fileobj)
                ready, _, _ = select.select([key.fileobj], [], [], 0)
                assert ready == []
                key.fileobj.close()
    return {"seen": sorted(seen)}


# Expect: returned 200; net.open 1
@function()
def a_time_out_is_a_time_out(ctx: Context, input: dict) -> dict:
    with socket.create_connection((input["host"], input["lines_port"])) as sock:
        sock.settimeout(0.05)
        try:
            sock.recv(1)
        except TimeoutError as error:
            return {"said": "took longer" in str(error)}
    raise AssertionError("nothing was to come")


# Expect: returned 200; net.open 1
@function()
async def megabytes_both_ways(ctx: Context, input: dict) -> dict:
    reader, writer = await asyncio.open_connection(input["host"], input["lines_port"])
    line = b"x" * 3_000_000 + b"\n"

    async def say() -> None:
        writer.write(line)
        await writer.drain()  # It waits: more than a transport may hold is on its way.

    async def hear() -> int:
        size = 0
        while size < len(line):
            size += len(await reader.read(100_000))
        return size

    _, size = await asyncio.gather(say(), hear())
    writer.write_eof()
    rest = await reader.read()
    writer.close()
    return {"size": size, "rest": rest.decode()}


# Expect: returned 200; net.open 2
@function()
async def a_reader_that_is_given_up(ctx: Context, input: dict) -> dict:
    reader, writer = await asyncio.open_connection(input["host"], input["lines_port"])
    try:
        async with asyncio.timeout(0.05):
            await reader.readline()
    except TimeoutError:
        writer.transport.abort()
    reader, writer = await asyncio.open_connection(input["host"], input["lines_port"])
    writer.write(b"still here\n")
    return {"line": (await reader.readline()).decode()}  # What is still open ends with the execution.


# Expect: returned 200; net.open 2
@function()
def asyncio_in_a_def_handler(ctx: Context, input: dict) -> dict:
    async def ask(line: bytes) -> str:
        reader, writer = await asyncio.open_connection(input["host"], input["lines_port"])
        writer.write(line)
        answer = await reader.readline()
        writer.close()
        return answer.decode()

    return {"answers": [asyncio.run(ask(b"one\n")), asyncio.run(ask(b"two\n"))]}


# Expect: returned 200; net.open 1
@function()
async def the_loops_own_sockets(ctx: Context, input: dict) -> dict:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (input["host"], input["lines_port"]))
        await loop.sock_sendall(sock, b"one\ntwo\n")
        heard = b""
        while heard.count(b"\n") < 2:
            heard += await loop.sock_recv(sock, 5)
    return {"heard": heard.decode()}
