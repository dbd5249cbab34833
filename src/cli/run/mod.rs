//! `wasm-remap run`: one transaction through a chain, with nobody on either side.

mod drive;
mod message;
mod recorder;
mod render;
mod trace;
mod watched;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use engine::config::{ConfigFile, FilterSpec, Variables};
use engine::testing::{SharedTransaction, Transaction, TransactionView};
use engine::{Chain, Options, Runtime, Stream};
use serde::Serialize;

use crate::capture::{self, Threshold};
use crate::output::{Format, Outcome, line};
use drive::{Drive, Ending, Errands, Script};
use message::{BodyReport, Message};
use recorder::Recorder;
use trace::{LABEL, Step, Trace, lock};

const EXAMPLES: &str = "\
Examples:
  What does the chain make of this request?
    wasm-remap run filters/shop.yaml --request 'GET http://shop.example.com/x?q=1' -H 'x-api-key: 123'

  And of the origin's answer?
    wasm-remap run filters/shop.yaml -r 'GET http://shop.example.com/x' --response 404 -R 'server: apache'

  Would the filters of this rule take part, and if not, why?
    wasm-remap run filters/shop.yaml -r 'POST http://shop.example.com/admin/users' --client 10.1.2.3

  Bodies, in pieces of four bytes:
    wasm-remap run f.yaml -r 'POST http://a.test/' --data 'hello' --response-body 'hello, too' --chunk-size 4

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

    /// A variable for `substitute` of a file, in place of the environment's own; any number of times
    #[arg(long, value_name = "NAME=VALUE", value_parser = crate::check::variable)]
    env: Vec<(String, String)>,
    /// Where relative paths of the C++ plugin's files begin [default: the directory of the file]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

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

    /// The request's body. Unless a header says where it ends, content-length does
    #[arg(short, long, value_name = "TEXT", conflicts_with = "data_file")]
    data: Option<String>,

    /// The request's body, from a file
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,

    /// The body of the origin's answer. Without it, filters see the answer's headers alone
    #[arg(long, value_name = "TEXT", conflicts_with = "response_body_file")]
    response_body: Option<String>,

    /// The body of the origin's answer, from a file
    #[arg(long, value_name = "FILE")]
    response_body_file: Option<PathBuf>,

    /// How many bytes of a body come at a time [default: all of it at once]
    #[arg(long, value_name = "BYTES", value_parser = chunk_size)]
    chunk_size: Option<usize>,

    /// The client's address, which filters read as the property source.address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,

    /// The request is one that a plugin of the server makes, and no client
    #[arg(long)]
    internal: bool,

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

fn chunk_size(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|size| *size > 0).ok_or_else(|| "expected a number of bytes, 1 or more".to_owned())
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
    request: Message,
    /// What was logged while the chain was loaded.
    load_log: Vec<String>,
    /// The filters that take no part.
    left_out: Vec<LeftOut>,
    callbacks: Vec<Step>,
    /// What the origin gets; absent if a filter answered.
    forwarded: Option<Message>,
    /// Who answered: `origin`, `filter`, `failure` (a filter's failure policy), `limit` (a request's body is larger than
    /// filters may hold) or `close`.
    answered_by: &'static str,
    /// What the client gets; null if a filter closed the transaction.
    response: Option<Message>,
    notes: Vec<String>,
}

/// A filter whose `match` does not hold.
#[derive(Serialize)]
struct LeftOut {
    filter: String,
    /// The first condition that does not, and what the request has.
    why: String,
}

pub(crate) fn execute(args: &Args) -> Outcome {
    capture::install(args.log);
    match run(args) {
        Ok(report) => match args.format {
            Format::Json => Outcome::json(&report, true),
            Format::Text => Outcome { out: render::render(&report), err: String::new(), ok: true },
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
    let mut script = script(args)?;
    let variables = Variables::default().with(args.env.iter().cloned());
    let config = ConfigFile::load_all_with(&args.files, &variables, args.config_dir.as_deref())
        .map_err(|error| error.to_string())?;
    if config.filters.is_empty() {
        return Err("none of the files has 'filters': there is nothing to run".to_owned());
    }
    let runtime =
        Runtime::new(Options { code_cache: false, ..Options::with_slots(1) }).map_err(|error| error.to_string())?;
    let errands = Errands::of(&runtime);
    let chain = Chain::load(&runtime, LABEL, &config).map_err(|error| error.to_string())?;
    let load_log = capture::take().iter().map(ToString::to_string).collect();
    let shared = SharedTransaction::new(first(args, &mut script));
    let request = Message::request(&shared.0.lock());
    let request =
        Message { body: script.request_body.as_deref().and_then(|body| BodyReport::of(body, true)), ..request };
    let (participants, left_out) = {
        let transaction = shared.0.lock();
        let view = TransactionView { transaction: &transaction, client: Some(args.client), internal: args.internal };
        let refused = |spec: &FilterSpec| {
            let why = spec.matching.as_ref()?.refusal(&view)?;
            Some(LeftOut { filter: spec.name.clone(), why })
        };
        (chain.participants(&view), config.filters.iter().filter_map(refused).collect())
    };
    let trace = Arc::new(Mutex::new(Trace::new(&chain, participants)));
    let host =
        Recorder { inner: shared.host(), shared: shared.clone(), trace: Arc::clone(&trace), client: args.client };
    let stream = Stream::of(Arc::clone(&chain), 0, Box::new(host), participants);
    let mut drive =
        Drive::new(&runtime, &errands, stream, chain.needs_of(participants), shared, Arc::clone(&trace), script);
    let Ending { forwarded, answered_by, response } = drive.transaction();
    let notes = std::mem::take(&mut drive.notes);
    let callbacks = lock(&trace).steps(&chain);
    Ok(Report { request, load_log, left_out, callbacks, forwarded, answered_by, response, notes })
}

/// The bodies, and what the origin answers.
fn script(args: &Args) -> Result<Script, String> {
    let read = |text: &Option<String>, file: &Option<PathBuf>| match (text, file) {
        (Some(text), _) => Ok(Some(text.clone().into_bytes())),
        (None, Some(file)) => {
            std::fs::read(file).map(Some).map_err(|error| format!("{} cannot be read: {error}", file.display()))
        }
        (None, None) => Ok(None),
    };
    let request_body = read(&args.data, &args.data_file)?;
    let response_body = read(&args.response_body, &args.response_body_file)?;
    let mut response_headers = args.response_headers.clone();
    if let Some(body) = response_body.as_ref().filter(|_| !is_framed(&response_headers)) {
        response_headers.push(("content-length".to_owned(), body.len().to_string()));
    }
    for (message, headers, body) in
        [("request", &args.headers, &request_body), ("response", &response_headers, &response_body)]
    {
        let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if let (Some((_, said)), Some(body)) = (length, body)
            && *said != body.len().to_string()
        {
            return Err(format!("the {message}'s content-length says {said}, and its body has {} bytes", body.len()));
        }
    }
    let chunk = args.chunk_size.unwrap_or(usize::MAX);
    Ok(Script { request_body, status: args.response, response_headers, response_body, chunk })
}

/// Whether these fields say where a body ends.
fn is_framed(fields: &[(String, String)]) -> bool {
    let is = |name: &str| ["content-length", "transfer-encoding"].iter().any(|known| name.eq_ignore_ascii_case(known));
    fields.iter().any(|(name, _)| is(name))
}

/// The transaction as it comes from the client.
fn first(args: &Args, script: &mut Script) -> Transaction {
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
    if let Some(body) = script.request_body.as_ref().filter(|_| !is_framed(&args.headers)) {
        transaction = transaction.header("content-length", &body.len().to_string());
    }
    transaction
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
