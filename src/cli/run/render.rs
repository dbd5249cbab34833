//! A transaction as text.

use std::fmt::Write as _;

use super::Report;
use super::message::{BodyReport, Message};
use super::trace::{Step, Write};
use crate::output::{count, line};

/// More of a body is for JSON.
const MOST: usize = 1 << 10;
/// And more of what a filter writes.
const MOST_WRITTEN: usize = 48;

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    message(&mut out, "client sends", &report.request);
    for text in &report.load_log {
        line(&mut out, 2, "log", text);
    }
    for each in &report.left_out {
        let _ = writeln!(out, "\n{} takes no part: its match wants {}", each.filter, each.why);
    }
    out.push('\n');
    let width = report.callbacks.iter().map(|step| step.filter.len()).max().unwrap_or_default();
    for each in &report.callbacks {
        step(&mut out, each, width);
    }
    out.push('\n');
    if let Some(forwarded) = &report.forwarded {
        message(&mut out, "origin gets", forwarded);
        out.push('\n');
    }
    let who = match report.answered_by {
        "filter" => "client gets, from a filter",
        "failure" => "client gets, because a filter failed",
        "limit" => "client gets, because the request is larger than it may be",
        _ => "client gets, from the origin",
    };
    match &report.response {
        Some(response) => message(&mut out, who, response),
        None => out.push_str("client gets nothing: a filter closed the transaction\n"),
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn step(out: &mut String, step: &Step, width: usize) {
    let _ = write!(out, "{:width$}  {}", step.filter, step.callback);
    if let Some(seen) = &step.body {
        let end = if seen.end { ", the end" } else { "" };
        let held = if seen.held { ": held" } else { "" };
        let _ = write!(out, " ({}{end}){held}", count(seen.bytes, "byte"));
    }
    out.push('\n');
    for change in &step.changes {
        let sign = if change.change == "added" { '+' } else { '-' };
        let _ = writeln!(out, "{:width$}    {} {sign} {}: {}", "", change.message, change.name, change.value);
    }
    for each in &step.writes {
        let _ = writeln!(out, "{:width$}    {} body {}", "", each.body, written(each));
    }
    for text in &step.log {
        line(out, width + 4, "log", text);
    }
}

fn written(write: &Write) -> String {
    let Write { start, removed, added, text, .. } = write;
    let mut words = match (removed, added) {
        (removed, 0) => return format!("- {} at {start}", count(*removed, "byte")),
        (0, added) => format!("+ {} at {start}", count(*added, "byte")),
        (removed, added) => format!("- {} + {added} at {start}", count(*removed, "byte")),
    };
    if let Some(text) = text {
        let short: String = text.chars().take(MOST_WRITTEN).flat_map(char::escape_debug).collect();
        let more = if text.chars().count() > MOST_WRITTEN { "…" } else { "" };
        let _ = write!(words, ": \"{short}{more}\"");
    }
    words
}

fn message(out: &mut String, who: &str, message: &Message) {
    let _ = match (&message.method, &message.url, message.status) {
        (Some(method), Some(url), _) => writeln!(out, "{who}: {method} {url}"),
        (_, _, Some(status)) => writeln!(out, "{who}: {status}"),
        _ => writeln!(out, "{who}:"),
    };
    for (name, value) in &message.headers {
        let _ = writeln!(out, "  {name}: {value}");
    }
    if let Some(found) = &message.body {
        body(out, found);
    }
}

fn body(out: &mut String, body: &BodyReport) {
    let cut = if body.complete { "" } else { ", and then breaks off" };
    let _ = writeln!(out, "\n  body: {}{cut}", count(body.bytes, "byte"));
    let Some(text) = &body.text else {
        out.push_str("    (not text)\n");
        return;
    };
    let short = &text[..text.floor_char_boundary(MOST)];
    for text in short.lines() {
        let _ = writeln!(out, "    {text}");
    }
    if short.len() < text.len() {
        let _ = writeln!(out, "    … ({} more; --format json has them all)", count(text.len() - short.len(), "byte"));
    }
}
