"""Processor time of sandboxes, against what processes say of themselves."""

import json
import subprocess
import sys

from flux.sandbox.processor import ProcessorTime

PROGRAM = """
import os, sys, time

def burn(seconds):
    while os.times().user + os.times().system < seconds:
        sum(range(10_000))

children = []
for seconds in (0.1, 0.1):
    if (child := os.fork()) == 0:
        burn(seconds)
        os._exit(0)
    os.waitpid(child, 0)
reader, writer = os.pipe()
if (living := os.fork()) == 0:
    burn(0.2)
    os.write(writer, b".")
    time.sleep(600)
    os._exit(0)
os.read(reader, 1)
burn(0.1)
print(living, flush=True)
sys.stdin.readline()
os.kill(living, 9)
os.waitpid(living, 0)
times = os.times()
print(sum((times.user, times.system, times.children_user, times.children_system)), flush=True)
sys.stdin.readline()
"""


def test_the_living_the_ended_and_the_first_process_are_counted_once_each() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None and first.stdout is not None
        first.stdout.readline()
        time = ProcessorTime()
        with time.counted(lambda: first.pid):
            living_s = time.read_s()
            first.stdin.write(b"\n")
            first.stdin.flush()
            said_s = json.loads(first.stdout.readline())
            ended_s = time.read_s()
        assert time.read_s() >= ended_s, "what has left is not forgotten"
        assert 0.45 <= living_s <= ended_s
        # Of each number the kernel tells us hundredths.
        assert abs(ended_s - said_s) <= 0.05
        with time.counted(lambda: first.pid):
            first.stdin.close()
            first.wait()
            assert time.read_s() >= ended_s, "who is gone takes nothing away"
