;; Grows its table on every request's headers until it is refused, and then traps.
(module
  (memory (export "memory") 2)
  (func (export "proxy_abi_version_0_2_1"))
  (global $heap (mut i32) (i32.const 65536))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $data i32)
    (local.set $data (global.get $heap))
    (global.set $heap
      (i32.and
        (i32.add (i32.add (local.get $data) (local.get $size)) (i32.const 15))
        (i32.const -16)))
    (local.get $data))
  (table $table 1 funcref)
  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32))
  (func (export "proxy_on_vm_start") (param $context i32) (param $size i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (loop $more
      (br_if $more
        (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))
    (unreachable))
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_done") (param $context i32) (result i32)
    (i32.const 1))
  (func (export "proxy_on_log") (param $context i32))
  (func (export "proxy_on_delete") (param $context i32)))
