;; Memory ends: a page is refused.
(func (export "_start") (local $page i32)
  (loop $more
    (local.set $page (memory.grow (i32.const 16)))
    (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
    (i64.store (i32.shl (local.get $page) (i32.const 16)) (global.get $hash))
    (call $mix (i64.extend_i32_u (local.get $page)))
    (br $more)))
