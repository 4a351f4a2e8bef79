"""What the filters' programs answer, run by an interpreter of our own: the list that was written, nothing beside it.

That the kernel agrees is asserted by tests/escape and test_jail.py, for the calls that are tried there. This goes
through all of them.
"""

import errno
import random
import struct

import pytest

from flux.sandbox.jail_seccomp import (
    ALLOW,
    ALWAYS,
    AUDIT_ARCH_X86_64,
    CALLS,
    FAIL,
    KILL_PROCESS,
    LAST_KNOWN_CALL,
    ONLY_IF,
    WORKER_ONLY_IF,
    X32_BIT,
    ZYGOTE_ALWAYS,
    ZYGOTE_ONLY_IF,
    make_worker_filter,
    make_zygote_filter,
    signals_to,
)

PID = 4711
I386 = 0x40000003
CLONE3 = 435
ARGUMENTS = (0, 1, 2, 3, 8, 15, 16, 0x11, 0x20, 0x22, 0x5401, 0x5421, PID, 0x01200011, 1 << 32, (1 << 32) + 1)


def answer(program: bytes, number: int, arguments: list[int], machine: int = AUDIT_ARCH_X86_64) -> int:
    """Run a program as seccomp(2) says: over the number, the machine, an address and six arguments."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += if_true if value == operand else if_false
            case 0x35:
                at += if_true if value >= operand else if_false
            case 0x54:
                value &= operand
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"an instruction that nobody needs: {code:#x}")


@pytest.mark.parametrize("who", ["worker", "zygote"])
def test_a_call_is_allowed_where_the_list_has_it_and_nowhere_else(who: str) -> None:
    if who == "worker":
        program, always = make_worker_filter(PID, holds_clock=True), set(ALWAYS)
        only_if = {**ONLY_IF, **WORKER_ONLY_IF, **signals_to(PID)}
    else:
        program, always = make_zygote_filter(may_signal=False), {*ALWAYS, *ZYGOTE_ALWAYS}
        only_if = {**ONLY_IF, **ZYGOTE_ONLY_IF}
    names = {number: name for name, number in CALLS.items()}
    generator = random.Random(1)
    allowed = set()
    for number in (*range(LAST_KNOWN_CALL + 20), X32_BIT - 1, X32_BIT, X32_BIT + 1, 2**32 - 1):
        for _ in range(8):
            arguments = [generator.choice(ARGUMENTS) for _ in range(6)]
            name = names.get(number, "")
            if number >= X32_BIT:
                expected = KILL_PROCESS
            elif number > LAST_KNOWN_CALL or number == CLONE3:
                expected = FAIL | errno.ENOSYS
            elif name in only_if:
                held = any(
                    all(
                        arguments[test.argument] >> (32 * test.upper) & 0xFFFFFFFF & test.mask in test.values
                        for test in rule
                    )
                    for rule in only_if[name]
                )
                expected = ALLOW if held else FAIL | errno.EPERM
            else:
                expected = ALLOW if name in always else FAIL | errno.EPERM
            assert answer(program, number, arguments) == expected, (number, name, arguments)
            assert answer(program, number, arguments, machine=I386) == KILL_PROCESS
            if expected == ALLOW:
                allowed.add(name)
    assert always <= allowed


def test_a_worker_signals_itself_and_nobody_else() -> None:
    program = make_worker_filter(PID, holds_clock=True)
    for name in ("kill", "tgkill", "tkill"):
        assert answer(program, CALLS[name], [PID, 9, 9, 0, 0, 0]) == ALLOW
        for other in (0, 1, PID + 1, 2**32 - 1):
            assert answer(program, CALLS[name], [other, 9, 9, 0, 0, 0]) == FAIL | errno.EPERM
