//! `gateway/iscsi/tests/common/fuzz.rs`, `session`.
#![no_main]

#[path = "../../gateway/iscsi/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| common::fuzz::session(bytes));
