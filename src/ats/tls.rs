//! What OpenSSL knows of a connection and ATS does not tell: the certificates of both ends.
//!
//! `traffic_server` is linked with OpenSSL, so its functions are looked up in the process, once. Where there is none,
//! or one of another family without these names, there are no certificates.

use std::ffi::{CStr, c_int, c_uchar, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// A TLS connection (`SSL *`), to look at. Within the hook that it was taken in.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'t> {
    ssl: NonNull<c_void>,
    _live: PhantomData<&'t c_void>,
}

/// The functions that are needed, `SSL *` and `X509 *` being `void *`.
#[derive(Debug, Clone, Copy)]
struct OpenSsl {
    /// Borrowed from the connection.
    local: unsafe extern "C" fn(*const c_void) -> *mut c_void,
    /// The caller's to free.
    peer: unsafe extern "C" fn(*const c_void) -> *mut c_void,
    encode: unsafe extern "C" fn(*const c_void, *mut *mut c_uchar) -> c_int,
    free: unsafe extern "C" fn(*mut c_void),
}

impl OpenSsl {
    fn get() -> Option<Self> {
        static FOUND: OnceLock<Option<OpenSsl>> = OnceLock::new();
        *FOUND.get_or_init(Self::find)
    }

    fn find() -> Option<Self> {
        // OpenSSL 3 and 1.1 have different names for the one that gives a reference of the caller's own.
        let peer = symbol(c"SSL_get1_peer_certificate").or_else(|| symbol(c"SSL_get_peer_certificate"))?;
        let local = symbol(c"SSL_get_certificate")?;
        let encode = symbol(c"i2d_X509")?;
        let free = symbol(c"X509_free")?;
        // SAFETY: functions of these types, by OpenSSL's documentation, the same since 1.1; void pointers stand for
        // pointers to its structures.
        unsafe {
            Some(Self {
                local: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_void) -> *mut c_void>(local),
                peer: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_void) -> *mut c_void>(peer),
                encode: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_void, *mut *mut c_uchar) -> c_int,
                >(encode),
                free: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(free),
            })
        }
    }

    /// A certificate in DER.
    ///
    /// # Safety
    /// `certificate` must be an `X509 *`.
    unsafe fn der(self, certificate: NonNull<c_void>) -> Option<Vec<u8>> {
        // SAFETY: the caller's promise; without a place to write to, it only measures.
        let len = unsafe { (self.encode)(certificate.as_ptr(), ptr::null_mut()) };
        let mut der = vec![0; usize::try_from(len).ok().filter(|len| *len > 0)?];
        let mut to = der.as_mut_ptr();
        // SAFETY: as above, and as many bytes as it asked for.
        let written = unsafe { (self.encode)(certificate.as_ptr(), &raw mut to) };
        (written == len).then_some(der)
    }
}

/// A symbol that is in the process already.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a C string; looking up has no side effects.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

impl Tls<'_> {
    /// The connection at `ssl`; `None` for null.
    ///
    /// # Safety
    /// It must be an `SSL *` that lives for the lifetime that is chosen, and is used by this thread alone.
    pub(crate) unsafe fn from_raw(ssl: *mut c_void) -> Option<Self> {
        Some(Self { ssl: NonNull::new(ssl)?, _live: PhantomData })
    }

    /// Our own certificate, in DER (`SSL_get_certificate`).
    #[must_use]
    pub fn local_certificate(self) -> Option<Vec<u8>> {
        let openssl = OpenSsl::get()?;
        // SAFETY: a live connection; the certificate stays its own.
        let certificate = NonNull::new(unsafe { (openssl.local)(self.ssl.as_ptr()) })?;
        // SAFETY: a certificate, which lives as long as the connection.
        unsafe { openssl.der(certificate) }
    }

    /// The peer's certificate, in DER, if it presented one (`SSL_get1_peer_certificate`).
    #[must_use]
    pub fn peer_certificate(self) -> Option<Vec<u8>> {
        let openssl = OpenSsl::get()?;
        // SAFETY: a live connection; the certificate has a reference for us.
        let certificate = NonNull::new(unsafe { (openssl.peer)(self.ssl.as_ptr()) })?;
        // SAFETY: a certificate, until it is freed below.
        let der = unsafe { openssl.der(certificate) };
        // SAFETY: our reference, given back once.
        unsafe { (openssl.free)(certificate.as_ptr()) };
        der
    }

    /// Whether the peer presented a certificate.
    #[must_use]
    pub fn has_peer_certificate(self) -> bool {
        let Some(openssl) = OpenSsl::get() else { return false };
        // SAFETY: a live connection; the certificate has a reference for us, which is given back once.
        unsafe {
            let certificate = (openssl.peer)(self.ssl.as_ptr());
            // Null is allowed.
            (openssl.free)(certificate);
            !certificate.is_null()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_no_connection() {
        // SAFETY: null is answered with `None`.
        assert!(unsafe { Tls::from_raw(ptr::null_mut()) }.is_none());
    }

    #[test]
    fn symbols_are_those_of_the_process() {
        assert!(symbol(c"malloc").is_some() && symbol(c"no_such_function_anywhere").is_none());
    }
}
