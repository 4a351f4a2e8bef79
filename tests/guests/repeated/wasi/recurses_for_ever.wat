;; The machine's own stack ends.
(func $deeper (param $n i64) (result i64)
  (i64.store (i32.const 64) (local.get $n))
  (i64.add (call $deeper (i64.add (local.get $n) (i64.const 1))) (i64.const 1)))
(func (export "_start")
  (call $mix_all (i32.const 0))
  (call $mix (call $deeper (i64.const 0))))
