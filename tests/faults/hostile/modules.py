"""The same as WebAssembly modules that no compiler would make: `MODULES`, by the function's name.

Each stands with what it is to come to, and its limits. They are written in the text form, after
`tests.wasm_guests.COMMON`: ``$read_all`` reads the document, ``$write`` writes ``(descriptor, address, size)``.
"""

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Module:
    """A guest in text form."""

    expect: str
    """Outcomes as the comments of the other guests have them."""
    body: str
    limits: Mapping[str, Any] = {}


_ONE_SECOND: Mapping[str, Any] = {"timeout_s": 1.0}
_FAR = 65536
"""Where frames are put: behind what `COMMON` uses."""


def _text(content: str) -> str:
    """Return a string of the text form."""
    return "".join(f"\\{byte:02x}" for byte in content.encode())


def _start(body: str) -> str:
    return f'(func (export "_start") {body})'


def _say(descriptor: int, content: str, then: str = "", *, for_ever: bool = False) -> str:
    """A program that writes ``content``, once or for ever, and goes on with ``then``."""
    write = f"(call $write (i32.const {descriptor}) (i32.const {_FAR}) (i32.const {len(content.encode())}))"
    body = f"(loop $again {write} (br $again))" if for_ever else f"{write} {then}"
    return f'(data (i32.const {_FAR}) "{_text(content)}") {_start(body)}'


def _ask(count: int, frame: str, *, listens: bool) -> str:
    """A program that makes so many calls; ``frame`` is one, with ``%4d`` for its number."""
    frames = [frame % number + "\n" for number in range(1, count + 1)]
    size = len(frames[0])
    listen = f"""
      (i32.store (i32.const 0) (i32.const {_FAR - 1024})) (i32.store (i32.const 4) (i32.const 1024))
      (drop (call $fd_read (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8)))"""
    return f"""
      (data (i32.const {_FAR}) "{_text("".join(frames))}")
      (func (export "_start") (local $number i32)
        (loop $next
          (call $write (i32.const 3)
            (i32.add (i32.const {_FAR}) (i32.mul (local.get $number) (i32.const {size}))) (i32.const {size}))
          {listen if listens else ""}
          (local.set $number (i32.add (local.get $number) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $number) (i32.const {count}))))
        (loop $for_ever (br $for_ever)))"""


_ASK = '[1,"db.query",["select $1::int * 2 as doubled",['
NEIGHBOUR = f"""
  (data (i32.const 200) "{_text('"number":')}")
  (data (i32.const 300) "{_text(_ASK)}")
  (data (i32.const 400) "{_text("]]]" + chr(10))}")
  (func (export "_start") (local $from i32) (local $to i32)
    (drop (call $read_all))
    (local.set $to (local.tee $from (call $find (i32.const 200) (i32.const 9))))
    (block $end
      (loop $digits
        (br_if $end (i32.gt_u (i32.sub (i32.load8_u (local.get $to)) (i32.const 48)) (i32.const 9)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (br $digits)))
    (call $write (i32.const 3) (i32.const 300) (i32.const {len(_ASK)}))
    (call $write (i32.const 3) (local.get $from) (i32.sub (local.get $to) (local.get $from)))
    (call $write (i32.const 3) (i32.const 400) (i32.const 4))
    (i32.store (i32.const 0) (i32.const {_FAR})) (i32.store (i32.const 4) (i32.const {_FAR}))
    (drop (call $fd_read (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $write (i32.const 1) (i32.const {_FAR}) (i32.load (i32.const 8))))
"""
"""Who lives next door: doubles a number in the database and answers with the frame that it heard."""

_RETURN = '["return",{"status":200,"headers":[],"body":"first"}]\n'
_LOG = '[0,"log.write",["info","' + "x" * 500 + '",{}]]\n'
_SLEEP = '[%4d,"clock.sleep",[3600]]'
_NOW = '[%4d,"clock.now",[]]'

MODULES: Mapping[str, Module] = {
    # Computing
    "spins": Module("killed timeout", _start("(loop $again (br $again))"), _ONE_SECOND),
    "fills_its_memory_for_ever": Module(
        "killed timeout",
        _start(
            "(loop $again (memory.fill (i32.const 4096) (i32.const 7) (i32.const 4000000))"
            " (memory.copy (i32.const 4096) (i32.const 8192) (i32.const 4000000)) (br $again))"
        ),
        _ONE_SECOND,
    ),
    "reads_where_nothing_will_come": Module(
        "killed timeout",
        _start("""(loop $again
          (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 1024))
          (drop (call $fd_read (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8))) (br $again))"""),
        _ONE_SECOND,
    ),
    # A subscription to the monotonic clock, as far off as it can tell.
    "waits_for_ever": Module(
        "killed timeout",
        _start("""
          (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const -1))
          (drop (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 8)))"""),
        _ONE_SECOND,
    ),
    # Hoarding
    "eats_memory": Module(
        "killed memory",
        _start(
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)"
        ),
    ),
    "eats_memory_and_goes_on": Module(
        "killed timeout", _start("(loop $more (drop (memory.grow (i32.const 16))) (br $more))"), _ONE_SECOND
    ),
    "eats_tables": Module(
        "returned 204",
        "(table $t 1 funcref)"
        + _start(
            "(loop $more (br_if $more"
            " (i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1))))"
        ),
    ),
    "calls_itself": Module("exited signal 11", f"(func $f (call $f) (call $f)) {_start('(call $f)')}"),
    # Flooding
    "answers_without_end": Module("killed timeout", _say(1, "x" * 10_000, for_ever=True), _ONE_SECOND),
    "answers_too_much": Module("killed response", _say(1, "x" * 200_000), {"response_bytes_max": 100_000}),
    "prints_without_end": Module("killed timeout", _say(2, "x" * 99 + "\n", for_ever=True), _ONE_SECOND),
    "logs_and_logs": Module(
        "killed timeout", _say(3, _LOG, for_ever=True), {"timeout_s": 1.0, "log_bytes_max": 20_000}
    ),
    "asks_and_asks": Module("killed host_calls", _ask(200, _NOW, listens=True), {"host_calls_max": 100}),
    "asks_without_listening": Module(
        "killed protocol", _ask(1100, _SLEEP, listens=False), {"host_calls_max": 100_000}
    ),
    "begins_a_line_and_never_ends_it": Module("killed frame", _say(3, "[" * 100_000, for_ever=True)),
    "sends_towers": Module("killed protocol", _say(3, '[1,"x",' + "[" * 50_000 + "]" * 50_000 + "]\n")),
    "speaks_another_language": Module("killed protocol", _say(3, "GET / HTTP/1.1\r\n\r\n")),
    "cancels_what_it_never_asked": Module("killed protocol", _say(3, '["cancel",7]\n')),
    "answers_and_goes_on": Module("returned 200", _say(3, _RETURN, "(loop $again (br $again))")),
    "answers_twice": Module("returned 200", _say(3, _RETURN + _RETURN)),
    # Dying
    "reads_nowhere": Module("exited signal 11", _start("(drop (i32.load (i32.const -4)))")),
    "aborts": Module("exited signal 6", _start("(unreachable)")),
    "divides_by_nothing": Module("exited signal 8", _start("(drop (i32.div_u (i32.const 1) (i32.const 0)))")),
    "calls_what_is_no_function": Module(
        "exited signal 4", f"(table $t 1 funcref) {_start('(call_indirect $t (i32.const 0))')}"
    ),
    "leaves_without_an_answer": Module("exited 0", _start("(call $proc_exit (i32.const 0))")),
    "leaves_with_a_number": Module("exited 7", _start("(call $proc_exit (i32.const 7))")),
    "ends_without_a_word": Module("returned 204", _start("")),
}
