"""Python's memory in one place, and in huge pages: in processes of their own, with the kernel's word for where it is.

What functions see of it is nothing; test_addresses.py asserts that their objects lie where they lay, with and without.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flux.sandbox import jail_arenas
from flux.sandbox.jail_arenas import HUGE_BYTES, REGION_BYTES, describe_folding
from tests.integration.test_machine import read_section, run, running

PLACE = 0x6000_0000_0000
FUNCTION = """
from flux_guest import function

MANY = [bytes(479) for _ in range(20_000)]

@function()
def tell(ctx, input):
    return [min(map(id, MANY)), max(map(id, MANY)), all(one == bytes(479) for one in MANY)]
"""
PRELUDE = """
import json, re, resource, sys
from flux.sandbox import jail_arenas

def read_kb(what):
    # The kernel's own count, of this process.
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(f"^{what}: +([0-9]+) kB$", file.read(), re.MULTILINE)[1])

def read_data_kb():
    with open("/proc/self/status") as file:
        return int(re.search("^VmData:\\\\s+([0-9]+) kB$", file.read(), re.MULTILINE)[1])

def make(megabytes):
    return [bytes(479) for _ in range(megabytes * 2048)]

"""


def tell(program: str) -> Any:
    """Run a program in a Python of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def test_the_code_of_the_allocator_is_what_an_assembler_makes_of_the_source(tmp_path: Path) -> None:
    source = Path(jail_arenas.__file__).with_suffix(".S")
    assembled = tmp_path / "arenas.o"
    target = ("-target", "x86_64-linux-gnu")
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *target, "-c", source, "-o", assembled], check=True
    )
    assert read_section(assembled.read_bytes(), b".text").hex() == jail_arenas.CODE.hex()


def test_what_is_allocated_lies_together_and_in_as_many_huge_pages_as_the_kernel_counts() -> None:
    told = tell("""
arenas = jail_arenas.gather()
kept = make(40)
outside = sum(not arenas.begin <= id(one) < arenas.end for one in kept)
before_kb, fresh = read_kb("AnonHugePages"), range(arenas.end, arenas.end)
pages = arenas.fold(fresh)
print(json.dumps({"outside": outside, "pages": pages, "huge_kb": read_kb("AnonHugePages") - before_kb,
                  "intact": kept == make(40)}))
""")
    # Some blocks were free in what Python had before.
    assert told["outside"] < 8_000 and told["intact"]
    assert told["huge_kb"] * 1024 == told["pages"] * HUGE_BYTES
    if describe_folding().startswith("huge"):
        assert told["pages"] >= 18
    else:
        assert told["pages"] == 0


def test_a_fork_on_the_way_leaves_no_huge_page_in_two_halves() -> None:
    pages, huge, works = tell("""
import os
arenas = jail_arenas.gather()
kept = make(9)
while arenas.end % jail_arenas.HUGE_BYTES == 0:
    kept += make(1)
arenas.fill_up()
if (pid := os.fork()) != 0:
    os._exit(os.waitpid(pid, 0)[1])
kept += make(9)
arenas._heap = 0
huge = (arenas.end - arenas.begin) // jail_arenas.HUGE_BYTES
print(json.dumps([arenas.fold(range(arenas.end, arenas.end)), huge, jail_arenas.describe_folding()[:4] == "huge"]))
""")
    assert pages == (huge if works else 0)


def test_memory_that_nobody_has_used_yet_stays_in_small_pages() -> None:
    pages, below = tell("""
arenas = jail_arenas.gather()
kept = make(20)
middle = arenas.begin + 9 * jail_arenas.HUGE_BYTES // 2
arenas._heap = 0
pages = arenas.fold(range(middle, middle + 4096))
print(json.dumps([pages, (middle - arenas.begin) // jail_arenas.HUGE_BYTES]))
""")
    assert pages in (0, below)


def test_memory_that_is_given_back_counts_no_more_and_may_be_had_again() -> None:
    before, full, after, again = tell("""
arenas = jail_arenas.gather()
make(4)
seen = [read_data_kb()]
for _ in range(20):  # Several times the region, if none of it came back.
    kept = make(80)
    end = arenas.end
    seen[1:] = [read_data_kb()]
    del kept
seen.append(read_data_kb())
kept = make(80)
print(json.dumps([*seen, read_data_kb()]))
""")
    assert full - before > 70 * 1024
    assert after - before < 8 * 1024
    assert again - before > 70 * 1024


def test_what_does_not_fit_into_the_region_lies_elsewhere() -> None:
    inside, outside = tell("""
jail_arenas.REGION_BYTES = 8 * 2**20
arenas = jail_arenas.gather()
kept = make(40)
inside = sum(arenas.begin <= id(one) < arenas.begin + 8 * 2**20 for one in kept)
arenas.fold(range(0))
del kept
kept = make(40)
print(json.dumps([inside, len(kept) - inside]))
""")
    assert inside > 10_000
    assert outside > 50_000


def test_the_limit_on_memory_holds_for_what_lies_together() -> None:
    told = tell("""
arenas = jail_arenas.gather()
limit = read_data_kb() * 1024 + 20 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
kept = []
try:
    while True:
        kept.append(bytes(479))
except MemoryError:
    got = len(kept)
kept.clear()
print(json.dumps([got, len(make(10))]))
""")
    assert 15 * 2048 < told[0] < 25 * 2048
    assert told[1] == 10 * 2048


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_objects_of_a_projects_modules_lie_in_the_region(tmp_path: Path, isolation: str) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "a.py").write_text(FUNCTION, encoding="utf-8")
    async with running(tmp_path, isolation=isolation) as sandbox:
        (low, high, intact), _ = await run(sandbox, "tell")
    assert intact is True
    region = range(PLACE, PLACE + REGION_BYTES + HUGE_BYTES)
    assert low in region and high in region


def test_flux_doctor_says_whether_pages_are_huge() -> None:
    assert describe_folding().startswith(("huge: ", "small: "))
