"""What a function has not: threads, processes, sockets, stdin."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from flux_guest import Context, function


def _refused(*tries) -> list:
    said = []
    for one in tries:
        try:
            one()
        except (RuntimeError, PermissionError) as error:
            said.append(str(error))
        else:
            said.append("it worked")
    return said


# Expect: returned 200
@function()
def all_doors_are_closed(ctx: Context, input: dict) -> dict:
    said = _refused(
        lambda: threading.Thread(target=print).start(),
        lambda: ThreadPoolExecutor().submit(print),
        os.fork,
        lambda: os.system("true"),
        lambda: subprocess.run(["true"], check=False),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: socket.create_server(("127.0.0.1", 0)),
    )
    assert "it worked" not in said, said
    return {"said": said, "stdin": sys.stdin.read()}


# Expect: returned 200; db.query 1
@function()
async def a_thread_runs_in_place(ctx: Context, input: dict) -> dict:
    name = await asyncio.to_thread(lambda: threading.current_thread().name)
    await ctx.db.query("select 1")
    return {"name": name}


# Expect: raised PermissionError
@function()
async def asyncio_has_no_servers(ctx: Context, input: dict) -> None:
    await asyncio.start_server(print, "127.0.0.1", 0)
