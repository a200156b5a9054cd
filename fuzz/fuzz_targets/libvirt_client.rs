#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::libvirt_client::holds(bytes));
