#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::proc_tables::holds(bytes));
