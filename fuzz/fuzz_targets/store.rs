//! See `piton_fuzz::store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piton_fuzz::store(data));
