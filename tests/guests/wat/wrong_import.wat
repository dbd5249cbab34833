;; Imports a known function with a wrong signature.
(module
  (import "env" "proxy_log" (func (param i32)))
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
  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32))
  (func (export "proxy_on_vm_start") (param $context i32) (param $size i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_done") (param $context i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_log") (param $context i32))
  (func (export "proxy_on_delete") (param $context i32)))
