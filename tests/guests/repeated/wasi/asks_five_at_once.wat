;; Five questions in one write; their answers in the order in which they come.
(data (i32.const 1024) "[1,\22db.query\22,[\22select 1\22,[]]]\0a[2,\22db.query\22,[\22select 2\22,[]]]\0a[3,\22db.query\22,[\22select 3\22,[]]]\0a[4,\22db.query\22,[\22select 4\22,[]]]\0a[5,\22db.query\22,[\22select 5\22,[]]]\0a")
(func (export "_start")
  (call $mix_all (i32.const 0))
  (call $write (i32.const 3) (i32.const 1024) (i32.const 155))
  (call $mix_all (i32.const 3))
  (call $answer))
