//! `gateway/iscsi/tests/common/fuzz.rs`, `copies`.
#![no_main]

#[path = "../../gateway/iscsi/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| common::fuzz::copies(bytes));
