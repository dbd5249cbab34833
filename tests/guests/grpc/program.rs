//! The gRPC call or stream that a text asks for; the head of lib.rs describes the language.

use std::time::Duration;

/// A call or a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub stream: bool,
    pub cluster: String,
    pub service: String,
    pub method: String,
    pub metadata: Vec<(String, String)>,
    /// The messages sent at once; a call has one.
    pub send: Vec<String>,
    pub number: u32,
    pub timeout: Duration,
    /// How many of the messages that come are answered with another.
    pub echo: u32,
    /// Whether the last message that is sent says that it is the last.
    pub end: bool,
    /// After how many messages that came the stream is closed.
    pub close: Option<u32>,
    /// After how many messages that came the call or stream is cancelled.
    pub cancel: Option<u32>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Nothing: the request passes.
    Pass,
    /// Answer with what is in shared data.
    Read(String),
    Call(Box<Call>),
}

impl Program {
    pub fn parse(text: &str) -> Result<Program, String> {
        let mut words = text.split_whitespace();
        let stream = match words.next() {
            None => return Ok(Program::Pass),
            Some("read") => return words.next().map(|key| Program::Read(key.to_owned())).ok_or("read what?".into()),
            Some("call") => false,
            Some("stream") => true,
            Some(other) => return Err(format!("{other}: expected `call`, `stream` or `read`")),
        };
        let mut call = Call {
            stream,
            cluster: "upstream".to_owned(),
            service: "test.Echo".to_owned(),
            method: if stream { "Bidi" } else { "Unary" }.to_owned(),
            metadata: Vec::new(),
            send: Vec::new(),
            number: 1,
            timeout: Duration::from_secs(5),
            echo: 0,
            end: false,
            close: None,
            cancel: None,
        };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u32>().map_err(|_| format!("{word}: expected a number"));
            match name {
                "cluster" => value.clone_into(&mut call.cluster),
                "service" => value.clone_into(&mut call.service),
                "method" => value.clone_into(&mut call.method),
                "metadata" => {
                    let (name, value) = value.split_once(':').ok_or_else(|| format!("{word}: expected name:value"))?;
                    call.metadata.push((name.to_owned(), value.to_owned()));
                }
                "send" => call.send = value.split(',').map(str::to_owned).collect(),
                "number" => call.number = number()?,
                "timeout" => call.timeout = Duration::from_millis(number()?.into()),
                "echo" => call.echo = number()?,
                "end" => call.end = true,
                "close" => call.close = Some(number()?),
                "cancel" => call.cancel = Some(number()?),
                _ => return Err(format!("{word}: no such word")),
            }
        }
        Ok(Program::Call(Box::new(call)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_read() {
        let text = "stream method=ClientStream send=a,b end metadata=x-a:b cancel=2 number=7";
        let Ok(Program::Call(call)) = Program::parse(text) else { panic!("a call") };
        assert!(call.stream && call.end);
        assert_eq!((call.send.len(), call.cancel, call.close, call.number), (2, Some(2), None, 7));
        assert_eq!(call.metadata, [("x-a".to_owned(), "b".to_owned())]);
        assert_eq!(Program::parse(""), Ok(Program::Pass));
        for wrong in ["unary", "call x", "call timeout=x", "read", "call metadata=x"] {
            assert!(Program::parse(wrong).is_err(), "{wrong}");
        }
    }
}
