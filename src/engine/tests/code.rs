//! How code comes to filters: read once, compiled once, by the compiler and for the stack that was asked for, or found in
//! the cache.

mod support;

use std::path::Path;
use std::sync::{Arc, Barrier, Once};
use std::thread::ThreadId;
use std::time::Duration;

use engine::{At, Chain, Compiler, Options, Runtime, Verdict, config};
use parking_lot::Mutex;
use support::{Bench, PRELUDE, request};

/// Lines of the log at info and above, with the threads that wrote them.
static LINES: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().push((std::thread::current().id(), record.args().to_string()));
    }

    fn flush(&self) {}
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// The lines that name this directory and have this in them. Every test has a directory of its own.
fn lines(dir: &Path, what: &str) -> Vec<(ThreadId, String)> {
    let dir = dir.display().to_string();
    let mut lines = LINES.lock().clone();
    lines.retain(|(_, line)| line.contains(&dir) && line.contains(what));
    lines
}

const COMPILED: &str = "was compiled with";
const CACHED: &str = "is there from the cache";

/// Time enough for files to be taken for what they are.
fn settle() {
    std::thread::sleep(Duration::from_millis(80));
}

/// A filter that answers 200 + `number`.
fn answers(bench: &Bench, file: &str, number: u32) {
    bench.module(
        file,
        r#"(import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#,
        &format!(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $reply (i32.const {}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const -1))) (i32.const 1))"#,
            200 + number
        ),
    );
}

fn status(bench: &Bench, chain: &Arc<Chain>) -> u32 {
    let mut stream = bench.stream(chain, &request());
    let Verdict::Respond(response) = stream.request_headers(true) else { panic!("it answers") };
    response.status.into()
}

/// As after a restart: nothing is left but files.
fn restart(bench: &Bench, yaml: &str) -> (Runtime, Arc<Chain>) {
    let runtime = Runtime::new(Options::with_slots(1)).unwrap();
    let config = config::parse(&bench.path().join("filters.yaml"), yaml).unwrap();
    let chain = Chain::load(&runtime, "test rule", &config).unwrap();
    (runtime, chain)
}

#[test]
fn a_second_start_compiles_nothing() {
    listen();
    let bench = Bench::new(1);
    answers(&bench, "a.wasm", 1);
    answers(&bench, "b.wasm", 2);
    settle();
    let yaml = "code_cache: {directory: cache}\nfilters:\n- {name: a, module: {path: a.wasm, compiler: winch}}\n\
                - {name: b, module: b.wasm}\n- {name: c, module: a.wasm}\n";
    let chain = bench.chain(yaml).unwrap();
    assert_eq!(status(&bench, &chain), 201);
    let compiled = lines(bench.path(), COMPILED);
    assert_eq!((compiled.len(), lines(bench.path(), CACHED).len()), (3, 0), "{:?}", lines(bench.path(), ""));
    assert!(compiled.iter().all(|(_, line)| line.ends_with("and is kept in the cache")), "{compiled:?}");
    for start in 1..3 {
        let (_runtime, chain) = restart(&bench, yaml);
        assert_eq!(status(&bench, &chain), 201);
        assert_eq!((lines(bench.path(), COMPILED).len(), lines(bench.path(), CACHED).len()), (3, 3 * start));
    }
    // Code is the same whatever the stack.
    let chain =
        bench.chain("code_cache: {directory: cache}\nfilters: [{name: d, module: b.wasm, limits: {stack_kib: 64}}]\n");
    assert_eq!(status(&bench, &chain.unwrap()), 202);
    assert_eq!((lines(bench.path(), COMPILED).len(), lines(bench.path(), CACHED).len()), (3, 7));
    // What is damaged is compiled, and is whole again.
    for file in std::fs::read_dir(bench.path().join("cache")).unwrap() {
        std::fs::write(file.unwrap().path(), b"damage").unwrap();
    }
    for compiled in [6, 6] {
        let (_runtime, chain) = restart(&bench, yaml);
        assert_eq!(status(&bench, &chain), 201);
        assert_eq!(lines(bench.path(), COMPILED).len(), compiled);
    }
    assert_eq!(lines(bench.path(), "is not used: it is damaged").len(), 3);
    // And where there is none, or none that may be used, everything serves.
    std::fs::remove_dir_all(bench.path().join("cache")).unwrap();
    assert_eq!(status(&bench, &restart(&bench, yaml).1), 201);
    let cache = bench.path().join("cache");
    std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(status(&bench, &restart(&bench, yaml).1), 201);
    let refused = lines(bench.path(), "others may write to it: its mode is 777");
    assert_eq!(refused.len(), 1, "said once: {refused:?}");
}

#[test]
fn a_changed_module_is_another_one_with_a_cache_too() {
    let bench = Bench::new(1);
    let yaml = "code_cache: {directory: cache}\nfilters: [{name: a, module: a.wasm}]\n";
    for round in 1..6 {
        answers(&bench, "a.wasm", round);
        if round % 2 == 0 {
            settle();
        }
        let chain = bench.chain(yaml).unwrap();
        assert_eq!(status(&bench, &chain), 200 + round);
        assert_eq!(status(&bench, &restart(&bench, yaml).1), 200 + round);
        assert_eq!(status(&bench, &restart(&bench, yaml).1), 200 + round);
    }
}

#[test]
fn a_pinned_module_is_that_one_or_none() {
    let bench = Bench::new(1);
    answers(&bench, "a.wasm", 1);
    let digest = engine::Digest::of(&std::fs::read(bench.path().join("a.wasm")).unwrap()).to_string();
    let yaml = format!("filters: [{{name: a, module: {{path: a.wasm, sha256: '{digest}'}}}}]\n");
    for cache in ["", "code_cache: {directory: cache}\n"] {
        answers(&bench, "a.wasm", 1);
        settle();
        let yaml = format!("{cache}{yaml}");
        for _ in 0..2 {
            assert_eq!(status(&bench, &bench.chain(&yaml).unwrap()), 201);
        }
        answers(&bench, "a.wasm", 2);
        let other = engine::Digest::of(&std::fs::read(bench.path().join("a.wasm")).unwrap()).to_string();
        for pause in [false, true] {
            if pause {
                settle();
            }
            let message = bench.chain(&yaml).unwrap_err().to_string();
            let expected = format!("its SHA-256 is {other}, and the filter's 'sha256' wants {digest}");
            assert!(message.contains(&expected) && message.contains("filter 'a': module "), "{message}");
        }
    }
}

/// The bytes that this thread has asked the system to read.
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn many_rules_read_their_module_once() {
    const RULES: u64 = 1000;
    let bench = Bench::new(1);
    let padding = format!(r#"(data (i32.const 1024) "{}")"#, "x".repeat(30_000));
    bench.module("a.wasm", "", &padding);
    let bytes = std::fs::read(bench.path().join("a.wasm")).unwrap();
    let pin = engine::Digest::of(&bytes);
    settle();
    let of =
        |module: &str, rule| bench.chain(&format!("filters: [{{name: a, module: {module}, configuration: r{rule}}}]"));
    let _keeps = of("a.wasm", 0).unwrap();
    let before = bytes_read();
    for rule in 0..RULES {
        let pinned = format!("{{path: a.wasm, sha256: '{pin}'}}");
        of(if rule % 2 == 0 { "a.wasm" } else { &pinned }, rule).unwrap();
    }
    let read = bytes_read() - before;
    // Some hundred bytes a rule of /proc and /sys, in which the standard library looks for the number of processors.
    assert!(read < 10 * bytes.len() as u64, "{RULES} rules read {read} bytes for a module of {}", bytes.len());
}

/// A module that takes its compiler some milliseconds.
fn laborious(bench: &Bench, file: &str, seed: u32) {
    let function = |number: u32| {
        let steps: String = (0..60)
            .map(|step| {
                format!(
                    "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const {})) (i32.load (i32.and (local.get 0) (i32.const 1023)))))",
                    seed + number * 61 + step
                )
            })
            .collect();
        format!("(func (param i32) (result i32) {steps} (local.get 0))")
    };
    bench.module(file, "", &(0..100).map(function).collect::<String>());
}

#[test]
fn the_modules_of_a_chain_are_compiled_at_once() {
    listen();
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return;
    }
    let bench = Bench::new(1);
    let mut yaml = "code_cache: {directory: cache}\nfilters:\n".to_owned();
    for number in 0..8 {
        laborious(&bench, &format!("{number}.wasm"), number);
        yaml += &format!("- {{name: f{number}, module: {number}.wasm}}\n");
    }
    bench.chain(&yaml).unwrap();
    let mut threads: Vec<_> = lines(bench.path(), COMPILED).into_iter().map(|(thread, _)| thread).collect();
    assert_eq!(threads.len(), 8);
    threads.dedup();
    assert!(threads.len() > 1, "one thread did it all");
    assert!(!threads.contains(&std::thread::current().id()));
}

#[test]
fn two_loads_of_a_module_at_one_moment_compile_it_once() {
    listen();
    let bench = Bench::new(1);
    laborious(&bench, "a.wasm", 7);
    let yaml = "code_cache: {directory: cache}\nfilters: [{name: a, module: a.wasm}]\n";
    let start = Barrier::new(6);
    let chains: Vec<_> = std::thread::scope(|scope| {
        let load = || {
            start.wait();
            bench.chain(yaml).unwrap()
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(lines(bench.path(), COMPILED).len(), 1);
    assert_eq!(lines(bench.path(), CACHED).len(), 0);
    assert!(
        chains.iter().all(|chain| chain.filters()[0].module().digest() == chains[0].filters()[0].module().digest())
    );
}

#[test]
fn filters_of_another_compiler_or_stack_have_vms_of_their_own() {
    let bench = Bench::new(1);
    answers(&bench, "a.wasm", 1);
    let chain = bench
        .chain(
            "filters:\n- {name: a, module: a.wasm}\n- {name: a, module: {path: a.wasm, compiler: cranelift}}\n\
             - {name: a, module: {path: a.wasm, compiler: winch}}\n- {name: a, module: a.wasm, limits: {stack_kib: 64}}\n\
             - {name: a, module: a.wasm, limits: {stack_kib: 256}}\n",
        )
        .unwrap();
    assert_eq!(bench.runtime.counters().vms_built, 3);
    let compilers: Vec<_> = chain.filters().iter().map(|filter| filter.module().compiler()).collect();
    assert_eq!(compilers.iter().filter(|compiler| **compiler == Compiler::Winch).count(), 1);
    // Each on its engine: all that follows works, or panics.
    let mut stream = bench.stream(&chain, &request());
    assert!(matches!(stream.request_headers(true), Verdict::Respond(_)));
    let _ = stream.response_headers(At::Client, true);
    stream.finish();
}

/// How deep a guest gets with this stack; it calls itself as often as its configuration has bytes, in 64s.
fn depth(bench: &Bench, compiler: Compiler, stack_kib: usize) -> usize {
    let reaches = |depth: usize| {
        let length = "x".repeat(depth / 64);
        let yaml = format!(
            "filters: [{{name: r, module: {{path: r.wasm, compiler: {compiler}}}, limits: {{stack_kib: {stack_kib}}}, configuration: '{length}'}}]"
        );
        match bench.chain(&yaml) {
            Ok(_) => true,
            Err(error) => {
                assert!(error.to_string().contains("the guest's stack is used up in proxy_on_configure"), "{error}");
                false
            }
        }
    };
    let (mut least, mut most) = (64, 1 << 20);
    assert!(reaches(least) && !reaches(most));
    while most - least > 64 {
        let middle = (least + most) / 2;
        if reaches(middle) { least = middle } else { most = middle }
    }
    least
}

#[test]
fn a_guest_has_the_stack_that_its_limits_say() {
    let bench = Bench::new(1);
    bench.module(
        "r.wasm",
        "",
        r#"(func $deeper (param i32) (result i32)
          (if (result i32) (local.get 0)
            (then (i32.add (i32.const 1) (call $deeper (i32.sub (local.get 0) (i32.const 1)))))
            (else (i32.const 0))))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $deeper (i32.mul (local.get 1) (i32.const 64)))) (i32.const 1))"#,
    );
    for compiler in Compiler::ALL {
        let (small, usual, large) =
            (depth(&bench, compiler, 32), depth(&bench, compiler, 256), depth(&bench, compiler, 512));
        println!("{compiler}: {small} calls in 32 KiB, {usual} in 256, {large} in 512");
        let ratio = |a: usize, b: usize| a as f64 / b as f64;
        assert!((6.0..10.0).contains(&ratio(usual, small)), "{compiler}: {small} {usual}");
        assert!((1.8..2.2).contains(&ratio(large, usual)), "{compiler}: {usual} {large}");
    }
}

#[test]
fn what_winch_does_not_offer_is_an_error_that_says_what_to_do() {
    let bench = Bench::new(1);
    bench.module("tail.wasm", "", "(func $f (return_call $f))");
    bench.chain("filters: [{name: a, module: tail.wasm}]").unwrap();
    let message =
        bench.chain("filters: [{name: a, module: {path: tail.wasm, compiler: winch}}]").unwrap_err().to_string();
    assert!(
        message.contains("does not compile with winch: ") && message.ends_with("; use compiler: cranelift"),
        "{message}"
    );
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn code_may_stand_in_the_configuration_itself() {
    let bench = Bench::new(1);
    let bytes = wat::parse_str(format!("(module {PRELUDE})")).unwrap();
    let mut config = config::parse(Path::new("/f.yaml"), "filters: [{name: a, module: a.wasm}]").unwrap();
    config.filters[0].code.source = config::Source::Inline(bytes.clone().into());
    let chain = Chain::load(&bench.runtime, "test rule", &config).unwrap();
    assert_eq!(chain.filters()[0].module().digest(), engine::Digest::of(&bytes));
    config.filters[0].code.sha256 = Some(engine::Digest::of(b"another"));
    let message = Chain::load(&bench.runtime, "test rule", &config).unwrap_err().to_string();
    assert!(message.contains("module (inline, ") && message.contains("its SHA-256 is "), "{message}");
}
