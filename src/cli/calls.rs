//! What a module's imports say of the calls to others that it makes.

use engine::inspect::Import;

const HTTP: &[&str] = &["proxy_http_call"];
const GRPC: &[&str] = &["proxy_grpc_call", "proxy_grpc_stream"];
const QUEUES: &[&str] = &["proxy_register_shared_queue", "proxy_enqueue_shared_queue", "proxy_dequeue_shared_queue"];

/// The ways of calling others that a module imports, and may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    /// `proxy_http_call`.
    pub(crate) http: bool,
    /// `proxy_grpc_call`, `proxy_grpc_stream`.
    pub(crate) grpc: bool,
    /// Whether that means anything. Some SDKs, that of Rust for one, import every call into every module.
    pub(crate) telling: bool,
}

impl Calls {
    /// Those of a module with these imports, of which it may use those that `allows` says.
    pub(crate) fn of(imports: &[Import], allows: impl Fn(&str) -> bool) -> Self {
        let has = |name: &&str| imports.iter().any(|import| import.name == **name) && allows(name);
        let all = [HTTP, GRPC, QUEUES].concat();
        Calls { http: HTTP.iter().any(has), grpc: GRPC.iter().any(has), telling: !all.iter().all(has) }
    }

    /// What a module calls, that certainly does.
    pub(crate) fn certain(self) -> (bool, bool) {
        (self.telling && self.http, self.telling && self.grpc)
    }
}
