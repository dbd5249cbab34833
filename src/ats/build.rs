//! Passes on which ATS the headers belong to: `cfg(ats9)` or `cfg(ats10)`, as ats-sys found it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(ats9)");
    println!("cargo::rustc-check-cfg=cfg(ats10)");
    // Set by ats-sys' build script through `links = "tsapi"`; its absence is a broken workspace.
    let major = std::env::var("DEP_TSAPI_VERSION_MAJOR").expect("ats-sys states the version of the ATS headers");
    println!("cargo::rustc-cfg=ats{major}");
}
