// What the filters in C have in common: names for the ABI, and memory for what they are given.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

enum { REQUEST_HEADERS = 0, CONTINUE = 0 };

IMPORT(proxy_get_header_map_value)
extern uint32_t proxy_get_header_map_value(uint32_t map, const char *key, size_t key_size, const char **value,
                                           size_t *value_size);

// All that a callback allocates is gone when it returns, so memory is a bump from the start of this arena: whoever begins
// a callback sets `used` to 0.
static _Alignas(16) unsigned char arena[65536];
static size_t used;

EXPORT(proxy_abi_version_0_2_1) void abi_version(void) {}

EXPORT(proxy_on_memory_allocate) void *allocate(size_t size) {
  size_t rounded = (size + 15) & ~(size_t)15;
  if (rounded < size || rounded > sizeof(arena) - used) {
    return NULL;
  }
  void *data = arena + used;
  used += rounded;
  return data;
}

EXPORT(proxy_on_context_create) void on_context_create(uint32_t context, uint32_t parent) {
  (void)context, (void)parent;
}
