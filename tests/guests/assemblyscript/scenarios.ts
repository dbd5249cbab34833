// The scenarios of ../scenarios/lib.rs by the AssemblyScript SDK. The root id must be `scenarios`: this SDK makes a root
// context by its name.

export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, FilterDataStatusValues, FilterHeadersStatusValues, GrpcStatusValues, HeaderPair, LogLevelValues, RootContext,
  log, registerRootContext, send_local_response, stream_context,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, get_buffer_bytes } from "@solo-io/proxy-runtime/runtime";

// The SDK reads buffers and has nothing that writes them.
// @ts-ignore: decorator
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(buffer: u32, start: u32, size: u32, data: usize, data_size: usize): u32;

const GUEST = "as";

class Root extends RootContext {
  onConfigure(size: u32): bool {
    const accepted = super.onConfigure(size);
    log(LogLevelValues.info, GUEST + ": configured with '" + this.getConfiguration() + "'");
    return accepted;
  }

  createContext(id: u32): Context {
    return new Transaction(id, this);
  }
}

class Transaction extends Context {
  appends: bool = false;
  denied: bool = false;

  constructor(id: u32, root: Root) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    const path = stream_context.headers.request.get(":path");
    if (path == "/deny") {
      this.denied = true;
      const headers = [new HeaderPair(String.UTF8.encode("x-guest"), String.UTF8.encode(GUEST))];
      const body = String.UTF8.encode("denied by " + GUEST + "\n");
      send_local_response(403, "", body, headers, GrpcStatusValues.InvalidCode);
      return FilterHeadersStatusValues.StopIteration;
    }
    this.appends = path == "/body";
    stream_context.headers.request.add("x-guest-request", GUEST);
    if (this.appends) {
      stream_context.headers.request.remove("content-length");
    }
    return FilterHeadersStatusValues.Continue;
  }

  onRequestBody(size: usize, end_of_stream: bool): FilterDataStatusValues {
    return this.onBody(BufferTypeValues.HttpRequestBody, "request", size, end_of_stream);
  }

  onResponseHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    if (!this.denied) {
      stream_context.headers.response.add("x-guest", GUEST);
      stream_context.headers.response.add("x-guest-configuration", this.root_context.getConfiguration());
    }
    if (this.appends) {
      stream_context.headers.response.remove("content-length");
    }
    return FilterHeadersStatusValues.Continue;
  }

  onResponseBody(size: usize, end_of_stream: bool): FilterDataStatusValues {
    return this.onBody(BufferTypeValues.HttpResponseBody, "response", size, end_of_stream);
  }

  private onBody(buffer: BufferTypeValues, what: string, size: usize, end_of_stream: bool): FilterDataStatusValues {
    if (this.appends) {
      const got = get_buffer_bytes(buffer, 0, size as u32).byteLength;
      log(LogLevelValues.info, GUEST + ": " + what + " body, " + got.toString() + " bytes" + (end_of_stream ? ", end" : ""));
      if (end_of_stream) {
        const suffix = String.UTF8.encode("|" + GUEST);
        const result = proxy_set_buffer_bytes(buffer, size as u32, 0, changetype<usize>(suffix), suffix.byteLength);
        if (result != 0) {
          throw new Error("proxy_set_buffer_bytes: " + result.toString());
        }
      }
    }
    return FilterDataStatusValues.Continue;
  }
}

registerRootContext((id: u32) => { return new Root(id); }, "scenarios");
