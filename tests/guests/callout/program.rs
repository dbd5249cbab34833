//! The calls that a text asks for; the head of lib.rs describes the language.

use std::time::Duration;

/// The callbacks that make calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    ResponseBody,
    Log,
}

/// Where a report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Client,
    Origin,
    Shared(String),
}

/// One call, or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub at: At,
    pub count: u32,
    pub cluster: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<usize>,
    pub trailers: u32,
    pub timeout: Duration,
    /// How often the callback calls again.
    pub chain: u32,
    /// Whether the transaction waits for it.
    pub wait: bool,
    /// Whether a body callback calls at the body's end only.
    pub end: bool,
    /// The status with which the callback answers the request.
    pub answer: Option<u32>,
    pub to: To,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Answer with what is in shared data.
    Read(String),
    Calls(Vec<Call>),
}

impl Program {
    pub fn parse(text: &str) -> Result<Program, String> {
        let mut calls = Vec::new();
        for step in text.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            let mut words = step.split_whitespace();
            match words.next() {
                Some("read") => {
                    return words.next().map(|key| Program::Read(key.to_owned())).ok_or("read what?".into());
                }
                Some("call") => calls.push(call(words)?),
                other => return Err(format!("{other:?}: expected `call` or `read`")),
            }
        }
        Ok(Program::Calls(calls))
    }

    /// The calls of one callback.
    pub fn at(&self, at: At) -> Vec<Call> {
        match self {
            Program::Read(_) => Vec::new(),
            Program::Calls(calls) => calls.iter().filter(|call| call.at == at).cloned().collect(),
        }
    }
}

fn call<'a>(words: impl Iterator<Item = &'a str>) -> Result<Call, String> {
    let mut call = Call {
        at: At::RequestHeaders,
        count: 1,
        cluster: "upstream".to_owned(),
        headers: Vec::new(),
        body: None,
        trailers: 0,
        timeout: Duration::from_secs(5),
        chain: 0,
        wait: true,
        end: false,
        answer: None,
        to: To::Client,
    };
    let (mut method, mut path, mut authority) = (Some("GET"), Some("/"), Some("callout.test"));
    let mut to = None;
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u32>().map_err(|_| format!("{word}: expected a number"));
        let optional = (!value.is_empty()).then_some(value);
        match name {
            "at" => {
                call.at = match value {
                    "request_headers" => At::RequestHeaders,
                    "request_body" => At::RequestBody,
                    "response_headers" => At::ResponseHeaders,
                    "response_body" => At::ResponseBody,
                    "log" => At::Log,
                    _ => return Err(format!("{word}: no such callback")),
                }
            }
            "n" => call.count = number()?,
            "cluster" => value.clone_into(&mut call.cluster),
            "method" => method = optional,
            "path" => path = optional,
            "authority" => authority = optional,
            "header" => {
                let (name, value) = value.split_once(':').ok_or_else(|| format!("{word}: expected name:value"))?;
                call.headers.push((name.to_owned(), value.to_owned()));
            }
            "body" => call.body = Some(number()? as usize),
            "trailers" => call.trailers = number()?,
            "timeout" => call.timeout = Duration::from_millis(number()?.into()),
            "chain" => call.chain = number()?,
            "nowait" => call.wait = false,
            "end" => call.end = true,
            "answer" => call.answer = Some(number()?),
            "to" => to = Some(value),
            _ => return Err(format!("{word}: no such word")),
        }
    }
    let pseudo = [(":method", method), (":path", path), (":authority", authority)];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    call.headers = pseudo.chain(call.headers).collect();
    call.to = match (to, call.at) {
        (Some("client"), _) | (None, At::RequestHeaders | At::RequestBody | At::ResponseHeaders) => To::Client,
        (Some("origin"), _) => To::Origin,
        (Some(key), _) => To::Shared(key.to_owned()),
        (None, At::ResponseBody) => To::Shared("callout.response_body".to_owned()),
        (None, At::Log) => To::Shared("callout.log".to_owned()),
    };
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_read() {
        let text =
            "call cluster=a path=/x/{i} n=3 header=x-a:b=c timeout=50; call at=response_body nowait method= body=7";
        let Program::Calls(calls) = Program::parse(text).unwrap() else { panic!("calls") };
        assert_eq!((calls[0].count, calls[0].timeout, calls[0].wait), (3, Duration::from_millis(50), true));
        assert_eq!(calls[0].headers[1], (":path".to_owned(), "/x/{i}".to_owned()));
        assert_eq!(calls[0].headers[3], ("x-a".to_owned(), "b=c".to_owned()));
        assert_eq!(calls[1].headers[0].0, ":path");
        assert_eq!((calls[1].body, calls[1].wait), (Some(7), false));
        assert_eq!(calls[1].to, To::Shared("callout.response_body".to_owned()));
        assert_eq!(Program::parse("read k"), Ok(Program::Read("k".to_owned())));
        for wrong in ["call at=tick", "call n=x", "cal", "read", "call header=x"] {
            assert!(Program::parse(wrong).is_err(), "{wrong}");
        }
    }
}
