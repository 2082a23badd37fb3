//! See `piton_fuzz::results`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piton_fuzz::results(data));
