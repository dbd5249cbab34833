//! A filter file for a module, guessed from what it exports and imports: to be copied and completed.

use std::fmt::Write as _;
use std::path::Path;

use engine::Limits;
use engine::inspect::{Inspection, Offer};

use crate::calls::Calls;

/// Lines of names are broken at this column.
const WIDTH: usize = 100;

/// The callbacks of transactions.
const STREAM: [&str; 4] =
    ["proxy_on_request_headers", "proxy_on_request_body", "proxy_on_response_headers", "proxy_on_response_body"];

/// The text of a filter file that loads this module, as far as that can be known from outside of it.
pub(crate) fn file(module: &Path, found: &Inspection) -> String {
    let file = module.file_name().map_or_else(|| "module.wasm".into(), |name| name.to_string_lossy());
    let name = module.file_stem().map_or_else(|| "filter".into(), |name| name.to_string_lossy());
    let exports = |name: &str| found.callbacks.iter().any(|row| row.name == name && row.called.is_some());
    let calls = Calls::of(&found.imports, |_| true);
    let transactions = STREAM.iter().any(|name| exports(name));
    let background = exports("proxy_on_tick") || exports("proxy_on_queue_ready");
    let service = background && !transactions;
    let mut out = String::new();
    if service {
        out.push_str("# It has no callback for transactions: it runs once in the process.\nservices:\n");
    } else {
        out.push_str("filters:\n");
    }
    let _ = writeln!(out, "  - name: {}", quoted(&name));
    let _ = writeln!(out, "    # Relative to this file.\n    module: {}", quoted(&file));
    if exports("proxy_on_configure") {
        out.push_str("    # What proxy_on_configure reads: a text, or a mapping, which it gets as JSON.\n    # configuration: {}\n");
    }
    if !service {
        out.push_str(&body(found, calls, &exports));
    }
    let default = Limits::default().memory_bytes as u64;
    if let Some(memory) = found.memory.filter(|memory| memory.minimum > default) {
        let mib = memory.minimum.div_ceil(1 << 20);
        let _ = writeln!(out, "    # It begins with {mib} MiB, and the default is {}.", default >> 20);
        // As much again, for what it allocates.
        let _ = writeln!(out, "    limits: {{memory_mib: {}}}", (mib * 2).min(4096));
    }
    if calls.http || calls.grpc {
        out.push_str(callouts(calls));
    }
    capabilities(&mut out, found);
    let (http, grpc) = calls.certain();
    if http || grpc {
        out.push_str("clusters:\n  # The name that the filter calls it by, and where that is.\n");
        let protocol = if grpc { ", protocol: http2" } else { "" };
        let _ = writeln!(out, "  upstream: {{endpoints: ['upstream.example.com:80']{protocol}}}");
    }
    out
}

/// What is said of bodies.
fn body(found: &Inspection, calls: Calls, exports: &impl Fn(&str) -> bool) -> String {
    let imports = |name: &str| found.imports.iter().any(|import| import.name == name);
    let (reads, writes) = (imports("proxy_get_buffer_bytes"), imports("proxy_set_buffer_bytes"));
    let word = match (exports("proxy_on_request_body"), exports("proxy_on_response_body")) {
        (false, false) => return String::new(),
        (true, true) => "both",
        (true, false) => "request",
        (false, true) => "response",
    };
    if !reads && !writes {
        return "    # It has callbacks for bodies, and no call to look at one.\n    body: none\n".to_owned();
    }
    let can = if writes { "read and change" } else { "read" };
    let unsure = if calls.telling {
        ""
    } else {
        "\n    # Its SDK exports and imports all of that, used or not: `none`, if it looks at headers alone, spares a transform."
    };
    format!("    # It can {can} bodies.{unsure}\n    body: {word}\n")
}

fn callouts(calls: Calls) -> &'static str {
    if calls.telling {
        "    # It calls others: by the name of a cluster, or by an address that stands here.\n    # callout_hosts: ['auth.example.com:80']\n"
    } else {
        "    # If it calls others: clusters, or addresses that stand here.\n    # callout_hosts: ['auth.example.com:80']\n"
    }
}

/// All that it asks for, and nothing else.
fn capabilities(out: &mut String, found: &Inspection) {
    let imports = found.imports.iter().filter_map(|import| match import.offer {
        Offer::Hostcall(call) => Some(call.name),
        Offer::Wasi(function) => Some(function.name),
        Offer::Toolchain | Offer::Nobody(_) => None,
    });
    let callbacks = found.callbacks.iter().filter(|row| row.called.is_some()).map(|row| row.name);
    let mut names: Vec<_> = callbacks.chain(imports).collect();
    names.sort_unstable();
    names.dedup();
    out.push_str("    # All that it exports and imports. What is taken away is refused, which most SDKs trap on.\n");
    let mut line = "    allowed_capabilities: [".to_owned();
    for (at, name) in names.iter().enumerate() {
        let comma = if at + 1 < names.len() { "," } else { "]" };
        let blank = if line.ends_with(['[', ' ']) { "" } else { " " };
        if line.len() + blank.len() + name.len() + comma.len() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(6);
            let _ = write!(line, "{name}{comma}");
        } else {
            let _ = write!(line, "{blank}{name}{comma}");
        }
    }
    if names.is_empty() {
        line.push(']');
    }
    out.push_str(&line);
    out.push('\n');
}

/// A text of YAML: as it is where that cannot be taken for anything else.
fn quoted(text: &str) -> String {
    let plain = |ch: char| ch.is_ascii_alphanumeric() || "-_./".contains(ch);
    let word = text.starts_with(|ch: char| ch.is_ascii_alphabetic());
    if word && text.chars().all(plain) && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''").replace(char::is_control, "?"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn names_are_texts_whatever_they_look_like() {
        assert_eq!(["auth", "a b", "1", "no", "it's"].map(quoted), ["auth", "'a b'", "'1'", "'no'", "'it''s'"]);
    }
}
