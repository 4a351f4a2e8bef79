"""A pooler in transaction mode is noticed, and PostgreSQL itself is none."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from flux.store.poolers import SharedSessionError, check_own_session
from flux.store.postgres import ConnectOptions, connect
from tests.conftest import Database, create_database
from tests.postgres_server import PostgresServer

PATIENCE_S = 60.0


async def test_two_connections_of_the_server_itself_have_two_processes(postgres18: PostgresServer) -> None:
    options = create_database(postgres18).options()
    connection = await connect(options)
    await check_own_session(connection, options)
    await connection.aclose()


async def test_a_pooler_that_shares_sessions_is_refused_by_name(postgres18: PostgresServer, tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        async with running_pooler(create_database(postgres18), tmp_path) as options:
            connection = await connect(options)
            with pytest.raises(SharedSessionError, match="shares sessions"):
                await check_own_session(connection, options)
            connection.terminate()


@asynccontextmanager
async def running_pooler(database: Database, folder: Path) -> AsyncIterator[ConnectOptions]:
    """The smallest pooler in transaction mode: one session for all clients, each has it until it is idle again."""
    real = database.options()
    server = await trio.open_unix_socket(f"{real.host}/.s.PGSQL.{real.port}")
    words = b"".join(word.encode() + b"\0" for word in ("user", real.user, "database", real.database)) + b"\0"
    await server.send_all(struct.pack("!II", len(words) + 8, 196608) + words)
    greeting = await read_until_idle(server, None)
    turn = trio.Lock()

    async def serve(client: trio.SocketStream) -> None:
        (size,) = struct.unpack("!I", await read_exactly(client, 4))
        await read_exactly(client, size - 4)
        await client.send_all(greeting)
        while data := await client.receive_some():
            if data[:1] == b"X":
                return
            async with turn, trio.open_nursery() as nursery:
                await server.send_all(data)
                nursery.start_soon(pass_on, client, server)
                await read_until_idle(server, client)
                nursery.cancel_scope.cancel()

    path = folder / ".s.PGSQL.5432"
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(path))
    listener.listen()
    async with server, trio.open_nursery() as nursery:
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield attrs.evolve(real, host=str(folder), port=5432)
        nursery.cancel_scope.cancel()


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        assert piece, "the other side has ended"
        data += piece
    return data


async def pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
    while data := await source.receive_some():
        await target.send_all(data)


async def read_until_idle(stream: trio.SocketStream, target: trio.SocketStream | None) -> bytes:
    """Read messages up to and with ReadyForQuery, each for ``target`` as it comes."""
    read = b""
    while True:
        head = await read_exactly(stream, 5)
        body = await read_exactly(stream, struct.unpack("!I", head[1:])[0] - 4)
        read += head + body
        if target is not None:
            await target.send_all(head + body)
        if head[:1] == b"Z":
            return read
