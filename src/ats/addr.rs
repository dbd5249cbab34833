//! Socket addresses as ATS hands them out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::{AF_INET, AF_INET6, sockaddr_in, sockaddr_in6};

/// The address behind a `struct sockaddr`; `None` for null and for families other than IPv4 and IPv6.
///
/// # Safety
/// If `ptr` is not null, it must point to a socket address as long as its family says.
#[must_use]
pub unsafe fn socket_addr(ptr: *const ats_sys::sockaddr) -> Option<SocketAddr> {
    if ptr.is_null() {
        return None;
    }
    // SAFETY: not null; every family begins with these fields. Read unaligned, here and below: nothing says that ATS
    // aligned it for the wider type.
    let family = i32::from(unsafe { (&raw const (*ptr).sa_family).read_unaligned() });
    match family {
        AF_INET => {
            // SAFETY: the family says that it is one of these.
            let v4 = unsafe { ptr.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        AF_INET6 => {
            // SAFETY: the family says that it is one of these.
            let v6 = unsafe { ptr.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        // ATS leaves an address that is not known yet at AF_UNSPEC.
        _ => None,
    }
}

/// The address as C has it.
#[must_use]
pub(crate) fn sockaddr(addr: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: plain data, for which all zeroes is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let to = &raw mut storage;
    match addr {
        SocketAddr::V4(v4) => {
            let from = sockaddr_in {
                sin_family: AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: a storage is as large and as aligned as any address.
            unsafe { to.cast::<sockaddr_in>().write(from) };
        }
        SocketAddr::V6(v6) => {
            let from = sockaddr_in6 {
                sin6_family: AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: a storage is as large and as aligned as any address.
            unsafe { to.cast::<sockaddr_in6>().write(from) };
        }
    }
    storage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families() {
        for text in ["192.0.2.7:8080", "[2001:db8::7]:443"] {
            let addr: SocketAddr = text.parse().expect("an address");
            let storage = fake_ats::sockaddr(addr);
            // SAFETY: a whole sockaddr_storage.
            assert_eq!(unsafe { socket_addr((&raw const storage).cast()) }, Some(addr));
            let own = sockaddr(addr);
            // SAFETY: a whole sockaddr_storage.
            assert_eq!(unsafe { socket_addr((&raw const own).cast()) }, Some(addr));
        }
    }

    #[test]
    fn null_and_unknown_families_are_none() {
        // SAFETY: null is allowed; all zeroes is AF_UNSPEC.
        unsafe {
            assert_eq!(socket_addr(std::ptr::null()), None);
            let unspecified: libc::sockaddr_storage = std::mem::zeroed();
            assert_eq!(socket_addr((&raw const unspecified).cast()), None);
        }
    }
}
