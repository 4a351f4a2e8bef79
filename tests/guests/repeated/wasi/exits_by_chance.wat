;; It asks, and ends with an exit code that chance has chosen, after some last words.
(data (i32.const 1024) "[1,\22db.query\22,[\22select 1\22,[]]]\0a")
(data (i32.const 1100) "I leave\0a")
(func (export "_start")
  (call $write (i32.const 3) (i32.const 1024) (i32.const 31))
  (call $mix_all (i32.const 3))
  (call $write (i32.const 2) (i32.const 1100) (i32.const 8))
  (drop (call $random_get (i32.const 2048) (i32.const 1)))
  (call $proc_exit (i32.or (i32.load8_u (i32.const 2048)) (i32.const 1))))
