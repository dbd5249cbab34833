//! Grows its memory in the callback that header `x-memory-bomb` or the configuration names; see `support::misbehave`
//! for the rest of the protocol.
//!
//! Kinds: `allocate` (the default; allocates and touches memory until the allocator gives up, which traps), `grow`
//! (asks for one page more until refused, then goes on: response header `x-memory-pages` says how many pages there
//! are), a number (asks for so many pages at once: response header `x-memory-grow` says what `memory.grow` returned,
//! -1 for a refusal).

proxy_wasm::main! {{
    support::misbehave(support::Behaviour {
        header: "x-memory-bomb",
        act: grow,
    });
}}

fn grow(kind: &str) -> Option<(String, String)> {
    if let Ok(pages) = kind.parse() {
        let result = memory_grow(pages);
        return Some(("x-memory-grow".to_owned(), result.to_string()));
    }
    if kind == "grow" {
        let mut pages = 0;
        loop {
            match memory_grow(1) {
                -1 => return Some(("x-memory-pages".to_owned(), pages.to_string())),
                before => pages = before + 1,
            }
        }
    }
    loop {
        let megabyte = std::hint::black_box(vec![1_u8; 1 << 20]);
        std::mem::forget(megabyte);
    }
}

#[cfg(target_family = "wasm")]
fn memory_grow(pages: usize) -> i64 {
    match std::arch::wasm32::memory_grow::<0>(pages) {
        usize::MAX => -1,
        before => before as i64,
    }
}

#[cfg(not(target_family = "wasm"))]
fn memory_grow(_pages: usize) -> i64 {
    -1
}
