//! What it takes to have a module's code, by compiler, size and cache; and what that code then costs to run.
//!
//! The load of a whole rule is measured, its VM included, in a runtime that knows nothing yet, as after a restart. What was
//! written is in the system's memory, as after a restart too. The least of several rounds counts; beside the time on the
//! clock stands that of all processors, which says more on a machine that does other things besides.

#[path = "costs/synthetic.rs"]
mod synthetic;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::testing::{SharedTransaction, Transaction};
use engine::{Chain, Compiler, Digest, Options, Runtime, Stream, config};
use synthetic::{load, synthetic};

fn least(rounds: usize, mut run: impl FnMut() -> [Duration; 2]) -> [Duration; 2] {
    let times: Vec<_> = (0..rounds).map(|_| run()).collect();
    [0, 1].map(|which| times.iter().map(|time| time[which]).min().unwrap_or_default())
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("cache")).into_iter().flatten().filter_map(Result::ok);
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

fn forget(dir: &Path, extensions: &[&str]) {
    for extension in extensions {
        files(dir, extension).iter().for_each(|path| std::fs::remove_file(path).expect("a file of ours"));
    }
}

fn loads(dir: &Path, name: &str, bytes: &[u8]) {
    let module = dir.join(name);
    std::fs::write(&module, bytes).expect("a module");
    std::thread::sleep(Duration::from_millis(100));
    // Large ones take half a minute.
    let (rounds, compiles) = if bytes.len() > 1 << 20 { (5, 1) } else { (9, 5) };
    let size = bytes.len() as f64 / 1e6;
    let hash = least(rounds, || {
        let begun = Instant::now();
        black_box(Digest::of(bytes));
        [begun.elapsed(); 2]
    });
    println!("| {name} ({size:.2} MB) | SHA-256 of it | {:.1?} | |", hash[0]);
    for compiler in Compiler::ALL {
        let row = |what: &str, [clock, all]: [Duration; 2]| {
            println!("| {name} ({size:.2} MB) | {compiler}: {what} | {clock:.1?} | {all:.1?} |");
        };
        row("compiled", least(compiles, || load(dir, &module, compiler, false)));
        forget(dir, &["code", "seen", "digest"]);
        row(
            "compiled and kept",
            least(compiles, || {
                forget(dir, &["code", "seen", "digest"]);
                load(dir, &module, compiler, true)
            }),
        );
        let code = files(dir, "code").iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).max();
        println!(
            "| {name} ({size:.2} MB) | {compiler}: size of its code | {:.2} MB | |",
            code.unwrap_or(0) as f64 / 1e6
        );
        std::thread::sleep(Duration::from_millis(100));
        row(
            "from the cache, no notes: read, hashed, verified",
            least(rounds, || {
                forget(dir, &["seen", "digest"]);
                load(dir, &module, compiler, true)
            }),
        );
        row(
            "from the cache, its digest noted: verified",
            least(rounds, || {
                forget(dir, &["seen"]);
                load(dir, &module, compiler, true)
            }),
        );
        row("from the cache, both noted", least(3 * rounds, || load(dir, &module, compiler, true)));
        forget(dir, &["code", "seen", "digest"]);
    }
}

/// Transactions of a filter with both compilers, in turns; nanoseconds each.
fn runs(name: &str, module: &Path) {
    let runtime = Runtime::new(Options::with_slots(1)).expect("runtime");
    let chains = Compiler::ALL.map(|compiler| {
        let yaml = format!("filters: [{{name: f, module: {{path: {}, compiler: {compiler}}}}}]\n", module.display());
        let config = config::parse(Path::new("bench.yaml"), &yaml).expect("filter file");
        Chain::load(&runtime, "bench", &config).expect("chain")
    });
    let transaction = SharedTransaction::new(Transaction::get("a.test", "/x").header("user-agent", "bench"));
    let mut times = [Duration::MAX; 2];
    for _ in 0..9 {
        for (chain, time) in chains.iter().zip(&mut times) {
            const TIMES: u32 = 2000;
            let begun = Instant::now();
            for _ in 0..TIMES {
                let mut stream = Stream::new(std::sync::Arc::clone(chain), 0, transaction.host());
                black_box(stream.request_headers(true));
                stream.finish();
            }
            *time = (*time).min(begun.elapsed() / TIMES);
        }
    }
    let [cranelift, winch] = times;
    let ratio = winch.as_secs_f64() / cranelift.as_secs_f64();
    println!("| {name} | {cranelift:.2?} | {winch:.2?} | {ratio:.2} |");
}

/// Hashes 64 KiB of its memory in its callback, a byte at a time.
const LOOP: &str = r#"(module (memory (export "memory") 2) (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $at i32) (local $hash i32)
    (local.set $hash (i32.const 0x811c9dc5))
    (loop $next
      (local.set $hash (i32.mul (i32.xor (local.get $hash) (i32.load8_u (local.get $at))) (i32.const 0x01000193)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 65536))))
    (i32.store (i32.const 0) (local.get $hash)) (i32.const 0)))"#;

fn main() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let dir = place.path();
    std::fs::write(dir.join("small.wasm"), synthetic(100)).expect("a module");
    std::fs::write(dir.join("loop.wasm"), wat::parse_str(LOOP).expect("text")).expect("a module");
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let built: Vec<_> = ["c-header", "bench-headers"]
        .into_iter()
        .map(|name| (name, guests.join(format!("{name}.wasm"))))
        .filter(|(name, path)| {
            let there = path.exists();
            if !there {
                eprintln!("not measured: {name}: it is not built; run `make guests`");
            }
            there
        })
        .collect();
    // Loading takes minutes.
    let all = !std::env::args().any(|arg| arg == "--runs");
    println!("| module | what | time | processors |\n| --- | --- | --- | --- |");
    for (name, path) in built.iter().filter(|_| all) {
        loads(dir, &format!("{name}.wasm"), &std::fs::read(path).expect("a guest"));
    }
    if all {
        loads(dir, "synthetic.wasm", &synthetic(14_000_000));
    }
    println!("\n| a transaction's request headers | cranelift | winch | ratio |\n| --- | --- | --- | --- |");
    for (name, path) in &built {
        runs(name, path);
    }
    runs("a loop over 64 KiB", &dir.join("loop.wasm"));
}
