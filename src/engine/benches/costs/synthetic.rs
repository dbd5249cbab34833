//! A module of any size, and how long a rule takes to load from it.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::{Chain, Compiler, Options, Runtime, config};

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
pub(crate) fn synthetic(bytes: usize) -> Vec<u8> {
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

/// The load of a rule, from nothing but files: by the clock, and by all processors. `small.wasm` is in the directory.
pub(crate) fn load(dir: &Path, module: &Path, compiler: Compiler, cache: bool) -> [Duration; 2] {
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
