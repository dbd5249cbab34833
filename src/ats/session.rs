//! The connections of a transaction: the client's, and the one to the origin while the transaction has it.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ptr::{self, NonNull};

use ats_sys::{
    TSHttpSsn, TSHttpSsnClientVConnGet, TSHttpSsnIdGet, TSHttpSsnTransactionCount, TSHttpTxn,
    TSHttpTxnClientProtocolStackGet, TSHttpTxnOutgoingAddrGet, TSHttpTxnServerProtocolStackGet,
    TSHttpTxnServerSsnTransactionCount, TSHttpTxnServerVConnGet, TSHttpTxnSsnGet, TSReturnCode, TSVConn,
    TSVConnIsSslReused, TSVConnSslCipherGet, TSVConnSslConnectionGet, TSVConnSslCurveGet, TSVConnSslProtocolGet,
    TSVConnSslSniGet, tsapi_cont,
};

use crate::addr::socket_addr;
use crate::raw_slice::{c_str, slice_or_empty};
use crate::tls::Tls;
use crate::txn::Txn;

/// The network connection below one side of a transaction (`TSVConn`), to look at.
///
/// Transaction's event thread only, within the hook that it was taken in: either side may end the connection after it.
#[derive(Debug, Clone, Copy)]
pub struct NetConnection<'t> {
    raw: NonNull<tsapi_cont>,
    _live: PhantomData<&'t tsapi_cont>,
}

/// How many layers of a protocol stack are asked for; ATS has no more than six.
const LAYERS: usize = 10;

impl<'t> Txn<'t> {
    fn session(self) -> Option<TSHttpSsn> {
        // SAFETY: a live transaction on its thread.
        let session = unsafe { TSHttpTxnSsnGet(self.as_raw()) };
        (!session.is_null()).then_some(session)
    }

    /// A number that no other connection of a client has (`TSHttpSsnIdGet`).
    #[must_use]
    pub fn session_id(self) -> Option<u64> {
        // SAFETY: the session of a live transaction, not null.
        self.session().and_then(|session| u64::try_from(unsafe { TSHttpSsnIdGet(session) }).ok())
    }

    /// Which transaction of the client's connection this is, from 1 (`TSHttpSsnTransactionCount`).
    #[must_use]
    pub fn session_transactions(self) -> Option<u64> {
        // SAFETY: the session of a live transaction, not null.
        self.session().and_then(|session| u64::try_from(unsafe { TSHttpSsnTransactionCount(session) }).ok())
    }

    /// How many transactions the connection to the origin has served before this one
    /// (`TSHttpTxnServerSsnTransactionCount`).
    #[must_use]
    pub fn server_transactions(self) -> u64 {
        // SAFETY: a live transaction on its thread.
        u64::try_from(unsafe { TSHttpTxnServerSsnTransactionCount(self.as_raw()) }).unwrap_or(0)
    }

    /// The client's connection (`TSHttpSsnClientVConnGet`); `None` once it is gone.
    #[must_use]
    pub fn client_connection(self) -> Option<NetConnection<'t>> {
        // SAFETY: the session of a live transaction, not null.
        let raw = unsafe { TSHttpSsnClientVConnGet(self.session()?) };
        NetConnection::new(raw)
    }

    /// The connection to the origin or parent (`TSHttpTxnServerVConnGet`); `None` while the transaction has none.
    #[must_use]
    pub fn server_connection(self) -> Option<NetConnection<'t>> {
        // SAFETY: a live transaction on its thread.
        let raw = unsafe { TSHttpTxnServerVConnGet(self.as_raw()) };
        NetConnection::new(raw)
    }

    /// Our own address of the connection to the origin (`TSHttpTxnOutgoingAddrGet`).
    #[must_use]
    pub fn outgoing_addr(self) -> Option<SocketAddr> {
        // SAFETY: a live transaction on its thread; the answer is null or a whole address.
        unsafe { socket_addr(TSHttpTxnOutgoingAddrGet(self.as_raw())) }
    }

    /// Shows what the client's connection speaks, from HTTP down (`TSHttpTxnClientProtocolStackGet`).
    pub fn client_protocols(self, visit: impl FnMut(&[u8])) {
        self.protocols(TSHttpTxnClientProtocolStackGet, visit);
    }

    /// The same of the connection to the origin (`TSHttpTxnServerProtocolStackGet`).
    pub fn server_protocols(self, visit: impl FnMut(&[u8])) {
        self.protocols(TSHttpTxnServerProtocolStackGet, visit);
    }

    fn protocols(self, get: StackGetter, mut visit: impl FnMut(&[u8])) {
        let mut stack = [ptr::null(); LAYERS];
        let mut count: c_int = 0;
        // SAFETY: a live transaction on its thread; as many places as it is told.
        unsafe { get(self.as_raw(), LAYERS as c_int, stack.as_mut_ptr(), &raw mut count) };
        for layer in stack.iter().take(usize::try_from(count).unwrap_or(0)) {
            // SAFETY: ATS's names of protocols, literals of its own.
            if let Some(layer) = unsafe { c_str(*layer) } {
                visit(layer);
            }
        }
    }
}

type StackGetter = unsafe extern "C" fn(TSHttpTxn, c_int, *mut *const std::ffi::c_char, *mut c_int) -> TSReturnCode;

impl<'t> NetConnection<'t> {
    fn new(raw: TSVConn) -> Option<Self> {
        Some(Self { raw: NonNull::new(raw)?, _live: PhantomData })
    }

    /// The name that the client asked for in its TLS handshake, empty if it did not; `None` without TLS
    /// (`TSVConnSslSniGet`).
    #[must_use]
    pub fn server_name(self) -> Option<&'t [u8]> {
        let mut len: c_int = 0;
        // SAFETY: a live connection.
        let name = unsafe { TSVConnSslSniGet(self.raw.as_ptr(), &raw mut len) };
        // SAFETY: null, or a string of the connection's own, of that length.
        (!name.is_null()).then(|| unsafe { slice_or_empty(name, len) })
    }

    /// The version of TLS, such as "TLSv1.3" (`TSVConnSslProtocolGet`); `None` without TLS.
    #[must_use]
    pub fn tls_version(self) -> Option<&'t [u8]> {
        // SAFETY: a live connection; the answer is null or a string of OpenSSL's own.
        unsafe { c_str(TSVConnSslProtocolGet(self.raw.as_ptr())) }
    }

    /// The cipher suite (`TSVConnSslCipherGet`); `None` without TLS.
    #[must_use]
    pub fn tls_cipher(self) -> Option<&'t [u8]> {
        // SAFETY: as in `tls_version`.
        unsafe { c_str(TSVConnSslCipherGet(self.raw.as_ptr())) }
    }

    /// The group of the key exchange (`TSVConnSslCurveGet`); `None` without TLS.
    #[must_use]
    pub fn tls_group(self) -> Option<&'t [u8]> {
        // SAFETY: as in `tls_version`.
        unsafe { c_str(TSVConnSslCurveGet(self.raw.as_ptr())) }
    }

    /// Whether a TLS session was resumed (`TSVConnIsSslReused`).
    #[must_use]
    pub fn tls_resumed(self) -> bool {
        // SAFETY: a live connection.
        unsafe { TSVConnIsSslReused(self.raw.as_ptr()) != 0 }
    }

    /// OpenSSL's view of it (`TSVConnSslConnectionGet`); `None` without TLS.
    #[must_use]
    pub fn tls(self) -> Option<Tls<'t>> {
        // SAFETY: a live connection.
        let ssl = unsafe { TSVConnSslConnectionGet(self.raw.as_ptr()) };
        // SAFETY: null, or the connection's own, which lives as long as it does.
        unsafe { Tls::from_raw(ssl.cast()) }
    }
}
