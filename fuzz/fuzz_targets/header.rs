#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| amberfs_fuzz::header::look(data));
