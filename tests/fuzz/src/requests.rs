//! libFuzzer's target for requests of HTTP/1.1: any bytes, held against the law of `meridian_edge::fuzzing`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    meridian_edge::fuzzing::request(bytes);
});
