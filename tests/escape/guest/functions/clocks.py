"""Clocks: what hostile code tries in order to see time pass between two answers of the host.

An attempt reads something, computes for a while and reads it again. If the two differ it has a clock,
which it returns; if they don't, time stood still. Others ask for what would be one: a signal every second of
processor time, whether something has come yet, another process that counts.
"""

# The attempts are as plain as hostile code is, and all take the same argument.
# ruff: noqa: ARG005

import ctypes
import fcntl
import hashlib
import os
import resource
import struct
from collections.abc import Callable

from functions.attempts import ATTEMPTS, Targets, attempt_to, call, checked, libc, read, refused_if, run_code

ROUNDS = 60_000
"""Of SHA-256: some 30 milliseconds, three ticks of the slowest of these clocks."""
WIRE = 3


def compute() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", ROUNDS)


def look_twice(look: Callable[[], object]) -> object:
    """Return what is different after a while, or fail."""
    before = look()
    compute()
    after = look()
    refused_if(before == after, "time stood still")
    return before, after


def declare_clock(name: str, look: Callable[[], object]) -> None:
    ATTEMPTS[name] = lambda targets: look_twice(look)


# The C library's clocks


def by_structure(function: str, *arguments: int) -> Callable[[], bytes]:
    """Return what calls a function that fills a structure, its last argument, and returns that."""

    def look() -> bytes:
        structure = ctypes.create_string_buffer(256)
        checked(getattr(libc, function)(*arguments, structure))
        return structure.raw

    return look


for _number in (0, 1, 2, 3, 4, 5, 6, 7, 11):
    declare_clock(f"read_clock_{_number}", by_structure("clock_gettime", _number))
declare_clock("read_the_clock_of_own_process", by_structure("clock_gettime", ~0 << 3 | 2))
declare_clock(
    "read_timespec",
    lambda: (structure := ctypes.create_string_buffer(16), libc.timespec_get(structure, 1))[0].raw,
)
declare_clock("read_time_spent", by_structure("getrusage", 0))
declare_clock("read_time_spent_by_the_thread", by_structure("getrusage", 1))
declare_clock("count_ticks", lambda: libc.times(ctypes.create_string_buffer(32)))
declare_clock("read_processor_time", lambda: libc.clock())


@attempt_to
def read_time_of_day(targets: Targets) -> object:
    structure = ctypes.create_string_buffer(16)

    def look() -> bytes:
        checked(libc.gettimeofday(structure, None))
        return structure.raw

    return look_twice(look)


# The same, asked of the kernel by machine code: no function of a library is in between


def ask_kernel(number: int, *arguments: int) -> int:
    """Make a system call with at most three arguments; all but the first may be addresses."""
    registers = (b"\xbf", b"\x48\xbe", b"\x48\xba")
    code = b""
    for register, value in zip(registers, arguments, strict=False):
        code += register + (struct.pack("I", value) if register == b"\xbf" else struct.pack("Q", value))
    result = run_code(code + b"\xb8" + struct.pack("I", number) + b"\x0f\x05\xc3")
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


_structure = ctypes.create_string_buffer(256)
_address = ctypes.addressof(_structure)
ASKED = {
    "ask_kernel_for_the_time": (228, 0, _address),
    "ask_kernel_for_the_time_since_the_start": (228, 1, _address),
    "ask_kernel_for_processor_time": (228, 2, _address),
    "ask_kernel_for_time_spent": (98, 0, _address),
    "ask_kernel_which_processor": (309, 0, 0, 0),
    "ask_kernel_for_a_turn_of_the_scheduler": (148, 0, _address),
    "ask_kernel_for_scheduling": (315, 0, _address, 56),
    "ask_kernel_whether_input_waits": (327, 0, _address, 0),
    "ask_kernel_to_look_at_the_wire": (45, WIRE, _address, 1),
    "ask_kernel_for_statistics": (99, 0, _address),
    "ask_kernel_for_a_timer_descriptor": (283, 1, 0),
    "ask_kernel_for_an_alarm_by_processor_time": (38, 2, _address, 0),
    "ask_kernel_to_adjust_a_clock": (305, 0, _address),
    "ask_kernel_for_restartable_sequences": (334, 0, 0, 0),
}
for _name, _asked in ASKED.items():
    ATTEMPTS[_name] = lambda targets, asked=_asked: ask_kernel(*asked)


@attempt_to
def ask_kernel_for_seconds(targets: Targets) -> object:
    return run_in_memory(201, 0)


@attempt_to
def ask_kernel_for_time_of_day(targets: Targets) -> object:
    return run_in_memory(96, _address)


@attempt_to
def ask_kernel_for_ticks(targets: Targets) -> object:
    return run_in_memory(100, 0)


@attempt_to
def ask_kernel_for_chance(targets: Targets) -> object:
    return run_in_memory(318, _address, 16)


def run_in_memory(number: int, pointer: int, size: int = 0) -> int:
    """Make a system call whose first argument is an address."""
    code = b"\x48\xbf" + struct.pack("Q", pointer) + b"\xbe" + struct.pack("I", size) + b"\x31\xd2"
    result = run_code(code + b"\xb8" + struct.pack("I", number) + b"\x0f\x05\xc3")
    if -4096 < result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@attempt_to
def ask_kernel_through_the_old_page(targets: Targets) -> object:
    # Where the kernel has it, it is at the same address in every process. Its second function is time().
    result = run_code(b"\x31\xff\x48\xc7\xc0\x00\x04\x60\xff\xff\xe0")
    refused_if(result < 0, "refused")
    return result


# The processor


declare_clock("read_the_counter", lambda: run_code(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"))
declare_clock("read_the_counter_in_order", lambda: run_code(b"\x0f\x01\xf9\x48\xc1\xe2\x20\x48\x09\xd0\xc3"))


@attempt_to
def read_the_page_of_the_time(targets: Targets) -> object:
    libc.getauxval.restype = ctypes.c_ulong
    vdso = libc.getauxval(33)
    # access() says EFAULT for a name in memory that is not there.
    there = [
        page
        for page in range(1, 9)
        if libc.access(ctypes.c_void_p(vdso - 4096 * page), 0) == 0 or ctypes.get_errno() != 14
    ]
    refused_if(not there, "there is none")
    return look_twice(lambda: [ctypes.string_at(vdso - 4096 * page, 4096) for page in there])


# Files that tell


for _path in (
    "/proc/uptime",
    "/proc/stat",
    "/proc/self/stat",
    "/proc/self/schedstat",
    "/proc/timer_list",
    "/proc/interrupts",
):
    ATTEMPTS["read" + _path.replace("/", "_")] = lambda targets, path=_path: read(path)


@attempt_to
def watch_the_times_of_what_is_written_to(targets: Targets) -> object:
    def look() -> tuple[int, int, int]:
        os.write(1, b"\n")
        about = os.fstat(1)
        return about.st_mtime_ns, about.st_ctime_ns, about.st_atime_ns

    return look_twice(look)


@attempt_to
def watch_the_space_on_the_disk(targets: Targets) -> object:
    return os.statvfs(__file__).f_bfree


# Whether something has come yet: who counts until it has, has a clock


@attempt_to
def look_whether_the_host_has_answered(targets: Targets) -> object:
    return checked(libc.poll(struct.pack("ihh", WIRE, 1, 0), 1, 0)) >= 0


@attempt_to
def look_with_select(targets: Targets) -> object:
    return (
        checked(libc.select(WIRE + 1, struct.pack("Q", 1 << WIRE) + bytes(120), None, None, bytes(16))) >= 0
    )


@attempt_to
def read_without_waiting(targets: Targets) -> object:
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    return True


@attempt_to
def read_without_waiting_by_ioctl(targets: Targets) -> object:
    return checked(libc.ioctl(0, 0x5421, ctypes.byref(ctypes.c_int(1)))) == 0


@attempt_to
def be_told_by_signal(targets: Targets) -> object:
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    return True


@attempt_to
def be_told_of_processor_time(targets: Targets) -> object:
    # From the lower limit on there is a signal every second.
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (1, hard))
    return hard


@attempt_to
def be_told_of_processor_time_by_a_high_address(targets: Targets) -> object:
    # Who compares the lower half of a pointer only takes this one for none.
    address = libc.mmap(ctypes.c_void_p(1 << 32), 4096, 3, 0x32, -1, 0)
    ctypes.memmove(address, struct.pack("Qq", 1, resource.getrlimit(resource.RLIMIT_CPU)[1]), 16)
    return call(302, 0, 0, ctypes.c_void_p(address), None) == 0


@attempt_to
def refuse_the_counter_no_more(targets: Targets) -> object:
    return call(157, 26, 1, 0, 0, 0)
