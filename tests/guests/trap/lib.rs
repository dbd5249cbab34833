//! Traps in the callback that header `x-trap` or the configuration names; see `support::misbehave` for the rest of
//! the protocol.
//!
//! Kinds: `panic` (the default; logs a critical line first), `unreachable` (logs nothing), `memory` (reads beyond the
//! memory), `exit` (calls WASI's `proc_exit` with 3).

proxy_wasm::main! {{
    support::misbehave(support::Behaviour {
        header: "x-trap",
        act: trap,
    });
}}

fn trap(kind: &str) -> Option<(String, String)> {
    match kind {
        "unreachable" => unreachable_now(),
        "memory" => read_beyond(),
        "exit" => std::process::exit(3),
        _ => panic!("asked to trap"),
    }
}

fn unreachable_now() -> ! {
    #[cfg(target_family = "wasm")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    std::process::abort();
}

fn read_beyond() -> ! {
    let address = std::hint::black_box(0xffff_fff0_usize);
    // SAFETY: none; the address lies beyond any memory that a test allows, and the trap that follows is what the test
    // asks for.
    let byte = unsafe { std::ptr::read_volatile(address as *const u8) };
    panic!("read {byte} from beyond the memory");
}
