//! The one error type of this crate.

use ats_sys::{TS_SUCCESS, TSReturnCode};

/// What can go wrong in a call to ATS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// ATS answered `TS_ERROR`. For a setter that nearly always means a read-only message, such as the cached
    /// response.
    #[error("{0} answered TS_ERROR")]
    Refused(&'static str),
    /// The object asked for does not exist (yet) in this transaction.
    #[error("{0}: there is none")]
    Missing(&'static str),
    /// ATS keeps this length in fewer bits than an `int`: a longer string would be cut in silence.
    #[error("{what} has {len} bytes; ATS stores at most {max}")]
    TooLong {
        /// Which string.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The longest that ATS stores.
        max: usize,
    },
    /// A byte that would end the field or the line on the wire: response splitting, or a smuggled request.
    #[error("{what} contains the byte {byte:#04x}")]
    BadByte {
        /// Which string.
        what: &'static str,
        /// The first offending byte.
        byte: u8,
    },
    /// An empty string where ATS needs one.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A status code outside 100..=999.
    #[error("{0} is no HTTP status code")]
    BadStatus(u16),
    /// Called on a thread that ATS does not know: the real function would dereference a null thread.
    #[error("{0} was called on a thread that is not one of ATS's")]
    ForeignThread(&'static str),
    /// Scheduling needs a continuation with a mutex.
    #[error("the continuation was made without a mutex, so it cannot be scheduled")]
    NoMutex,
    /// The continuation was destroyed.
    #[error("the continuation was destroyed")]
    Destroyed,
    /// A continuation serves one transaction.
    #[error("the continuation already serves another transaction")]
    OtherTransaction,
    /// The statistic slots are used up (`traffic_server -m` or `proxy.config.stat_api.max_stats_allowed`).
    #[error("no free slot for statistic {0}; raise proxy.config.stat_api.max_stats_allowed")]
    StatsFull(String),
    /// The interface that ATS offers a remap plugin is not the one that this build understands.
    #[error("ATS offers remap interface {found} of {size} bytes; this plugin was built for {wanted}")]
    Interface {
        /// The version that ATS stated, as major.minor.
        found: String,
        /// The size of the structure that ATS passed.
        size: usize,
        /// The version in the headers that we were built with.
        wanted: String,
    },
}

/// The result of a call to ATS.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns a `TSReturnCode` into a `Result` that names the function.
pub(crate) fn check(code: TSReturnCode, function: &'static str) -> Result<()> {
    if code == TS_SUCCESS { Ok(()) } else { Err(Error::Refused(function)) }
}

/// A length as the `int` that most TS functions take, refused above `max`.
pub(crate) fn c_len(bytes: &[u8], max: usize, what: &'static str) -> Result<std::ffi::c_int> {
    let too_long = Error::TooLong { what, len: bytes.len(), max };
    if bytes.len() > max {
        return Err(too_long);
    }
    std::ffi::c_int::try_from(bytes.len()).map_err(|_| too_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_refused_rather_than_cut() {
        assert_eq!(c_len(b"abc", 3, "x"), Ok(3));
        assert_eq!(c_len(b"abcd", 3, "x"), Err(Error::TooLong { what: "x", len: 4, max: 3 }));
    }

    #[test]
    fn messages_name_the_function() {
        assert_eq!(check(ats_sys::TS_ERROR, "TSUrlHostSet").unwrap_err().to_string(), "TSUrlHostSet answered TS_ERROR");
    }
}
