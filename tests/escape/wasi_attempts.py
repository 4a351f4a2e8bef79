"""What a hostile WebAssembly module tries through its imports: `ATTEMPTS`, by name, each with what it is to come to.

They are in the text form. ``$tell`` answers with a number, an errno as a rule: "200 28" then is what the caller gets.
Other ends are those of a record: ``killed protocol``, ``exited SIGSEGV``.
"""

from collections.abc import Mapping

import attrs

BADF, INVAL, MFILE, NAMETOOLONG, NOENT, NOTSUP, ROFS, NOTCAPABLE = (
    "200 8", "200 28", "200 33", "200 37", "200 44", "200 58", "200 69", "200 76",
)  # fmt: skip
SEGMENTATION, STACK = "exited SIGSEGV", "exited SIGSEGV"
PROTOCOL = "killed protocol"

HEAD = """
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $fd_prestat_dir_name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $fd_seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $path_link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_raise" (func $proc_raise (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $sock_send (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 64)
  (table 1 funcref)
  ;; Answer with a number below 10,000.
  (func $tell (param $number i32) (local $at i32)
    (local.set $at (i32.const 48))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (br_if $digit (local.tee $number (i32.div_u (local.get $number) (i32.const 10)))))
    (call $write (i32.const 1) (local.get $at) (i32.sub (i32.const 48) (local.get $at))))
  (func $write (param $descriptor i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (local.get $descriptor) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $open (param $at i32) (param $size i32) (result i32)
    (call $path_open (i32.const 4) (i32.const 1) (local.get $at) (local.get $size) (i32.const 0) (i64.const 2)
      (i64.const 2) (i32.const 0) (i32.const 8)))
"""
TEXT = 65536
"""Where an attempt's own text stands."""


@attrs.frozen
class Attempt:
    """One module."""

    expect: str
    body: str
    """Of its start function, behind `HEAD`."""
    text: str = ""
    """What stands at `TEXT`."""

    def write(self) -> str:
        """Return the module in text form, without its declaration."""
        data = "".join(f"\\{byte:02x}" for byte in self.text.encode())
        return f'{HEAD} (data (i32.const {TEXT}) "{data}") (func (export "_start") {self.body})'


def _tells(call: str) -> str:
    return f"(call $tell {call})"


def _opens(path: str) -> str:
    return _tells(f"(call $open (i32.const {TEXT}) (i32.const {len(path.encode())}))")


def _says(frame: str, then: str = "(loop $for_ever (br $for_ever))") -> str:
    return f"(call $write (i32.const 3) (i32.const {TEXT}) (i32.const {len(frame.encode())})) {then}"


def _path(name: str, path: str, expect: str) -> dict[str, Attempt]:
    return {name: Attempt(expect, _opens(path), path)}


def _frame(name: str, frame: str, expect: str = PROTOCOL) -> dict[str, Attempt]:
    return {name: Attempt(expect, _says(frame + "\n"), frame + "\n")}


_TEXT = f"(i32.const {TEXT})"
_MANY_BUFFERS = f"""(local $n i32)
  (loop $fill
    (i32.store (i32.add {_TEXT} (i32.mul (local.get $n) (i32.const 8))) (i32.const 0))
    (i32.store (i32.add (i32.const {TEXT + 4}) (i32.mul (local.get $n) (i32.const 8))) (i32.const 4194304))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $fill (i32.lt_u (local.get $n) (i32.const 1024))))"""

_ANSWER = '["return",{"status":200,"headers":[],"body":"%s"}]'

ATTEMPTS: Mapping[str, Attempt] = {
    # Addresses and lengths
    "read_before_its_memory": Attempt(
        SEGMENTATION, "(call $tell (call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 8)))"
    ),
    "read_beyond_its_memory": Attempt(
        SEGMENTATION,
        "(i32.store (i32.const 0) (i32.const 4194300)) (i32.store (i32.const 4) (i32.const 64))"
        "(call $tell (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))",
    ),
    "read_around_the_end_of_addresses": Attempt(
        SEGMENTATION,
        "(i32.store (i32.const 0) (i32.const -1)) (i32.store (i32.const 4) (i32.const -1))"
        "(call $tell (call $fd_write (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8)))",
    ),
    "have_a_result_written_beyond_its_memory": Attempt(
        SEGMENTATION, "(call $tell (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 4194301)))"
    ),
    "have_arguments_written_beyond_its_memory": Attempt(
        SEGMENTATION, "(call $tell (call $args_get (i32.const 4194304) (i32.const 4194304)))"
    ),
    "have_random_bytes_written_beyond_its_memory": Attempt(
        SEGMENTATION, "(call $tell (call $random_get (i32.const 4194000) (i32.const 65536)))"
    ),
    "have_names_written_beyond_its_memory": Attempt(
        SEGMENTATION,
        _tells(
            "(call $fd_readdir (i32.const 4) (i32.const 4194302) (i32.const 64) (i64.const 0) (i32.const 8))"
        ),
    ),
    "have_two_gigabytes_of_random_bytes": Attempt(
        INVAL, _tells("(call $random_get (i32.const 0) (i32.const 0x7fffffff))")
    ),
    "have_less_than_no_random_bytes": Attempt(
        INVAL, _tells("(call $random_get (i32.const 0) (i32.const -1))")
    ),
    "write_a_million_buffers": Attempt(
        INVAL, _tells("(call $fd_write (i32.const 3) (i32.const 0) (i32.const 1000000) (i32.const 8))")
    ),
    "read_into_less_than_no_buffers": Attempt(
        INVAL, _tells("(call $fd_read (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 8))")
    ),
    "write_four_gigabytes_in_buffers_that_overlap": Attempt(
        "200 1",
        f"""{_MANY_BUFFERS}
          (drop (call $fd_write (i32.const 2) {_TEXT} (i32.const 1024) (i32.const 8)))
          (call $tell (i32.shr_u (i32.load (i32.const 8)) (i32.const 20)))""",
    ),
    "read_its_document_into_buffers_that_overlap": Attempt(
        "200 0",
        f"{_MANY_BUFFERS} (call $tell (call $fd_read (i32.const 0) {_TEXT} (i32.const 1024) (i32.const 8)))",
    ),
    "read_a_file_before_its_start": Attempt(
        INVAL,
        _tells("(call $fd_pread (i32.const 4) (i32.const 0) (i32.const 1) (i64.const -1) (i32.const 8))"),
    ),
    # Descriptors
    "write_to_a_descriptor_of_the_host": Attempt(
        "200 64",
        """(local $descriptor i32) (local $refused i32)
        (local.set $descriptor (i32.const 4))
        (loop $next
          (local.set $refused (i32.add (local.get $refused) (i32.ne (i32.const 0)
            (call $fd_write (local.get $descriptor) (i32.const 0) (i32.const 0) (i32.const 8)))))
          (local.set $descriptor (i32.add (local.get $descriptor) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $descriptor) (i32.const 68))))
        (call $tell (local.get $refused))""",
    ),
    "write_to_a_descriptor_below_zero": Attempt(
        BADF, _tells("(call $fd_write (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 8))")
    ),
    "take_the_place_of_the_wire": Attempt(ROFS, _tells("(call $fd_renumber (i32.const 4) (i32.const 3))")),
    "go_on_with_a_closed_file": Attempt(
        BADF,
        f"(drop (call $open {_TEXT} (i32.const 8))) (drop (call $fd_close (i32.load (i32.const 8))))"
        "(call $tell (call $fd_seek (i32.load (i32.const 8)) (i64.const 0) (i32.const 0) (i32.const 8)))",
        "dev/flux",
    ),
    "open_files_without_end": Attempt(
        MFILE,
        f"""(local $errno i32)
        (loop $next (br_if $next (i32.eqz (local.tee $errno (call $open {_TEXT} (i32.const 8))))))
        (call $tell (local.get $errno))""",
        "dev/flux",
    ),
    "accept_a_connection": Attempt(
        NOTSUP, _tells("(call $sock_accept (i32.const 3) (i32.const 0) (i32.const 8))")
    ),
    "send_past_the_wire": Attempt(
        NOTSUP,
        _tells("(call $sock_send (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8))"),
    ),
    "signal_the_host": Attempt(NOTSUP, _tells("(call $proc_raise (i32.const 9))")),
    # Paths
    **_path("climb_out_of_its_files", "../../../../etc/passwd", NOTCAPABLE),
    **_path("climb_out_by_a_folder_that_is_there", "functions/../../etc/passwd", NOTCAPABLE),
    **_path("open_an_absolute_path", "/etc/passwd", NOENT),
    **_path("open_what_a_link_leads_to", "functions/link.txt", NOENT),
    **_path("open_the_process", "proc/self/environ", NOENT),
    **_path("open_the_configuration", "flux.toml", NOENT),
    **_path("open_a_path_cut_by_a_zero", "functions/../../../etc/passwd\0.wasm", NOTCAPABLE),
    "open_a_path_without_end": Attempt(NAMETOOLONG, _tells(f"(call $open {_TEXT} (i32.const 1000000))")),
    "look_at_a_path_outside": Attempt(
        NOTCAPABLE,
        _tells(
            f"(call $path_filestat_get (i32.const 4) (i32.const 1) {_TEXT} (i32.const 13) (i32.const 128))"
        ),
        "../etc/passwd",
    ),
    "open_for_writing": Attempt(
        ROFS,
        _tells(
            f"(call $path_open (i32.const 4) (i32.const 1) {_TEXT} (i32.const 13) (i32.const 1) (i64.const 64)"
            " (i64.const 64) (i32.const 0) (i32.const 8))"
        ),
        "functions/new",
    ),
    "make_a_folder": Attempt(
        ROFS, _tells(f"(call $path_create_directory (i32.const 4) {_TEXT} (i32.const 3))"), "new"
    ),
    "remove_a_file": Attempt(
        ROFS, _tells(f"(call $path_unlink_file (i32.const 4) {_TEXT} (i32.const 17))"), "functions/echo.js"
    ),
    "make_a_link_outside": Attempt(
        ROFS,
        _tells(f"(call $path_symlink {_TEXT} (i32.const 11) (i32.const 4) {_TEXT} (i32.const 4))"),
        "/etc/passwd",
    ),
    # Waiting
    "wait_for_a_hundred_thousand_things": Attempt(
        INVAL, _tells("(call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 100000) (i32.const 8))")
    ),
    "wait_for_nothing": Attempt(
        INVAL, _tells("(call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 0) (i32.const 8))")
    ),
    "wait_for_centuries": Attempt(
        "killed timeout",
        """(i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const -1))
        (call $tell (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 8)))""",
    ),
    "ask_for_the_time_without_end": Attempt(
        "killed timeout",
        "(loop $again (drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 8))) (br $again))",
    ),
    "draw_random_bytes_without_end": Attempt(
        "killed timeout",
        "(loop $again (drop (call $random_get (i32.const 0) (i32.const 262144))) (br $again))",
    ),
    # Memory
    "grow_its_memory_without_end": Attempt(
        "killed memory",
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
    ),
    "grow_its_table_without_end": Attempt(
        "200 1",
        """(loop $more (br_if $more (i32.ne (table.grow (ref.null func) (i32.const 65536)) (i32.const -1))))
        (call $tell (i32.le_u (table.size) (i32.const 262144)))""",
    ),
    "call_itself_without_end": Attempt(
        STACK, "(call $deeper (i32.const 1))) (func $deeper (param i32) (call $deeper (local.get 0))"
    ),
    # The wire
    **_frame("say_what_is_no_json", "[1,"),
    **_frame("say_what_is_no_frame", '{"call":"db.query"}'),
    **_frame("say_nothing", ""),
    **_frame("use_a_number_out_of_turn", '[7,"clock.now",[]]'),
    **_frame("use_a_number_of_another", '[-1,"clock.now",[]]'),
    **_frame("use_a_number_without_end", f'[1{"0" * 400},"clock.now",[]]'),
    **_frame("add_what_is_not_named", '[1,"clock.now",[],{"fuel":5}]'),
    **_frame("nest_without_end", "[" * 100_000),
    **_frame("claim_to_have_exited", '0{"exit_code": 0}'),
    **_frame("claim_to_have_burnt_little", '3{"fuel": 1}'),
    **_frame("claim_to_be_a_line_of_another_position", '11 [1,"clock.now",[]]'),
    **_frame("claim_that_others_printed", '2"all is well"'),
    **_frame("give_itself_an_order", 'O{"stop_fuel": 9}'),
    "begin_a_frame_and_never_end_it": Attempt(
        "killed frame", f"(loop $again (call $write (i32.const 3) {_TEXT} (i32.const 1048576)) (br $again))"
    ),
    "say_nothing_a_million_times": Attempt(
        PROTOCOL,
        f"""(memory.fill {_TEXT} (i32.const 10) (i32.const 1048576))
        (loop $again (call $write (i32.const 3) {_TEXT} (i32.const 1048576)) (br $again))""",
    ),
    **_frame("answer_and_go_on", _ANSWER % "", "200 "),
    "print_without_end": Attempt(
        "200 22",
        f"""(local $errno i32)
        (loop $again
          (i32.store (i32.const 0) {_TEXT}) (i32.store (i32.const 4) (i32.const 1048576))
          (br_if $again (i32.eqz (local.tee $errno
            (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))))
        (if (i32.ne (local.get $errno) (i32.const 22)) (then (unreachable)))
        (call $write (i32.const 3) {_TEXT} (i32.const {len(_ANSWER % "22") + 1}))""",
        _ANSWER % "22" + "\n",
    ),
}
"""By the function's name."""
