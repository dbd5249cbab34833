//! What a module offers and asks for, read from its exports and imports. Nothing of it runs.
//!
//! For `wasm-remap inspect`, `check` and the documentation. What is said here of an import follows from the tables
//! that feed the linker, and whether a module loads from the same code that loads it.

use std::sync::Arc;

use wasmtime::{ExternType, FuncType, ValType};

use crate::abi::{AbiVersion, Callback};
use crate::chain::Filter;
use crate::engines::Variant;
use crate::error::Error;
use crate::hostcalls::{HOSTCALLS, Hostcall, ParamType, VOID_IN_0_1_0};
use crate::module::{Digest, Module};
use crate::runtime::Runtime;
use crate::wasi::{WASI, WasiFunction};

/// A callback of the ABI, as a row of [`CALLBACKS`].
#[derive(Debug)]
pub struct CallbackRow {
    /// The export's name.
    pub name: &'static str,
    /// When it is called, in one line.
    pub doc: &'static str,
    /// How many parameters it has, all `i32`.
    pub params: usize,
    /// Whether it returns an `i32`.
    pub result: bool,
    /// As what the engine calls it; `None` if it never does.
    pub called: Option<Callback>,
}

const fn row(
    name: &'static str,
    params: usize,
    result: bool,
    called: Option<Callback>,
    doc: &'static str,
) -> CallbackRow {
    CallbackRow { name, doc, params, result, called }
}

/// Every callback of the ABI, in the order of a transaction's life. The allocator is not among them.
pub const CALLBACKS: &[CallbackRow] = &[
    row("proxy_on_context_create", 2, false, Some(Callback::ContextCreate), "A plugin or stream context begins."),
    row("proxy_on_vm_start", 2, true, Some(Callback::VmStart), "The VM starts; false refuses to."),
    row("proxy_validate_configuration", 2, true, None, "Whether a configuration would be taken."),
    row("proxy_on_configure", 2, true, Some(Callback::Configure), "A filter's configuration; false refuses it."),
    row("proxy_on_tick", 1, false, Some(Callback::Tick), "The period of the plugin context has passed."),
    row("proxy_on_new_connection", 1, true, None, "A TCP connection begins."),
    row("proxy_on_downstream_data", 3, true, None, "Bytes of a TCP client."),
    row("proxy_on_downstream_connection_close", 2, false, None, "A TCP client closed."),
    row("proxy_on_upstream_data", 3, true, None, "Bytes of a TCP origin."),
    row("proxy_on_upstream_connection_close", 2, false, None, "A TCP origin closed."),
    row("proxy_on_request_headers", 3, true, Some(Callback::RequestHeaders), "The request's headers are there."),
    row("proxy_on_request_metadata", 2, true, None, "HTTP/2 metadata of the request."),
    row("proxy_on_request_body", 3, true, Some(Callback::RequestBody), "A piece of the request's body."),
    row("proxy_on_request_trailers", 2, true, None, "The request's trailers."),
    row("proxy_on_response_headers", 3, true, Some(Callback::ResponseHeaders), "The response's headers are there."),
    row("proxy_on_response_metadata", 2, true, None, "HTTP/2 metadata of the response."),
    row("proxy_on_response_body", 3, true, Some(Callback::ResponseBody), "A piece of the response's body."),
    row("proxy_on_response_trailers", 2, true, None, "The response's trailers."),
    row("proxy_on_http_call_response", 5, false, Some(Callback::HttpCallResponse), "The answer to `proxy_http_call`."),
    row(
        "proxy_on_grpc_receive_initial_metadata",
        3,
        false,
        Some(Callback::GrpcReceiveInitialMetadata),
        "First metadata of a gRPC call or stream.",
    ),
    row("proxy_on_grpc_receive", 3, false, Some(Callback::GrpcReceive), "A message of a gRPC call or stream."),
    row(
        "proxy_on_grpc_receive_trailing_metadata",
        3,
        false,
        Some(Callback::GrpcReceiveTrailingMetadata),
        "Last metadata of a gRPC call or stream.",
    ),
    row("proxy_on_grpc_close", 3, false, Some(Callback::GrpcClose), "A gRPC call or stream has ended."),
    row("proxy_on_queue_ready", 2, false, Some(Callback::QueueReady), "A shared queue has items."),
    row("proxy_on_foreign_function", 3, false, None, "A call of the host's, beyond the ABI."),
    row("proxy_on_done", 1, true, Some(Callback::Done), "The transaction is over, or the plugin context is to end."),
    row("proxy_on_log", 1, false, Some(Callback::Log), "The moment for access logs."),
    row("proxy_on_delete", 1, false, Some(Callback::Delete), "A context ends."),
];

/// What C++ toolchains import besides the ABI, and the engine links: see `hostcalls::link_emscripten`.
pub(crate) const TOOLCHAIN: &[&str] = &["emscripten_notify_memory_growth", "pthread_equal"];

/// Who answers an import.
#[derive(Debug, Clone)]
pub enum Offer {
    /// A hostcall.
    Hostcall(&'static Hostcall),
    /// A function of WASI.
    Wasi(&'static WasiFunction),
    /// A helper that a toolchain expects.
    Toolchain,
    /// Nobody: the module does not load. The text says why.
    Nobody(&'static str),
}

/// One import of a module.
#[derive(Debug, Clone)]
pub struct Import {
    /// `env`, `wasi_snapshot_preview1`, …
    pub module: String,
    /// The name in it.
    pub name: String,
    /// Its type, as people write it: `(i32, i32) -> i32`, `memory`, …
    pub signature: String,
    /// Who answers it.
    pub offer: Offer,
}

/// The linear memory that a module declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Bytes at the start.
    pub minimum: u64,
    /// Bytes that it grows to at most, by its own declaration.
    pub maximum: Option<u64>,
}

/// What a module is made of.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: usize,
    /// Every ABI version that it declares, oldest first. The newest one is used.
    pub versions: Vec<AbiVersion>,
    /// The callbacks that it exports.
    pub callbacks: Vec<&'static CallbackRow>,
    /// What it exports under a callback's prefix and no ABI has.
    pub unknown_callbacks: Vec<String>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// The memory that it exports.
    pub memory: Option<MemoryBounds>,
    /// What runs when a VM is built, in order.
    pub start: Vec<&'static str>,
    /// Where the host gets guest memory from.
    pub allocator: Option<&'static str>,
    /// It carries function names, by which traps are reported.
    pub names: bool,
    /// It carries DWARF debug information.
    pub debug: bool,
    /// Why it does not load, in the words in which loading it fails.
    pub obstacle: Option<String>,
}

/// Looks at a module without running it. Compiles it, which takes as long as that takes.
///
/// # Errors
/// [`Error::Module`] if the bytes are no valid WebAssembly.
pub fn inspect(runtime: &Runtime, bytes: &[u8]) -> Result<Inspection, Error> {
    let usual = runtime.0.library.engines.get(Variant::default())?;
    let (module, mut obstacle) = match runtime.module(bytes) {
        Ok(module) => (module.pre.module().clone(), None),
        Err(error) => match wasmtime::Module::new(&usual.engine, bytes) {
            Ok(module) => (module, Some(error.to_string())),
            Err(_) => return Err(error),
        },
    };
    let func = |name: &str| module.get_export(name).and_then(|export| export.func().cloned());
    let versions: Vec<_> = AbiVersion::ALL.iter().copied().filter(|version| func(version.marker()).is_some()).collect();
    let callbacks = callbacks(&module);
    for row in callbacks.iter().filter(|row| row.called.is_some()) {
        let Some(found) = func(row.name) else { continue };
        if obstacle.is_none() && !has_type_of(row, versions.last().copied(), &found) {
            obstacle = Some(format!("export {} has another type than the ABI's: {}", row.name, signature(&found)));
        }
    }
    let unknown_callbacks = module
        .exports()
        .map(|export| export.name().to_owned())
        .filter(|name| name.starts_with("proxy_on_") && name != "proxy_on_memory_allocate")
        .filter(|name| CALLBACKS.iter().all(|row| row.name != name))
        .collect();
    let memory = match module.get_export("memory") {
        Some(ExternType::Memory(memory)) => Some(MemoryBounds {
            minimum: memory.minimum().saturating_mul(memory.page_size()),
            maximum: memory.maximum().map(|pages| pages.saturating_mul(memory.page_size())),
        }),
        _ => None,
    };
    let sections = Sections::of(bytes);
    let mut start = Vec::new();
    if sections.start {
        start.push("start section");
    }
    if func("_initialize").is_some() {
        start.push("_initialize");
        start.extend(["main", "__main_void"].into_iter().find(|name| func(name).is_some()));
    } else if func("_start").is_some() {
        start.push("_start");
    }
    Ok(Inspection {
        digest: Digest::of(bytes),
        size: bytes.len(),
        versions,
        callbacks,
        unknown_callbacks,
        imports: imports(&module),
        memory,
        start,
        allocator: ["proxy_on_memory_allocate", "malloc"].into_iter().find(|name| func(name).is_some()),
        names: sections.names,
        debug: sections.debug,
        obstacle,
    })
}

impl Module {
    /// The callbacks that the module exports and may be called for, in the order of [`CALLBACKS`].
    #[must_use]
    pub fn callbacks(&self) -> Vec<&'static CallbackRow> {
        let mut rows = callbacks(self.pre.module());
        rows.retain(|row| self.allows(row.name));
        rows
    }

    /// What the module imports.
    #[must_use]
    pub fn imports(&self) -> Vec<Import> {
        imports(self.pre.module())
    }
}

/// One of the things that filters share: equal identities are one and the same thing, as long as any of its filters
/// is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(usize);

impl Filter {
    /// The filter's module.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.plugin.pool.spec.module
    }

    /// The VMs that the filter runs in. Filters with equal VM keys share them.
    #[must_use]
    pub fn vm_identity(&self) -> Identity {
        Identity(Arc::as_ptr(&self.plugin.pool).addr())
    }

    /// The filter's plugin context. Filters of one VM with equal names, root ids and configurations share it.
    #[must_use]
    pub fn context_identity(&self) -> Identity {
        Identity(Arc::as_ptr(&self.plugin).addr())
    }
}

fn callbacks(module: &wasmtime::Module) -> Vec<&'static CallbackRow> {
    let exported = |name: &str| matches!(module.get_export(name), Some(ExternType::Func(_)));
    CALLBACKS.iter().filter(|row| exported(row.name)).collect()
}

fn imports(module: &wasmtime::Module) -> Vec<Import> {
    let import = |import: wasmtime::ImportType<'_>| {
        let ty = import.ty();
        Import {
            module: import.module().to_owned(),
            name: import.name().to_owned(),
            signature: match &ty {
                ExternType::Func(func) => signature(func),
                ExternType::Global(_) => "global".to_owned(),
                ExternType::Table(_) => "table".to_owned(),
                ExternType::Memory(_) => "memory".to_owned(),
                ExternType::Tag(_) => "tag".to_owned(),
            },
            offer: offer(import.module(), import.name(), &ty),
        }
    };
    module.imports().map(import).collect()
}

fn offer(module: &str, name: &str, ty: &ExternType) -> Offer {
    const TYPE: Offer = Offer::Nobody("it is offered with another type");
    let ExternType::Func(func) = ty else { return Offer::Nobody("only functions are offered") };
    match module {
        "env" if TOOLCHAIN.contains(&name) => Offer::Toolchain,
        "env" => match HOSTCALLS.iter().find(|call| call.name == name) {
            None => Offer::Nobody("no ABI version has such a call"),
            Some(call) => {
                let results = func.results().len();
                let void = results == 0 && VOID_IN_0_1_0.contains(&name);
                let result = results == 1 && func.result(0).is_some_and(|ty| ty.is_i32());
                if params_are(func, call.params) && (result || void) { Offer::Hostcall(call) } else { TYPE }
            }
        },
        "wasi_snapshot_preview1" | "wasi_unstable" => match WASI.iter().find(|function| function.name == name) {
            None => Offer::Nobody("WASI has no such function"),
            Some(function) => {
                let results = usize::from(name != "proc_exit");
                let typed = params_are(func, function.params) && func.results().len() == results;
                if typed { Offer::Wasi(function) } else { TYPE }
            }
        },
        _ => Offer::Nobody("only 'env', 'wasi_snapshot_preview1' and 'wasi_unstable' are offered"),
    }
}

fn params_are(func: &FuncType, params: &[(&str, ParamType)]) -> bool {
    func.params().len() == params.len()
        && func.params().zip(params).all(|(found, (_, wanted))| match wanted {
            ParamType::I32 => found.is_i32(),
            ParamType::I64 => found.is_i64(),
        })
}

/// Whether an export has the type of its callback. In 0.1.0 header callbacks lack `end_of_stream`.
fn has_type_of(row: &CallbackRow, version: Option<AbiVersion>, func: &FuncType) -> bool {
    let headers = matches!(row.called, Some(Callback::RequestHeaders | Callback::ResponseHeaders));
    let params = row.params - usize::from(headers && version == Some(AbiVersion::V0_1_0));
    func.params().len() == params
        && func.params().all(|ty| ty.is_i32())
        && func.results().len() == usize::from(row.result)
        && func.results().all(|ty| ty.is_i32())
}

fn signature(func: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ");
    let params = list(&mut func.params());
    match func.results().len() {
        0 => format!("({params})"),
        1 => format!("({params}) -> {}", list(&mut func.results())),
        _ => format!("({params}) -> ({})", list(&mut func.results())),
    }
}

/// What wasmtime does not tell of a module: which sections it has.
#[derive(Default)]
struct Sections {
    start: bool,
    names: bool,
    debug: bool,
}

impl Sections {
    /// Walks over the section headers of a module that is known to be valid.
    fn of(bytes: &[u8]) -> Self {
        const CUSTOM: u8 = 0;
        const START: u8 = 8;
        let mut sections = Sections::default();
        let mut rest = bytes.get(8..).unwrap_or_default();
        while let Some((&id, tail)) = rest.split_first() {
            let Some((body, tail)) = sized(tail) else { break };
            match id {
                START => sections.start = true,
                CUSTOM => {
                    let name = sized(body).map_or(&b""[..], |(name, _)| name);
                    sections.names |= name == b"name";
                    sections.debug |= name == b".debug_info";
                }
                _ => {}
            }
            rest = tail;
        }
        sections
    }
}

/// Splits off what a LEB128 length announces.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut size = 0u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        size |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes[at + 1..].split_at_checked(usize::try_from(size).ok()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Options;

    const BASE: &str = r#"(memory (export "memory") 2 10) (func (export "proxy_abi_version_0_2_0"))
        (func (export "proxy_abi_version_0_2_1")) (func (export "malloc") (param i32) (result i32) (i32.const 0))"#;

    fn look(imports: &str, body: &str) -> Inspection {
        let bytes = wat::parse_str(format!("(module {imports} {BASE} {body})")).unwrap();
        inspect(&Runtime::new(Options::with_slots(1)).unwrap(), &bytes).unwrap()
    }

    /// Does not compile when a callback is added that has no row.
    #[test]
    fn every_callback_that_the_engine_calls_has_a_row() {
        let calls = |callback: Callback| match callback {
            Callback::Start => false,
            Callback::ContextCreate
            | Callback::VmStart
            | Callback::Configure
            | Callback::Tick
            | Callback::HttpCallResponse
            | Callback::GrpcReceiveInitialMetadata
            | Callback::GrpcReceive
            | Callback::GrpcReceiveTrailingMetadata
            | Callback::GrpcClose
            | Callback::QueueReady
            | Callback::RequestHeaders
            | Callback::RequestBody
            | Callback::ResponseHeaders
            | Callback::ResponseBody
            | Callback::Done
            | Callback::Log
            | Callback::Delete => true,
        };
        let called: Vec<_> = CALLBACKS.iter().filter_map(|row| row.called.map(|called| (row.name, called))).collect();
        assert_eq!(called.len(), 17, "as many rows as there are callbacks above");
        assert!(called.iter().all(|(name, callback)| *name == callback.as_str() && calls(*callback)));
    }

    #[test]
    fn exports_are_sorted_into_what_they_are_for() {
        let found = look(
            "",
            r#"(func (export "_initialize")) (func (export "main") (param i32 i32) (result i32) (i32.const 0))
            (func $s) (start $s)
            (func (export "proxy_on_tick") (param i32)) (func (export "proxy_on_holiday"))
            (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))"#,
        );
        assert_eq!(found.versions, [AbiVersion::V0_2_0, AbiVersion::V0_2_1]);
        assert_eq!(found.memory, Some(MemoryBounds { minimum: 2 << 16, maximum: Some(10 << 16) }));
        assert_eq!(found.start, ["start section", "_initialize", "main"]);
        assert_eq!(found.allocator, Some("malloc"));
        let names: Vec<_> = found.callbacks.iter().map(|row| (row.name, row.called.is_some())).collect();
        assert_eq!(names, [("proxy_on_tick", true), ("proxy_on_request_body", true)]);
        assert_eq!(found.unknown_callbacks, ["proxy_on_holiday"]);
        assert!(found.names && !found.debug);
        assert_eq!(found.obstacle, None);
    }

    #[test]
    fn imports_are_sorted_by_who_answers_them() {
        let found = look(
            r#"(import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
            (import "env" "proxy_clear_route_cache" (func))
            (import "env" "emscripten_notify_memory_growth" (func (param i32)))
            (import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#,
            "",
        );
        assert_eq!(found.obstacle, None);
        assert!(matches!(found.imports[0].offer, Offer::Hostcall(call) if call.name == "proxy_log"));
        assert!(matches!(found.imports[1].offer, Offer::Hostcall(_)), "0.1.0 gives it no result");
        assert!(matches!(found.imports[2].offer, Offer::Toolchain));
        assert!(matches!(found.imports[3].offer, Offer::Wasi(_)));
        assert_eq!(found.imports[0].signature, "(i32, i32, i32) -> i32");
    }

    #[test]
    fn an_import_that_nobody_offers_is_an_obstacle() {
        for (import, reason) in [
            (r#"(import "env" "proxy_log" (func))"#, "another type"),
            (r#"(import "env" "proxy_nonexistent" (func))"#, "no ABI version"),
            (r#"(import "env" "g" (global i32))"#, "only functions"),
            (r#"(import "wasi_snapshot_preview1" "fd_write" (func))"#, "another type"),
            (r#"(import "wasi_snapshot_preview1" "fd_fly" (func))"#, "no such function"),
            (r#"(import "wasi_snapshot_preview2" "x" (func))"#, "only 'env'"),
        ] {
            let found = look(import, "");
            assert!(found.obstacle.is_some(), "{import}");
            let Offer::Nobody(text) = found.imports[0].offer else { panic!("{import} is not refused") };
            assert!(text.contains(reason), "{import}: {text}");
        }
    }

    #[test]
    fn a_callback_of_another_type_is_an_obstacle() {
        let found = look("", r#"(func (export "proxy_on_tick") (param i64))"#);
        assert_eq!(found.obstacle.unwrap(), "export proxy_on_tick has another type than the ABI's: (i64)");
    }
}
