//! Recurses in the callback that header `x-recursion` or the configuration names; see `support::misbehave` for the
//! rest of the protocol.
//!
//! Kinds: nothing (the default: without end), or a number (so deep, and response header `x-recursion-depth` says that
//! it came back). The frames hold nothing in linear memory: what runs out is the stack that the host gives to a
//! guest.

use std::sync::atomic::{AtomicU32, Ordering};

proxy_wasm::main! {{
    support::misbehave(support::Behaviour {
        header: "x-recursion",
        act: recurse,
    });
}}

/// What a level adds to the depth; not a constant, so that no compiler can tell how deep it goes.
static STEP: AtomicU32 = AtomicU32::new(1);

fn recurse(kind: &str) -> Option<(String, String)> {
    let limit = kind.parse().unwrap_or(u32::MAX);
    let mix = descend(0, limit);
    // The depth, and the result of the descent so that it cannot be left out.
    Some(("x-recursion-depth".to_owned(), format!("{limit} {mix:08x}")))
}

#[inline(never)]
fn descend(depth: u32, limit: u32) -> u32 {
    if depth >= limit {
        return depth;
    }
    let below = descend(depth.saturating_add(STEP.load(Ordering::Relaxed)), limit);
    // Not something that a loop with an accumulator could do.
    (below ^ depth).rotate_left(below & 7).wrapping_mul(31)
}
