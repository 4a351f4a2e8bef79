"""What all benchmarks share: CPU of a process tree, medians with their spread, tables.

A figure here is the median of several rounds, with the lowest and the highest beside it. A
machine's noise then shows as spread, and does not look like a result.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

_TICKS_S = os.sysconf("SC_CLK_TCK")
QUIET = 0.7
"""The load average up to which a machine counts as having nothing else to do."""
_README = "benchmarks/README.md"
_SCHEDULED = 2
"""CPUCLOCK_SCHED of Linux: what the scheduler counted of a process, all its threads together."""


def spread(figures: Sequence[float], digits: int = 1) -> str:
    """Return ``median (lowest..highest)``."""
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"


def get_percentile(figures: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ranked = sorted(figures)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def get_tree_cpu_s(root: int) -> float:
    """Return the CPU seconds (user and system) of a process and its descendants, the dead ones included.

    A process that has ended counts with whoever has waited for it. Those that have ended and are not yet
    waited for are still in ``/proc``. So nothing is counted twice, and what is missing is only what
    nobody waits for. What lives is read in nanoseconds from its own clock; what has ended is only told in
    ticks of 10 ms, summed by its parent.
    """
    seconds: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            text = (path / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended since it was listed; its parent has its figures now.
        fields = text.rpartition(")")[2].split()
        pid = int(path.name)
        try:
            own_s = time.clock_gettime((~pid << 3) | _SCHEDULED)
        except OSError:  # It has ended since its line was read.
            own_s = sum(map(int, fields[11:13])) / _TICKS_S
        seconds[pid] = own_s + sum(map(int, fields[13:15])) / _TICKS_S
        children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        found += seconds.get(pid, 0)
        waiting += children.get(pid, [])
    return found


def get_resident_mb(root: int) -> float:
    """Return the memory of a process and its descendants, shared pages divided among those who share them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(path.name))
    total_kb, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kb / 1024


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as Markdown, which a terminal shows well enough too."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("| " + " | ".join(cells) + " |")


def describe_machine() -> str:
    """Return what figures are measured on, the load by others included."""
    model = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} x {model}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, code {describe_code()}, "
        f"load average before: {load:.2f}{' (beside other work)' if load > QUIET else ''}"
    )


def describe_code() -> str:
    """Return the commit, with ``-dirty`` behind it where a tracked file differs from it.

    The README with the figures is left out: it differs as soon as one section of it is written.
    """
    commit = _git("describe", "--always")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(top,exclude){_README}")
    return f"{commit or 'unknown'}{'-dirty' if changed else ''}"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def print_machine() -> None:
    """Print the machine and the command, above the figures."""
    print(f"{describe_machine()}\ncommand: python {' '.join(sys.argv)}\n", flush=True)
