//! What it takes to have a module's code, by compiler, size and cache; and what that code then costs to run.
//!
//! The load of a whole rule is measured, its VM included, in a runtime that knows nothing yet, as after a restart. What was
//! written is in the system's memory, as after a restart too. The least of several rounds counts; beside the time on the
//! clock stands that of all processors, which says more on a machine that does other things besides.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::testing::{SharedTransaction, Transaction};
use engine::{Chain, Compiler, Digest, Options, Runtime, Stream, config};

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

fn section(id: u8, items: usize, contents: &[u8]) -> Vec<u8> {
    let count = leb(items);
    [&[id][..], &leb(count.len() + contents.len()), &count, contents].concat()
}

/// A module of about so many bytes, two thirds of them data, as in what large programs compile to; the rest functions of a
/// kilobyte that load, store, branch, count and call each other.
fn synthetic(bytes: usize) -> Vec<u8> {
    const FUNCTIONS: usize = 2; // The marker, and the allocator; then the others.
    let block = |seed: usize| {
        let local = |index: usize| [0x20, (index % 4) as u8];
        let mut code = Vec::new();
        code.extend(local(seed));
        code.extend([&[0x28, 2][..], &leb(seed % 60_000)].concat()); // i32.load
        code.extend(local(seed / 3));
        code.extend([0x6a, 0x22, (seed / 5 % 4) as u8]); // i32.add, local.tee
        code.extend([&[0x41][..], &leb(seed % 64), &[0x48, 0x04, 0x40]].concat()); // i32.const, i32.lt_s, if
        code.extend(local(seed / 7));
        code.extend(local(seed / 11));
        code.extend([&[0x36, 2][..], &leb(seed * 7 % 60_000)].concat()); // i32.store
        code.push(0x05); // else
        code.extend(local(seed / 13));
        code.extend(local(seed / 17));
        code.extend([0x6c, 0x21, (seed / 19 % 4) as u8, 0x0b]); // i32.mul, local.set, end
        code
    };
    let one = |number: usize, of: usize| {
        let mut code = vec![1, 2, 0x7f]; // two locals of type i32 beside two parameters
        for step in 0..48 {
            code.extend(block(number * 31 + step * 7));
        }
        // Two of those before it, so that it ends.
        for callee in [number / 2, number / 3].into_iter().filter(|callee| *callee < number && *callee < of) {
            code.extend([0x20, 0, 0x20, 1]);
            code.extend([&[0x10][..], &leb(FUNCTIONS + callee), &[0x21, 2]].concat());
        }
        code.extend([0x20, 2, 0x0b]);
        [leb(code.len()), code].concat()
    };
    let count = bytes / 3 / (one(1000, 2000).len() + 1);
    let data: Vec<u8> = (0..bytes / 3 * 2).map(|at| ((at * at) >> 7) as u8).collect();
    let pages = leb(data.len() / 65_536 + 2);
    // Into the first memory, from address 65,536 on.
    let segment = [&[0, 0x41, 0x80, 0x80, 0x04, 0x0b][..], &leb(data.len()), &data].concat();
    let mut bodies = vec![2, 0, 0x0b]; // nothing
    bodies.extend([5, 0, 0x41, 0x80, 0x08, 0x0b]); // 1024
    bodies.extend((0..count).flat_map(|number| one(number, count)));
    let types = [&[0x60, 0, 0][..], &[0x60, 1, 0x7f, 1, 0x7f], &[0x60, 2, 0x7f, 0x7f, 1, 0x7f]].concat();
    let functions: Vec<u8> = [0, 1].into_iter().chain(std::iter::repeat_n(2, count)).collect();
    let export = |name: &str, kind: u8, index: u8| [&leb(name.len())[..], name.as_bytes(), &[kind, index]].concat();
    let exports = [export("memory", 2, 0), export("proxy_abi_version_0_2_1", 0, 0), export("malloc", 0, 1)].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, 3, &types),
        section(3, functions.len(), &functions),
        section(5, 1, &[&[0][..], &pages].concat()),
        section(7, 3, &exports),
        section(10, functions.len(), &bodies),
        section(11, 1, &segment),
    ]
    .concat()
}

/// The processor time of this process.
fn processors() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The load of a rule, from nothing but files: by the clock, and by all processors.
fn load(dir: &Path, module: &Path, compiler: Compiler, cache: bool) -> [Duration; 2] {
    let runtime = Runtime::new(Options::with_slots(1)).expect("runtime");
    let yaml = format!(
        "{}filters: [{{name: f, module: {{path: {}, compiler: {compiler}}}}}]\n",
        if cache { "code_cache: {directory: cache}\n" } else { "" },
        module.display()
    );
    let config = config::parse(&dir.join("f.yaml"), &yaml).expect("filter file");
    // An engine of its own, if it takes one, and the threads of a first compile.
    let warm = config::parse(&dir.join("f.yaml"), &yaml.replace(&module.display().to_string(), "small.wasm"));
    let _warm = Chain::load(&runtime, "warm", &warm.expect("filter file")).expect("a small chain");
    let (begun, used) = (Instant::now(), processors());
    let chain = Chain::load(&runtime, "bench", &config).expect("chain");
    let times = [begun.elapsed(), processors() - used];
    drop(black_box(chain));
    times
}

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
