//! Compiled code, known by the SHA-256 of its bytes.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, ExternType, InstancePre, Linker};

use crate::abi::AbiVersion;
use crate::capabilities::Capabilities;
use crate::error::Error;
use crate::state::VmState;

/// The SHA-256 of a module's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which callbacks a module exports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// `proxy_on_request_headers`.
    pub request_headers: bool,
    /// `proxy_on_request_body`.
    pub request_body: bool,
    /// `proxy_on_response_headers`.
    pub response_headers: bool,
    /// `proxy_on_response_body`.
    pub response_body: bool,
    /// `proxy_on_done`, `proxy_on_log` or `proxy_on_delete`.
    pub end: bool,
    /// `proxy_on_tick`.
    pub tick: bool,
    /// It imports `proxy_set_buffer_bytes`: without that, no body leaves it other than it came.
    pub changes_bodies: bool,
}

impl Exported {
    /// What a module exports, of what is allowed.
    fn of(module: &wasmtime::Module, allowed: impl Fn(&str) -> bool) -> Self {
        let has = |name: &str| has(module, name) && allowed(name);
        let set_buffer = "proxy_set_buffer_bytes";
        Exported {
            request_headers: has("proxy_on_request_headers"),
            request_body: has("proxy_on_request_body"),
            response_headers: has("proxy_on_response_headers"),
            response_body: has("proxy_on_response_body"),
            end: has("proxy_on_done") || has("proxy_on_log") || has("proxy_on_delete"),
            tick: has("proxy_on_tick"),
            changes_bodies: allowed(set_buffer) && module.imports().any(|import| import.name() == set_buffer),
        }
    }
}

fn has(module: &wasmtime::Module, export: &str) -> bool {
    matches!(module.get_export(export), Some(ExternType::Func(_)))
}

/// What modules are linked with.
pub(crate) struct Linkers {
    /// For nearly all.
    usual: Linker<VmState>,
    /// For those that import the calls to which 0.1.0's text gives no result in that form.
    void: Linker<VmState>,
}

impl Linkers {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut usual = Linker::new(engine);
        crate::hostcalls::link(&mut usual)?;
        crate::hostcalls::link_emscripten(&mut usual)?;
        crate::wasi::link(&mut usual)?;
        let mut void = usual.clone();
        crate::hostcalls::link_void(&mut void)?;
        Ok(Linkers { usual, void })
    }

    /// The one for this module.
    fn of(&self, module: &wasmtime::Module) -> &Linker<VmState> {
        let void = module.imports().any(|import| {
            crate::hostcalls::VOID_IN_0_1_0.contains(&import.name())
                && import.ty().func().is_some_and(|func| func.results().len() == 0)
        });
        if void { &self.void } else { &self.usual }
    }
}

/// A compiled module, ready to be instantiated. Shared by every VM that runs it.
pub struct Module {
    digest: Digest,
    abi: AbiVersion,
    exported: Exported,
    pub(crate) pre: InstancePre<VmState>,
    /// What it may call and be called for; `None` is everything.
    capabilities: Option<Capabilities>,
    /// Of a restricted module, the whole one: alive, so that the next filter finds it compiled.
    _whole: Option<Arc<Module>>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("digest", &self.digest).field("abi", &self.abi).finish_non_exhaustive()
    }
}

impl Module {
    /// Compiles `bytes` and resolves its imports. Takes from milliseconds to half a minute, by size.
    ///
    /// # Errors
    /// [`Error::Module`] if this is no Wasm, no Proxy-Wasm module, or imports what nobody offers.
    pub(crate) fn compile(
        engine: &Engine,
        linkers: &Linkers,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<Arc<Self>, Error> {
        if !bytes.starts_with(b"\0asm") {
            let hint = if bytes.trim_ascii_start().starts_with(b"(module") {
                "; this is WebAssembly text: translate it with wat2wasm first"
            } else {
                ""
            };
            return Err(Error::Module(format!(
                "not a WebAssembly module: {} bytes that do not begin with \\0asm{hint}",
                bytes.len()
            )));
        }
        let module = wasmtime::Module::new(engine, bytes)
            .map_err(|error| Error::Module(format!("does not compile: {}", one_line(&error))))?;
        let has = |name: &str| has(&module, name);
        let abi = AbiVersion::ALL.iter().rev().copied().find(|version| has(version.marker())).ok_or_else(|| {
            Error::Module(
                "not a Proxy-Wasm module: it exports no proxy_abi_version_0_1_0, …_0_2_0 or …_0_2_1".to_owned(),
            )
        })?;
        if !has("proxy_on_memory_allocate") && !has("malloc") {
            return Err(Error::Module(
                "exports neither proxy_on_memory_allocate nor malloc, so nothing can be handed to it".to_owned(),
            ));
        }
        if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
            return Err(Error::Module("exports no memory".to_owned()));
        }
        let exported = Exported::of(&module, |_| true);
        let pre = linkers.of(&module).instantiate_pre(&module).map_err(|error| Error::Module(one_line(&error)))?;
        Ok(Arc::new(Module { digest, abi, exported, pre, capabilities: None, _whole: None }))
    }

    /// The module with no more than these capabilities. Compiles nothing.
    ///
    /// # Errors
    /// [`Error::Module`], as [`Module::compile`].
    pub(crate) fn restrict(
        self: Arc<Self>,
        linkers: &Linkers,
        capabilities: &Capabilities,
    ) -> Result<Arc<Self>, Error> {
        let module = self.pre.module();
        let mut linker = linkers.of(module).clone();
        let restricted = capabilities.restrict(&mut linker, module).and_then(|()| linker.instantiate_pre(module));
        Ok(Arc::new(Module {
            digest: self.digest,
            abi: self.abi,
            exported: Exported::of(module, |name| capabilities.allows(name)),
            pre: restricted.map_err(|error| Error::Module(one_line(&error)))?,
            capabilities: Some(capabilities.clone()),
            _whole: Some(self),
        }))
    }

    /// Whether the import or export of this name is allowed.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        self.capabilities.as_ref().is_none_or(|capabilities| capabilities.allows(name))
    }

    /// The SHA-256 of the module's bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The ABI version that the module declares.
    #[must_use]
    pub fn abi(&self) -> AbiVersion {
        self.abi
    }

    /// The callbacks that the module exports.
    #[must_use]
    pub fn exported(&self) -> Exported {
        self.exported
    }
}

/// An error and its causes on one line, for logs.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause.to_string().trim());
    }
    text.replace('\n', " ")
}
