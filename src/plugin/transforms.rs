//! Bodies on their way through ATS's transforms: from the client or the origin into the chain, and out of it. Here is
//! what ATS calls; [`crate::course`] has what is done then.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ats::schedule::ScheduledAction;
use ats::transform::{TransformEvent, TransformHandler, TransformRef, TransformSide};
use ats::transform_io::Transform;
use ats::txn::{ConfigKey, Txn};
use ats::txn_body::ClientLeft;
use ats::txn_hooks::Attached;
use engine::Side;

use crate::course::{Course, Input, Next};
use crate::host::with_host;
use crate::state::{Ask, State, Transaction, watch};

/// How often a client is looked at of whose upload ATS would not say that it has ended.
const GLANCE: Duration = Duration::from_secs(1);

/// How long a connection lasts on which nothing moves any more, when ATS has stopped reading from it: what the client asks
/// for there is not read, and it does not know.
const DEAF: Duration = Duration::from_secs(10);

/// When a transform that ATS has not got to yet is looked at again, if it has to end.
const SOON: Duration = Duration::from_millis(100);

/// When a body that waits for its reader is looked at again.
const MOMENT: Duration = Duration::from_millis(2);

/// Adds a transform to a transaction, for the body of `side`.
pub(crate) fn add(txn: Txn<'_>, this: &Attached<Transaction>, state: &mut State, side: Side, input: Input) {
    if side == Side::Response
        && txn.config_int_get(ConfigKey::HTTP_NUMBER_OF_REDIRECTIONS).is_ok_and(|count| count > 0)
        && let Err(error) = txn.config_int_set(ConfigKey::HTTP_NUMBER_OF_REDIRECTIONS, 0)
    {
        // ATS follows a redirect with the first response's transform in its books, and never ends.
        state.stream.tell(
            log::Level::Warn,
            "a redirect with a body",
            format_args!("a transaction that follows redirects and has its body transformed may hang: {error}"),
        );
    }
    let transform_side = match side {
        Side::Request => TransformSide::Request,
        Side::Response => TransformSide::Response,
    };
    let handler = Body {
        side,
        transaction: RefCell::new(Some(this.clone())),
        course: RefCell::new(Course::of(input)),
        silent: side == Side::Request && txn.client_protocol_contains(c"h2"),
        glance: Cell::new(None),
        left_at: Cell::new(None),
        limited: Cell::new(false),
    };
    match txn.transform_add(transform_side, handler) {
        Ok(transform) => {
            // ATS does not call a transform before the first bytes, and they may never come.
            transform.look_again(&transform);
            state.transforms[side as usize] = Some(Box::new(move |ask| match ask {
                Ask::Wake => TransformRef::wake(&transform),
                Ask::WritesUnseen => transform.silent && transform.is_writing(),
            }));
        }
        Err(error) => state.stream.tell(
            log::Level::Error,
            "a body that passes its filters by",
            format_args!("the {} body passes its filters by: {error}", side.as_str()),
        ),
    }
}

/// The transform of one body.
struct Body {
    side: Side,
    /// Until the transform is closed.
    transaction: RefCell<Option<Attached<Transaction>>>,
    course: RefCell<Course>,
    /// ATS does not say when the client breaks off ([`Txn::client_left`]).
    silent: bool,
    /// The timer for the next look at the client.
    glance: Cell<Option<ScheduledAction>>,
    /// The client's connection was found ended, when so much of the body had come.
    left_at: Cell<Option<u64>>,
    /// Its connection has a limit for when nothing moves on it.
    limited: Cell<bool>,
}

impl Body {
    /// Has the client looked at after a while, where nobody else would.
    fn look_again(&self, this: &TransformRef<Self>) {
        if self.silent && self.glance.get().is_none() {
            // Refused if it is closed, and then there is nothing to see to.
            self.glance.set(this.schedule(GLANCE).ok());
        }
    }

    /// Looks whether the client is still there, while more of the body is to come.
    fn look(&self, this: &TransformRef<Self>, transform: &mut Transform<'_>) {
        self.glance.set(None);
        let begun = transform.input_begun();
        if begun && transform.input_ended() || transform.txn().is_none() {
            return;
        }
        // Also behind a look that has found it to be left: for the case that what follows was of no use.
        self.look_again(this);
        if !begun || !self.is_abandoned(transform) {
            return;
        }
        log::debug!("a client broke off its upload");
        let opened = self.course.borrow().opened;
        if let Some(txn) = transform.txn() {
            if !self.limited.replace(true) {
                txn.client_time_out(DEAF);
            }
            if opened {
                // ATS would abort at an error now (`HttpSM::tunnel_handler_post`). The origin's side may fail.
                txn.server_drop();
            }
        }
        if !opened {
            transform.fail();
        }
    }

    /// Whether no more of the body will come.
    fn is_abandoned(&self, transform: &mut Transform<'_>) -> bool {
        match transform.txn().map(Txn::client_left) {
            Some(ClientLeft::Stream) => true,
            // Another stream's upload was reset, say, and this one's had come before.
            Some(ClientLeft::Connection) if transform.input_is_here(u64::MAX) => false,
            Some(ClientLeft::Connection) => {
                // Perhaps ATS has not read all that came before the end. It has had the time when it reads nothing more.
                let taken = self.course.borrow().taken();
                self.left_at.replace(Some(taken)) == Some(taken)
            }
            Some(ClientLeft::No) | None => false,
        }
    }
}

impl TransformHandler for Body {
    const NAME: &'static str = "wasm_remap body transform";

    fn handle(this: &TransformRef<Self>, transform: &mut Transform<'_>, event: TransformEvent) {
        let Some(transaction) = this.transaction.borrow().clone() else { return };
        match event {
            TransformEvent::OutputComplete => return transform.output_shutdown(),
            // The other side wants no more of it; what is left is read and dropped.
            TransformEvent::OutputEnded => {}
            TransformEvent::Error => {
                transform.fail();
                return;
            }
            TransformEvent::Timer(action) if this.glance.get() == Some(action) => return this.look(this, transform),
            // Whoever waits for the transform need not know whether ATS has got to it. It has nothing to take yet, but it
            // may have to say that there is an answer.
            TransformEvent::Timer(_) | TransformEvent::Wake if !transform.input_begun() => {
                if transaction.state.borrow().is_ending()
                    && let Err(error) = this.schedule(SOON)
                {
                    log::debug!("a body's transform has no timer: {error}");
                }
                return;
            }
            _ => {}
        }
        let next = {
            let mut state = transaction.state.borrow_mut();
            if state.over {
                return;
            }
            with_host(&mut state.stream, |host| host.inject("TRANSFORM"));
            let mut course = this.course.borrow_mut();
            let next = course.step(this.side, &mut state, transform);
            if std::mem::take(&mut course.blocked)
                && let Err(error) = this.schedule(MOMENT)
            {
                state.stream.tell(
                    log::Level::Error,
                    "a body without a timer",
                    format_args!("a body that waits for its reader has no timer: {error}"),
                );
            }
            drop(course);
            if state.stream.deadline().is_some() || state.stream.is_holding() {
                watch(&transaction, &mut state);
            }
            if state.is_ending() {
                // The other side's transform, or a hook that holds the transaction, may be what can tell ATS.
                state.wake_others(this.side);
            }
            next
        };
        match next {
            Next::Nothing => {}
            Next::Ready => {
                transform.upstream_ready();
            }
            Next::Complete => {
                transform.upstream_complete();
            }
            Next::Fail => {
                transform.fail();
            }
        }
    }

    fn closed(&self, aborted: bool) {
        if let Some(transaction) = self.transaction.borrow_mut().take()
            && aborted
            && self.side == Side::Response
            && !self.course.borrow().opened
            && !self.course.borrow().over
            && let Ok(mut state) = transaction.state.try_borrow_mut()
            && !state.over
        {
            // The origin broke off, ATS has closed us, and now waits for our output (`HttpSM::
            // state_common_wait_for_transform_read`, "Case 2"): for ever, if nothing happens to the client.
            state.stream.tell(
                log::Level::Warn,
                "a response that broke off",
                format_args!("a response broke off before any of it was sent; its client is let go"),
            );
            with_host(&mut state.stream, |host| {
                if let Ok((messages, ..)) = host.parts() {
                    messages.txn().client_time_out(Duration::ZERO);
                }
            });
        }
        *self.course.borrow_mut() = Course::ended();
    }

    fn abandon(&self) {
        if let Some(transaction) = self.transaction.borrow_mut().take() {
            transaction.state.borrow_mut().close();
        }
    }
}
