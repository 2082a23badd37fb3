//! See `piton_fuzz::operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piton_fuzz::operations(data));
