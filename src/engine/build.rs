//! Tells the benchmarks how the engine was optimised: figures of another build are no figures.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=WASM_REMAP_OPT_LEVEL={level}");
}
