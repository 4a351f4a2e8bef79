;; The smallest function: a command that writes its answer on its standard output.
;;
;;     python -c "import wasmtime; open('functions/greet.wasm', 'wb').write(wasmtime.wat2wasm(open('greet.wat').read()))"
(module
  (@custom "flux" "{\22route\22: \22GET /greet\22}")
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{\22greeting\22: \22hello\22}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 21))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
