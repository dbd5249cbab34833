//! One transaction, from the client's request to the client's answer, in the order in which the plugin drives it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam::channel::Receiver;
use engine::testing::{SharedTransaction, Transaction};
use engine::{At, LocalResponse, Needs, Runtime, Side, Stream, Verdict};

use super::message::{BodyReport, Framing, Length, Message, Outgoing};
use super::trace::{Trace, lock};
use super::watched::Watched;

/// So much of a request's body is waited for before it goes out, for it may end and have a length then.
const WINDOW: usize = 64 << 10;

/// What the two sides have to say.
pub(super) struct Script {
    pub(super) request_body: Option<Vec<u8>>,
    pub(super) status: u16,
    pub(super) response_headers: Vec<(String, String)>,
    pub(super) response_body: Option<Vec<u8>>,
    /// How much of a body comes at a time.
    pub(super) chunk: usize,
}

/// How it went.
pub(super) struct Ending {
    /// What the origin got.
    pub(super) forwarded: Option<Message>,
    pub(super) answered_by: &'static str,
    /// What the client got; nothing if a filter closed the transaction.
    pub(super) response: Option<Message>,
}

/// A body on its way through the chain.
#[derive(Default)]
struct Passage {
    /// The message as it went out, once its head had to be sent.
    head: Option<(Message, Outgoing)>,
    out: Vec<u8>,
    finished: bool,
}

/// What the engine has for its thread, which is ours: ticks and answers.
pub(super) struct Errands(Receiver<()>);

impl Errands {
    /// Those of a runtime, from now on.
    pub(super) fn of(runtime: &Runtime) -> Self {
        let (sender, errands) = crossbeam::channel::bounded(1);
        // One that waits already is as good as two.
        runtime.on_errand(move |_, _| _ = sender.try_send(()));
        Errands(errands)
    }
}

pub(super) struct Drive<'a> {
    runtime: &'a Runtime,
    errands: &'a Errands,
    stream: Stream,
    needs: Needs,
    shared: SharedTransaction,
    trace: Arc<Mutex<Trace>>,
    script: Script,
    /// By side: where its body ends, as its sender said.
    came: [Framing; 2],
    passages: [Passage; 2],
    /// Answers that filters have given.
    answers: u64,
    /// The client asked with HEAD.
    head: bool,
    pub(super) notes: Vec<String>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        runtime: &'a Runtime,
        errands: &'a Errands,
        stream: Stream,
        needs: Needs,
        shared: SharedTransaction,
        trace: Arc<Mutex<Trace>>,
        script: Script,
    ) -> Self {
        let came = [Framing::of(&shared.0.lock().request), Framing::default()];
        let answers = runtime.counters().local_responses;
        let passages = [Passage::default(), Passage::default()];
        let head = shared.0.lock().request_line[0] == b"HEAD";
        Drive {
            runtime,
            errands,
            stream,
            needs,
            shared,
            trace,
            script,
            came,
            passages,
            answers,
            head,
            notes: Vec::new(),
        }
    }

    pub(super) fn transaction(&mut self) -> Ending {
        let ending = self.request();
        lock(&self.trace).expect_end();
        self.stream.finish();
        self.close();
        ending
    }

    fn request(&mut self) -> Ending {
        let has_body = {
            let transaction = self.shared.0.lock();
            let length = Transaction::find(&transaction.request, "content-length");
            length.is_some_and(|length| length != "0")
                || Transaction::find(&transaction.request, "transfer-encoding").is_some()
        };
        lock(&self.trace).expect_request();
        let verdict = self.stream.request_headers(!has_body);
        let mut verdict = self.settle(verdict, Side::Request, true);
        let mut shown = false;
        if verdict == Verdict::Continue {
            self.prepare(has_body);
            if let Some(body) = self.script.request_body.take_if(|body| !body.is_empty()) {
                shown = self.needs.request_body && self.stream.wants_body(Side::Request);
                if shown {
                    verdict = self.request_body(&body);
                } else {
                    self.passages[Side::Request as usize].out = body;
                }
            }
        }
        let passage = std::mem::take(&mut self.passages[Side::Request as usize]);
        let complete = verdict == Verdict::Continue;
        let forwarded = match passage.head {
            Some((mut message, outgoing)) => {
                message.frame(&outgoing.fields(&self.came[Side::Request as usize]));
                Some(Message { body: BodyReport::of(&passage.out, complete), ..message })
            }
            None if complete && !shown => {
                let mut message = Message::request(&self.shared.0.lock());
                message.frame(self.came[Side::Request as usize].fields());
                Some(Message { body: BodyReport::of(&passage.out, true), ..message })
            }
            None => None,
        };
        match verdict {
            Verdict::Respond(answer) => Ending { forwarded, ..self.reply(*answer, true) },
            Verdict::Close => Ending { forwarded, ..closed() },
            Verdict::Continue | Verdict::Pause => Ending { forwarded, ..self.response() },
        }
    }

    /// What the plugin takes off a request whose bodies filters are shown.
    fn prepare(&mut self, has_body: bool) {
        let mut off: Vec<&[u8]> = Vec::new();
        if has_body && self.needs.request_body && self.stream.wants_body(Side::Request) {
            off.push(b"expect");
        }
        if !self.head && self.needs.response_body.is_some() && self.stream.wants_body(Side::Response) {
            off.extend([&b"range"[..], b"if-range"]);
        }
        let mut transaction = self.shared.0.lock();
        for name in off {
            let before = transaction.request.len();
            transaction.request.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
            if transaction.request.len() != before {
                let name = String::from_utf8_lossy(name);
                self.notes.push(format!("'{name}' is not passed on, for filters are shown the whole body"));
            }
        }
    }

    fn request_body(&mut self, body: &[u8]) -> Verdict {
        let limit = self.needs.request_limit;
        if self.needs.buffers_request && body.len() > limit {
            self.notes.push(format!("the request has more than {} KiB (limits.body_kib)", limit >> 10));
            return Verdict::Respond(Box::new(LocalResponse::text(413, "Content Too Large\n")));
        }
        let verdict =
            self.pass(Side::Request, body, if self.needs.buffers_request { body.len() } else { self.script.chunk });
        let broken = verdict == Verdict::Continue && !self.keeps_promise(Side::Request);
        if broken { Verdict::Respond(Box::new(LocalResponse::text(502, "Bad Gateway\n"))) } else { verdict }
    }

    /// The origin's answer.
    fn response(&mut self) -> Ending {
        let body = self.script.response_body.take();
        let status = self.script.status;
        let bare = self.head || matches!(status, 204 | 304);
        let ends = {
            let mut transaction = self.shared.0.lock();
            transaction.status = status.to_string().into();
            let fields = self.script.response_headers.iter();
            let fields = fields.map(|(name, value)| (name.clone().into(), value.clone().into())).collect();
            self.came[Side::Response as usize] = Framing::of(&fields);
            transaction.response = Some(fields);
            bare || self.came[Side::Response as usize].length() == Some(0)
        };
        lock(&self.trace).lengths[Side::Response as usize] = Length::Kept;
        let body = body.filter(|body| !body.is_empty() && !bare);

        lock(&self.trace).expect_response(At::Origin);
        let verdict = self.stream.response_headers(At::Origin, bare);
        let mut verdict = self.settle(verdict, Side::Response, true);
        let mut shown = None;
        if verdict == Verdict::Continue
            && let Some(body) = body.as_deref()
            && self.shows_response(At::Origin)
        {
            shown = Some(At::Origin);
            verdict = self.pass(Side::Response, body, self.script.chunk);
        }
        match verdict {
            // Nothing has gone to the client's side yet: the answer is seen there as any is.
            Verdict::Respond(answer) if self.passages[Side::Response as usize].head.is_none() => {
                return self.reply(*answer, true);
            }
            Verdict::Respond(_) | Verdict::Close if self.passages[Side::Response as usize].head.is_some() => {
                return self.cut(shown);
            }
            Verdict::Close => return closed(),
            _ => {}
        }

        lock(&self.trace).expect_response(At::Client);
        let verdict = self.stream.response_headers(At::Client, ends);
        let verdict = self.settle(verdict, Side::Response, true);
        let exact = self.head || status == 304 || self.shows_response(At::Client);
        match verdict {
            Verdict::Respond(answer) => {
                if !exact && !self.stream.failed() {
                    let note = "the answer comes after the origin's: Traffic Server sends its status (if that is 400 or \
                                more), its body and its content-type alone, unless the chain is shown response bodies";
                    self.notes.push(note.to_owned());
                }
                return self.reply(*answer, false);
            }
            Verdict::Close => return closed(),
            Verdict::Continue | Verdict::Pause => {}
        }
        if let Some(body) = body.as_deref()
            && self.shows_response(At::Client)
        {
            shown = Some(At::Client);
            match self.pass(Side::Response, body, self.script.chunk) {
                Verdict::Respond(_) | Verdict::Close if self.passages[Side::Response as usize].head.is_some() => {
                    return self.cut(shown);
                }
                Verdict::Respond(answer) => return self.reply(*answer, false),
                Verdict::Close => return closed(),
                Verdict::Continue | Verdict::Pause => {}
            }
        }
        let complete = shown.is_none() || self.keeps_promise(Side::Response);
        if shown.is_none() {
            self.passages[Side::Response as usize].out = body.unwrap_or_default();
        }
        Ending { forwarded: None, answered_by: "origin", response: Some(self.sent_response(shown, complete)) }
    }

    /// Whether the chain is shown response bodies, on this side of the cache.
    fn shows_response(&self, at: At) -> bool {
        !self.head && self.needs.response_body == Some(at) && self.stream.wants_body(Side::Response)
    }

    /// The response as the client gets it, with as much of its body as has passed.
    fn sent_response(&mut self, shown: Option<At>, complete: bool) -> Message {
        let passage = std::mem::take(&mut self.passages[Side::Response as usize]);
        let came = &self.came[Side::Response as usize];
        let now = Message::response(&self.shared.0.lock());
        let (mut message, framing) = match passage.head {
            Some((sent, outgoing)) => {
                // The head goes to the client's side when the first byte does, and to filters there on its way.
                let message = if shown == Some(At::Client) { sent } else { now };
                (message, outgoing.fields(came))
            }
            None => (now, came.fields().to_vec()),
        };
        message.frame(&framing);
        Message { body: BodyReport::of(&passage.out, complete), ..message }
    }

    /// A response of which bytes have gone out, and no more do.
    fn cut(&mut self, shown: Option<At>) -> Ending {
        let sent = self.passages[Side::Response as usize].out.len();
        self.notes.push(format!(
            "it is too late for another answer: {sent} bytes of the response's body have gone out, and it is cut there"
        ));
        Ending { forwarded: None, answered_by: "origin", response: Some(self.sent_response(shown, false)) }
    }

    /// Puts an answer in the place of the origin's; `show` says that filters have not seen a response yet.
    fn reply(&mut self, answer: LocalResponse, show: bool) -> Ending {
        let answers = self.runtime.counters().local_responses;
        let answered_by = match (self.stream.failed(), answers > self.answers) {
            (true, _) => "failure",
            (false, true) => "filter",
            (false, false) => "limit",
        };
        self.answers = answers;
        let mut body = if self.head { Vec::new() } else { answer.sent_body().to_vec() };
        let ends = self.head || answer.sent_body().is_empty();
        {
            let mut transaction = self.shared.0.lock();
            transaction.status = answer.status.to_string().into();
            let mut fields = answer.headers;
            if let Some(status) = answer.grpc_status {
                fields.push((b"grpc-status".to_vec(), status.to_string().into()));
            }
            transaction.response = Some(fields);
        }
        if show {
            lock(&self.trace).expect_response(At::Client);
            let verdict = self.stream.response_headers(At::Client, ends);
            let mut verdict = self.settle(verdict, Side::Response, true);
            if verdict == Verdict::Continue && !body.is_empty() && self.shows_response(At::Client) {
                self.passages[Side::Response as usize] = Passage::default();
                verdict = self.pass(Side::Response, &body, body.len());
                body = std::mem::take(&mut self.passages[Side::Response as usize].out);
            }
            match verdict {
                Verdict::Respond(other) => return self.reply(*other, false),
                Verdict::Close => return closed(),
                Verdict::Continue | Verdict::Pause => {}
            }
        }
        let message = Message::response(&self.shared.0.lock());
        let response = Message { body: BodyReport::of(&body, true), ..message };
        Ending { forwarded: None, answered_by, response: Some(response) }
    }

    /// Shows a body to the chain, in pieces of this size.
    fn pass(&mut self, side: Side, body: &[u8], size: usize) -> Verdict {
        let mut pieces = body.chunks(size.max(1)).peekable();
        while let Some(piece) = pieces.next() {
            let end = pieces.peek().is_none();
            lock(&self.trace).expect_body(side, end);
            let chunk = Watched { bytes: piece.to_vec(), side, trace: Arc::clone(&self.trace) };
            let verdict = self.stream.body(side, Some(Box::new(chunk)), end);
            let verdict = self.settle(verdict, side, end);
            if matches!(verdict, Verdict::Respond(_) | Verdict::Close) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// Takes what has passed the chain. The head goes out with the first of it.
    fn collect(&mut self, side: Side) {
        let passed = self.stream.take_body(side);
        let passage = &mut self.passages[side as usize];
        passage.finished |= passed.end;
        if let Some(bytes) = passed.bytes {
            bytes.read(0, bytes.len(), &mut |piece| passage.out.extend_from_slice(piece));
        }
        if passage.head.is_some() || passage.out.is_empty() && !passage.finished {
            return;
        }
        let announced = self.came[side as usize].length();
        let said = lock(&self.trace).lengths[side as usize];
        let fixed = !self.needs.changes_body[side as usize];
        let waiting = passage.out.len();
        let outgoing = match (side, said, announced) {
            _ if passage.finished => Outgoing::Sized(waiting as u64),
            (_, Length::Set(number), _) => number.map_or(Outgoing::Chunked, Outgoing::Sized),
            (_, Length::Kept, Some(announced)) if fixed => Outgoing::Sized(announced),
            (Side::Response, ..) => Outgoing::Chunked,
            (Side::Request, _, Some(_)) if waiting < WINDOW => return,
            (Side::Request, Length::Kept, Some(announced)) => Outgoing::Sized(announced),
            (Side::Request, ..) => Outgoing::Chunked,
        };
        let transaction = self.shared.0.lock();
        let message = match side {
            Side::Request => Message::request(&transaction),
            Side::Response => Message::response(&transaction),
        };
        passage.head = Some((message, outgoing));
    }

    /// Whether a body that has passed is as long as its head said.
    fn keeps_promise(&mut self, side: Side) -> bool {
        let passage = &mut self.passages[side as usize];
        let Some((_, Outgoing::Sized(promised))) = passage.head else { return true };
        if passage.out.len() as u64 == promised {
            return true;
        }
        self.notes.push(format!(
            "a filter left {} bytes of a {} body whose head says {promised}: remove content-length in the header \
             callback, or set the right one{}",
            passage.out.len(),
            side.as_str(),
            if side == Side::Request { ", or use request_body: buffer" } else { "" }
        ));
        passage.out.truncate(usize::try_from(promised).unwrap_or(usize::MAX));
        false
    }

    /// Waits out every pause that more of the body would not end (`end`: there is no more): ticks run meanwhile, and answers
    /// to calls come. When neither is left that could end it, its time is up at once.
    fn settle(&mut self, mut verdict: Verdict, side: Side, end: bool) -> Verdict {
        loop {
            self.close();
            self.collect(side);
            if verdict != Verdict::Pause {
                return verdict;
            }
            lock(&self.trace).held();
            if !end && self.stream.wants_more(side) {
                return verdict;
            }
            while self.runtime.deliver(0) {}
            let next = self.runtime.run_timers(0);
            lock(&self.trace).expect_resume(&self.stream);
            verdict = self.stream.resume();
            if verdict != Verdict::Pause {
                continue;
            }
            let deadline = self.stream.deadline();
            // An answer to a call may end the pause, and so may a tick.
            let until = match next.filter(|next| deadline.is_some_and(|deadline| *next <= deadline)) {
                None if self.runtime.calls() > 0 => deadline.filter(|deadline| *deadline > Instant::now()),
                next => next,
            };
            if let Some(until) = until {
                let _ = self.errands.0.recv_deadline(until);
                continue;
            }
            let limit = self.stream.pause_limit();
            let filter = lock(&self.trace).holder(&self.stream);
            let what = match self.stream.holds_headers(side) {
                Some(_) => "the transaction".to_owned(),
                None => format!("the {} body", side.as_str()),
            };
            self.notes.push(format!(
                "filter '{filter}' paused {what}, and no tick and no answer of its ends that within its {limit:?}"
            ));
            verdict = self.stream.pause_expired();
        }
    }

    /// Ends the step that is open.
    fn close(&self) {
        let now = self.shared.0.lock().clone();
        lock(&self.trace).close(&now);
    }
}

/// A transaction that a filter closed.
fn closed() -> Ending {
    Ending { forwarded: None, answered_by: "close", response: None }
}
