//! What can go wrong, in one enumeration, and how each of it looks to a guest.

use std::time::Duration;

use crate::abi::{Callback, Status};
use crate::journal::Frame;
use crate::limits::Limit;

/// Why a hostcall, a callback or a load failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such header, property, buffer, queue, …
    #[error("not found")]
    NotFound,
    /// An argument that the ABI does not allow; the text says which.
    #[error("bad argument: {0}")]
    BadArgument(&'static str),
    /// A pointer or a size outside the guest's memory.
    #[error("the guest named memory outside its own: address {address:#x}, {size} bytes")]
    Memory {
        /// Where the range begins.
        address: u32,
        /// How long it is.
        size: u32,
    },
    /// Malformed serialised map.
    #[error("malformed map: {0}")]
    Pairs(&'static str),
    /// Input of a foreign function that is not in its encoding.
    #[error("malformed input: {0}")]
    Malformed(&'static str),
    /// Something exceeds what its encoding or the configuration permits.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// This host does not offer the call.
    #[error("this host does not offer the call")]
    Unsupported,
    /// As much of something is under way as may be; the text says of what.
    #[error("{0}")]
    Busy(&'static str),
    /// A name or description that means nothing here; the text says which.
    #[error("{0} means nothing here")]
    Unparsable(&'static str),
    /// Compare-and-swap lost.
    #[error("compare-and-swap mismatch")]
    CasMismatch,
    /// A queue is empty.
    #[error("empty")]
    Empty,
    /// The guest's allocator answered zero.
    #[error("the guest's allocator refused {0} bytes")]
    GuestAllocation(u32),
    /// The call is not allowed from where it was made, and going on would corrupt the guest.
    #[error("{0} may not be called from here")]
    Forbidden(&'static str),
    /// The guest trapped, ran out of time or was ended; poisons its VM.
    #[error("{} in {}", .0.reason, .0.callback.as_str())]
    Trap(Box<Trap>),
    /// The guest trapped inside a call that a hostcall made into it.
    #[error(transparent)]
    Wasm(wasmtime::Error),
    /// A hostcall went beyond a limit.
    #[error("the callback moved more bytes by hostcalls than limits.{} permits", .0.key())]
    Exceeded(Limit),
    /// The filter's breaker is open: nobody asks it for now.
    #[error("it failed too often, and is set aside for now")]
    SetAside,
    /// There is no VM for the filter at this moment, through no fault of its own.
    #[error("{0}")]
    NoVm(String),
    /// The stream's context went with its VM, through no fault of its own.
    #[error("its VM trapped in another callback")]
    Gone,
    /// A filter went beyond a limit that is about a transaction, not about its guest.
    #[error("{1}")]
    Held(Limit, String),
    /// A module cannot be used.
    #[error("{0}")]
    Module(String),
    /// A filter refused its configuration, or could not be started.
    #[error("{0}")]
    Start(String),
    /// A configuration file is wrong.
    #[error(transparent)]
    Config(Box<crate::config::error::ConfigError>),
}

impl From<crate::config::error::ConfigError> for Error {
    fn from(error: crate::config::error::ConfigError) -> Self {
        Error::Config(Box::new(error))
    }
}

// Every hostcall and callback returns one of these: what is large stands behind a pointer.
const _: () = assert!(size_of::<Error>() <= 32);

/// A guest's end.
#[derive(Debug)]
pub struct Trap {
    /// What the guest was doing.
    pub callback: Callback,
    /// What ended it, in a class that metrics can count.
    pub kind: TrapKind,
    /// The class and the detail, for people; one line.
    pub reason: String,
    /// The limit that it met, if it was one.
    pub limit: Option<Limit>,
    /// The processor time that the callback took, where it was long enough to be looked at.
    pub spent: Duration,
    /// Guest frames, innermost first.
    pub backtrace: Vec<Frame>,
}

/// Classes of [`Trap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrapKind {
    /// `unreachable`, out-of-bounds access, division by zero, …
    Guest,
    /// The deadline of the callback passed.
    Deadline,
    /// The time of all the transaction's callbacks together is used up.
    TransactionDeadline,
    /// It trapped after it had been refused memory.
    Memory,
    /// It trapped after it had been refused elements of a table.
    Table,
    /// It moved more bytes by hostcalls than it may.
    HostcallBytes,
    /// The stack is used up.
    StackOverflow,
    /// The guest called `proc_exit` with this code.
    Exit(i32),
    /// The host panicked inside a hostcall: our bug, kept away from the server.
    HostPanic,
    /// A hostcall that cannot be answered with a status.
    Hostcall,
}

impl TrapKind {
    /// The class as it stands in log lines and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            TrapKind::Guest => "trap",
            TrapKind::Deadline => "deadline",
            TrapKind::TransactionDeadline => "transaction_deadline",
            TrapKind::Memory => "memory",
            TrapKind::Table => "table",
            TrapKind::HostcallBytes => "hostcall_bytes",
            TrapKind::StackOverflow => "stack_overflow",
            TrapKind::Exit(_) => "exit",
            TrapKind::HostPanic => "host_panic",
            TrapKind::Hostcall => "hostcall",
        }
    }
}

impl Error {
    /// The limit that was met, if it was one.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Error::Trap(trap) => trap.limit,
            Error::Exceeded(limit) | Error::Held(limit, _) => Some(*limit),
            _ => None,
        }
    }

    /// The status that a guest gets; `None` means that no status serves and the guest must trap.
    ///
    /// Exhaustive on purpose: a new error does not compile until somebody has decided. Statuses that the SDKs
    /// do not know (6, 11, 12) are never sent, see [`Status::is_known_to_sdks`]: a bad pointer answers
    /// `BadArgument` and an absent feature `InternalFailure`, both of which every SDK can name.
    #[must_use]
    pub fn to_status(&self) -> Option<Status> {
        match self {
            Error::NotFound => Some(Status::NotFound),
            Error::BadArgument(_) | Error::Memory { .. } | Error::TooLarge(_) => Some(Status::BadArgument),
            Error::Pairs(_) | Error::Malformed(_) => Some(Status::SerializationFailure),
            Error::Unsupported | Error::Busy(_) => Some(Status::InternalFailure),
            Error::Unparsable(_) => Some(Status::ParseFailure),
            Error::CasMismatch => Some(Status::CasMismatch),
            Error::Empty => Some(Status::Empty),
            Error::GuestAllocation(_)
            | Error::Forbidden(_)
            | Error::Trap(_)
            | Error::Wasm(_)
            | Error::Exceeded(_)
            | Error::SetAside
            | Error::Gone
            | Error::NoVm(_)
            | Error::Held(..)
            | Error::Module(_)
            | Error::Start(_)
            | Error::Config(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_stay_within_what_sdks_know() {
        let errors = [
            Error::NotFound,
            Error::BadArgument("x"),
            Error::Memory { address: 1, size: 2 },
            Error::Pairs("x"),
            Error::Malformed("x"),
            Error::TooLarge("x"),
            Error::Unsupported,
            Error::Busy("x"),
            Error::Unparsable("x"),
            Error::CasMismatch,
            Error::Empty,
        ];
        for error in errors {
            assert!(error.to_status().unwrap().is_known_to_sdks(), "{error}");
        }
        assert_eq!(Error::GuestAllocation(1).to_status(), None);
    }
}
