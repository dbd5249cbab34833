//! `wasm-remap hostcalls`: the tables that feed the linker, for people. docs/hostcalls.md comes from here.

use std::fmt::Write as _;

use clap::ValueEnum;
use engine::abi::{AbiVersion, Status};
use engine::inspect::CALLBACKS;
use engine::{
    FOREIGN_FUNCTIONS, HOSTCALLS, Hostcall, ParamType, Support, Survives, WASI, WasiFunction, WasiSupport,
    assemblyscript_sdk, rust_sdk,
};
use serde::Serialize;

use crate::output::Outcome;

const EXAMPLES: &str = "\
Examples:
  What does this version refuse?
    wasm-remap hostcalls --format json | jq -r '.hostcalls[] | select(.support != \"full\") | .name'

  Write the page of the documentation anew:
    wasm-remap hostcalls --format markdown > docs/hostcalls.md";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How to print the tables
    #[arg(long, value_enum, default_value_t = Form::Markdown)]
    format: Form,
}

/// The form of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The page docs/hostcalls.md.
    Markdown,
    /// For scripts.
    Json,
}

#[derive(Serialize)]
struct Tables {
    hostcalls: Vec<HostcallRow>,
    foreign_functions: Vec<ForeignRow>,
    wasi: Vec<WasiRow>,
    callbacks: Vec<CallbackRow>,
}

#[derive(Serialize)]
struct HostcallRow {
    name: &'static str,
    signature: String,
    abi: Vec<&'static str>,
    /// `full`, or the status that is always answered.
    support: String,
    during_start: bool,
    /// The statuses of a filter that does nothing wrong, and what one that does may get besides.
    answers: Vec<String>,
    misused: Vec<String>,
    doc: &'static str,
}

#[derive(Serialize)]
struct ForeignRow {
    name: &'static str,
    /// `envoy`, or `wasm_remap` alone.
    origin: &'static str,
    arguments: &'static str,
    result: &'static str,
    answers: Vec<String>,
    doc: &'static str,
}

#[derive(Serialize)]
struct WasiRow {
    name: &'static str,
    signature: String,
    /// `full`, or the error that is always answered.
    support: String,
    doc: &'static str,
}

#[derive(Serialize)]
struct CallbackRow {
    name: &'static str,
    called: bool,
    doc: &'static str,
}

pub(crate) fn execute(args: &Args) -> Outcome {
    match args.format {
        Form::Markdown => Outcome { out: markdown(), err: String::new(), ok: true },
        Form::Json => {
            let tables = Tables {
                hostcalls: HOSTCALLS
                    .iter()
                    .map(|call| HostcallRow {
                        name: call.name,
                        signature: signature(call.name, call.params, true),
                        abi: call.versions.iter().map(|version| version.as_str()).collect(),
                        support: match call.support {
                            Support::Full => "full".to_owned(),
                            Support::Partial(missing) => format!("without {missing}"),
                            Support::Refused(status) => format!("{status:?}"),
                        },
                        during_start: call.anywhere,
                        answers: names(call.answers),
                        misused: names(call.misused),
                        doc: call.doc,
                    })
                    .collect(),
                foreign_functions: FOREIGN_FUNCTIONS
                    .iter()
                    .map(|function| ForeignRow {
                        name: function.name,
                        origin: if function.envoy { "envoy" } else { "wasm_remap" },
                        arguments: function.arguments,
                        result: function.result,
                        answers: names(&[&[Status::Ok], function.answers].concat()),
                        doc: function.doc,
                    })
                    .collect(),
                wasi: WASI
                    .iter()
                    .map(|function| WasiRow {
                        name: function.name,
                        signature: wasi_signature(function),
                        support: match function.support {
                            WasiSupport::Full => "full".to_owned(),
                            WasiSupport::Refused(errno) => format!("{errno:?}").to_ascii_uppercase(),
                        },
                        doc: function.doc,
                    })
                    .collect(),
                callbacks: CALLBACKS
                    .iter()
                    .map(|row| CallbackRow { name: row.name, called: row.called.is_some(), doc: row.doc })
                    .collect(),
            };
            Outcome::json(&tables, true)
        }
    }
}

fn names(statuses: &[Status]) -> Vec<String> {
    statuses.iter().map(|status| format!("{status:?}")).collect()
}

/// Statuses as a cell of a table.
fn cell(statuses: &[Status]) -> String {
    statuses.iter().map(|status| format!("`{status:?}`")).collect::<Vec<_>>().join(", ")
}

/// What an SDK survives of a call's answers, as a cell of a table.
fn survives(survives: Survives) -> String {
    match survives {
        Survives::NotCalled => "-".to_owned(),
        Survives::Any => "any".to_owned(),
        Survives::These(statuses) => cell(statuses),
    }
}

/// What a status that is always answered means for the filter that gets it.
pub(crate) fn meaning(status: Status) -> &'static str {
    match status {
        Status::NotFound => "as if there were no such item",
        Status::InternalFailure => "as if the host had failed",
        Status::BadArgument => "as if an argument were wrong",
        Status::ParseFailure => "as if the upstream's name were wrong",
        Status::SerializationFailure => "as if the input did not parse",
        Status::Empty => "as if there were nothing in it",
        Status::CasMismatch => "as if somebody else had been first",
        Status::Ok => "and nothing happens",
        Status::InvalidMemoryAccess | Status::Unimplemented => "which no SDK knows",
    }
}

fn signature(name: &str, params: &[(&str, ParamType)], result: bool) -> String {
    let params: Vec<_> = params
        .iter()
        .map(|(name, ty)| match ty {
            ParamType::I32 => format!("{name}: i32"),
            ParamType::I64 => format!("{name}: i64"),
        })
        .collect();
    format!("{name}({}){}", params.join(", "), if result { " -> i32" } else { "" })
}

fn wasi_signature(function: &WasiFunction) -> String {
    signature(function.name, function.params, function.name != "proc_exit")
}

fn support(call: &Hostcall) -> String {
    match call.support {
        Support::Full => "yes".to_owned(),
        Support::Partial(missing) => format!("without {missing}"),
        Support::Refused(status) => format!("refused: `{status:?}` ({})", status as i32),
    }
}

const INTRODUCTION: &str = "\
# Hostcalls

What filters may call, and what they are called for. Every function of Proxy-Wasm ABI 0.1.0, 0.2.0 and 0.2.1 and of
WASI preview 1 links, so that any module loads; one that is *refused* always answers the status beside it, which
SDKs take for an ordinary failure. `wasm-remap inspect MODULE.wasm` says which of these a module uses.

This page is written by `wasm-remap hostcalls --format markdown > docs/hostcalls.md`, from the tables that feed the
linker.
";

const STATUSES: &str = "
## Statuses

What each call answers a filter that does nothing wrong, and what else if it is misused: called with an argument that
the ABI does not have, with memory that is not the filter's, or from where there is nothing to call it on. Beside it,
what the SDKs survive: that of Rust (proxy-wasm 0.2.5) panics and that of AssemblyScript (@solo-io/proxy-runtime 0.1.8)
throws at any other status, which costs the VM; `-` stands where an SDK does not have the call. Those of C++ and Go hand
every status to the filter. No call answers a filter that does nothing wrong with what its SDK does not survive, with
one exception that all hosts share: AssemblyScript's `get_property` throws if there is no such property.

Numbers: `Ok` 0, `NotFound` 1, `BadArgument` 2, `SerializationFailure` 3, `ParseFailure` 4, `Empty` 7, `CasMismatch` 8,
`InternalFailure` 10. No other is ever answered. A call that `allowed_capabilities` does not allow always answers
`InternalFailure`, and a function of WASI `NOTCAPABLE` (76). Modules of ABI 0.1.0 read a field that is not there as `Ok`
and nothing.

| call | answers | if misused | Rust SDK survives | AssemblyScript SDK survives |
| --- | --- | --- | --- | --- |
";

fn statuses(out: &mut String) {
    out.push_str(STATUSES);
    for call in HOSTCALLS {
        let (rust, assemblyscript) = (survives(rust_sdk(call.name)), survives(assemblyscript_sdk(call.name)));
        let (answers, misused) = (cell(call.answers), cell(call.misused));
        let _ = writeln!(out, "| `{}` | {answers} | {misused} | {rust} | {assemblyscript} |", call.name);
    }
}

const FOREIGN: &str = "
## Foreign functions

What `proxy_call_foreign_function` calls by name. Those of Envoy have Envoy's encodings, so that filters and their
libraries work here as there. A name that is not in this table answers `NotFound`. Who gives a null pointer for the
result does not get one.

";

fn foreign_functions(out: &mut String) {
    out.push_str(FOREIGN);
    out.push_str(
        "| function | of | what it does | arguments | result | answers |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for function in FOREIGN_FUNCTIONS {
        let of = if function.envoy { "Envoy" } else { "ours" };
        let answers = cell(&[&[Status::Ok], function.answers].concat());
        let _ = writeln!(
            out,
            "| `{}` | {of} | {} | {} | {} | {answers} |",
            function.name, function.doc, function.arguments, function.result
        );
    }
}

fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    let refused = HOSTCALLS.iter().filter(|call| matches!(call.support, Support::Refused(_))).count();
    let _ = write!(
        out,
        "\n## Proxy-Wasm\n\n\
         {} calls, {refused} of them refused. *Start*: may be called while the module's start function or its allocator\n\
         runs; there, any other call ends the VM. Each version has the calls marked in its column; all are linked for\n\
         all of them, since modules mix.\n\n\
         | call | {} | start | supported | what it does |\n| --- |{} --- | --- | --- |\n",
        HOSTCALLS.len(),
        AbiVersion::ALL.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(" | "),
        " --- |".repeat(AbiVersion::ALL.len()),
    );
    for call in HOSTCALLS {
        let _ = write!(out, "| `{}` |", call.name);
        for version in AbiVersion::ALL {
            let _ = write!(out, " {} |", if call.versions.contains(version) { "✓" } else { "" });
        }
        let anywhere = if call.anywhere { "✓" } else { "" };
        let _ = writeln!(out, " {anywhere} | {} | {} |", support(call), call.doc);
    }
    statuses(&mut out);
    foreign_functions(&mut out);
    let called = CALLBACKS.iter().filter(|row| row.called.is_some()).count();
    let _ = write!(
        out,
        "\n## Callbacks\n\n\
         {} callbacks, {called} of them called by this version. What a module exports beyond those is never called, and\n\
         does no harm.\n\n\
         | callback | called | when |\n| --- | --- | --- |\n",
        CALLBACKS.len()
    );
    for row in CALLBACKS {
        let _ = writeln!(out, "| `{}` | {} | {} |", row.name, if row.called.is_some() { "✓" } else { "" }, row.doc);
    }
    let _ = write!(
        out,
        "\n## WASI\n\n\
         {} functions, each under `wasi_snapshot_preview1` and `wasi_unstable`. All may be called at any time, the start\n\
         function and the allocator included. There are no files, no sockets and no arguments.\n\n\
         | function | supported | what it does |\n| --- | --- | --- |\n",
        WASI.len()
    );
    for function in WASI {
        let support = match function.support {
            WasiSupport::Full => "yes".to_owned(),
            WasiSupport::Refused(errno) => {
                format!("refused: `{}` ({})", format!("{errno:?}").to_ascii_uppercase(), errno as i32)
            }
        };
        let _ = writeln!(out, "| `{}` | {support} | {} |", function.name, function.doc);
    }
    out.push_str("\n## Signatures\n\nThe result of a Proxy-Wasm call is its status, that of a WASI function its error number.\n\n```text\n");
    for call in HOSTCALLS {
        out.push_str(&signature(call.name, call.params, true));
        out.push('\n');
    }
    out.push('\n');
    for function in WASI {
        out.push_str(&wasi_signature(function));
        out.push('\n');
    }
    out.push_str("```\n");
    out
}
