// Makes the letters of response bodies large, sixteen at a time, by the C ABI and without a library. No configuration.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

enum { RESPONSE_BODY = 1, CONTINUE = 0, WINDOW = 131072 };

IMPORT(proxy_get_buffer_bytes)
extern uint32_t proxy_get_buffer_bytes(uint32_t buffer, size_t start, size_t max, unsigned char **data, size_t *size);
IMPORT(proxy_set_buffer_bytes)
extern uint32_t proxy_set_buffer_bytes(uint32_t buffer, size_t start, size_t size, const unsigned char *data,
                                       size_t data_size);

// All that is asked for is gone with the next window.
static _Alignas(16) unsigned char arena[WINDOW];

EXPORT(proxy_abi_version_0_2_1) void abi_version(void) {}

EXPORT(proxy_on_memory_allocate) void *allocate(size_t size) { return size > sizeof(arena) ? NULL : arena; }

typedef unsigned char letters __attribute__((vector_size(16), aligned(1)));

// Eight of them in a round, for a round of a guest's loop looks at the clock of its deadline, too.
__attribute__((target("simd128"))) static void upper(unsigned char *bytes, size_t size) {
  size_t at = 0;
  for (; at + 8 * sizeof(letters) <= size; at += 8 * sizeof(letters)) {
    letters *some = (letters *)(bytes + at);
#pragma unroll
    for (int place = 0; place < 8; place++) {
      some[place] -= (letters)(some[place] - 'a' < 26) & 32;
    }
  }
  for (; at < size; at++) {
    bytes[at] -= (unsigned char)(bytes[at] - 'a') < 26 ? 32 : 0;
  }
}

EXPORT(proxy_on_response_body) uint32_t on_response_body(uint32_t context, size_t size, uint32_t end_of_stream) {
  (void)context, (void)end_of_stream;
  for (size_t start = 0; start < size;) {
    unsigned char *data = NULL;
    size_t count = 0;
    if (proxy_get_buffer_bytes(RESPONSE_BODY, start, WINDOW, &data, &count) != 0 || count == 0) {
      break;
    }
    upper(data, count);
    proxy_set_buffer_bytes(RESPONSE_BODY, start, count, data, count);
    start += count;
  }
  return CONTINUE;
}
