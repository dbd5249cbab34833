//! Never returns from the callback that header `x-loop` or the configuration names; see `support::misbehave` for the
//! rest of the protocol.
//!
//! Kinds: `spin` (the default; no hostcall is made), `hostcall` (reads the time over and over).

use proxy_wasm::hostcalls;

proxy_wasm::main! {{
    support::misbehave(support::Behaviour {
        header: "x-loop",
        act: never_return,
    });
}}

fn never_return(kind: &str) -> Option<(String, String)> {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
        if kind == "hostcall" {
            let _ = hostcalls::get_current_time();
        }
    }
}
