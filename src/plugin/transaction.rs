//! A transaction that matched a rule: what happens in DoRemap and in each hook.
//!
//! The shape of every handler: lock the state, let the engine run, decide what is [`Next`], unlock, and only then
//! re-enable. Re-enabling runs the rest of the transaction inside our stack, its next hooks and its close included,
//! so nothing may be locked or borrowed at that point.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ats::cont::{ContRef, Continuation, Edata, Handler};
use ats::event::{Event, HookId};
use ats::handle::TxnHandle;
use ats::hook::{Hook, Reenable};
use ats::messages::Messages;
use ats::remap::RemapRequest;
use ats::schedule::ScheduledAction;
use ats::thread::EventThread;
use ats::txn_hooks::{Attached, TxnHandler};
use engine::{At, LocalResponse, Stream, Verdict};
use parking_lot::Mutex;
use send_wrapper::SendWrapper;

use crate::host::TxnHost;
use crate::rule::Rule;
use crate::{fault, process, reply, threads};

/// What a handler does last.
enum Next {
    /// Re-enable with CONTINUE.
    Resume,
    /// Re-enable with ERROR: ATS sends the error answer.
    Error,
    /// Keep the transaction; its waker or its timer comes back to it.
    Hold,
}

/// Where the transaction is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Up to POST_REMAP.
    Request,
    /// At SEND_RESPONSE_HDR.
    Response,
}

/// The handler of a transaction's hooks.
pub(crate) struct Transaction {
    /// Of one thread, like everything of a transaction.
    state: RefCell<State>,
}

struct State {
    stream: Stream,
    stage: Stage,
    /// The client asked with HEAD: no response has a body.
    head: bool,
    /// A filter's answer, or a failure's, on its way to SEND_RESPONSE_HDR.
    reply: Option<Box<LocalResponse>>,
    /// The reply has been written; the response callbacks see it.
    replied: bool,
    /// The duty to re-enable, while the transaction waits.
    held: Option<Reenable>,
    /// Comes back to a transaction that waits.
    resumer: Option<Arc<Continuation<Resumer>>>,
    /// When the wait ends at the latest.
    deadline: Option<Instant>,
}

/// What DoRemap did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// The URL was changed.
    pub(crate) remapped: bool,
    /// The request is answered here: no plugin behind us in the rule may see it, or answer otherwise.
    pub(crate) answered: bool,
}

/// `TSRemapDoRemap`: shows the request to the chain, and hooks what the chain needs.
pub(crate) fn begin(rule: &Rule, request: &mut RemapRequest<'_>, handle: TxnHandle) -> Outcome {
    let slot = threads::slot();
    process::get().count_entered(slot);
    let chain = rule.chain();
    let needs = chain.needs();
    if !needs.request_headers {
        return Outcome::default();
    }
    fault::inject_for("TSRemapDoRemap", &mut request.messages());
    let (end_of_stream, head) =
        request.request().map_or((true, false), |request| (!has_body(&request), request.method() == b"HEAD"));
    let txn = request.txn();
    let host = TxnHost::new(handle);
    let mut stream = Stream::new(Arc::clone(chain), slot, Box::new(host));
    let verdict = stream.request_headers(end_of_stream);
    let remapped = stream.with_host(|host| host.request_line_changed()).unwrap_or(false);
    let mut state = State {
        stream,
        stage: Stage::Request,
        head,
        reply: None,
        replied: false,
        held: None,
        resumer: None,
        deadline: None,
    };
    let mut paused = false;
    let answered = matches!(verdict, Verdict::Respond(_) | Verdict::Close);
    match verdict {
        Verdict::Continue => {}
        Verdict::Pause => paused = true,
        Verdict::Respond(response) => {
            reply::announce(txn, &response);
            state.reply = Some(response);
        }
        Verdict::Close => reply::refuse(txn),
    }
    let mut hooks = [HookId::SEND_RESPONSE_HDR; 2];
    let mut count = usize::from(needs.response_headers || state.reply.is_some() || paused);
    if paused {
        hooks[count] = HookId::POST_REMAP;
        count += 1;
    }
    let mut transaction = Transaction { state: RefCell::new(state) };
    // A rule that names the plugin several times has several of us in one transaction: each has its own place.
    for place in &process::get().hooks {
        match place.attach(txn, transaction, &hooks[..count]) {
            Ok(()) => return Outcome { remapped, answered },
            Err(back) => transaction = back,
        }
    }
    log::error!(
        "{}: @plugin=wasm_remap.so stands more than {} times in one rule: name its files as several @pparam of one",
        chain.label(),
        process::PLACES
    );
    drop(transaction);
    reply::refuse(txn);
    Outcome { remapped, answered: true }
}

/// Whether a request has a body to come: then its headers do not end the stream.
fn has_body(request: &ats::http::Request<'_>) -> bool {
    request.get_first(b"Content-Length").is_some_and(|length| length != b"0")
        || request.get_first(b"Transfer-Encoding").is_some()
}

/// Whether a response has none, by its status or by its length.
fn ends_with_headers(messages: &mut Messages<'_>) -> bool {
    messages.client_resp_get().is_some_and(|response| {
        matches!(response.status(), 204 | 304) || response.get_first(b"Content-Length") == Some(b"0")
    })
}

impl TxnHandler for Transaction {
    const NAME: &'static str = "wasm_remap transaction hook";

    fn handle(this: &Attached<Self>, event: Event, mut hook: Hook) {
        if event == Event::HTTP_TXN_CLOSE {
            fault::inject_for("TXN_CLOSE", &mut hook.messages());
            this.state.borrow_mut().close();
            return hook.resume();
        }
        let next = if event == Event::HTTP_POST_REMAP {
            fault::inject_for("POST_REMAP", &mut hook.messages());
            this.state.borrow_mut().go_on(&mut hook.messages())
        } else if event == Event::HTTP_SEND_RESPONSE_HDR {
            fault::inject_for("SEND_RESPONSE_HDR", &mut hook.messages());
            this.state.borrow_mut().respond(&mut hook.messages())
        } else {
            Next::Resume
        };
        act(this, next, hook);
    }

    /// A transaction is held with its contexts alive; those end with it, also if we are what fails.
    fn abandon(&self) {
        self.state.borrow_mut().close();
    }
}

/// The last thing that a handler does. No borrow of the state is alive here: what is re-enabled comes back to it.
fn act(this: &Attached<Transaction>, next: Next, hook: Hook) {
    match next {
        Next::Resume => hook.resume(),
        Next::Error => hook.error(),
        Next::Hold => {
            let mut state = this.state.borrow_mut();
            state.held = Some(hook.pause());
            state.wait(this);
        }
    }
}

/// The waker's or the timer's call, on the transaction's thread.
fn wake(this: &Attached<Transaction>) {
    let (next, hook) = {
        let mut state = this.state.borrow_mut();
        // Not held (yet): POST_REMAP will ask the stream itself.
        let Some(token) = state.held.take() else { return };
        let mut hook = match token.enter() {
            Ok(hook) => hook,
            Err(token) => {
                state.held = Some(token);
                return;
            }
        };
        let next = state.go_on(&mut hook.messages());
        (next, hook)
    };
    act(this, next, hook);
}

impl State {
    /// SEND_RESPONSE_HDR: writes a reply that waits, then shows the response to the chain.
    fn respond(&mut self, messages: &mut Messages<'_>) -> Next {
        self.stage = Stage::Response;
        self.deadline = None;
        if let Some(response) = self.reply.take() {
            reply::write(messages, &response);
            self.replied = true;
        }
        let end_of_stream = self.head || ends_with_headers(messages);
        let verdict = self.stream.response_headers(At::Client, end_of_stream);
        self.decide(verdict, messages)
    }

    /// Asks the chain again after a pause, in whose place another filter's may have come.
    fn go_on(&mut self, messages: &mut Messages<'_>) -> Next {
        let holder = self.stream.deadline();
        let expired = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let verdict = if expired { self.stream.pause_expired() } else { self.stream.resume() };
        if self.stream.deadline() != holder {
            self.deadline = None;
        }
        self.decide(verdict, messages)
    }

    /// Turns the engine's verdict into what the state machine is told.
    fn decide(&mut self, verdict: Verdict, messages: &mut Messages<'_>) -> Next {
        match (verdict, self.stage) {
            (Verdict::Continue, _) => Next::Resume,
            (Verdict::Pause, _) => Next::Hold,
            (Verdict::Respond(response), Stage::Request) => {
                reply::announce(messages.txn(), &response);
                self.reply = Some(response);
                Next::Error
            }
            // The reply is being sent already: its bytes are still ours to replace.
            (Verdict::Respond(response), Stage::Response) if self.replied => {
                reply::write(messages, &response);
                Next::Resume
            }
            (Verdict::Respond(response), Stage::Response) => {
                reply::replace(messages.txn(), &response);
                Next::Error
            }
            (Verdict::Close, _) => {
                reply::refuse(messages.txn());
                Next::Error
            }
        }
    }

    /// Sees to it that a transaction that waits is come back to: when a filter asks for it, and when its time is up.
    fn wait(&mut self, this: &Attached<Transaction>) {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert_with(|| now + self.stream.pause_limit());
        let Some(thread) = EventThread::current() else { return };
        let resumer = match &self.resumer {
            Some(resumer) => Arc::clone(resumer),
            None => match Continuation::new(Resumer {
                transaction: Mutex::new(Some(SendWrapper::new(this.clone()))),
                timer: Mutex::default(),
            }) {
                Ok(resumer) => Arc::clone(self.resumer.insert(Arc::new(resumer))),
                Err(error) => {
                    log::error!("a paused transaction has no timer: {error}");
                    return;
                }
            },
        };
        // ATS's timers may be early, since its clock stands still while a thread works: then this runs again.
        let left = deadline.saturating_duration_since(now) + Duration::from_millis(1);
        (*resumer).as_ref().share().arm((*resumer).as_ref(), left, thread);
        self.stream.set_waker(Box::new(move || {
            let resumer = Arc::clone(&resumer);
            let resume = move || {
                if let Err(error) = (*resumer).as_ref().schedule_on_thread(Duration::ZERO, thread) {
                    log::error!("a paused transaction cannot be resumed: {error}");
                }
            };
            // From elsewhere, taking the resumer's mutex here would be to wait for its handler, which may wait for
            // the lock under which we are called.
            if thread.is_current() { resume() } else { threads::run(resume) }
        }));
    }

    /// TXN_CLOSE: ends the contexts, and cuts the circle by which a resumer and its transaction keep each other.
    fn close(&mut self) {
        self.stream.finish();
        if let Some(resumer) = self.resumer.take() {
            let transaction = (*resumer).as_ref().share().transaction.lock().take();
            drop(transaction);
        }
        self.reply = None;
    }
}

/// Comes back to a transaction that waits. Apart from [`Transaction`], because it needs a mutex to be scheduled, and
/// most transactions never wait.
struct Resumer {
    /// Of the thread that this is scheduled on. [`State::close`] takes it out there, since a waker may hold the last
    /// reference to this on another.
    transaction: Mutex<Option<SendWrapper<Attached<Transaction>>>>,
    timer: Mutex<Option<ScheduledAction>>,
}

impl Handler for Resumer {
    const NAME: &'static str = "wasm_remap paused transaction";

    fn handle(&self, _cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        let transaction = self.transaction.lock().as_deref().cloned();
        // The lock is released: what is woken may run to its close, which wants it.
        if let Some(transaction) = transaction {
            wake(&transaction);
        }
    }
}

impl Resumer {
    /// Sets the timer, in place of an earlier one. On the transaction's thread.
    fn arm(&self, cont: ContRef<'_, Self>, delay: Duration, thread: EventThread) {
        let mut timer = self.timer.lock();
        if let Some(earlier) = timer.take() {
            // False if it is the one that brought us here.
            let _ = cont.cancel(earlier);
        }
        match cont.schedule_on_thread(delay, thread) {
            Ok(action) => *timer = Some(action),
            Err(error) => log::error!("a paused transaction has no timer: {error}"),
        }
    }
}
