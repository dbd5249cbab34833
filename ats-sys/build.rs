//! Generates the raw bindings from the ATS headers that are installed on this machine.
//!
//! The headers, not a feature flag, decide which ATS a build is for: a plugin built against 9.2 cannot be loaded by
//! 10 (whose API is C++ with mangled names), so a second way to state the version could only ever be wrong.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where packages and source builds put the directory that holds `ts/ts.h`.
const USUAL_PLACES: [&str; 4] = ["/usr/include", "/usr/local/include", "/opt/ts/include", "/opt/trafficserver/include"];

/// What a plugin defines and the headers only declare. Bindings for them would clash with the plugin's own
/// definitions (E0428). Named one by one: a pattern `TSRemap.*` would take the API calls TSRemapFromUrlGet and
/// TSRemapToUrlGet away too.
const ENTRY_POINTS: &str = "TSPluginInit|TSRemap(Init|Done|DoRemap|NewInstance|DeleteInstance|OSResponse\
                            |PreConfigReload|PostConfigReload)";

fn main() -> ExitCode {
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["ATS_INCLUDE_DIR", "SWOC_INCLUDE_DIR", "LIBCLANG_PATH", "BINDGEN_EXTRA_CLANG_ARGS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rustc-check-cfg=cfg(ats9)");
    println!("cargo::rustc-check-cfg=cfg(ats10)");

    let include = find_headers()?;
    let major = version_major(&include)?;

    let header = |name: &str| include.join("ts").join(name);
    let mut headers = vec!["ts.h", "remap.h"];
    // 10 merged this one into ts.h.
    if header("experimental.h").exists() {
        headers.push("experimental.h");
    }
    for name in headers.iter().chain(&["apidefs.h"]) {
        println!("cargo::rerun-if-changed={}", header(name).display());
    }
    let wrapper: String = headers.iter().map(|name| format!("#include <ts/{name}>\n")).collect();

    let bindings = bindgen::Builder::default()
        .header_contents("wrapper.h", &wrapper)
        .clang_arg(format!("-I{}", include.display()))
        .allowlist_function("_?TS.*")
        .allowlist_type("TS.*")
        .allowlist_var("TS.*")
        .blocklist_function(ENTRY_POINTS)
        // Constants, not Rust enums: ATS may hand us values that this header does not list (event 60029 is one),
        // and an out-of-range Rust enum would be undefined behaviour.
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .use_core()
        .formatter(bindgen::Formatter::None);

    let cfg = match major {
        9 => "ats9",
        10 => "ats10",
        other => {
            return Err(format!("the headers in {} are of ATS {other}; 9 and 10 are supported", include.display()));
        }
    };
    let bindings = if major >= 10 { as_cxx(bindings, &include) } else { bindings };
    println!("cargo::rustc-cfg={cfg}");
    println!("cargo::metadata=version_major={major}");
    println!("cargo::metadata=include={}", include.display());
    println!("cargo::rustc-env=ATS_SYS_INCLUDE_DIR={}", include.display());

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    bindings
        .generate()
        .map_err(|e| {
            format!(
                "bindgen could not read {}/ts/ts.h: {e} (is libclang installed? apt install libclang-dev)",
                include.display()
            )
        })?
        .write_to_file(out.join("bindings.rs"))
        .map_err(|e| format!("writing {}: {e}", out.display()))
}

/// ATS 10 has a C++ API: ts.h pulls in `<string_view>`, `<vector>` and libswoc, and every function but the entry
/// points has a mangled name, which bindgen writes into `link_name`. Tried with 10.2.1's headers only, never run.
fn as_cxx(builder: bindgen::Builder, include: &Path) -> bindgen::Builder {
    let swoc = env::var("SWOC_INCLUDE_DIR").unwrap_or_else(|_| include.display().to_string());
    builder
        .clang_args(["-x", "c++", "-std=c++20"])
        .clang_arg(format!("-I{swoc}"))
        .enable_cxx_namespaces()
        .opaque_type("std::.*")
        .opaque_type("DbgCtl.*")
}

fn find_headers() -> Result<PathBuf, String> {
    let named = env::var_os("ATS_INCLUDE_DIR").map(PathBuf::from);
    // A directory that was named and is wrong is an error, not a reason to take another ATS's headers in silence.
    if let Some(dir) = named {
        return if dir.join("ts/ts.h").is_file() {
            Ok(dir)
        } else {
            Err(format!("ATS_INCLUDE_DIR={} holds no ts/ts.h", dir.display()))
        };
    }
    USUAL_PLACES.iter().map(PathBuf::from).find(|dir| dir.join("ts/ts.h").is_file()).ok_or_else(|| {
        format!(
            "no ts/ts.h in any of {}: install the headers of Apache Traffic Server (Debian: apt install \
                 trafficserver-dev libclang-dev), or set ATS_INCLUDE_DIR to the directory that holds ts/ts.h",
            USUAL_PLACES.join(", ")
        )
    })
}

/// Reads `TS_VERSION_MAJOR` as text: it must be known before clang is told which language to parse.
fn version_major(include: &Path) -> Result<u32, String> {
    let path = include.join("ts/apidefs.h");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("#define TS_VERSION_MAJOR"))
        .and_then(|rest| rest.trim().parse().ok())
        .ok_or_else(|| format!("{} defines no TS_VERSION_MAJOR", path.display()))
}
