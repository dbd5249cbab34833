//! Compiled code, known by the SHA-256 of its bytes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, ExternType, InstancePre, Linker};

use crate::abi::AbiVersion;
use crate::capabilities::Capabilities;
use crate::engines::{Compiler, EngineVariant};
use crate::error::Error;
use crate::state::VmState;
use crate::vm::Relays;

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

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no SHA-256: 64 hexadecimal digits are expected");
        let mut digest = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Digest(digest))
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
    /// The engine that it was compiled for, and the only one that it runs on.
    home: Arc<EngineVariant>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("digest", &self.digest).field("abi", &self.abi).finish_non_exhaustive()
    }
}

impl Module {
    /// Refuses what is not even the beginning of a module.
    ///
    /// # Errors
    /// [`Error::Module`], with a hint where it looks like something that is well known.
    pub(crate) fn must_be_wasm(bytes: &[u8]) -> Result<(), Error> {
        if bytes.starts_with(b"\0asm") {
            return Ok(());
        }
        let hint = if bytes.trim_ascii_start().starts_with(b"(module") {
            "; this is WebAssembly text: translate it with wat2wasm first"
        } else {
            ""
        };
        Err(Error::Module(format!(
            "not a WebAssembly module: {} bytes that do not begin with \\0asm{hint}",
            bytes.len()
        )))
    }

    /// Makes a module of compiled code: looks whether it is one of Proxy-Wasm, and resolves its imports.
    ///
    /// # Errors
    /// [`Error::Module`] if it is none, or imports what nobody offers.
    pub(crate) fn new(home: Arc<EngineVariant>, digest: Digest, module: wasmtime::Module) -> Result<Arc<Self>, Error> {
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
        let pre = home.linkers.of(&module).instantiate_pre(&module).map_err(|error| Error::Module(one_line(&error)))?;
        Ok(Arc::new(Module { digest, abi, exported, pre, capabilities: None, _whole: None, home }))
    }

    /// The module with no more than these capabilities. Compiles nothing.
    ///
    /// # Errors
    /// [`Error::Module`], as [`Module::new`].
    pub(crate) fn restrict(self: Arc<Self>, capabilities: &Capabilities) -> Result<Arc<Self>, Error> {
        let module = self.pre.module();
        let mut linker = self.home.linkers.of(module).clone();
        let restricted = capabilities.restrict(&mut linker, module).and_then(|()| linker.instantiate_pre(module));
        Ok(Arc::new(Module {
            digest: self.digest,
            abi: self.abi,
            exported: Exported::of(module, |name| capabilities.allows(name)),
            pre: restricted.map_err(|error| Error::Module(one_line(&error)))?,
            capabilities: Some(capabilities.clone()),
            home: Arc::clone(&self.home),
            _whole: Some(self),
        }))
    }

    /// The engine that its VMs belong to.
    pub(crate) fn engine(&self) -> &Engine {
        &self.home.engine
    }

    /// The relays for VMs of its engine.
    pub(crate) fn relays(&self) -> &Relays {
        &self.home.relays
    }

    /// Who compiled it.
    #[must_use]
    pub fn compiler(&self) -> Compiler {
        self.home.variant.compiler
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
