//! `wasm-remap run`: one transaction through a chain, with nobody on either side.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use engine::testing::{Fields, SharedTransaction, Transaction};
use engine::{At, Chain, LocalResponse, Options, Runtime, Stream, Verdict, config};
use serde::Serialize;

use crate::capture::{self, Threshold};
use crate::output::{Format, Outcome, count, line};
use crate::trace::{LABEL, Recorder, Step, Trace, lock, text};

const EXAMPLES: &str = "\
Examples:
  What does the chain make of this request?
    wasm-remap run filters/shop.yaml --request 'GET http://shop.example.com/x?q=1' -H 'x-api-key: 123'

  And of the origin's answer?
    wasm-remap run filters/shop.yaml -r 'GET http://shop.example.com/x' --response 404 -R 'server: apache'

  Everything that the filters log, and every call that was refused:
    wasm-remap run filters/shop.yaml -r 'POST http://shop.example.com/x' -H 'content-length: 5' --log trace

  The status that the client gets, for a script:
    wasm-remap run filters/auth.yaml -r 'GET http://shop.example.com/' --format json | jq .response.status

The filters run in a VM as they do in Traffic Server; what they see of the request line is the client's, and no remap
is applied. Exit status: 0 the transaction ran, whatever its answer, 1 the chain does not load, 2 the command line is
wrong.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Filter files; several make one chain, as several @pparam of one rule do
    #[arg(required = true, value_name = "FILE.yaml")]
    files: Vec<PathBuf>,

    /// The request: a method, which may be left out where it is GET, and a URL
    #[arg(short, long, value_name = "'METHOD URL'", value_parser = request_line)]
    request: RequestLine,

    /// A header of the request; any number of times. Host comes from the URL unless it is given
    #[arg(short = 'H', long = "header", value_name = "'NAME: VALUE'", value_parser = field)]
    headers: Vec<(String, String)>,

    /// The status that the origin answers, if the request gets there
    #[arg(long, value_name = "STATUS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=999))]
    response: u16,

    /// A header of the origin's answer; any number of times
    #[arg(short = 'R', long = "response-header", value_name = "'NAME: VALUE'", value_parser = field)]
    response_headers: Vec<(String, String)>,

    /// The client's address, which filters read as the property source.address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,

    /// Show what is logged, from this level on
    #[arg(long, value_enum, default_value_t = Threshold::Info, value_name = "LEVEL")]
    log: Threshold,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RequestLine {
    method: String,
    scheme: String,
    authority: String,
    path: String,
}

fn request_line(text: &str) -> Result<RequestLine, String> {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let (method, url) = match words.as_slice() {
        [url] => ("GET", *url),
        [method, url] | [method, url, "HTTP/1.0" | "HTTP/1.1"] => (*method, *url),
        _ => return Err("expected a method and a URL, such as 'GET http://shop.example.com/x'".to_owned()),
    };
    let (scheme, rest) = url
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
        .ok_or("expected a URL that begins with http:// or https://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() {
        return Err("the URL has no host".to_owned());
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(RequestLine { method: method.to_owned(), scheme: scheme.to_owned(), authority: authority.to_owned(), path })
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'NAME: VALUE'")?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a header's name has no blanks".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// What happened, from the client's request to the client's answer.
#[derive(Serialize)]
struct Report {
    request: Head,
    /// What was logged while the chain was loaded.
    load_log: Vec<String>,
    callbacks: Vec<Step>,
    /// What the origin gets; absent if a filter answered.
    forwarded: Option<Head>,
    /// Who answered: `origin`, `filter`, `failure` (a filter's failure policy) or `close`.
    answered_by: &'static str,
    response: Head,
    /// The body of an answer that is not the origin's.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    notes: Vec<String>,
}

/// A request or a response without its body.
#[derive(Serialize, Clone)]
struct Head {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    headers: Vec<(String, String)>,
}

pub(crate) fn execute(args: &Args) -> Outcome {
    capture::install(args.log);
    match run(args) {
        Ok(report) => match args.format {
            Format::Json => Outcome::json(&report, true),
            Format::Text => Outcome { out: render(&report), err: String::new(), ok: true },
        },
        Err(message) => {
            let mut outcome = Outcome::failure(&message);
            for logged in capture::take() {
                line(&mut outcome.err, 2, "log", logged.to_string());
            }
            outcome
        }
    }
}

fn run(args: &Args) -> Result<Report, String> {
    let mut specs = Vec::new();
    for file in &args.files {
        specs.extend(config::load(file).map_err(|error| error.to_string())?);
    }
    let runtime = Runtime::new(Options::with_slots(1)).map_err(|error| error.to_string())?;
    let chain = Chain::load(&runtime, LABEL, &specs).map_err(|error| error.to_string())?;
    let load_log = capture::take().iter().map(ToString::to_string).collect();
    let shared = SharedTransaction::new(first(args));
    let request = request_head(&shared.0.lock());
    let trace = Arc::new(Mutex::new(Trace::new(&chain)));
    let host =
        Recorder { inner: shared.host(), shared: shared.clone(), trace: Arc::clone(&trace), client: args.client };
    let stream = Stream::new(Arc::clone(&chain), 0, Box::new(host));
    let mut drive = Drive { runtime: &runtime, stream, shared, trace, notes: Vec::new() };
    let (forwarded, answered_by, body) = drive.transaction(args);
    let response = response_head(&drive.shared.0.lock());
    let Drive { trace, notes, .. } = drive;
    let callbacks = lock(&trace).steps(&chain);
    Ok(Report { request, load_log, callbacks, forwarded, answered_by, response, body, notes })
}

/// The transaction as it comes from the client.
fn first(args: &Args) -> Transaction {
    let line = &args.request;
    let mut transaction = Transaction::get(&line.authority, &line.path);
    transaction.request_line[0] = line.method.clone().into();
    transaction.request_line[3] = line.scheme.clone().into();
    if !args.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        transaction = transaction.header("Host", &line.authority);
    }
    for (name, value) in &args.headers {
        transaction = transaction.header(name, value);
    }
    transaction
}

/// A transaction on its way.
struct Drive<'a> {
    runtime: &'a Runtime,
    stream: Stream,
    shared: SharedTransaction,
    trace: Arc<Mutex<Trace>>,
    notes: Vec<String>,
}

impl Drive<'_> {
    /// From the request's headers to the end of every context. What the origin got, who answered, and with what body
    /// if not the origin.
    fn transaction(&mut self, args: &Args) -> (Option<Head>, &'static str, Option<String>) {
        let ends = {
            let transaction = self.shared.0.lock();
            let length = Transaction::find(&transaction.request, "content-length");
            length.is_none_or(|length| length == "0")
                && Transaction::find(&transaction.request, "transfer-encoding").is_none()
        };
        lock(&self.trace).expect_request();
        let verdict = self.stream.request_headers(ends);
        let verdict = self.settle(verdict);
        let mut body = None;
        let mut forwarded = None;
        let mut answered_by = match verdict {
            Verdict::Respond(answer) => {
                body = Some(self.answer(&answer));
                if self.stream.failed() { "failure" } else { "filter" }
            }
            Verdict::Close => {
                body = Some(self.answer(&LocalResponse::text(503, "Service Unavailable\n")));
                "close"
            }
            Verdict::Continue | Verdict::Pause => {
                let mut transaction = self.shared.0.lock();
                forwarded = Some(request_head(&transaction));
                transaction.status = args.response.to_string().into();
                let fields = args.response_headers.iter();
                let fields = fields.map(|(name, value)| (name.clone().into(), value.clone().into()));
                transaction.response = Some(fields.collect());
                "origin"
            }
        };
        let ends = {
            let transaction = self.shared.0.lock();
            let empty = transaction.response.as_ref().and_then(|fields| Transaction::find(fields, "content-length"));
            transaction.request_line[0] == b"HEAD"
                || matches!(transaction.status.as_slice(), b"204" | b"304")
                || empty == Some("0")
        };
        lock(&self.trace).expect_response();
        let mut verdict = self.stream.response_headers(At::Origin, ends);
        verdict = self.settle(verdict);
        if verdict == Verdict::Continue {
            verdict = self.stream.response_headers(At::Client, ends);
            verdict = self.settle(verdict);
        }
        match verdict {
            Verdict::Respond(answer) => {
                if answered_by == "origin" {
                    self.notes.push(
                        "the answer comes after the origin's: of its headers, Traffic Server sends content-type alone"
                            .to_owned(),
                    );
                }
                body = Some(self.answer(&answer));
                answered_by = if self.stream.failed() { "failure" } else { "filter" };
            }
            Verdict::Close => {
                body = Some(self.answer(&LocalResponse::text(503, "Service Unavailable\n")));
                answered_by = "close";
            }
            Verdict::Continue | Verdict::Pause => {}
        }
        lock(&self.trace).expect_end();
        self.stream.finish();
        self.close();
        (forwarded, answered_by, body)
    }

    /// Waits out every pause: ticks run meanwhile, and when none is left that could end it, its time is up at once.
    fn settle(&mut self, mut verdict: Verdict) -> Verdict {
        let mut deadline = Instant::now() + self.stream.pause_limit();
        while verdict == Verdict::Pause {
            self.close();
            let next = self.runtime.run_timers(0);
            verdict = self.stream.resume();
            if verdict != Verdict::Pause {
                break;
            }
            let Some(next) = next.filter(|next| *next <= deadline) else {
                let limit = self.stream.pause_limit();
                let filter = lock(&self.trace).current_name();
                self.notes.push(format!(
                    "filter '{filter}' paused the transaction, and no tick of its ends that within its {limit:?}"
                ));
                verdict = self.stream.pause_expired();
                deadline = Instant::now() + self.stream.pause_limit();
                continue;
            };
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        self.close();
        verdict
    }

    /// Ends the step that is open.
    fn close(&self) {
        let now = self.shared.0.lock().clone();
        lock(&self.trace).close(&now);
    }

    /// Puts an answer in the place of the origin's. Its body, as text.
    fn answer(&self, answer: &LocalResponse) -> String {
        let mut transaction = self.shared.0.lock();
        transaction.status = answer.status.to_string().into();
        let mut fields = answer.headers.clone();
        if let Some(status) = answer.grpc_status {
            fields.push((b"grpc-status".to_vec(), status.to_string().into()));
        }
        transaction.response = Some(fields);
        match std::str::from_utf8(&answer.body) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("({} that are not text)", count(answer.body.len(), "byte")),
        }
    }
}

fn request_head(transaction: &Transaction) -> Head {
    let [method, path, authority, scheme] =
        transaction.request_line.each_ref().map(|part| String::from_utf8_lossy(part));
    Head {
        method: Some(method.clone().into_owned()),
        url: Some(format!("{scheme}://{authority}{path}")),
        status: None,
        headers: text(&transaction.request),
    }
}

fn response_head(transaction: &Transaction) -> Head {
    let status = std::str::from_utf8(&transaction.status).ok().and_then(|status| status.parse().ok());
    Head { method: None, url: None, status, headers: text(transaction.response.as_ref().unwrap_or(&Fields::new())) }
}

fn render(report: &Report) -> String {
    let mut out = String::new();
    head(&mut out, "client sends", &report.request);
    for text in &report.load_log {
        line(&mut out, 2, "log", text);
    }
    out.push('\n');
    let width = report.callbacks.iter().map(|step| step.filter.len()).max().unwrap_or_default();
    for step in &report.callbacks {
        let _ = writeln!(out, "{:width$}  {}", step.filter, step.callback);
        for change in &step.changes {
            let sign = if change.change == "added" { '+' } else { '-' };
            let _ = writeln!(out, "{:width$}    {} {sign} {}: {}", "", change.message, change.name, change.value);
        }
        for text in &step.log {
            line(&mut out, width + 4, "log", text);
        }
    }
    out.push('\n');
    if let Some(forwarded) = &report.forwarded {
        head(&mut out, "origin gets", forwarded);
        out.push('\n');
    }
    let who = match report.answered_by {
        "filter" => "client gets, from a filter",
        "failure" => "client gets, because a filter failed",
        "close" => "client gets, because a filter closed the transaction",
        _ => "client gets, from the origin",
    };
    head(&mut out, who, &report.response);
    if let Some(body) = report.body.as_deref().filter(|body| !body.is_empty()) {
        out.push('\n');
        for text in body.lines() {
            let _ = writeln!(out, "  {text}");
        }
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn head(out: &mut String, who: &str, head: &Head) {
    let _ = match (&head.method, &head.url, head.status) {
        (Some(method), Some(url), _) => writeln!(out, "{who}: {method} {url}"),
        (_, _, Some(status)) => writeln!(out, "{who}: {status}"),
        _ => writeln!(out, "{who}:"),
    };
    for (name, value) in &head.headers {
        let _ = writeln!(out, "  {name}: {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines() {
        let line = request_line("POST https://a.test:8443/x?q#f HTTP/1.1").unwrap();
        assert_eq!((line.method.as_str(), line.scheme.as_str()), ("POST", "https"));
        assert_eq!((line.authority.as_str(), line.path.as_str()), ("a.test:8443", "/x?q"));
        assert_eq!(request_line("http://a.test").unwrap().path, "/");
        assert_eq!(request_line("http://a.test?q").unwrap().path, "/?q");
        for wrong in ["", "GET", "GET /x", "ftp://a/", "http:///x", "a b c d"] {
            assert!(request_line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields() {
        assert_eq!(field("A:b: c ").unwrap(), ("A".to_owned(), "b: c".to_owned()));
        assert_eq!(field("a:").unwrap().1, "");
        assert!(field("a").is_err() && field(": x").is_err() && field("a b: c").is_err());
    }
}
