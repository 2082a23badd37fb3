//! See `piton_fuzz::study`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| piton_fuzz::study(data));
