//! What the engine's integration tests share: modules from text, chains from them, one transaction.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::testing::{SharedTransaction, Transaction};
use engine::{Chain, Compiler, Error, Options, Runtime, Stream, config};

/// The parts that every guest needs: markers, memory, an allocator that only counts up.
pub(crate) const PRELUDE: &str = r#"
  (func (export "proxy_abi_version_0_2_1"))
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 32768))
  (func $alloc (export "proxy_on_memory_allocate") (param i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (i32.and (i32.add (local.get 0) (i32.const 7)) (i32.const -8))))
    (local.get $at))
"#;

/// Waits until the condition holds.
pub(crate) fn within<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A runtime with `slots` slots, and a directory for modules and filter files.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(slots: usize) -> Self {
        Bench::with(Options::with_slots(slots))
    }

    pub(crate) fn with(options: Options) -> Self {
        Bench { runtime: Runtime::new(options).unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    /// Writes a module from the text of its fields; imports go in `imports`.
    pub(crate) fn module(&self, name: &str, imports: &str, body: &str) {
        let text = format!("(module {imports} {PRELUDE} {body})");
        let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Loads a chain from the text of a filter file.
    pub(crate) fn chain(&self, yaml: &str) -> Result<Arc<Chain>, Error> {
        let mut config = config::parse(&self.dir.path().join("filters.yaml"), yaml)?;
        // The tests of winch.rs are those of the other files.
        if module_path!().starts_with("winch::") {
            for spec in config.filters.iter_mut().chain(&mut config.services) {
                spec.code.compiler = Compiler::Winch;
            }
        }
        Chain::load(&self.runtime, "test rule", &config)
    }

    /// A stream of slot 0.
    pub(crate) fn stream(&self, chain: &Arc<Chain>, transaction: &SharedTransaction) -> Stream {
        Stream::new(Arc::clone(chain), 0, transaction.host())
    }
}

pub(crate) fn request() -> SharedTransaction {
    SharedTransaction::new(Transaction::get("a.test", "/p?q=1").header("x-in", "1"))
}
