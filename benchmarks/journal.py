"""What the journal costs a request, and what bringing it back costs a start.

    python -m benchmarks.journal [--rounds 7] [--executions 2000] [--folder DIR]

One execution here is a point query as a supervisor tells it: begin, five host calls asked and
answered (2 KiB each way), a transaction begun and ended, the whole record, the mark that it is stored.
Two sides, interleaved: the journal, and the same nouns encoded with nothing written, so that the
difference is the file's share. With ``--folder`` on another disk you measure that disk. Medians of CPU
time, with the lowest and the highest round.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from flux import codec
from flux.execution import Execution, Returned, Transaction
from flux.hostcall import HostCall, HostCallRequest, HostCallResult, Position
from flux.supervisor.journal import Fsync, Journal
from flux.supervisor.left_behind import claim
from tests.journal_program import make_execution

CALLS = 5
VALUE = b'"' + random.Random(1).randbytes(1024).hex().encode() + b'"'


@attrs.frozen
class Life:
    """What is told of one execution."""

    head: Execution
    calls: tuple[HostCall, ...]
    begun: Transaction
    committed: Transaction
    ended: Execution


def make_life(seed: int) -> Life:
    """One execution with five calls."""
    head = make_execution(seed)
    position = Position("functions/orders.py", 12, "place_order")
    calls = tuple(
        HostCall(
            HostCallRequest(seq, "db.query", VALUE, 0, position),
            HostCallResult(VALUE, None, 90_000),
            seq * 100_000,
            seq,
        )
        for seq in range(1, CALLS + 1)
    )
    begun = Transaction("repeatable read", "700:700:", None, False, 1)
    committed = attrs.evolve(begun, xid=700, committed=True, ended_ns=900_000)
    ended = attrs.evolve(
        head, outcome=Returned(200, body=VALUE), calls=calls, elapsed_ns=1_000_000, transactions=(committed,)
    )
    return Life(head, calls, begun, committed, ended)


def tell(journal: Journal, life: Life, *, stored: bool = True) -> None:
    """All events of an execution, in a supervisor's order."""
    execution_id = life.head.id.bytes
    journal.begin(life.head)
    journal.transaction(execution_id, life.begun)
    for call in life.calls:
        journal.asked(execution_id, call.request, call.started_ns)
        assert call.result is not None and call.answered is not None
        journal.answered(execution_id, call.request.seq, call.result, call.answered)
    journal.ended(execution_id, life.ended, in_transaction=True)
    if stored:
        journal.stored(execution_id)


def encode(life: Life) -> None:
    """The same nouns, encoded."""
    codec.encode(life.head)
    codec.encode(life.begun)
    for call in life.calls:
        codec.encode(call.request)
        codec.encode(call.result)
    codec.encode(life.ended)


EVENTS = 3 + 2 * CALLS  # and the mark


def cpu_us(work: Callable[[Life], None], lives: list[Life]) -> float:
    """CPU time of ``work`` per execution, in microseconds."""
    start = time.process_time()
    for life in lives:
        work(life)
    return (time.process_time() - start) / len(lives) * 1e6


async def wait_each(folder: Path, lives: list[Life]) -> float:
    """Milliseconds that an execution takes when it waits for the disk once, sixteen at a time."""
    journal = Journal(folder, fsync=Fsync.GROUP)
    waiting = list(lives)

    async def client() -> None:
        while waiting:
            tell(journal, waiting.pop())
            await journal.wait_durable()

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(client)
    elapsed = time.perf_counter() - start
    journal.close()
    return elapsed / len(lives) * 16e3


def shown(values: list[float]) -> str:
    """Median (lowest to highest)."""
    return f"{statistics.median(values):8.2f}  ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--executions", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    lives = [make_life(seed) for seed in range(options.executions)]
    journalled: list[float] = []
    encoded: list[float] = []
    waited: list[float] = []
    recovered: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as parent:
        for number in range(options.rounds):
            journal = Journal(Path(parent) / f"{number}")
            journalled.append(cpu_us(lambda life, journal=journal: tell(journal, life), lives))  # type: ignore[misc]
            written = journal.counts.written_bytes / len(lives)
            journal.close()
            encoded.append(cpu_us(encode, lives))
            waited.append(
                trio.run(wait_each, Path(parent) / f"{number}-group", lives[: options.executions // 4])
            )
            left = Journal(Path(parent) / f"{number}-left")
            for life in lives:
                tell(left, life, stored=False)
            left.close()
            start = time.perf_counter()
            with claim(left.folder) as claimed:
                for execution_id in claimed.ids:
                    claimed.read(execution_id)
                claimed.discard()
            recovered.append((time.perf_counter() - start) / len(lives) * 1e6)
    files = [total - plain for total, plain in zip(journalled, encoded, strict=True)]
    print(f"{EVENTS} events and a mark, {written:.0f} bytes an execution")
    print(f"journal, CPU us an execution        {shown(journalled)}")
    print(f"  of it encoding the nouns          {shown(encoded)}")
    print(f"  of it framing and writing         {shown(files)}")
    print(f"  framing and writing, us an event  {shown([value / (EVENTS + 1) for value in files])}")
    print(f"GROUP, 16 at a time, ms each        {shown(waited)}")
    print(f"reading back, us an execution       {shown(recovered)}")


if __name__ == "__main__":
    main()
