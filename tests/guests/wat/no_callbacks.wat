;; The marker and an allocator, and no callback: nothing to do for it.
(module
  (memory (export "memory") 2)
  (func (export "proxy_abi_version_0_2_1"))
  ;; Never frees: a test makes few calls.
  (global $heap (mut i32) (i32.const 65536))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $data i32)
    (local.set $data (global.get $heap))
    (global.set $heap
      (i32.and
        (i32.add (i32.add (local.get $data) (local.get $size)) (i32.const 15))
        (i32.const -16)))
    (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow
        (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))))
    (local.get $data))
)
