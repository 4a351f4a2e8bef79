;; Sleeps without end: it is cut off while it waits, or between two waits.
(@custom "flux" "{\22timeout\22: \2280ms\22}")
(data (i32.const 1024) "[000,\22clock.sleep\22,[0.004]]\0a")
(data (i32.const 1400) "[0,\22log.write\22,[\22info\22,\22now\22,{}]]\0a")
(func (export "_start") (local $n i32)
  (local.set $n (i32.const 100))
  (call $mix_all (i32.const 0))
  (i32.store (i32.const 1024) (i32.const 0x2020205b))
  (loop $for_ever
    ;; Numbers from 1 to 9, which is farther than it comes.
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (i32.store8 (i32.const 1027) (i32.add (i32.sub (local.get $n) (i32.const 100)) (i32.const 48)))
    (call $write (i32.const 3) (i32.const 1024) (i32.const 28))
    (call $mix_bytes (i32.const 8192) (call $read (i32.const 3) (i32.const 8192) (i32.const 4096)))
    (call $write (i32.const 3) (i32.const 1400) (i32.const 34))
    (br_if $for_ever (i32.lt_u (local.get $n) (i32.const 109))))
  (call $mix_all (i32.const 0))
  (loop $spin (call $mix (i64.const 1)) (br $spin)))
