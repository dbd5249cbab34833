//! Modules and chains of what is measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Chain, HOSTCALLS, Options, ParamType, Runtime, config};

/// A runtime, and a directory for its modules.
pub(crate) struct Bed {
    pub(crate) runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new(slots: usize) -> Self {
        let runtime = Runtime::new(Options::with_slots(slots)).expect("a runtime");
        Bed { runtime, dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A chain of the filters in this text, `{guests}` being where built guests are.
    pub(crate) fn chain(&self, filters: &str) -> Arc<Chain> {
        let filters = filters.replace("{guests}", &guests().display().to_string());
        let config = config::parse(&self.dir.path().join("bench.yaml"), &filters).expect("a filter file");
        Chain::load(&self.runtime, "bench", &config).expect("a chain")
    }

    /// A chain of one filter, from a module's text.
    pub(crate) fn text(&self, name: &str, text: &str) -> Arc<Chain> {
        self.write(name, text);
        self.chain(&format!("filters: [{{name: f, module: {name}.wasm, vm_id: {name}}}]\n"))
    }

    /// Puts a module where chains find it as `NAME.wasm`.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        std::fs::write(self.dir.path().join(format!("{name}.wasm")), bytes).expect("a module");
    }
}

/// Where `make guests` puts modules.
pub(crate) fn guests() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    std::env::var_os("WASM_REMAP_GUESTS").map_or_else(here, PathBuf::from)
}

/// Whether a guest is built; says so if it is not.
pub(crate) fn is_built(name: &str) -> bool {
    let path = guests().join(name);
    let there = path.exists();
    if !there {
        eprintln!("not measured: {} is not built; run `make guests`", path.display());
    }
    there
}

/// A module of these fields, in which `{text}` is the address and the size of that text, `|` in it being NUL; it imports the
/// hostcalls that it names as `$name`, and its allocator gives the same place each time.
pub(crate) fn module(fields: &str) -> String {
    const TEXTS: usize = 1024;
    let mut imports = String::new();
    for call in HOSTCALLS.iter().filter(|call| fields.contains(&format!("(call ${} ", call.name))) {
        let params = call.params.iter().map(|(_, kind)| match kind {
            ParamType::I32 => " i32",
            ParamType::I64 => " i64",
        });
        let params: String = params.collect();
        imports += &format!("(import \"env\" \"{0}\" (func ${0} (param{params}) (result i32)))\n", call.name);
    }
    let mut code = String::new();
    let mut texts = String::new();
    for (index, part) in fields.split('{').enumerate() {
        let Some((text, rest)) = part.split_once('}').filter(|_| index > 0) else {
            code += part;
            continue;
        };
        code += &format!("(i32.const {}) (i32.const {})", TEXTS + texts.len(), text.len());
        code += rest;
        texts += text;
    }
    let texts = texts.replace('|', "\\00");
    format!(
        r#"(module {imports} (memory (export "memory") 8) (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
  (data (i32.const {TEXTS}) "{texts}")
  {code})"#
    )
}
