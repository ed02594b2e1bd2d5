//! `gateway/nbd/tests/common/fuzz.rs`, `handshake`.
#![no_main]

#[path = "../../gateway/nbd/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| common::fuzz::handshake(bytes));
