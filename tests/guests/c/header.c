// The benchmark filter of bench-headers, by the C ABI and without a library: what the sandbox costs where the guest adds
// nothing of its own. Reads `user-agent`, adds `x-bench`.
//
//     python3 -m ziglang cc -target wasm32-wasi -mexec-model=reactor -std=c11 -O2 -g0 -nostdlib -Wall -Wextra -Werror \
//         -Wl,--no-entry -Wl,--import-symbols -rdynamic -o c-header.wasm header.c
//
// `pip install ziglang` gives the compiler; without -rdynamic it exports nothing.

#include "guest.h"

IMPORT(proxy_add_header_map_value)
extern uint32_t proxy_add_header_map_value(uint32_t map, const char *key, size_t key_size, const char *value,
                                           size_t value_size);

EXPORT(proxy_on_vm_start) uint32_t on_vm_start(uint32_t context, size_t size) {
  (void)context, (void)size;
  return 1;
}

EXPORT(proxy_on_configure) uint32_t on_configure(uint32_t context, size_t size) {
  (void)context, (void)size;
  return 1;
}

EXPORT(proxy_on_request_headers) uint32_t on_request_headers(uint32_t context, size_t count, uint32_t end_of_stream) {
  (void)context, (void)count, (void)end_of_stream;
  const char *agent = NULL;
  size_t size = 0;
  used = 0;
  uint32_t status = proxy_get_header_map_value(REQUEST_HEADERS, "user-agent", 10, &agent, &size);
  if (status == 0) {
    proxy_add_header_map_value(REQUEST_HEADERS, "x-bench", 7, "agent", 5);
  } else {
    proxy_add_header_map_value(REQUEST_HEADERS, "x-bench", 7, "none", 4);
  }
  return CONTINUE;
}

EXPORT(proxy_on_response_headers) uint32_t on_response_headers(uint32_t context, size_t count, uint32_t end_of_stream) {
  (void)context, (void)count, (void)end_of_stream;
  return CONTINUE;
}

EXPORT(proxy_on_done) uint32_t on_done(uint32_t context) {
  (void)context;
  return 1;
}

EXPORT(proxy_on_log) void on_log(uint32_t context) { (void)context; }

EXPORT(proxy_on_delete) void on_delete(uint32_t context) { (void)context; }
