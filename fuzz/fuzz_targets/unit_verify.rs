#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| finhook_fuzz::verify("unit", data));
