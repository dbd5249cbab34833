//! Loopback ports that nobody takes between the choice and the server's own bind.
//!
//! A port that the kernel chose (bind to 0) lies in the range from which it also serves outgoing connections, so that
//! one of the proxy's own could take it in the gap. These lie below that range, and each is held, across processes, by
//! a UDP socket of the same number for as long as its lease lives: the server binds TCP alone.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of the loopback address, nobody else's until dropped.
#[derive(Debug)]
pub struct Lease {
    port: u16,
    _lock: UdpSocket,
}

impl Lease {
    /// Takes a free port.
    #[track_caller]
    pub fn take() -> Lease {
        // Processes start at different places, so that they seldom meet.
        let start = u64::from(process::id()) * 7919;
        for _ in 0..COUNT {
            let step = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let port = FIRST + ((start + step) % u64::from(COUNT)) as u16;
            let Ok(lock) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Lease { port, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT - 1);
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn leases_never_coincide_and_are_given_back() {
        let leases: Vec<Lease> = (0..50).map(|_| Lease::take()).collect();
        let ports: HashSet<u16> = leases.iter().map(Lease::port).collect();
        assert_eq!(ports.len(), 50);
        let port = leases[0].port();
        drop(leases);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    }
}
