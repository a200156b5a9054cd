#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::cni_call::holds(bytes));
