//! Links the plugin so that it is never unloaded: wasmtime's signal handlers and thread-locals, and our threads,
//! point into it.

fn main() {
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
