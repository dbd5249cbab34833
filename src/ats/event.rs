//! Numbers of events and hooks, under ATS's names. Their values differ between ATS 9 and 10, and come from the headers.

use std::ffi::CStr;
use std::fmt;

use ats_sys::{TSEvent, TSHttpHookID};

/// A `TSEvent`: what a continuation was called for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event(TSEvent);

macro_rules! events {
    ($($(#[$meta:meta])* $name:ident = $value:ident;)+) => {
        impl Event {
            $($(#[$meta])* #[doc = concat!("`", stringify!($value), "`")]
            pub const $name: Self = Self(ats_sys::$value);)+
        }
    };
}

events! {
    NONE = TS_EVENT_NONE;
    IMMEDIATE = TS_EVENT_IMMEDIATE;
    TIMEOUT = TS_EVENT_TIMEOUT;
    ERROR = TS_EVENT_ERROR;
    VCONN_READ_READY = TS_EVENT_VCONN_READ_READY;
    VCONN_WRITE_READY = TS_EVENT_VCONN_WRITE_READY;
    VCONN_READ_COMPLETE = TS_EVENT_VCONN_READ_COMPLETE;
    VCONN_WRITE_COMPLETE = TS_EVENT_VCONN_WRITE_COMPLETE;
    VCONN_EOS = TS_EVENT_VCONN_EOS;
    HTTP_CONTINUE = TS_EVENT_HTTP_CONTINUE;
    HTTP_ERROR = TS_EVENT_HTTP_ERROR;
    HTTP_READ_REQUEST_HDR = TS_EVENT_HTTP_READ_REQUEST_HDR;
    HTTP_OS_DNS = TS_EVENT_HTTP_OS_DNS;
    HTTP_SEND_REQUEST_HDR = TS_EVENT_HTTP_SEND_REQUEST_HDR;
    HTTP_READ_CACHE_HDR = TS_EVENT_HTTP_READ_CACHE_HDR;
    HTTP_READ_RESPONSE_HDR = TS_EVENT_HTTP_READ_RESPONSE_HDR;
    HTTP_SEND_RESPONSE_HDR = TS_EVENT_HTTP_SEND_RESPONSE_HDR;
    HTTP_TXN_START = TS_EVENT_HTTP_TXN_START;
    HTTP_TXN_CLOSE = TS_EVENT_HTTP_TXN_CLOSE;
    HTTP_CACHE_LOOKUP_COMPLETE = TS_EVENT_HTTP_CACHE_LOOKUP_COMPLETE;
    HTTP_PRE_REMAP = TS_EVENT_HTTP_PRE_REMAP;
    HTTP_POST_REMAP = TS_EVENT_HTTP_POST_REMAP;
    LIFECYCLE_MSG = TS_EVENT_LIFECYCLE_MSG;
    LIFECYCLE_SHUTDOWN = TS_EVENT_LIFECYCLE_SHUTDOWN;
    MGMT_UPDATE = TS_EVENT_MGMT_UPDATE;
}

#[cfg(ats9)]
events! {
    /// The request body is buffered as a whole. [`Event::from_raw`] maps the number that ATS 9 really sends to this.
    HTTP_REQUEST_BUFFER_READ_COMPLETE = TS_EVENT_HTTP_REQUEST_BUFFER_COMPLETE;
}
#[cfg(ats10)]
events! {
    /// The request body is buffered as a whole.
    HTTP_REQUEST_BUFFER_READ_COMPLETE = TS_EVENT_HTTP_REQUEST_BUFFER_READ_COMPLETE;
}

impl Event {
    /// The event of this number.
    ///
    /// ATS 9 computes the number of a hook's event as `TS_EVENT_HTTP_READ_REQUEST_HDR` plus the hook's id. For the
    /// request buffer hook that gives 60029, where its header says 60018; both become the header's here.
    #[must_use]
    pub const fn from_raw(raw: TSEvent) -> Self {
        #[cfg(ats9)]
        {
            const SENT: TSEvent =
                ats_sys::TS_EVENT_HTTP_READ_REQUEST_HDR + ats_sys::TS_HTTP_REQUEST_BUFFER_READ_COMPLETE_HOOK;
            if raw == SENT {
                return Self::HTTP_REQUEST_BUFFER_READ_COMPLETE;
            }
        }
        Self(raw)
    }

    /// The number, as ATS has it.
    #[must_use]
    pub const fn as_raw(self) -> TSEvent {
        self.0
    }

    /// Whether this is the event of a transaction hook, whose `edata` is a `TSHttpTxn` to be re-enabled.
    ///
    /// Not so for the session hooks (a `TSHttpSsn`), SELECT_ALT (a `TSHttpAltInfo`) and RESPONSE_CLIENT.
    #[must_use]
    pub fn is_txn_hook(self) -> bool {
        matches!(
            self,
            Self::HTTP_READ_REQUEST_HDR
                | Self::HTTP_OS_DNS
                | Self::HTTP_SEND_REQUEST_HDR
                | Self::HTTP_READ_CACHE_HDR
                | Self::HTTP_READ_RESPONSE_HDR
                | Self::HTTP_SEND_RESPONSE_HDR
                | Self::HTTP_TXN_START
                | Self::HTTP_TXN_CLOSE
                | Self::HTTP_CACHE_LOOKUP_COMPLETE
                | Self::HTTP_PRE_REMAP
                | Self::HTTP_POST_REMAP
                | Self::HTTP_REQUEST_BUFFER_READ_COMPLETE
        )
    }

    /// Whether this is what a scheduled action arrives as.
    #[must_use]
    pub fn is_timer(self) -> bool {
        self == Self::IMMEDIATE || self == Self::TIMEOUT
    }
}

impl fmt::Debug for Event {
    /// `TSHttpEventNameLookup` and the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: a table lookup that answers a C string literal, or null for some unknown numbers.
        let name = unsafe { ats_sys::TSHttpEventNameLookup(self.0) };
        if name.is_null() {
            return write!(f, "event {}", self.0);
        }
        // SAFETY: not null, and a literal of ATS's.
        let name = unsafe { CStr::from_ptr(name) };
        write!(f, "{} ({})", name.to_string_lossy(), self.0)
    }
}

/// A `TSHttpHookID` that takes part in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HookId(TSHttpHookID);

macro_rules! hooks {
    ($($name:ident = $value:ident;)+) => {
        impl HookId {
            $(#[doc = concat!("`", stringify!($value), "`")]
            pub const $name: Self = Self(ats_sys::$value);)+
        }
    };
}

// The ones that may follow DoRemap; READ_REQUEST_HDR, TXN_START and PRE_REMAP are past by then and would never fire.
hooks! {
    POST_REMAP = TS_HTTP_POST_REMAP_HOOK;
    OS_DNS = TS_HTTP_OS_DNS_HOOK;
    READ_CACHE_HDR = TS_HTTP_READ_CACHE_HDR_HOOK;
    CACHE_LOOKUP_COMPLETE = TS_HTTP_CACHE_LOOKUP_COMPLETE_HOOK;
    REQUEST_BUFFER_READ_COMPLETE = TS_HTTP_REQUEST_BUFFER_READ_COMPLETE_HOOK;
    SEND_REQUEST_HDR = TS_HTTP_SEND_REQUEST_HDR_HOOK;
    READ_RESPONSE_HDR = TS_HTTP_READ_RESPONSE_HDR_HOOK;
    SEND_RESPONSE_HDR = TS_HTTP_SEND_RESPONSE_HDR_HOOK;
    TXN_CLOSE = TS_HTTP_TXN_CLOSE_HOOK;
}

impl HookId {
    /// The number, as ATS has it.
    #[must_use]
    pub const fn as_raw(self) -> TSHttpHookID {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(ats9)]
    #[test]
    fn the_request_buffer_event_has_one_number() {
        for raw in [60018, 60029] {
            assert_eq!(Event::from_raw(raw), Event::HTTP_REQUEST_BUFFER_READ_COMPLETE);
            assert!(Event::from_raw(raw).is_txn_hook());
        }
    }

    #[test]
    fn only_transaction_hooks_carry_a_transaction() {
        assert!(Event::HTTP_TXN_CLOSE.is_txn_hook());
        for raw in [
            ats_sys::TS_EVENT_TIMEOUT,
            ats_sys::TS_EVENT_HTTP_SSN_CLOSE,
            ats_sys::TS_EVENT_HTTP_SELECT_ALT,
            ats_sys::TS_EVENT_LIFECYCLE_MSG,
        ] {
            assert!(!Event::from_raw(raw).is_txn_hook(), "{raw}");
        }
    }

    #[test]
    fn events_print_with_name_and_number() {
        assert_eq!(
            format!("{:?}", Event::HTTP_TXN_CLOSE),
            format!("TS_EVENT_HTTP_TXN_CLOSE ({})", ats_sys::TS_EVENT_HTTP_TXN_CLOSE)
        );
    }
}
