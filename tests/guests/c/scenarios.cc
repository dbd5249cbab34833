// The scenarios of ../scenarios/lib.rs as a C++ filter, by the plain C ABI and in the manner of the C++ SDK: contexts are
// objects in a map, callbacks find them by number, and what the host allocates comes from malloc and is freed here.
// tests/guests/toolchains.txt names the compiler, the Makefile its flags.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))

namespace {

enum Result : uint32_t { OK = 0 };
enum LogLevel : uint32_t { INFO = 2 };
enum Map : uint32_t { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum Buffer : uint32_t { REQUEST_BODY = 0, RESPONSE_BODY = 1, PLUGIN_CONFIGURATION = 7 };
enum Action : uint32_t { CONTINUE = 0, STOP = 1 };

} // namespace

// With --import-symbols these become imports of the module `env`.
extern "C" {
Result proxy_log(LogLevel level, const char *text, size_t size);
Result proxy_get_buffer_bytes(Buffer buffer, uint32_t start, uint32_t size, char **data, size_t *data_size);
Result proxy_set_buffer_bytes(Buffer buffer, uint32_t start, uint32_t size, const char *data, size_t data_size);
Result proxy_get_header_map_value(Map map, const char *key, size_t key_size, char **value, size_t *value_size);
Result proxy_add_header_map_value(Map map, const char *key, size_t key_size, const char *value, size_t value_size);
Result proxy_remove_header_map_value(Map map, const char *key, size_t key_size);
Result proxy_send_local_response(uint32_t status, const char *details, size_t details_size, const char *body,
                                 size_t body_size, const char *headers, size_t headers_size, int32_t grpc_status);
}

namespace {

constexpr std::string_view GUEST = "zig";
constexpr std::string_view SUFFIX = "|zig";
constexpr std::string_view DENIED = "denied by zig\n";

void expect(Result result) {
  if (result != OK) {
    __builtin_trap();
  }
}

void log(const std::string &text) { expect(proxy_log(INFO, text.data(), text.size())); }

void add(Map map, std::string_view key, std::string_view value) {
  expect(proxy_add_header_map_value(map, key.data(), key.size(), value.data(), value.size()));
}

void remove(Map map, std::string_view key) { expect(proxy_remove_header_map_value(map, key.data(), key.size())); }

// Takes what the host has allocated. A null pointer, which is what nothing comes as, may be freed.
std::string take(char *data, size_t size) {
  std::string text(data ? data : "", size);
  std::free(data);
  return text;
}

std::string get(Map map, std::string_view key) {
  char *value = nullptr;
  size_t size = 0;
  return proxy_get_header_map_value(map, key.data(), key.size(), &value, &size) == OK ? take(value, size) : "";
}

std::string read(Buffer buffer, size_t size) {
  char *data = nullptr;
  size_t data_size = 0;
  expect(proxy_get_buffer_bytes(buffer, 0, size, &data, &data_size));
  return take(data, data_size);
}

// One pair, as the ABI writes maps.
std::string pairs(std::string_view key, std::string_view value) {
  std::string out;
  auto number = [&out](size_t n) {
    uint32_t word = n;
    out.append(reinterpret_cast<const char *>(&word), sizeof word);
  };
  number(1);
  number(key.size());
  number(value.size());
  out.append(key).append(1, '\0').append(value).append(1, '\0');
  return out;
}

struct Context {
  virtual ~Context() = default;
  virtual bool on_configure(size_t) { return true; }
  virtual Action on_request_headers() { return CONTINUE; }
  virtual Action on_response_headers() { return CONTINUE; }
  virtual Action on_body(Buffer, const char *, size_t, bool) { return CONTINUE; }
};

struct Root : Context {
  std::string configuration;

  bool on_configure(size_t size) override {
    configuration = read(PLUGIN_CONFIGURATION, size);
    log(std::string(GUEST) + ": configured with '" + configuration + "'");
    return true;
  }
};

struct Transaction : Context {
  const Root &root;
  bool appends = false;
  bool denied = false;

  explicit Transaction(const Root &root) : root(root) {}

  Action on_request_headers() override {
    std::string path = get(REQUEST_HEADERS, ":path");
    if (path == "/deny") {
      denied = true;
      std::string headers = pairs("x-guest", GUEST);
      expect(proxy_send_local_response(403, nullptr, 0, DENIED.data(), DENIED.size(), headers.data(), headers.size(), -1));
      return STOP;
    }
    appends = path == "/body";
    add(REQUEST_HEADERS, "x-guest-request", GUEST);
    if (appends) {
      remove(REQUEST_HEADERS, "content-length");
    }
    return CONTINUE;
  }

  Action on_response_headers() override {
    if (!denied) {
      add(RESPONSE_HEADERS, "x-guest", GUEST);
      add(RESPONSE_HEADERS, "x-guest-configuration", root.configuration);
    }
    if (appends) {
      remove(RESPONSE_HEADERS, "content-length");
    }
    return CONTINUE;
  }

  Action on_body(Buffer buffer, const char *what, size_t size, bool end) override {
    if (appends) {
      size_t got = read(buffer, size).size();
      log(std::string(GUEST) + ": " + what + " body, " + std::to_string(got) + " bytes" + (end ? ", end" : ""));
      if (end) {
        expect(proxy_set_buffer_bytes(buffer, size, 0, SUFFIX.data(), SUFFIX.size()));
      }
    }
    return CONTINUE;
  }
};

// Made by _initialize.
std::unordered_map<uint32_t, std::unique_ptr<Context>> contexts;

Context &context(uint32_t id) {
  auto found = contexts.find(id);
  if (found == contexts.end()) {
    __builtin_trap();
  }
  return *found->second;
}

} // namespace

EXPORT(proxy_abi_version_0_2_1) void abi_version() {}

EXPORT(proxy_on_context_create) void on_context_create(uint32_t id, uint32_t parent) {
  if (parent == 0) {
    contexts[id] = std::make_unique<Root>();
  } else {
    contexts[id] = std::make_unique<Transaction>(static_cast<const Root &>(context(parent)));
  }
}

EXPORT(proxy_on_vm_start) uint32_t on_vm_start(uint32_t, size_t) { return 1; }

EXPORT(proxy_on_configure) uint32_t on_configure(uint32_t id, size_t size) { return context(id).on_configure(size); }

EXPORT(proxy_on_request_headers) uint32_t on_request_headers(uint32_t id, uint32_t, uint32_t) {
  return context(id).on_request_headers();
}

EXPORT(proxy_on_request_body) uint32_t on_request_body(uint32_t id, size_t size, uint32_t end) {
  return context(id).on_body(REQUEST_BODY, "request", size, end);
}

EXPORT(proxy_on_response_headers) uint32_t on_response_headers(uint32_t id, uint32_t, uint32_t) {
  return context(id).on_response_headers();
}

EXPORT(proxy_on_response_body) uint32_t on_response_body(uint32_t id, size_t size, uint32_t end) {
  return context(id).on_body(RESPONSE_BODY, "response", size, end);
}

EXPORT(proxy_on_done) uint32_t on_done(uint32_t) { return 1; }

EXPORT(proxy_on_log) void on_log(uint32_t) {}

EXPORT(proxy_on_delete) void on_delete(uint32_t id) { contexts.erase(id); }
