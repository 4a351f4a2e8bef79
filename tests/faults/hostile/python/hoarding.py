"""Guests that take what there is: memory, stack, descriptors, processes."""

import contextlib
import ctypes
import itertools
import os
import re
import sys
import threading
import zlib

from flux_guest import Context, function


# Expect: killed memory
@function()
def eats_memory(ctx: Context, input: dict) -> None:
    eaten = []
    while True:
        eaten.append(bytearray(1_000_000))


# Expect: killed memory
@function()
def eats_memory_in_small_bites(ctx: Context, input: dict) -> None:
    eaten = []
    while True:
        eaten.append([eaten] * 1000)


# Expect: killed memory
@function()
def counts_to_infinity(ctx: Context, input: dict) -> list:
    return list(itertools.count())


# Expect: killed memory
@function()
def grows_without_python(ctx: Context, input: dict) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while libc.malloc(1_000_000):
        pass
    raise MemoryError


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def eats_memory_and_goes_on(ctx: Context, input: dict) -> None:
    eaten = []
    while True:
        with contextlib.suppress(MemoryError):
            while True:
                eaten.append(bytearray(1_000_000))


# Expect: killed memory
@function()
def unpacks_a_bomb(ctx: Context, input: dict) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = block * 4096 + packer.flush()
    ctx.log.info("4 GiB", packed=len(bomb))
    return len(zlib.decompress(bomb, -15))


# Expect: killed memory
@function()
def keeps_what_is_no_use(ctx: Context, input: dict) -> int:
    return len("x" * 10**12)


# Expect: raised RecursionError
@function()
def calls_itself(ctx: Context, input: dict) -> int:
    def call(depth: int) -> int:
        return call(depth + 1) + 1

    return call(0)


# Expect: raised RecursionError
@function()
def calls_itself_very_often(ctx: Context, input: dict) -> int:
    sys.setrecursionlimit(30_000)

    def call(depth: int) -> int:
        return call(depth + 1) + 1

    return call(0)


# Expect: exited signal 11 or raised RecursionError
@function()
def recurses_in_c(ctx: Context, input: dict) -> bool:
    sys.setrecursionlimit(2**31 - 1)
    one: list = []
    other: list = []
    for _ in range(300_000):
        one, other = [one], [other]
    return one == other


# Expect: raised AnswerError
@function()
def answers_what_is_too_deep(ctx: Context, input: dict) -> list:
    nest: list = []
    for _ in range(100_000):
        nest = [nest]
    return nest


# Expect: returned 200
# Answer: {"refused": true}
@function()
def opens_all_there_is(ctx: Context, input: dict) -> dict:
    kept = []
    while True:
        try:
            kept.append(os.open(__file__, os.O_RDONLY))
        except OSError:
            break
    return {"refused": len(kept) < 100_000}


# Expect: returned 200
# Answer: {"refused": true}
@function()
def duplicates_its_door(ctx: Context, input: dict) -> dict:
    kept = []
    while True:
        try:
            kept.append(os.dup(3))
        except OSError:
            break
    return {"refused": len(kept) < 100_000}


# Expect: returned 200
# Answer: {"made": 0}
@function()
def forks_and_forks(ctx: Context, input: dict) -> dict:
    libc = ctypes.CDLL(None, use_errno=True)
    made = 0
    for _ in range(1000):
        # By the C library, by the system call, as a thread's clone, and as nobody calls it.
        for attempt in (
            libc.fork,
            lambda: libc.syscall(57),
            lambda: libc.syscall(56, 0x11, 0, 0, 0, 0),
            libc.vfork,
        ):
            child = attempt()
            if child == 0:
                while True:
                    libc.fork()
            made += child > 0
    return {"made": made}


# Expect: returned 200
# Answer: {"made": 0}
@function()
def starts_threads_and_threads(ctx: Context, input: dict) -> dict:
    import _thread

    made = 0
    for start in (
        lambda: _thread.start_new_thread(lambda: None, ()),
        lambda: threading.Thread(target=lambda: None).start(),
    ):
        for _ in range(100):
            with contextlib.suppress(RuntimeError):
                start()
                made += 1
    return {"made": made}


# Expect: killed memory or raised error or raised OverflowError or raised RecursionError
@function()
def compiles_a_regex_of_any_size(ctx: Context, input: dict) -> bool:
    return re.compile("(" * 5_000 + ")" * 5_000) is not None


# Expect: killed memory or raised RecursionError or raised SyntaxError or exited signal 11
@function()
def evaluates_a_tower(ctx: Context, input: dict) -> int:
    return eval("(" * 100_000 + ")" * 100_000)
