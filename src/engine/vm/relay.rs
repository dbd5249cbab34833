//! Several callbacks in one entry into the guest.
//!
//! Going into Wasm and out of it again costs more than most callbacks do, and some callbacks always follow each other:
//! `proxy_on_context_create` and `proxy_on_request_headers`, then at the end `proxy_on_done`, `proxy_on_log` and
//! `proxy_on_delete`. So a small module of our own stands beside the guest in its store, the relay, which calls them one after
//! the other.
//!
//! For the guest and for whoever looks on, nothing changes. The relay says in a global of its own which of them runs, and
//! [`follow`] brings the state up to date wherever that matters: before every hostcall, when an epoch ends, and when the guest
//! has trapped. Each callback has its own limits, and a trap its own callback's name. Where somebody wants to know of each
//! callback when it begins (a host that [watches](crate::StreamHost::is_watching), or the meter), they are called one by one.

use std::collections::HashMap;

use parking_lot::Mutex;
use wasm_encoder::{
    CodeSection, ConstExpr, EntityType, ExportKind, ExportSection, Function, FunctionSection, GlobalSection,
    GlobalType, ImportSection, InstructionSink, Module, NameSection, TypeSection, ValType,
};
use wasmtime::{AsContextMut, Engine, Extern, ExternType, Global, Instance, Store, StoreContextMut, TypedFunc, Val};

use super::callbacks::{Callbacks, HeadersCallback};
use crate::abi::{AbiVersion, Callback, MapType};
use crate::host::PseudoHeader;
use crate::memory::Guest;
use crate::state::VmState;

/// The name of every relay, for profilers.
const NAME: &str = "wasm-remap's relay";

/// What a stream begins with.
pub(super) const BEGIN: &[Callback] = &[Callback::ContextCreate, Callback::RequestHeaders];

/// What a stream ends with.
pub(super) const END: &[Callback] = &[Callback::Done, Callback::Log, Callback::Delete];

/// The phase in which no callback runs. An epoch may end between the entry into the relay and its first instruction, and must
/// not find the phase in which the last entry ended.
const NONE: i32 = -1;

/// Which callbacks there are to be relayed. Modules of one shape have the same relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// How many parameters `proxy_on_request_headers` has; `None` where there is nothing to relay at the beginning.
    begin: Option<u32>,
    /// Of [`END`], those there are.
    end: [bool; 3],
}

impl Shape {
    /// Of a VM with these exports. `None` if nothing is gained by a relay.
    pub(super) fn of(callbacks: &Callbacks) -> Option<Self> {
        let begin = match (&callbacks.context_create, &callbacks.request_headers) {
            (Some(_), Some(HeadersCallback::New(_))) => Some(3),
            (Some(_), Some(HeadersCallback::Old(_))) => Some(2),
            _ => None,
        };
        let end = [callbacks.done.is_some(), callbacks.log.is_some(), callbacks.delete.is_some()];
        Shape { begin, end }.if_useful()
    }

    fn if_useful(self) -> Option<Self> {
        if self.begin.is_some() || self.ends() { Some(self) } else { None }
    }

    /// Of a module all of whose exports are called.
    fn of_module(module: &wasmtime::Module, abi: AbiVersion) -> Option<Self> {
        let has = |name| matches!(module.get_export(name), Some(ExternType::Func(_)));
        let begin = (has("proxy_on_context_create") && has("proxy_on_request_headers"))
            .then_some(if abi == AbiVersion::V0_1_0 { 2 } else { 3 });
        Shape { begin, end: ["proxy_on_done", "proxy_on_log", "proxy_on_delete"].map(has) }.if_useful()
    }

    /// Whether at least two callbacks follow each other at the end.
    fn ends(self) -> bool {
        self.end.iter().filter(|is_there| **is_there).count() > 1
    }

    /// The relay's code.
    fn encode(self) -> Vec<u8> {
        use ValType::I32;

        let mut encoder = Encoder::default();
        let begin = self.begin.map(|params| {
            let create = encoder.import("create", &[I32; 2], &[]);
            let headers = encoder.import("headers", &vec![I32; params as usize], &[I32]);
            (create, headers, params)
        });
        let kinds: [(&str, &[ValType]); 3] = [("done", &[I32]), ("log", &[]), ("delete", &[])];
        let [done, log, delete] = std::array::from_fn(|at| {
            let (name, results) = kinds[at];
            if self.ends() && self.end[at] { Some(encoder.import(name, &[I32], results)) } else { None }
        });
        let phase = encoder.global("phase", NONE);
        let fields = encoder.global("fields", 0);
        if let Some((create, headers, params)) = begin {
            // (context, root, fields, end of stream) -> action
            encoder.function("begin", &[I32; 4], &[I32], |code| {
                code.i32_const(0).global_set(phase).local_get(0).local_get(1).call(create);
                code.i32_const(1).global_set(phase).local_get(0);
                // With as many fields more or less as the first callback made it.
                code.local_get(2).global_get(fields).i32_add().i32_const(0).global_set(fields);
                if params > 2 {
                    code.local_get(3);
                }
                code.call(headers).i32_const(NONE).global_set(phase);
            });
        }
        if self.ends() {
            // (context)
            encoder.function("end", &[I32], &[], |code| {
                for (at, import) in [done, log, delete].into_iter().enumerate() {
                    if let Some(import) = import {
                        let at = i32::try_from(at).unwrap_or(0);
                        code.i32_const(at).global_set(phase).local_get(0).call(import);
                    }
                    if at == 0 && import.is_some() {
                        // Its answer counts for plugin contexts alone.
                        code.drop();
                    }
                }
                code.i32_const(NONE).global_set(phase);
            });
        }
        encoder.finish()
    }
}

/// Puts a module together.
#[derive(Default)]
struct Encoder {
    types: TypeSection,
    imports: ImportSection,
    functions: FunctionSection,
    globals: GlobalSection,
    exports: ExportSection,
    code: CodeSection,
}

impl Encoder {
    /// A type of its own for each function: they are few.
    fn kind(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        self.types.ty().function(params.iter().copied(), results.iter().copied());
        self.types.len() - 1
    }

    /// All imports come before all functions.
    fn import(&mut self, name: &str, params: &[ValType], results: &[ValType]) -> u32 {
        let kind = self.kind(params, results);
        self.imports.import("guest", name, EntityType::Function(kind));
        self.imports.len() - 1
    }

    fn global(&mut self, name: &str, value: i32) -> u32 {
        let kind = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
        self.globals.global(kind, &ConstExpr::i32_const(value));
        self.exports.export(name, ExportKind::Global, self.globals.len() - 1);
        self.globals.len() - 1
    }

    fn function(
        &mut self,
        name: &str,
        params: &[ValType],
        results: &[ValType],
        body: impl FnOnce(&mut InstructionSink<'_>),
    ) {
        let kind = self.kind(params, results);
        self.functions.function(kind);
        self.exports.export(name, ExportKind::Func, self.imports.len() + self.functions.len() - 1);
        let mut function = Function::new([]);
        let mut code = function.instructions();
        body(&mut code);
        code.end();
        self.code.function(&function);
    }

    fn finish(self) -> Vec<u8> {
        let mut names = NameSection::new();
        names.module(NAME);
        let mut module = Module::new();
        module.section(&self.types).section(&self.imports).section(&self.functions).section(&self.globals);
        module.section(&self.exports).section(&self.code).section(&names);
        module.finish()
    }
}

/// The relays of one engine, by shape: a handful, each compiled when the first VM of its shape is built, unless it was
/// [prepared](Self::prepare).
#[derive(Default)]
pub(crate) struct Relays(Mutex<HashMap<Shape, wasmtime::Module>>);

impl Relays {
    fn get(&self, engine: &Engine, shape: Shape) -> wasmtime::Result<wasmtime::Module> {
        let mut known = self.0.lock();
        if let Some(module) = known.get(&shape) {
            return Ok(module.clone());
        }
        let module = wasmtime::Module::new(engine, shape.encode())?;
        known.insert(shape, module.clone());
        Ok(module)
    }

    /// Has the relay ready that VMs of `guest` will need: `compile` knows a better way than to compile it each time. Of a
    /// module whose exports are not all called, it may be another one; and if it fails, the VM's building will say so.
    pub(crate) fn prepare(
        &self,
        guest: &wasmtime::Module,
        abi: AbiVersion,
        compile: impl FnOnce(&[u8]) -> Option<wasmtime::Module>,
    ) {
        let Some(shape) = Shape::of_module(guest, abi) else { return };
        if self.0.lock().contains_key(&shape) {
            return;
        }
        // Not under the lock: it may read files.
        if let Some(module) = compile(&shape.encode()) {
            self.0.lock().entry(shape).or_insert(module);
        }
    }
}

/// The type of a relay's `begin`: `(context, root, fields, end of stream) -> action`.
type Begin = TypedFunc<(u32, u32, u32, u32), i32>;

/// The relay of one VM; the default one relays nothing.
#[derive(Default)]
pub(super) struct Relay {
    pub(super) begin: Option<Begin>,
    /// `(context)`, and the first callback that it makes.
    pub(super) end: Option<(Callback, TypedFunc<u32, ()>)>,
    made: Option<(wasmtime::Module, Globals)>,
}

/// The globals of a relay.
#[derive(Debug, Clone, Copy)]
struct Globals {
    /// Which of the callbacks runs.
    phase: Global,
    /// How many fields the first callback of [`BEGIN`] has added.
    fields: Global,
}

/// Callbacks that a relay calls one after the other, while it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relayed {
    callbacks: &'static [Callback],
    globals: Globals,
    /// How many request fields there were.
    counted: u32,
}

impl Relay {
    /// The relay for a guest with these callbacks.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn of(callbacks: &Callbacks, relays: &Relays, store: &mut Store<VmState>) -> wasmtime::Result<Self> {
        let Some(shape) = Shape::of(callbacks) else { return Ok(Relay::default()) };
        let module = relays.get(store.engine(), shape)?;
        let headers = callbacks.request_headers.as_ref().map(|callback| match callback {
            HeadersCallback::Old(callback) => callback.func(),
            HeadersCallback::New(callback) => callback.func(),
        });
        let imports: Vec<Extern> = module
            .imports()
            .filter_map(|import| match import.name() {
                "create" => callbacks.context_create.as_ref().map(TypedFunc::func),
                "headers" => headers,
                "done" => callbacks.done.as_ref().map(TypedFunc::func),
                "log" => callbacks.log.as_ref().map(TypedFunc::func),
                _ => callbacks.delete.as_ref().map(TypedFunc::func),
            })
            .map(|func| Extern::Func(*func))
            .collect();
        let instance = Instance::new(&mut *store, &module, &imports)?;
        let mut global = |name: &str| instance.get_global(&mut *store, name);
        let globals = global("phase").zip(global("fields")).map(|(phase, fields)| Globals { phase, fields });
        let begin = shape.begin.map(|_| instance.get_typed_func(&mut *store, "begin")).transpose()?;
        let first = END.iter().zip(shape.end).find(|(_, is_there)| *is_there).filter(|_| shape.ends());
        let end = first.map(|(first, _)| instance.get_typed_func(&mut *store, "end").map(|end| (*first, end)));
        Ok(Relay { begin, end: end.transpose()?, made: globals.map(|globals| (module, globals)) })
    }

    /// The module, by which its frames are told from the guest's.
    pub(super) fn module(&self) -> Option<&wasmtime::Module> {
        self.made.as_ref().map(|(module, _)| module)
    }

    /// What is to be called for [`BEGIN`] now.
    #[inline]
    pub(super) fn begin(&self, state: &mut VmState, counted: u32) -> Option<&Begin> {
        state.relayed = self.made.as_ref().map(|&(_, globals)| Relayed { callbacks: BEGIN, globals, counted });
        self.begin.as_ref()
    }

    /// What is to be called for [`END`] now.
    #[inline]
    pub(super) fn end(&self, state: &mut VmState) -> Option<&TypedFunc<u32, ()>> {
        state.relayed = self.made.as_ref().map(|&(_, globals)| Relayed { callbacks: END, globals, counted: 0 });
        self.end.as_ref().map(|(_, end)| end)
    }
}

/// Brings the state up to date with a guest whose callbacks are relayed: the callback that runs may be another one by now.
#[inline]
pub(crate) fn follow(mut store: impl AsContextMut<Data = VmState>) {
    let mut store = store.as_context_mut();
    if let Some(relayed) = store.data().relayed {
        catch_up(&mut store, relayed);
    }
}

#[cold]
fn catch_up(store: &mut StoreContextMut<'_, VmState>, relayed: Relayed) {
    let Val::I32(phase) = relayed.globals.phase.get(&mut *store) else { return };
    let Some(&callback) = usize::try_from(phase).ok().and_then(|phase| relayed.callbacks.get(phase)) else { return };
    let state = store.data_mut();
    if callback != state.callback {
        state.turn_to(callback);
    }
    if relayed.callbacks.last() == Some(&callback) {
        // Nothing comes after it.
        state.relayed = None;
    }
}

/// A hostcall is over, which [`follow`] had begun: if it was made by the first callback of [`BEGIN`], the second is to know how
/// many fields there are by now.
#[inline]
pub(crate) fn recount(guest: &mut Guest<'_>) {
    let state = guest.data();
    if state.relayed.is_some() && state.callback == Callback::ContextCreate && state.host_of == state.true_context {
        recount_fields(guest);
    }
}

#[cold]
fn recount_fields(guest: &mut Guest<'_>) {
    let Some(relayed) = guest.data().relayed else { return };
    let more = count_fields(guest.data_mut(), MapType::HttpRequestHeaders).wrapping_sub(relayed.counted);
    // It is an i32 that can be changed: nothing is wrong with any i32.
    let _ = relayed.globals.fields.set(&mut *guest, Val::I32(more.cast_signed()));
}

/// How many fields a map has for the guest. Pseudo-headers count, as they do in the pairs.
#[inline]
pub(super) fn count_fields(state: &mut VmState, map: MapType) -> u32 {
    let fields = state.host.as_deref_mut().and_then(|host| host.header_count(map).ok()).unwrap_or(0);
    u32::try_from(fields + PseudoHeader::of_map(map).len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_of_every_shape_are_modules() {
        let engine = Engine::default();
        for begin in [None, Some(2), Some(3)] {
            for bits in 0..8u8 {
                let end = std::array::from_fn(|at| bits >> at & 1 == 1);
                let shape = Shape { begin, end };
                let module = wasmtime::Module::new(&engine, shape.encode()).unwrap();
                assert_eq!(module.name(), Some(NAME));
                assert_eq!(module.get_export("begin").is_some(), begin.is_some());
                assert_eq!(module.get_export("end").is_some(), bits.count_ones() > 1, "{bits:b}");
            }
        }
    }

    #[test]
    fn what_was_prepared_is_what_vms_ask_for() {
        let engine = Engine::default();
        let guest = |exports: &[&str]| {
            let functions = exports.iter().map(|name| format!("(func (export \"{name}\"))"));
            let bytes = wat::parse_str(format!("(module {})", functions.collect::<String>())).unwrap();
            wasmtime::Module::new(&engine, bytes).unwrap()
        };
        let header = guest(&["proxy_on_context_create", "proxy_on_request_headers", "proxy_on_done", "proxy_on_log"]);
        let relays = Relays::default();
        let compiled = std::cell::Cell::new(0);
        let prepare = |guest: &wasmtime::Module, abi| {
            relays.prepare(guest, abi, |bytes| {
                compiled.set(compiled.get() + 1);
                wasmtime::Module::new(&engine, bytes).ok()
            });
        };
        for (abi, params, count) in [(AbiVersion::V0_2_1, 3, 1), (AbiVersion::V0_2_1, 3, 1), (AbiVersion::V0_1_0, 2, 2)]
        {
            prepare(&header, abi);
            assert_eq!((compiled.get(), relays.0.lock().len()), (count, count), "{abi:?}");
            let shape = Shape { begin: Some(params), end: [true, true, false] };
            assert!(relays.0.lock().contains_key(&shape), "{abi:?}");
        }
        for useless in [&["proxy_on_context_create", "proxy_on_done"][..], &["proxy_on_request_headers"], &[]] {
            prepare(&guest(useless), AbiVersion::V0_2_1);
        }
        assert_eq!(compiled.get(), 2);
        // What cannot be had is tried again, by the VM.
        relays.prepare(&guest(&["proxy_on_done", "proxy_on_delete"]), AbiVersion::V0_2_1, |_| None);
        assert_eq!(relays.0.lock().len(), 2);
    }

    #[test]
    fn the_phase_says_which_callback_runs_and_behind_them_that_none_does() {
        let engine = Engine::default();
        for params in [2, 3] {
            let shape = Shape { begin: Some(params), end: [true, false, true] };
            let module = wasmtime::Module::new(&engine, shape.encode()).unwrap();
            let mut store = Store::new(&engine, (None::<Global>, Vec::new()));
            let calls = module.imports().map(|import| {
                let name = import.name().to_owned();
                let kind = import.ty().unwrap_func().clone();
                let func = wasmtime::Func::new(&mut store, kind, move |mut caller, params, results| {
                    let phase = caller.data().0.unwrap().get(&mut caller).unwrap_i32();
                    let params = params.iter().map(Val::unwrap_i32).collect::<Vec<_>>();
                    caller.data_mut().1.push((name.clone(), phase, params));
                    results.fill(Val::I32(1));
                    Ok(())
                });
                Extern::Func(func)
            });
            let calls: Vec<_> = calls.collect();
            let instance = Instance::new(&mut store, &module, &calls).unwrap();
            let phase = instance.get_global(&mut store, "phase").unwrap();
            store.data_mut().0 = Some(phase);
            assert_eq!(phase.get(&mut store).unwrap_i32(), NONE);
            let begin = instance.get_typed_func::<(i32, i32, i32, i32), i32>(&mut store, "begin").unwrap();
            let fields = instance.get_global(&mut store, "fields").unwrap();
            fields.set(&mut store, Val::I32(2)).unwrap();
            assert_eq!(begin.call(&mut store, (7, 1, 5, 0)).unwrap(), 1);
            assert_eq!((phase.get(&mut store).unwrap_i32(), fields.get(&mut store).unwrap_i32()), (NONE, 0));
            instance.get_typed_func::<i32, ()>(&mut store, "end").unwrap().call(&mut store, 7).unwrap();
            assert_eq!(phase.get(&mut store).unwrap_i32(), NONE);
            let headers = if params == 2 { vec![7, 7] } else { vec![7, 7, 0] };
            let seen = store.into_data().1;
            let expected =
                [("create", 0, vec![7, 1]), ("headers", 1, headers), ("done", 0, vec![7]), ("delete", 2, vec![7])];
            assert_eq!(seen, expected.map(|(name, phase, params)| (name.to_owned(), phase, params)));
        }
    }
}
