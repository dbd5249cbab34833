//! A guest whose exports are its imports, so that a test calls hostcalls as a guest does, one by one.

use std::sync::Arc;

use wasmtime::{AsContextMut, Instance, Store, StoreLimitsBuilder, Val};

use crate::hostcalls::{HOSTCALLS, ParamType};
use crate::limits::Limits;
use crate::observe::MeasuredLimits;
use crate::runtime::{Options, Runtime};
use crate::settings::VmSettings;
use crate::state::VmState;
use crate::wasi::WASI;

/// A VM that does nothing by itself. What it imports from `wasi_snapshot_preview1` and `env` it exports under
/// the same name, and what it imports from `wasi_unstable` as `old_…`.
pub(crate) struct Puppet {
    pub(crate) store: Store<VmState>,
    instance: Instance,
}

/// Where the puppet's allocator begins; what is below is the test's.
const HEAP: u32 = 32 << 10;

fn text() -> String {
    let mut imports = String::new();
    let mut import = |module: &str, name: &str, prefix: &str, params: &[(&str, ParamType)], results: &str| {
        let params: Vec<_> = params.iter().map(|(_, ty)| if *ty == ParamType::I32 { "i32" } else { "i64" }).collect();
        let params = params.join(" ");
        let function = format!("(func (export \"{prefix}{name}\") (import \"{module}\" \"{name}\")");
        imports += &format!("{function} (param {params}) {results})\n");
    };
    for (module, prefix) in [("wasi_snapshot_preview1", ""), ("wasi_unstable", "old_")] {
        for function in WASI {
            let results = if function.name == "proc_exit" { "" } else { "(result i32)" };
            import(module, function.name, prefix, function.params, results);
        }
    }
    for call in HOSTCALLS {
        import("env", call.name, "", call.params, "(result i32)");
    }
    format!(
        r#"(module
            {imports}
            (memory (export "memory") 1)
            (global $free (mut i32) (i32.const {HEAP}))
            (global (export "broken") (mut i32) (i32.const 0))
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
                (if (global.get 1) (then unreachable))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get $size))))
        )"#
    )
}

impl Puppet {
    /// In a runtime of its own.
    pub(crate) fn new() -> Self {
        Self::within(&Runtime::new(Options::with_slots(1)).unwrap(), "vm")
    }

    pub(crate) fn within(runtime: &Runtime, vm_id: &str) -> Self {
        let module = runtime.module(&wat::parse_str(text()).unwrap()).unwrap();
        let environment = vec![("A".to_owned(), "1".to_owned()), ("LONG".to_owned(), "two words".to_owned())];
        let pre = module.pre.clone();
        let settings = VmSettings {
            vm_id: vm_id.to_owned(),
            vm_configuration: Arc::from([]),
            environment,
            limits: Limits::default(),
            capabilities: None,
        };
        let state = VmState::new(
            Arc::new(settings),
            module.abi(),
            Arc::clone(&runtime.0.shared),
            MeasuredLimits::new(StoreLimitsBuilder::new().build(), Arc::default()),
        );
        let mut store = Store::new(module.engine(), state);
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = pre.instantiate(&mut store).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let alloc = instance.get_typed_func(&mut store, "proxy_on_memory_allocate").unwrap();
        store.data_mut().memory = Some(memory);
        store.data_mut().alloc = Some(Box::new(alloc));
        Puppet { store, instance }
    }

    /// Makes the allocator trap, or work again.
    pub(crate) fn break_allocator(&mut self, broken: bool) {
        let global = self.instance.get_global(&mut self.store, "broken").unwrap();
        global.set(&mut self.store, Val::I32(i32::from(broken))).unwrap();
    }

    pub(crate) fn try_call(&mut self, name: &str, args: &[i64]) -> wasmtime::Result<i32> {
        let function = self.instance.get_func(&mut self.store, name).unwrap_or_else(|| panic!("{name}"));
        let ty = function.ty(&self.store);
        assert_eq!(ty.params().len(), args.len(), "{name}");
        let wide = ty.params().map(|param| param.is_i64());
        let args: Vec<_> = args
            .iter()
            .zip(wide)
            .map(|(&arg, wide)| if wide { Val::I64(arg) } else { Val::I32(u32::try_from(arg).unwrap().cast_signed()) })
            .collect();
        let mut results = vec![Val::I32(-1); ty.results().len()];
        function.call(self.store.as_context_mut(), &args, &mut results)?;
        Ok(results.first().map_or(-1, Val::unwrap_i32))
    }

    /// Calls an import and tells the status or error number.
    pub(crate) fn call(&mut self, name: &str, args: &[i64]) -> i32 {
        let answer = self.try_call(name, args).unwrap();
        // Of whatever a test calls a hostcall with, it answers nothing that its row does not say.
        if let Some(call) = HOSTCALLS.iter().find(|call| call.name == name) {
            let declared = call.answers.iter().chain(call.misused).any(|status| *status as i32 == answer);
            assert!(declared, "{name} answered {answer}, which is not in its row");
        }
        answer
    }

    pub(crate) fn memory(&mut self) -> &mut [u8] {
        self.store.data().memory.unwrap().data_mut(&mut self.store)
    }

    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.memory()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn read(&mut self, at: u32, len: u32) -> Vec<u8> {
        self.memory()[at as usize..(at + len) as usize].to_vec()
    }

    pub(crate) fn u32_at(&mut self, at: u32) -> u32 {
        u32::from_le_bytes(self.read(at, 4).try_into().unwrap())
    }

    pub(crate) fn u64_at(&mut self, at: u32) -> u64 {
        u64::from_le_bytes(self.read(at, 8).try_into().unwrap())
    }
}
