//! Filter files.
#![no_main]

mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::config(bytes));
