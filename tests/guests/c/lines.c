// Logs, or traps, as the request's field `x-lines` says. It is compiled with debug information, which names its functions'
// lines in call stacks.
//
//     levels       a line of each level, `level <number>`
//     flood <n>    n lines, `flood`
//     large <n>    n lines of 8,000 bytes
//     forge        a line with a line break and a terminal's escape in it
//     trap <n>     ends in `check_even` or `check_odd`, by way of `authorize`

#include "guest.h"

enum { INFO = 2, LEVELS = 6, LARGE = 8000 };

IMPORT(proxy_log) extern uint32_t proxy_log(uint32_t level, const char *message, size_t size);
IMPORT(proxy_get_log_level) extern uint32_t proxy_get_log_level(uint32_t *level);

static char large[LARGE];

static int begins(const char *text, size_t size, const char *word, size_t len) {
  if (size < len) {
    return 0;
  }
  for (size_t i = 0; i < len; i++) {
    if (text[i] != word[i]) {
      return 0;
    }
  }
  return 1;
}

static uint32_t number(const char *text, size_t size) {
  uint32_t value = 0;
  for (size_t i = 0; i < size; i++) {
    if (text[i] >= '0' && text[i] <= '9') {
      value = value * 10 + (uint32_t)(text[i] - '0');
    }
  }
  return value;
}

__attribute__((noinline)) static void check_even(void) {
  proxy_log(INFO, "even", 4);
  __builtin_trap(); // even
}

__attribute__((noinline)) static void check_odd(void) {
  proxy_log(INFO, "odd", 3);
  __builtin_trap(); // odd
}

__attribute__((noinline)) static void authorize(uint32_t kind) {
  if (kind % 2 == 0) {
    check_even(); // to even
  } else {
    check_odd(); // to odd
  }
}

EXPORT(proxy_on_configure) uint32_t on_configure(uint32_t context, size_t size) {
  (void)context, (void)size;
  // The level that is asked for is told at that level: it can be seen whatever it is.
  uint32_t level = 0;
  proxy_get_log_level(&level);
  char text[] = "log level 0";
  text[10] = (char)('0' + level);
  proxy_log(level, text, 11);
  for (size_t i = 0; i < LARGE; i++) {
    large[i] = 'x';
  }
  return 1;
}

EXPORT(proxy_on_request_headers) uint32_t on_request_headers(uint32_t context, size_t count, uint32_t end_of_stream) {
  (void)context, (void)count, (void)end_of_stream;
  const char *what = NULL;
  size_t size = 0;
  used = 0;
  if (proxy_get_header_map_value(REQUEST_HEADERS, "x-lines", 7, &what, &size) != 0) {
    return CONTINUE;
  }
  if (begins(what, size, "levels", 6)) {
    char text[] = "level 0";
    for (uint32_t level = 0; level < LEVELS; level++) {
      text[6] = (char)('0' + level);
      proxy_log(level, text, 7);
    }
  } else if (begins(what, size, "flood", 5)) {
    for (uint32_t left = number(what, size); left > 0; left--) {
      proxy_log(INFO, "flood", 5);
    }
  } else if (begins(what, size, "large", 5)) {
    for (uint32_t left = number(what, size); left > 0; left--) {
      proxy_log(INFO, large, LARGE);
    }
  } else if (begins(what, size, "forge", 5)) {
    proxy_log(INFO, "forged\n[date] ERROR: all is lost \x1b[31m| txn=1", 45);
  } else if (begins(what, size, "trap", 4)) {
    authorize(number(what, size));
  }
  return CONTINUE;
}
