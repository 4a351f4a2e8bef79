"""Small programs in WebAssembly's text form, for tests of what JavaScript can't do: to exit, to crash, to hang.

They are WASI commands. `assemble` gives the bytes of a file that stands in a functions folder.
"""

from flux.sandbox.wasm_engine import Engine

COMMON = """
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 64)
  (data (i32.const 64) "\\22code\\22: ")
  (data (i32.const 96) "\\22text\\22: \\22")
  ;; The document from descriptor 0, to address 4096; its length.
  (func $read_all (result i32) (local $size i32)
    (loop $more
      (i32.store (i32.const 0) (i32.add (i32.const 4096) (local.get $size)))
      (i32.store (i32.const 4) (i32.const 1000000))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $size (i32.add (local.get $size) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8))))
    (local.get $size))
  ;; The address behind the first `needle` in the document.
  (func $find (param $needle i32) (param $length i32) (result i32) (local $at i32) (local $n i32)
    (local.set $at (i32.const 4096))
    (loop $next
      (local.set $n (i32.const 0))
      (block $other
        (loop $same
          (br_if $other (i32.ne
            (i32.load8_u (i32.add (local.get $at) (local.get $n)))
            (i32.load8_u (i32.add (local.get $needle) (local.get $n)))))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $same (i32.lt_u (local.get $n) (local.get $length))))
        (return (i32.add (local.get $at) (local.get $length))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next))
    (unreachable))
  (func $write (param $descriptor i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (local.get $descriptor) (i32.const 0) (i32.const 1) (i32.const 8))))
"""

PROGRAMS = {
    "leave": """
  (func (export "_start") (local $at i32) (local $code i32) (local $digit i32)
    (drop (call $read_all))
    (local.set $at (call $find (i32.const 64) (i32.const 8)))
    (block $end
      (loop $digits
        (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
        (br_if $end (i32.gt_u (local.get $digit) (i32.const 9)))
        (local.set $code (i32.add (i32.mul (local.get $code) (i32.const 10)) (local.get $digit)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digits)))
    (call $proc_exit (local.get $code)))
""",
    "crash": """
  (func (export "_start") (i32.store (i32.const -8) (i32.const 1)))
""",
    "speak": """
  (func (export "_start") (local $from i32) (local $to i32) (local $start i32) (local $byte i32)
    (drop (call $read_all))
    (local.set $start (local.tee $to (local.tee $from (call $find (i32.const 96) (i32.const 9)))))
    (block $end
      (loop $next
        (local.set $byte (i32.load8_u (local.get $from)))
        (br_if $end (i32.eq (local.get $byte) (i32.const 34)))
        (if (i32.eq (local.get $byte) (i32.const 92)) (then
          (local.set $from (i32.add (local.get $from) (i32.const 1)))
          (local.set $byte (i32.const 10))))
        (i32.store8 (local.get $to) (local.get $byte))
        (local.set $from (i32.add (local.get $from) (i32.const 1)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (br $next)))
    (call $write (i32.const 2) (local.get $start) (i32.sub (local.get $to) (local.get $start)))
    (call $proc_exit (i32.const 1)))
""",
    # A subscription: no user data, the monotonic clock, a million seconds from now.
    "hang": """
  (func (export "_start")
    (i32.store (i32.const 144) (i32.const 1))
    (i64.store (i32.const 152) (i64.const 1000000000000000))
    (drop (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 8))))
""",
    "spin": """
  (func (export "_start") (loop $for_ever (br $for_ever)))
""",
    "grow": """
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (unreachable))
""",
    "greet": """
  (data (i32.const 200) "{\\22greeting\\22: \\22hello from wasm\\22}")
  (func (export "_start") (call $write (i32.const 1) (i32.const 200) (i32.const 31)))
""",
}


def assemble(name: str, section: str | None = None) -> bytes:
    """Return the module of one of `PROGRAMS`, with ``section`` as its declaration."""
    return assemble_text(PROGRAMS[name], section)


def assemble_text(body: str, section: str | None = None) -> bytes:
    """Return the module of ``body``, which finds `COMMON` before it."""
    declared = "" if section is None else f'(@custom "flux" "{section.encode().hex(chr(92)).join([chr(92), ""])}")'
    return Engine().assemble(f"(module {declared} {COMMON} {body})")
