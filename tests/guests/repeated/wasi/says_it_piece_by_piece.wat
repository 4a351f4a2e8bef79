;; A frame in pieces of one byte, with printing between them, and an answer that is no text.
(data (i32.const 1024) "[1,\22db.query\22,[\22select 1\22,[]]]\0a")
(data (i32.const 1100) "printed \c3\a4\0a")
(data (i32.const 1200) "[0,\22log.write\22,[\22info\22,\22now\22,{}]]\0a")
(func (export "_start") (local $n i32)
  (loop $next
    (call $write (i32.const 2) (i32.add (i32.const 1100) (i32.rem_u (local.get $n) (i32.const 11))) (i32.const 1))
    (call $write (i32.const 3) (i32.add (i32.const 1024) (local.get $n)) (i32.const 1))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $n) (i32.const 31))))
  (call $write (i32.const 3) (i32.const 1200) (i32.const 34))
  (call $mix_all (i32.const 3))
  (drop (call $random_get (i32.const 2048) (i32.const 64)))
  (call $write (i32.const 1) (i32.const 2048) (i32.const 64)))
