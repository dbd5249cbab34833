//! `wasm-remap inspect`: what a module offers and asks for.

use std::fmt::Write as _;
use std::path::PathBuf;

use engine::inspect::{CallbackRow, Import, Inspection, Offer};
use engine::{Limits, Options, Runtime, Support, WasiSupport};
use serde::Serialize;

use crate::calls::Calls;
use crate::output::{Format, Outcome, count, line, list, size};

const EXAMPLES: &str = "\
Examples:
  Will this module load, and does this version do all that it asks for?
    wasm-remap inspect filters/auth.wasm

  A filter file to begin with:
    wasm-remap inspect filters/auth.wasm --filter-file > filters/auth.yaml

  The digest, for an inventory:
    wasm-remap inspect filters/auth.wasm --format json | jq -r .sha256

The module is compiled and does not run. Exit status: 0 it loads, 1 it does not, 2 the command line is wrong.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The module
    #[arg(value_name = "MODULE.wasm")]
    module: PathBuf,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Print a filter file for the module, and nothing else: to be copied and completed
    #[arg(long, conflicts_with = "format")]
    filter_file: bool,
}

#[derive(Serialize)]
struct Report {
    module: String,
    sha256: String,
    bytes: usize,
    /// The version that is used.
    abi: Option<&'static str>,
    /// All that the module declares.
    abi_declared: Vec<&'static str>,
    loads: bool,
    /// Why it does not.
    error: Option<String>,
    memory: Option<Memory>,
    start: Vec<&'static str>,
    allocator: Option<&'static str>,
    function_names: bool,
    debug_information: bool,
    callbacks: Callbacks,
    imports: Imports,
    /// Compilers and linkers, as the module says.
    producers: Vec<String>,
    custom_sections: Vec<Section>,
    code: Code,
    notes: Vec<String>,
    /// A filter file for it.
    filter_file: String,
}

#[derive(Serialize)]
struct Section {
    name: String,
    bytes: usize,
}

#[derive(Serialize)]
struct Code {
    functions: u32,
    /// As WebAssembly.
    bytes: usize,
    /// As machine code, of this build and for this machine.
    compiled_bytes: usize,
}

#[derive(Serialize)]
struct Memory {
    minimum_bytes: u64,
    maximum_bytes: Option<u64>,
    /// What is written to it at the start.
    data_bytes: u64,
    /// The stack that its compiler has put into it; null where that does not show.
    stack_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Callbacks {
    called: Vec<&'static str>,
    not_called: Vec<&'static str>,
    unknown: Vec<String>,
}

#[derive(Serialize, Default)]
struct Imports {
    supported: Vec<&'static str>,
    refused: Vec<Refused>,
    wasi: Vec<Wasi>,
    toolchain: Vec<String>,
    unknown: Vec<Unknown>,
}

#[derive(Serialize)]
struct Refused {
    name: &'static str,
    status: String,
    code: i32,
    meaning: &'static str,
}

#[derive(Serialize)]
struct Wasi {
    module: String,
    name: &'static str,
    /// `supported`, or the error that is always answered.
    support: String,
}

#[derive(Serialize)]
struct Unknown {
    module: String,
    name: String,
    signature: String,
    reason: &'static str,
}

pub(crate) fn execute(args: &Args) -> Outcome {
    let path = args.module.display().to_string();
    let bytes = match std::fs::read(&args.module) {
        Ok(bytes) => bytes,
        Err(error) => return Outcome::failure(&format!("module {path} cannot be read: {error}")),
    };
    let inspected = Runtime::new(Options { offline: true, ..Options::with_slots(1) })
        .and_then(|runtime| engine::inspect::inspect(&runtime, &bytes));
    let found = match inspected {
        Ok(found) => found,
        Err(error) => return Outcome::failure(&format!("module {path}: {error}")),
    };
    let filter_file = crate::suggest::file(&args.module, &found);
    if args.filter_file {
        let err = found.obstacle.as_ref().map_or_else(String::new, |why| format!("error: module {path}: {why}\n"));
        return Outcome { out: filter_file, ok: err.is_empty(), err };
    }
    let report = report(path, found, filter_file);
    match args.format {
        Format::Json => Outcome::json(&report, report.loads),
        Format::Text => render(&report),
    }
}

fn report(module: String, found: Inspection, filter_file: String) -> Report {
    let (called, not_called) =
        found.callbacks.iter().copied().partition::<Vec<&'static CallbackRow>, _>(|row| row.called.is_some());
    let mut notes = Vec::new();
    let limit = Limits::default().memory_bytes as u64;
    if let Some(memory) = found.memory.filter(|memory| memory.minimum > limit) {
        notes.push(format!(
            "it begins with more memory than a filter may have by default: set limits.memory_mib to {} or more",
            memory.minimum.div_ceil(1 << 20)
        ));
    }
    if found.imports.iter().any(|import| import.name == "proxy_call_foreign_function") {
        let offered: Vec<_> = engine::FOREIGN_FUNCTIONS.iter().map(|function| function.name).collect();
        notes.push(format!(
            "it calls foreign functions, by names that only a run shows; offered are {}",
            offered.join(", ")
        ));
    }
    let (http, grpc) = Calls::of(&found.imports, |_| true).certain();
    if http {
        notes.push("it sends HTTP requests: whom it may call is said by 'clusters' or 'callout_hosts'".to_owned());
    }
    if grpc {
        notes.push("it calls gRPC: that needs a cluster with 'protocol: http2'".to_owned());
    }
    if !found.names {
        notes.push("it carries no function names: traps will be reported by function number".to_owned());
    }
    if found.lines {
        notes.push(
            "it carries source lines, by which traps will be reported; they take no memory until then".to_owned(),
        );
    }
    Report {
        module,
        sha256: found.digest.to_string(),
        bytes: found.size,
        abi: found.versions.last().map(|version| version.as_str()),
        abi_declared: found.versions.iter().map(|version| version.as_str()).collect(),
        loads: found.obstacle.is_none(),
        error: found.obstacle,
        memory: found.memory.map(|memory| Memory {
            minimum_bytes: memory.minimum,
            maximum_bytes: memory.maximum,
            data_bytes: found.data_bytes,
            stack_bytes: found.stack_bytes,
        }),
        start: found.start,
        allocator: found.allocator,
        function_names: found.names,
        debug_information: found.debug,
        callbacks: Callbacks {
            called: called.into_iter().map(|row| row.name).collect(),
            not_called: not_called.into_iter().map(|row| row.name).collect(),
            unknown: found.unknown_callbacks,
        },
        imports: sort(found.imports),
        producers: found.producers,
        custom_sections: found.custom_sections.into_iter().map(|(name, bytes)| Section { name, bytes }).collect(),
        code: Code { functions: found.functions, bytes: found.code_bytes, compiled_bytes: found.compiled_bytes },
        notes,
        filter_file,
    }
}

fn sort(found: Vec<Import>) -> Imports {
    let mut imports = Imports::default();
    for import in found {
        match import.offer {
            Offer::Hostcall(call) => match call.support {
                Support::Full | Support::Partial(_) => imports.supported.push(call.name),
                Support::Refused(status) => imports.refused.push(Refused {
                    name: call.name,
                    status: format!("{status:?}"),
                    code: status as i32,
                    meaning: crate::hostcalls::meaning(status),
                }),
            },
            Offer::Wasi(function) => imports.wasi.push(Wasi {
                module: import.module,
                name: function.name,
                support: match function.support {
                    WasiSupport::Full => "supported".to_owned(),
                    WasiSupport::Refused(errno) => format!("{errno:?}").to_ascii_uppercase(),
                },
            }),
            Offer::Toolchain => imports.toolchain.push(import.name),
            Offer::Nobody(reason) => {
                let Import { module, name, signature, .. } = import;
                imports.unknown.push(Unknown { module, name, signature, reason });
            }
        }
    }
    imports.supported.sort_unstable();
    imports.refused.sort_by_key(|refused| refused.name);
    imports.wasi.sort_by_key(|wasi| wasi.name);
    imports
}

fn render(report: &Report) -> Outcome {
    let mut out = format!("{}\n", report.module);
    line(&mut out, 2, "loads", if report.loads { "yes" } else { "no" });
    line(&mut out, 2, "size", size(report.bytes as u64));
    line(&mut out, 2, "sha256", &report.sha256);
    let abi = match report.abi_declared.as_slice() {
        [] => "none declared".to_owned(),
        [one] => (*one).to_owned(),
        several => format!("{} (declares {})", report.abi.unwrap_or("-"), several.join(", ")),
    };
    line(&mut out, 2, "ABI", abi);
    let memory = match &report.memory {
        None => "none exported".to_owned(),
        Some(Memory { minimum_bytes, maximum_bytes: None, .. }) => {
            format!("{} at the start, grows to the filter's limit", size(*minimum_bytes))
        }
        Some(Memory { minimum_bytes, maximum_bytes: Some(maximum), .. }) => {
            format!("{} at the start, grows to {} or the filter's limit", size(*minimum_bytes), size(*maximum))
        }
    };
    line(&mut out, 2, "memory", memory);
    if let Some(Memory { data_bytes, stack_bytes, .. }) = &report.memory {
        let stack = stack_bytes
            .map_or_else(|| "a stack that does not show".to_owned(), |stack| format!("{} of stack", size(stack)));
        line(&mut out, 2, "", format!("of that {} of data and {stack}", size(*data_bytes)));
    }
    let Code { functions, bytes, compiled_bytes } = &report.code;
    let functions = count(usize::try_from(*functions).unwrap_or(usize::MAX), "function");
    let (bytes, compiled) = (size(*bytes as u64), size(*compiled_bytes as u64));
    line(&mut out, 2, "code", format!("{functions}, {bytes}, compiled {compiled}"));
    list(&mut out, 2, "made by", &report.producers);
    let customs: Vec<_> = report
        .custom_sections
        .iter()
        .map(|section| format!("{} ({})", section.name, size(section.bytes as u64)))
        .collect();
    list(&mut out, 2, "sections", &customs);
    line(&mut out, 2, "start", if report.start.is_empty() { "none".to_owned() } else { report.start.join(", then ") });
    line(&mut out, 2, "allocator", report.allocator.unwrap_or("none"));
    let symbols = match (report.function_names, report.debug_information) {
        (false, false) => "none",
        (true, false) => "function names",
        (false, true) => "DWARF",
        (true, true) => "function names, DWARF",
    };
    line(&mut out, 2, "symbols", symbols);
    out.push_str("  callbacks\n");
    list(&mut out, 4, "called", &report.callbacks.called);
    list(&mut out, 4, "not called", &report.callbacks.not_called);
    list(&mut out, 4, "unknown", &report.callbacks.unknown);
    let imports = &report.imports;
    out.push_str("  imports\n");
    list(&mut out, 4, "supported", &imports.supported);
    let (offered, denied): (Vec<_>, Vec<_>) = imports.wasi.iter().partition(|wasi| wasi.support == "supported");
    let offered: Vec<_> = offered.iter().map(|wasi| wasi.name.to_owned()).collect();
    let denied: Vec<_> = denied.iter().map(|wasi| format!("{} ({})", wasi.name, wasi.support)).collect();
    list(&mut out, 4, "WASI", &offered);
    list(&mut out, 4, "WASI, no", &denied);
    list(&mut out, 4, "toolchain", &imports.toolchain);
    for refused in &imports.refused {
        let Refused { name, status, code, meaning } = refused;
        line(&mut out, 4, "refused", format!("{name}: always answered {status} ({code}), {meaning}"));
    }
    for unknown in &imports.unknown {
        let Unknown { module, name, signature, reason } = unknown;
        line(&mut out, 4, "unknown", format!("{module}::{name} {signature}: {reason}"));
    }
    for note in &report.notes {
        let _ = writeln!(out, "  note: {note}");
    }
    // Of a module that does not load, no file does.
    if report.loads {
        out.push_str("  a filter file for it (--filter-file prints it alone):\n");
        for text in report.filter_file.lines() {
            let _ = writeln!(out, "    {text}");
        }
    }
    let err =
        report.error.as_ref().map_or_else(String::new, |error| format!("error: module {}: {error}\n", report.module));
    Outcome { out, err, ok: report.loads }
}
