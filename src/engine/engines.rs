//! wasmtime's engines: one for each way of making and running code that some filter asks for.
//!
//! A compiler and a stack size are settings of a whole wasmtime engine, so filters that want others than the usual ones
//! need an engine of their own. Modules, linkers and VMs of different engines never meet: a module knows its engine, and
//! everything that is made of it goes by that. All engines are ticked by one thread, and none is ever dropped.

use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Engine, OptLevel, Strategy, WasmBacktraceDetails};

use crate::error::Error;
use crate::limits::DEFAULT_STACK;
use crate::module::Linkers;
use crate::vm::Relays;

/// Who makes machine code of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compiler {
    /// The optimising one.
    #[default]
    Cranelift,
    /// The fast one, whose code is slower.
    Winch,
}

impl Compiler {
    /// All there are.
    pub const ALL: [Compiler; 2] = [Compiler::Cranelift, Compiler::Winch];

    /// The name in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Compiler::Cranelift => "cranelift",
            Compiler::Winch => "winch",
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What tells one engine from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) compiler: Compiler,
    /// The guest's stack.
    pub(crate) stack_bytes: usize,
}

impl Default for Variant {
    fn default() -> Self {
        Variant { compiler: Compiler::default(), stack_bytes: DEFAULT_STACK }
    }
}

/// An engine with what belongs to it.
pub(crate) struct EngineVariant {
    pub(crate) variant: Variant,
    pub(crate) engine: Engine,
    pub(crate) linkers: Linkers,
    pub(crate) relays: Relays,
    /// Equal for engines that make, and can run, the same machine code.
    pub(crate) code_identity: [u8; 32],
}

impl EngineVariant {
    fn new(variant: Variant) -> Result<Self, Error> {
        let hint = match variant.compiler {
            Compiler::Cranelift => "",
            Compiler::Winch => "; use compiler: cranelift",
        };
        let engine = Engine::new(&config(variant))
            .map_err(|error| Error::Module(format!("wasmtime does not start: {error:#}{hint}")))?;
        let linkers = Linkers::new(&engine).map_err(|error| Error::Module(format!("linker: {error:#}")))?;
        let code_identity = code_identity(variant.compiler, &engine);
        Ok(EngineVariant { variant, engine, linkers, relays: Relays::default(), code_identity })
    }
}

/// The settings of an engine; each is argued for in docs/architecture.md.
fn config(variant: Variant) -> Config {
    let mut config = Config::new();
    config
        .strategy(match variant.compiler {
            Compiler::Cranelift => Strategy::Cranelift,
            Compiler::Winch => Strategy::Winch,
        })
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .consume_fuel(false)
        .signals_based_traps(true)
        .memory_init_cow(true)
        .max_wasm_stack(variant.stack_bytes)
        // Not even where the environment asks for it: each frame of each trap would parse all of a module's DWARF.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .parallel_compilation(true);
    config
}

/// wasmtime's hash of all that decides what code it makes: its full version (the artifact itself has the major one only,
/// and a patch release may mend the compiler), the target, every flag of the instruction set as it was found on this
/// processor, and the settings that compiled code depends on. The compiler's name for good measure. The stack is not
/// among them: it is looked up when code runs.
fn code_identity(compiler: Compiler, engine: &Engine) -> [u8; 32] {
    struct Digester(Sha256);

    impl Hasher for Digester {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            // Nobody asks; the digest is taken whole.
            0
        }
    }

    let mut digester = Digester(Sha256::new());
    digester.write(compiler.as_str().as_bytes());
    engine.precompile_compatibility_hash().hash(&mut digester);
    digester.0.finalize().into()
}

/// The engines of the process.
pub(crate) struct Engines {
    /// The usual one first. Never shrinks.
    all: RwLock<Vec<Arc<EngineVariant>>>,
    /// Held while one is made, which takes milliseconds; the ticker does not wait for it.
    making: Mutex<()>,
}

impl Engines {
    /// The usual engine, and no other before somebody asks.
    ///
    /// # Errors
    /// [`Error::Module`] if wasmtime does not start.
    pub(crate) fn new() -> Result<Self, Error> {
        let usual = EngineVariant::new(Variant::default())?;
        Ok(Engines { all: RwLock::new(vec![Arc::new(usual)]), making: Mutex::default() })
    }

    fn find(&self, variant: Variant) -> Option<Arc<EngineVariant>> {
        self.all.read().iter().find(|known| known.variant == variant).cloned()
    }

    /// The engine of this variant, made if it is the first time.
    ///
    /// # Errors
    /// [`Error::Module`] if wasmtime does not offer it on this machine.
    pub(crate) fn get(&self, variant: Variant) -> Result<Arc<EngineVariant>, Error> {
        if let Some(known) = self.find(variant) {
            return Ok(known);
        }
        let _making = self.making.lock();
        if let Some(known) = self.find(variant) {
            return Ok(known);
        }
        let made = Arc::new(EngineVariant::new(variant)?);
        self.all.write().push(Arc::clone(&made));
        Ok(made)
    }

    /// Advances the epoch of every engine.
    pub(crate) fn tick(&self) {
        for known in self.all.read().iter() {
            known.engine.increment_epoch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_made_once_a_variant_and_the_usual_one_is_there() {
        let engines = Engines::new().unwrap();
        assert_eq!(engines.all.read().len(), 1);
        let usual = engines.get(Variant::default()).unwrap();
        assert_eq!(engines.all.read().len(), 1);
        let winch = Variant { compiler: Compiler::Winch, ..Variant::default() };
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| engines.get(winch).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|one| Arc::ptr_eq(one, &made[0])));
        assert!(!Engine::same(&usual.engine, &made[0].engine));
        assert_eq!(engines.all.read().len(), 2);
    }

    #[test]
    fn code_is_told_apart_by_compiler_and_not_by_stack() {
        let engines = Engines::new().unwrap();
        let of = |compiler, stack_bytes| engines.get(Variant { compiler, stack_bytes }).unwrap().code_identity;
        assert_eq!(of(Compiler::Cranelift, 64 << 10), of(Compiler::Cranelift, 256 << 10));
        assert_ne!(of(Compiler::Cranelift, 64 << 10), of(Compiler::Winch, 64 << 10));
        assert_eq!(
            of(Compiler::Cranelift, 64 << 10),
            Engines::new().unwrap().get(Variant::default()).unwrap().code_identity
        );
    }

    #[test]
    fn one_tick_reaches_every_engine() {
        let engines = Engines::new().unwrap();
        for compiler in Compiler::ALL {
            let home = engines.get(Variant { compiler, ..Variant::default() }).unwrap();
            let text = r#"(module (func (export "f") (loop $l (br $l))))"#;
            let module = wasmtime::Module::new(&home.engine, wat::parse_str(text).unwrap()).unwrap();
            let mut store = wasmtime::Store::new(&home.engine, ());
            store.set_epoch_deadline(1);
            let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
            let endless = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
            engines.tick();
            let error = endless.call(&mut store, ()).unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::Interrupt), "{compiler}");
        }
    }
}
