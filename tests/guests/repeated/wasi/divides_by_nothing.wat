;; A trap of arithmetic, where chance says.
(func (export "_start") (local $n i32)
  (call $mix_all (i32.const 0))
  (drop (call $random_get (i32.const 2048) (i32.const 4096)))
  (loop $next
    (call $mix (i64.extend_i32_u (i32.div_u (i32.const 1000) (i32.load8_u (i32.add (i32.const 2048) (local.get $n))))))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $n) (i32.const 4096))))
  (unreachable))
