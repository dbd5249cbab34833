//! `poll_oneoff`: what sleeping comes down to in a guest.

use super::{Errno, stdio};
use crate::memory::{self, Guest};

/// More at once is nothing that a filter does, and would keep the thread busy where no deadline reaches.
const MAX_SUBSCRIPTIONS: u32 = 1024;

/// The size of an event, in both versions: user data, error, type, and what a file has ready.
const EVENT: i32 = 32;

/// The type of a subscription to a clock; the others are to files.
const CLOCK: u8 = 0;
/// The type of a subscription to a file that can be written.
const FD_WRITE: u8 = 2;

/// Answers every subscription at once. A filter must not block the thread that it runs on, so a sleep is over
/// when it begins: Go's scheduler, which sleeps for no reason of the filter's, wants to see success, while Rust's
/// `thread::sleep` and C's `nanosleep` also want the event, and panic or fail without.
pub(super) fn poll_oneoff<const UNSTABLE: bool>(
    guest: &mut Guest<'_>,
    subscriptions: i32,
    events: i32,
    count: i32,
    return_count: i32,
) -> Result<(), Errno> {
    if !(1..=MAX_SUBSCRIPTIONS).contains(&count.cast_unsigned()) {
        return Err(Errno::Inval);
    }
    // The predecessor's clocks carry an identifier more, which makes every subscription longer.
    let subscription_size = if UNSTABLE { 56 } else { 48 };
    let (memory, _) = memory::split(guest)?;
    // Both arrays are checked whole, so that no address below wraps around. No size overflows: see the bound.
    memory::bytes(memory, subscriptions, count * subscription_size)?;
    memory::bytes(memory, events, count * EVENT)?;
    for index in 0..count {
        let subscription = memory::bytes(memory, subscriptions.wrapping_add(index * subscription_size), 24)?;
        let (userdata, tag) = (&subscription[..8], subscription[8]);
        let fd = memory::read_u32(subscription, 16)?.cast_signed();
        let ready = tag == CLOCK || (tag == FD_WRITE && stdio::output(fd).is_some());
        let errno: u16 = if ready { 0 } else { Errno::Badf as u16 };
        let mut event = [0; EVENT as usize];
        event[..8].copy_from_slice(userdata);
        event[8..10].copy_from_slice(&errno.to_le_bytes());
        event[10] = tag;
        memory::bytes_mut(memory, events.wrapping_add(index * EVENT), EVENT)?.copy_from_slice(&event);
    }
    memory::write_u32(memory, return_count, count.cast_unsigned())?;
    Ok(())
}
