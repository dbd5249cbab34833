//! How code is found, checked and compiled: from a filter's `module` to a [`Module`].
//!
//! ```text
//! a file ── stat ── its digest, if it is known (files.rs, or a note in the cache)
//!                └─ read and hashed, if not
//! digest and variant ── a module that lives
//!                    ├─ compiled code in the cache directory, mapped (cache/)
//!                    └─ compiled, announced while it takes long (progress.rs), and kept
//! ```
//!
//! Each digest and variant has a lock of its own, so that two loads of one module at the same moment compile it once. At
//! most as many compiles run at once as there are cores, which bounds their memory.

mod cache;
mod files;
mod gate;
mod progress;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::{Code, CodeCache, ConfigFile, Source};
use crate::engines::{Compiler, EngineVariant, Engines, Variant};
use crate::error::Error;
use crate::journal::note_source;
use crate::module::{Digest, Module, one_line};
use cache::Cache;
use files::Files;
use gate::Gate;
use progress::Progress;

/// A module in one variant, alive as long as somebody uses it. Its lock is held while it is compiled.
type Place = Arc<Mutex<Weak<Module>>>;

/// Every module of the process.
pub(crate) struct Library {
    pub(crate) engines: Arc<Engines>,
    modules: Mutex<HashMap<(Digest, Variant), Place>>,
    files: Files,
    caches: Mutex<HashMap<PathBuf, Arc<Cache>>>,
    /// Whether `code_cache` is heeded.
    caching: bool,
    gate: Gate,
}

/// A module's bytes, as far as they had to be looked at.
struct Found {
    digest: Digest,
    /// `None` if the digest was known without reading.
    bytes: Option<Bytes>,
}

/// Bytes that were read, or that the configuration has.
enum Bytes {
    Read(Vec<u8>),
    Given(Arc<[u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Read(bytes) => bytes,
            Bytes::Given(bytes) => bytes,
        }
    }
}

impl Library {
    pub(crate) fn new(caching: bool) -> Result<Self, Error> {
        Ok(Library {
            engines: Arc::new(Engines::new()?),
            modules: Mutex::default(),
            files: Files::default(),
            caches: Mutex::default(),
            caching,
            gate: Gate::new(cores()),
        })
    }

    /// The module of these bytes, compiled if none with their digest is alive.
    ///
    /// # Errors
    /// [`Error::Module`] if they cannot be used.
    pub(crate) fn of_bytes(&self, bytes: &[u8]) -> Result<Arc<Module>, Error> {
        let home = self.engines.get(Variant::default())?;
        let digest = Digest::of(bytes);
        let place = self.place(digest, home.variant);
        let mut place = place.lock();
        if let Some(module) = place.upgrade() {
            return Ok(module);
        }
        let module = compile(&home, digest, bytes, "a module", &self.gate, None)?;
        *place = Arc::downgrade(&module);
        Ok(module)
    }

    /// The module of a filter, with the stack that its limits give it. Blocks for as long as compiling takes.
    ///
    /// # Errors
    /// [`Error::Module`], which names the module and what is wrong with it.
    pub(crate) fn load(
        &self,
        code: &Code,
        stack_bytes: usize,
        cache: Option<&CodeCache>,
    ) -> Result<Arc<Module>, Error> {
        let name = &code.source;
        let named = |error: Error| Error::Module(format!("module {name}: {error}"));
        let home = self.engines.get(Variant { compiler: code.compiler, stack_bytes }).map_err(named)?;
        let cache = cache.filter(|_| self.caching).map(|settings| self.cache(settings));
        let mut found = self.find(&code.source, cache.as_deref())?;
        let mut not_cached = None;
        loop {
            pinned(code, found.digest)?;
            let place = self.place(found.digest, home.variant);
            let mut place = place.lock();
            if let Some(module) = place.upgrade() {
                return Ok(module);
            }
            let cache = cache.as_deref();
            let cached = cache
                .filter(|_| not_cached != Some(found.digest))
                .and_then(|cache| from_cache(&home, found.digest, name, cache));
            let module = match (cached, &found.bytes) {
                (Some(module), _) => module,
                (None, Some(bytes)) => {
                    compile(&home, found.digest, bytes, &name.to_string(), &self.gate, cache).map_err(named)?
                }
                // Known by its digest, and nowhere compiled: now its bytes are needed. Should the file be another one
                // by now, it is that one's turn.
                (None, None) => {
                    drop(place);
                    not_cached = Some(found.digest);
                    found = self.read(&code.source, cache)?;
                    continue;
                }
            };
            if let Some(cache) = cache {
                prepare_relay(&home, &module, cache);
            }
            *place = Arc::downgrade(&module);
            return Ok(module);
        }
    }

    /// Loads the modules of a chain that are not there yet, at once rather than one after the other. What fails here
    /// fails again, in its order, when the chain takes its modules; until then they have to be kept.
    pub(crate) fn load_ahead(&self, config: &ConfigFile) -> Vec<Arc<Module>> {
        let mut wanted: Vec<(&Code, usize)> = Vec::new();
        for spec in config.filters.iter().chain(&config.services) {
            let one = (&spec.code, spec.limits.stack_bytes);
            if !wanted.contains(&one) {
                wanted.push(one);
            }
        }
        if wanted.len() > 1 {
            wanted.retain(|(code, stack_bytes)| !self.is_alive(code, *stack_bytes));
        }
        if wanted.len() < 2 {
            return Vec::new();
        }
        let (next, loaded) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..cores().min(wanted.len()) {
                scope.spawn(|| {
                    while let Some((code, stack_bytes)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let module = self.load(code, *stack_bytes, config.code_cache.as_ref());
                        loaded.lock().extend(module);
                    }
                });
            }
        });
        loaded.into_inner()
    }

    /// Whether the module is there, as far as that can be told without reading anything.
    fn is_alive(&self, code: &Code, stack_bytes: usize) -> bool {
        let digest = match &code.source {
            Source::File(path) => self.files.digest(path),
            Source::Inline(bytes) => Some(Digest::of(bytes)),
        };
        let variant = Variant { compiler: code.compiler, stack_bytes };
        let place = digest.and_then(|digest| self.modules.lock().get(&(digest, variant)).cloned());
        // Locked: somebody is at it.
        place.is_some_and(|place| place.try_lock().is_none_or(|module| module.strong_count() > 0))
    }

    fn place(&self, digest: Digest, variant: Variant) -> Place {
        let mut modules = self.modules.lock();
        if let Some(place) = modules.get(&(digest, variant)) {
            return Arc::clone(place);
        }
        // Those that nobody uses and nobody is about to fill.
        modules.retain(|_, place| {
            Arc::strong_count(place) > 1 || place.try_lock().is_none_or(|module| module.strong_count() > 0)
        });
        Arc::clone(modules.entry((digest, variant)).or_default())
    }

    fn cache(&self, settings: &CodeCache) -> Arc<Cache> {
        let mut caches = self.caches.lock();
        if let Some(cache) = caches.get(&settings.directory).filter(|cache| cache.is_of(settings)) {
            return Arc::clone(cache);
        }
        let cache = Arc::new(Cache::new(settings.clone()));
        caches.insert(settings.directory.clone(), Arc::clone(&cache));
        cache
    }

    /// A source's digest: known by the file's identity, or read.
    fn find(&self, source: &Source, cache: Option<&Cache>) -> Result<Found, Error> {
        let Source::File(path) = source else { return self.read(source, cache) };
        if let Some(digest) = self.files.digest(path) {
            return Ok(Found { digest, bytes: None });
        }
        if let Some(cache) = cache
            && let Some((id, digest)) = cache.digest(path)
        {
            self.files.insert(id, digest);
            note_source(digest, path, None);
            return Ok(Found { digest, bytes: None });
        }
        self.read(source, cache)
    }

    fn read(&self, source: &Source, cache: Option<&Cache>) -> Result<Found, Error> {
        let path = match source {
            Source::Inline(bytes) => {
                return Ok(Found { digest: Digest::of(bytes), bytes: Some(Bytes::Given(Arc::clone(bytes))) });
            }
            Source::File(path) => path,
        };
        let (bytes, id) = files::read(path).map_err(|error| cannot_be_read(path, &error))?;
        let digest = Digest::of(&bytes);
        note_source(digest, path, Some(&bytes));
        if let Some(id) = id {
            self.files.insert(id, digest);
            if let Some(cache) = cache {
                cache.note_digest(id, digest);
            }
        }
        Ok(Found { digest, bytes: Some(Bytes::Read(bytes)) })
    }
}

fn cannot_be_read(path: &Path, error: &std::io::Error) -> Error {
    Error::Module(format!("module {} cannot be read: {error}", path.display()))
}

fn pinned(code: &Code, digest: Digest) -> Result<(), Error> {
    match code.sha256 {
        Some(expected) if expected != digest => Err(Error::Module(format!(
            "module {}: its SHA-256 is {digest}, and the filter's 'sha256' wants {expected}: this is another module than \
             the one that was meant, or the digest was not renewed with it",
            code.source
        ))),
        _ => Ok(()),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What the cache has of a module.
fn from_cache(home: &Arc<EngineVariant>, digest: Digest, name: &Source, cache: &Cache) -> Option<Arc<Module>> {
    let begun = Instant::now();
    let module = Module::new(Arc::clone(home), digest, cache.load(home, digest)?).ok()?;
    log::info!(target: "wasm_remap", "{name} is there from the cache, in {:.1?}", begun.elapsed());
    Some(module)
}

/// Has the module's relay taken from the cache, or kept there: small as it is, to compile it takes as long as to load several
/// large modules.
fn prepare_relay(home: &EngineVariant, module: &Module, cache: &Cache) {
    home.relays.prepare(module.pre.module(), module.abi(), |bytes| {
        let digest = Digest::of(bytes);
        cache.load(home, digest).or_else(|| {
            let relay = wasmtime::Module::new(&home.engine, bytes).ok()?;
            cache.store(home, digest, &relay);
            Some(relay)
        })
    });
}

/// Compiles a module, says so if it takes long, and puts the result into the cache.
fn compile(
    home: &Arc<EngineVariant>,
    digest: Digest,
    bytes: &[u8],
    name: &str,
    gate: &Gate,
    cache: Option<&Cache>,
) -> Result<Arc<Module>, Error> {
    Module::must_be_wasm(bytes)?;
    let _turn = gate.enter();
    let compiler = home.variant.compiler;
    let progress = Progress::of(format!("{name} ({}) with {compiler}", size(bytes.len())));
    let compiled = wasmtime::Module::new(&home.engine, bytes).map_err(|error| {
        let why = one_line(&error);
        Error::Module(match compiler {
            Compiler::Cranelift => format!("does not compile: {why}"),
            Compiler::Winch => format!("does not compile with winch: {why}; use compiler: cranelift"),
        })
    })?;
    let announced = progress.end();
    let (time, taken) = (announced.time, announced.made);
    let module = Module::new(Arc::clone(home), digest, compiled)?;
    let kept = cache.is_some_and(|cache| cache.store(home, digest, module.pre.module()));
    // Without a cache, what took no time is not worth a line.
    if taken || cache.is_some() {
        let kept = if kept { ", and is kept in the cache" } else { "" };
        log::info!(target: "wasm_remap", "{name} ({}) was compiled with {compiler} in {time:.1?}{kept}", size(bytes.len()));
    }
    Ok(module)
}

/// A size for people.
fn size(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let bytes = bytes as f64;
    if bytes < 1e6 { format!("{:.1} KB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}
