;; It asks, says something and computes for ever, with an answer that it never reads.
(@custom "flux" "{\22timeout\22: \2260ms\22}")
(data (i32.const 1024) "[1,\22db.query\22,[\22select 1\22,[]]]\0a[2,\22db.query\22,[\22select 2\22,[]]]\0a[3,\22db.query\22,[\22select 3\22,[]]]\0a[4,\22db.query\22,[\22select 4\22,[]]]\0a[5,\22db.query\22,[\22select 5\22,[]]]\0a")
(data (i32.const 1400) "[0,\22log.write\22,[\22info\22,\22now\22,{}]]\0a")
(func (export "_start") (local $n i32)
  (call $mix_all (i32.const 0))
  (call $write (i32.const 3) (i32.const 1024) (i32.const 155))
  (call $mix_bytes (i32.const 8192) (call $read (i32.const 3) (i32.const 8192) (i32.const 4096)))
  (call $write (i32.const 3) (i32.const 1400) (i32.const 34))
  (loop $for_ever
    (call $mix (i64.load (i32.and (local.get $n) (i32.const 0xffff))))
    (i64.store (i32.add (i32.const 65536) (i32.and (local.get $n) (i32.const 0xfff8))) (global.get $hash))
    (local.set $n (i32.add (local.get $n) (i32.const 8)))
    (br $for_ever)))
