;; What stands between QuickJS and its host: six functions in C's calling convention, placed into the
;; interpreter's table by relinking (flux/sandbox/wasm_binary.py), and the loop that drives a function.
;;
;; A JSValue is 64 bits: a tag above, a pointer or an integer below. Tags used here:
;; 1 boolean, 2 null, 3 undefined, 6 exception.
;;
;; BASE is replaced by the first free slot of the table.
(module
  (import "env" "memory" (memory 1))
  (import "js" "__table" (table $table 1 funcref))
  (import "js" "__stack_pointer" (global $sp (mut i32)))
  (import "js" "JS_Call" (func $JS_Call (param i32 i64 i64 i32 i32) (result i64)))
  (import "js" "JS_ExecutePendingJob" (func $JS_ExecutePendingJob (param i32 i32) (result i32)))
  (import "js" "JS_ToCStringLen2" (func $JS_ToCStringLen2 (param i32 i32 i64 i32) (result i32)))
  (import "js" "JS_FreeCString" (func $JS_FreeCString (param i32 i32)))
  (import "js" "JS_NewStringLen" (func $JS_NewStringLen (param i32 i32 i32) (result i64)))
  (import "js" "JS_NewArrayBufferCopy" (func $JS_NewArrayBufferCopy (param i32 i32 i32) (result i64)))
  (import "js" "JS_GetArrayBuffer" (func $JS_GetArrayBuffer (param i32 i32 i64) (result i32)))
  (import "js" "js_malloc" (func $js_malloc (param i32 i32) (result i32)))
  (import "js" "js_realloc" (func $js_realloc (param i32 i32 i32) (result i32)))
  (import "js" "js_free" (func $js_free (param i32 i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "flux" "resolve" (func $resolve (param i32 i32) (result i32)))
  (import "flux" "resolved" (func $resolved (param i32)))
  (elem (table $table) (i32.const BASE) func $send $receive $random $encode $decode $normalize)

  ;; send(descriptor, text): writes one line; undefined
  (func $send (param $ctx i32) (param $this i64) (param $argc i32) (param $argv i32) (result i64)
    (local $frame i32) (local $text i32) (local $at i32) (local $left i32) (local $result i64)
    (local.set $frame (i32.sub (global.get $sp) (i32.const 16)))
    (global.set $sp (local.get $frame))
    (local.set $result (i64.const 0x600000000))
    (local.set $text (call $JS_ToCStringLen2
      (local.get $ctx) (i32.add (local.get $frame) (i32.const 12)) (i64.load offset=8 (local.get $argv)) (i32.const 0)))
    (if (local.get $text) (then
      (local.set $left (i32.load offset=12 (local.get $frame)))
      ;; The newline takes the place of the NUL at the text's end, while we are here.
      (i32.store8 (i32.add (local.get $text) (local.get $left)) (i32.const 10))
      (local.set $left (i32.add (local.get $left) (i32.const 1)))
      (local.set $at (local.get $text))
      (block $refused
        (loop $more
          (i32.store (local.get $frame) (local.get $at))
          (i32.store offset=4 (local.get $frame) (local.get $left))
          (br_if $refused (call $fd_write
            (i32.wrap_i64 (i64.load (local.get $argv))) (local.get $frame) (i32.const 1)
            (i32.add (local.get $frame) (i32.const 8))))
          (local.set $at (i32.add (local.get $at) (i32.load offset=8 (local.get $frame))))
          (local.set $left (i32.sub (local.get $left) (i32.load offset=8 (local.get $frame))))
          (br_if $more (local.get $left))))
      (i32.store8 (i32.sub (i32.add (local.get $at) (local.get $left)) (i32.const 1)) (i32.const 0))
      (call $JS_FreeCString (local.get $ctx) (local.get $text))
      (local.set $result (i64.const 0x300000000))))
    (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
    (local.get $result))

  ;; receive(descriptor): the next line as text, without its newline; null at the end
  (func $receive (param $ctx i32) (param $this i64) (param $argc i32) (param $argv i32) (result i64)
    (local $frame i32) (local $buffer i32) (local $grown i32) (local $size i32) (local $room i32) (local $count i32)
    (local $result i64)
    (local.set $frame (i32.sub (global.get $sp) (i32.const 16)))
    (global.set $sp (local.get $frame))
    (local.set $result (i64.const 0x200000000))
    (local.set $room (i32.const 4096))
    (local.set $buffer (call $js_malloc (local.get $ctx) (local.get $room)))
    (block $exception
      (block $end
        (loop $more
          (if (i32.eq (local.get $size) (local.get $room)) (then
            (local.set $room (i32.shl (local.get $room) (i32.const 1)))
            (local.set $grown (call $js_realloc (local.get $ctx) (local.get $buffer) (local.get $room)))
            (if (i32.eqz (local.get $grown)) (then
              (call $js_free (local.get $ctx) (local.get $buffer))
              (local.set $buffer (i32.const 0))))
            (br_if $exception (i32.eqz (local.get $grown)))
            (local.set $buffer (local.get $grown))))
          (br_if $exception (i32.eqz (local.get $buffer)))
          (i32.store (local.get $frame) (i32.add (local.get $buffer) (local.get $size)))
          (i32.store offset=4 (local.get $frame) (i32.sub (local.get $room) (local.get $size)))
          (br_if $end (call $fd_read
            (i32.wrap_i64 (i64.load (local.get $argv))) (local.get $frame) (i32.const 1)
            (i32.add (local.get $frame) (i32.const 8))))
          (br_if $end (i32.eqz (local.tee $count (i32.load offset=8 (local.get $frame)))))
          (local.set $size (i32.add (local.get $size) (local.get $count)))
          (br_if $more (i32.ne (i32.const 10)
            (i32.load8_u (i32.sub (i32.add (local.get $buffer) (local.get $size)) (i32.const 1)))))
          (local.set $result (call $JS_NewStringLen
            (local.get $ctx) (local.get $buffer) (i32.sub (local.get $size) (i32.const 1))))))
      (call $js_free (local.get $ctx) (local.get $buffer))
      (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
      (return (local.get $result)))
    (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
    (i64.const 0x600000000))

  ;; random(count): an ArrayBuffer of bytes that follow from the seed
  (func $random (param $ctx i32) (param $this i64) (param $argc i32) (param $argv i32) (result i64)
    (local $buffer i32) (local $count i32) (local $result i64)
    (local.set $count (i32.wrap_i64 (i64.load (local.get $argv))))
    (local.set $buffer (call $js_malloc (local.get $ctx) (local.get $count)))
    (if (i32.eqz (local.get $buffer)) (then (return (i64.const 0x600000000))))
    (drop (call $random_get (local.get $buffer) (local.get $count)))
    (local.set $result (call $JS_NewArrayBufferCopy (local.get $ctx) (local.get $buffer) (local.get $count)))
    (call $js_free (local.get $ctx) (local.get $buffer))
    (local.get $result))

  ;; encode(text): an ArrayBuffer of the text in UTF-8
  (func $encode (param $ctx i32) (param $this i64) (param $argc i32) (param $argv i32) (result i64)
    (local $frame i32) (local $text i32) (local $result i64)
    (local.set $frame (i32.sub (global.get $sp) (i32.const 16)))
    (global.set $sp (local.get $frame))
    (local.set $result (i64.const 0x600000000))
    (local.set $text (call $JS_ToCStringLen2
      (local.get $ctx) (local.get $frame) (i64.load (local.get $argv)) (i32.const 0)))
    (if (local.get $text) (then
      (local.set $result (call $JS_NewArrayBufferCopy
        (local.get $ctx) (local.get $text) (i32.load (local.get $frame))))
      (call $JS_FreeCString (local.get $ctx) (local.get $text))))
    (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
    (local.get $result))

  ;; decode(buffer): the text of an ArrayBuffer in UTF-8, what is none replaced
  (func $decode (param $ctx i32) (param $this i64) (param $argc i32) (param $argv i32) (result i64)
    (local $frame i32) (local $bytes i32) (local $result i64)
    (local.set $frame (i32.sub (global.get $sp) (i32.const 16)))
    (global.set $sp (local.get $frame))
    (i32.store (local.get $frame) (i32.const 0))
    (local.set $bytes (call $JS_GetArrayBuffer (local.get $ctx) (local.get $frame) (i64.load (local.get $argv))))
    (local.set $result (call $JS_NewStringLen
      (local.get $ctx) (local.get $bytes) (i32.load (local.get $frame))))
    (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
    (local.get $result))

  ;; The name of a module as it is imported by another: the host knows the project's files.
  (func $normalize (param $ctx i32) (param $base i32) (param $name i32) (param $opaque i32) (result i32)
    (local $text i32)
    (local.set $text (call $js_malloc (local.get $ctx) (call $resolve (local.get $base) (local.get $name))))
    (if (local.get $text) (then (call $resolved (local.get $text))))
    (local.get $text))

  ;; Start the function, run all jobs, hear one answer, and so on until pump() returns false.
  ;; 0: it has ended. -1: run or pump has thrown; -2: a job has.
  (func (export "drive") (param $ctx i32) (param $rt i32) (param $scratch i32) (param $run i64) (param $pump i64)
    (result i32)
    (local $answer i64) (local $jobs i32)
    (local.set $answer (call $JS_Call
      (local.get $ctx) (local.get $run) (i64.const 0x300000000) (i32.const 0) (i32.const 0)))
    (loop $again
      (if (i64.eq (i64.shr_u (local.get $answer) (i64.const 32)) (i64.const 6)) (then (return (i32.const -1))))
      (loop $job
        (local.set $jobs (call $JS_ExecutePendingJob (local.get $rt) (local.get $scratch)))
        (br_if $job (i32.gt_s (local.get $jobs) (i32.const 0))))
      (if (i32.lt_s (local.get $jobs) (i32.const 0)) (then (return (i32.const -2))))
      (local.set $answer (call $JS_Call
        (local.get $ctx) (local.get $pump) (i64.const 0x300000000) (i32.const 0) (i32.const 0)))
      (br_if $again (i64.ne (local.get $answer) (i64.const 0x100000000))))
    (i32.const 0)))
