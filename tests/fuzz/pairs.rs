//! Header maps as guests hand them over.
#![no_main]

mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::pairs(bytes));
