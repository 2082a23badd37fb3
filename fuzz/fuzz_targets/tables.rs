//! See `piton_fuzz::tables`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piton_fuzz::tables(data));
