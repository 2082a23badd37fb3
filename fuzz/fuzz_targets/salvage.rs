//! See `piton_fuzz::salvage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piton_fuzz::salvage(data));
