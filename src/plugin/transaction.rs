//! A transaction that matched a rule: what happens in DoRemap and in each hook.
//!
//! The shape of every handler: borrow the state, let the engine run, decide what is [`Next`], let go, and only then
//! re-enable. Re-enabling runs the rest of the transaction inside our stack, its next hooks and its close included,
//! so nothing may be locked or borrowed at that point.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::LocalKey;

use arc_swap::Guard;
use ats::event::{Event, HookId};
use ats::handle::TxnHandle;
use ats::headers::KnownField;
use ats::hook::Hook;
use ats::messages::Messages;
use ats::remap::RemapRequest;
use ats::txn::{CacheLookup, Txn};
use ats::txn_hooks::{Attached, Kept, Prepared, TxnHandler};
use engine::{At, Chain, LocalResponse, Participants, Side, Stream, Verdict};
use smallvec::SmallVec;

use crate::course::Input;
use crate::host::{ResponseView, TxnHost, with_host};
use crate::matching::View;
use crate::rule::Rule;
use crate::state::{Next, Outgoing, Settling, Stage, State, Transaction, next_turn, watch};
use crate::{fault, process, reply, request_body, transforms};

/// What DoRemap did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// The URL was changed.
    pub(crate) remapped: bool,
    /// The request is answered here: no plugin behind us in the rule may see it, or answer otherwise.
    pub(crate) answered: bool,
}

/// `TSRemapDoRemap`, first: which filters of which chain take part. `None` if there is nothing to do.
///
/// Decided now and not again: what filters change of the request later does not change who takes part, and a chain that
/// is swapped in meanwhile is the next transaction's.
pub(crate) fn participants(
    rule: &Rule,
    request: &RemapRequest<'_>,
    slot: usize,
) -> Option<(Guard<Arc<Chain>>, Participants)> {
    let process = process::get();
    process.count_entered(slot);
    let chain = rule.chain();
    let participants = chain.participants(&View::new(request));
    if participants.is_empty() {
        if !chain.filters().is_empty() {
            process.count_unmatched(slot);
        }
        return None;
    }
    Some((chain, participants))
}

/// `TSRemapDoRemap`, then: shows the request to those filters, and hooks what they need.
pub(crate) fn begin(
    chain: &Arc<Chain>,
    request: &mut RemapRequest<'_>,
    handle: TxnHandle,
    participants: Participants,
    slot: usize,
) -> Outcome {
    let needs = chain.needs_of(participants);
    if !needs.request_headers {
        return Outcome::default();
    }
    fault::inject_for("TSRemapDoRemap", &mut request.messages());
    let txn = request.txn();
    let (has_body, unannounced, head) = request.request().map_or((false, false, false), |request| {
        let (method, announced) = (request.method(), request_body::is_announced(&request));
        let unannounced = !announced && request_body::may_come_unannounced(txn, method, &request);
        (announced || unannounced, unannounced, method == b"HEAD")
    });
    // A rule that names the plugin several times has several of us in one transaction: each has its own.
    let prepared = Prepared::new(|| {
        let stream = Stream::of(Arc::clone(chain), slot, TxnHost::new(handle), participants);
        Transaction { state: RefCell::new(State::new(stream, needs, head, has_body, wake)) }
    });
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let text = format_args!("{}: a request is refused: {error}", chain.label());
            crate::logs::tell("a request that filters cannot be shown", Some(txn.id()), text);
            reply::refuse(txn);
            return Outcome { remapped: false, answered: true };
        }
    };
    let mut state = prepared.state.borrow_mut();
    let verdict = state.stream.request_headers(!has_body);
    let remapped = state.stream.with_host(|host| host.request_line_changed()).unwrap_or(false);
    let paused = verdict == Verdict::Pause;
    if !state.accept(verdict) {
        state.announce(txn);
    }
    let hooks = hooks(&state, paused, unannounced);
    drop(state);
    let this = prepared.attach(txn, &hooks);
    let mut state = this.state.borrow_mut();
    if !paused && !state.is_ending() && !prepare(&this, &mut state, &mut request.messages()) {
        state.announce(txn);
    }
    Outcome { remapped, answered: state.is_ending() }
}

/// The hooks that this transaction needs, besides TXN_CLOSE.
fn hooks(state: &State, paused: bool, unannounced: bool) -> SmallVec<[HookId; 6]> {
    let needs = &state.needs;
    let mut hooks = SmallVec::new();
    let mut hook = |wanted: bool, hook: HookId| {
        if wanted {
            hooks.push(hook);
        }
    };
    if state.is_ending() {
        hook(true, HookId::SEND_RESPONSE_HDR);
        return hooks;
    }
    let request_body = state.has_body && (paused || state.stream.wants_body(Side::Request)) && needs.request_body;
    let response_body = !state.head && state.stream.wants_body(Side::Response);
    let at_origin = response_body && needs.response_body == Some(At::Origin);
    hook(paused, HookId::POST_REMAP);
    hook(request_body && (needs.buffers_request || unannounced), HookId::REQUEST_BUFFER_READ_COMPLETE);
    hook(request_body, HookId::SEND_REQUEST_HDR);
    hook(at_origin, HookId::CACHE_LOOKUP_COMPLETE);
    hook(request_body || at_origin || needs.origin_response_headers, HookId::READ_RESPONSE_HDR);
    hook(
        needs.response_headers || paused || request_body || response_body || needs.origin_response_headers,
        HookId::SEND_RESPONSE_HDR,
    );
    hooks
}

/// After the request's headers have passed the chain: sees to it that the bodies come to it. False if the transaction
/// is answered instead.
fn prepare(this: &Attached<Transaction>, state: &mut State, messages: &mut Messages<'_>) -> bool {
    if state.has_body && state.needs.request_body && state.stream.wants_body(Side::Request) {
        request_body::prepare(this, state, messages);
        if state.is_ending() {
            return false;
        }
    }
    if !state.head && state.needs.response_body == Some(At::Client) && state.stream.wants_body(Side::Response) {
        without_ranges(messages);
        // The cache keeps what the origin sent: each client's response is transformed anew.
        messages.txn().cache_transformed(false);
        // Where the request has a transform, too, it is for READ_RESPONSE_HDR to say whether there may be another.
        if state.transforms[Side::Request as usize].is_none() {
            transforms::add(messages.txn(), this, state, Side::Response, Input::default());
        }
    }
    true
}

/// ATS cuts the range that was asked for out of the body before a transform sees it, and then says that it is whole.
fn without_ranges(messages: &mut Messages<'_>) {
    if let Some(mut request) = messages.client_req_get() {
        for name in [&b"Range"[..], b"If-Range"] {
            // There is nothing to do if ATS refuses: it does so for read-only messages alone.
            let _ = request.remove(name);
        }
    }
}

/// Whether a response has no body, by its status or by its length.
fn ends_with_headers(messages: &mut Messages<'_>) -> bool {
    messages.client_resp_get().is_some_and(|response| {
        matches!(response.status(), 204 | 304) || response.get_known(KnownField::ContentLength) == Some(b"0")
    })
}

thread_local! {
    static KEPT: Kept<Transaction> = const { Kept::new() };
}

impl TxnHandler for Transaction {
    const NAME: &'static str = "wasm_remap transaction hook";

    fn kept() -> &'static LocalKey<Kept<Self>> {
        &KEPT
    }

    fn handle(this: &Attached<Self>, event: Event, mut hook: Hook) {
        if event == Event::HTTP_TXN_CLOSE {
            fault::inject_for("TXN_CLOSE", &mut hook.messages());
            this.state.borrow_mut().close();
            return hook.resume();
        }
        let next = {
            let mut state = this.state.borrow_mut();
            let next = if state.over { Next::Resume } else { at_hook(this, &mut state, event, &mut hook) };
            let of_response = matches!(event, Event::HTTP_READ_RESPONSE_HDR | Event::HTTP_SEND_RESPONSE_HDR);
            if of_response && !state.over && state.has_to_settle(next) && next_turn(this, &mut state) {
                state.held = Some(hook.pause());
                return;
            }
            next
        };
        act(this, next, hook);
    }

    /// A transaction is held with its contexts alive; those end with it, also if we are what fails.
    fn abandon(&self) {
        self.state.borrow_mut().close();
    }
}

fn at_hook(this: &Attached<Transaction>, state: &mut State, event: Event, hook: &mut Hook) -> Next {
    match event {
        Event::HTTP_POST_REMAP => {
            fault::inject_for("POST_REMAP", &mut hook.messages());
            state.progress();
            go_on(this, state, &mut hook.messages())
        }
        Event::HTTP_REQUEST_BUFFER_READ_COMPLETE => {
            fault::inject_for("REQUEST_BUFFER", &mut hook.messages());
            state.stage = Stage::RequestBody;
            request_body::show_buffered(state, hook);
            go_on(this, state, &mut hook.messages())
        }
        Event::HTTP_SEND_REQUEST_HDR => {
            fault::inject_for("SEND_REQUEST_HDR", &mut hook.messages());
            if state.is_ending() {
                return end(state, hook.txn());
            }
            request_body::frame(state.outgoing, &mut hook.messages());
            Next::Resume
        }
        Event::HTTP_CACHE_LOOKUP_COMPLETE => {
            if hook.txn().cache_lookup_status() != Some(CacheLookup::HitFresh) {
                // The cache is to get the whole of it.
                without_ranges(&mut hook.messages());
            }
            Next::Resume
        }
        Event::HTTP_READ_RESPONSE_HDR => {
            fault::inject_for("READ_RESPONSE_HDR", &mut hook.messages());
            from_origin(this, state, &mut hook.messages())
        }
        Event::HTTP_SEND_RESPONSE_HDR => {
            fault::inject_for("SEND_RESPONSE_HDR", &mut hook.messages());
            to_client(this, state, &mut hook.messages())
        }
        _ => Next::Resume,
    }
}

/// The last thing that a handler does. No borrow of the state is alive here: what is re-enabled comes back to it.
fn act(this: &Attached<Transaction>, next: Next, hook: Hook) {
    match next {
        Next::Resume => hook.resume(),
        Next::Error => hook.error(),
        Next::Close => {
            if let Err(error) = hook.txn().shut_down() {
                crate::logs::tell(
                    "a transaction that a filter closed, and that is answered",
                    Some(hook.txn().id()),
                    format_args!("a transaction that a filter closed is answered: {error}"),
                );
            }
            hook.error();
        }
        Next::Hold => {
            let mut state = this.state.borrow_mut();
            state.held = Some(hook.pause());
            watch(this, &mut state);
        }
    }
}

/// The waker's or the timer's call, on the transaction's thread.
fn wake(this: &Attached<Transaction>) {
    let held = {
        let mut state = this.state.borrow_mut();
        if state.over {
            return;
        }
        state.wait.fired();
        let hook = state.held.take().map(ats::hook::Reenable::enter);
        if let Some(Err(token)) = hook {
            state.held = Some(token);
            return;
        }
        let hook = match (hook, state.settling) {
            (Some(Ok(hook)), Settling::Turns(left, next)) => {
                if left > 1 && next_turn(this, &mut state) {
                    state.settling = Settling::Turns(left - 1, next);
                    state.held = Some(hook.pause());
                    return;
                }
                state.settling = Settling::Done;
                if state.stream.deadline().is_some() || state.stream.is_holding() {
                    watch(this, &mut state);
                }
                drop(state);
                return act(this, next, hook);
            }
            (hook, _) => hook,
        };
        state.progress();
        // Bodies go on, or end, in their transforms.
        state.wake_transforms();
        let next = match hook {
            Some(Ok(mut hook)) => {
                let next = go_on(this, &mut state, &mut hook.messages());
                Some((next, hook))
            }
            _ => None,
        };
        if next.is_none() && state.stream.is_holding() {
            watch(this, &mut state);
        }
        next
    };
    if let Some((next, hook)) = held {
        act(this, next, hook);
    }
}

/// What comes of a hook in which the chain has had its say, at first or after a pause.
fn go_on(this: &Attached<Transaction>, state: &mut State, messages: &mut Messages<'_>) -> Next {
    match state.stage {
        Stage::Request => {
            if state.is_ending() {
                return end(state, messages.txn());
            }
            if state.stream.holds_headers(Side::Request).is_some() {
                return Next::Hold;
            }
            if prepare(this, state, messages) { Next::Resume } else { end(state, messages.txn()) }
        }
        Stage::RequestBody => {
            if state.is_ending() {
                return end(state, messages.txn());
            }
            match request_body::pass_buffered(state, messages) {
                true => Next::Resume,
                false if state.is_ending() => end(state, messages.txn()),
                false => Next::Hold,
            }
        }
        Stage::Origin => {
            if state.is_ending() {
                return end(state, messages.txn());
            }
            if state.holds_response() {
                return Next::Hold;
            }
            with_host(&mut state.stream, |host| host.response = ResponseView::Absent);
            add_after_origin(this, state, messages);
            if state.is_ending() { end(state, messages.txn()) } else { Next::Resume }
        }
        Stage::Response => finish_response(state, messages),
    }
}

/// Before the client has been sent anything: the answer that a filter, or a failure, made, or none.
fn end(state: &State, txn: Txn<'_>) -> Next {
    if state.closing {
        return Next::Close;
    }
    state.announce(txn);
    Next::Error
}

/// READ_RESPONSE_HDR.
fn from_origin(this: &Attached<Transaction>, state: &mut State, messages: &mut Messages<'_>) -> Next {
    if state.outgoing != Outgoing::Untouched {
        // ATS keeps a request's body where it keeps its own answers', and would send it to the client with a 304.
        request_body::forget(messages.txn());
    }
    if state.is_ending() {
        return end(state, messages.txn());
    }
    let Some(status) = messages.server_resp_get().map(|response| response.status()) else { return Next::Resume };
    // "100 Continue" comes here too; and a 304 to a question of ATS's own is not a new object.
    let stale = messages.txn().cache_lookup_status() == Some(CacheLookup::HitStale);
    if status < 200 || (status == 304 && stale) {
        return Next::Resume;
    }
    state.stage = Stage::Origin;
    if state.needs.origin_response_headers {
        with_host(&mut state.stream, |host| host.response = ResponseView::Origin);
        let ends = state.head || matches!(status, 204 | 304);
        let verdict = state.stream.response_headers(At::Origin, ends);
        state.accept(verdict);
    }
    go_on(this, state, messages)
}

/// The bodies of responses that could not be seen to before: of objects that the cache is to keep in the form that
/// filters give them, and those behind a request with a transform of its own.
fn add_after_origin(this: &Attached<Transaction>, state: &mut State, messages: &mut Messages<'_>) {
    let status = messages.server_resp_get().map_or(0, |response| response.status());
    let wanted = state.needs.response_body.is_some()
        && !state.head
        && !matches!(status, 204 | 304)
        && state.transforms[Side::Response as usize].is_none()
        && state.stream.wants_body(Side::Response);
    if !wanted {
        return;
    }
    if request_body::was_given_up(state, messages.txn()) {
        // ATS keeps the request's transform in its books then (`HttpSM::post_transform_info`), takes the response's
        // for it, and closes what is gone. What filters cannot see is not sent.
        state.stream.tell(
            log::Level::Warn,
            "an answer before the request's body",
            format_args!(
                "the origin answered before it had the request's body: its answer is passed on without its own"
            ),
        );
        let answer = messages.server_resp_get().filter(|response| response.status() >= 300);
        state.reply = Some(answer.map_or_else(
            || Box::new(LocalResponse::text(502, "Bad Gateway\n")),
            |response| reply::without_body(&response),
        ));
        return;
    }
    if state.needs.response_body == Some(At::Origin) {
        messages.txn().cache_transformed(true);
    }
    transforms::add(messages.txn(), this, state, Side::Response, Input::default());
}

/// SEND_RESPONSE_HDR: writes a reply that waits, then shows the response to the chain.
fn to_client(_this: &Attached<Transaction>, state: &mut State, messages: &mut Messages<'_>) -> Next {
    if state.closing {
        return Next::Close;
    }
    state.stage = Stage::Response;
    if let Some(response) = state.reply.take() {
        if state.answers_as_transform {
            reply::write_over_transform(messages, &response);
        } else {
            reply::write(messages, &response);
        }
        state.replied = true;
        if !state.shown && !response.body.is_empty() && !state.head {
            state.reply_body = Some(response.body);
        }
        with_host(&mut state.stream, |host| host.response = ResponseView::Client);
    } else {
        with_host(&mut state.stream, TxnHost::apply_early);
    }
    if std::mem::replace(&mut state.shown, true) {
        // The chain has seen it, when its body began.
        reply::without_length(messages);
        return Next::Resume;
    }
    let ends = state.head || ends_with_headers(messages);
    let verdict = state.stream.response_headers(At::Client, ends);
    state.accept(verdict);
    finish_response(state, messages)
}

/// The chain has seen the response's head, at first or after a pause.
fn finish_response(state: &mut State, messages: &mut Messages<'_>) -> Next {
    if let Some(next) = late_answer(state, messages) {
        return next;
    }
    if state.holds_response() {
        return Next::Hold;
    }
    // An answer's body passes the filters as any other does.
    if let Some(body) = state.reply_body.take()
        && state.needs.response_body == Some(At::Client)
        && state.stream.wants_body(Side::Response)
    {
        let verdict = state.stream.body(Side::Response, Some(Box::new(engine::Bytes(body))), true);
        state.accept(verdict);
        if let Some(next) = late_answer(state, messages) {
            return next;
        }
    }
    // Not if it is the request's body: ATS answers when that stops coming, and what nobody will continue has no end.
    if state.stream.holds(Side::Response) {
        return Next::Hold;
    }
    if state.stream.changed_body(Side::Response)
        && let Some(bytes) = state.stream.take_body(Side::Response).bytes
    {
        reply::replace_body(messages, &*bytes);
    }
    Next::Resume
}

/// An answer that was made while the response's head was on its way.
fn late_answer(state: &mut State, messages: &mut Messages<'_>) -> Option<Next> {
    if state.closing {
        return Some(Next::Close);
    }
    let response = state.reply.take()?;
    let internal = state.head || messages.client_resp_get().is_some_and(|response| response.status() == 304);
    if state.replied || internal {
        // ATS takes the body from us, or sends none: its bytes are still ours to replace.
        reply::overwrite(messages, &response, state.head);
        return Some(Next::Resume);
    }
    reply::replace(messages.txn(), &response);
    Some(Next::Error)
}
