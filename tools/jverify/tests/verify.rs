//! A store is sound until something in it is not, and then that is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::mpsc::channel;

use gateway_store::{Store, StoreConfig};
use tap_disk::RealClock;
use testbed_model::Workload;

/// A store with a history in small segments.
fn store(dir: &Path, seed: u64) {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments) = (1 << 20, 0);
    let store = Store::open(config, Arc::new(RealClock)).unwrap();
    for batch in Workload::new(seed).history(400) {
        let (sender, receiver) = channel();
        store.append(batch, Box::new(move |outcome| drop(sender.send(outcome))));
        receiver.recv().unwrap().unwrap();
    }
}

fn jverify(dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jverify")).arg(dir).args(["-o", "json"]).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("seg")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_sound_store_is_sound() {
    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 1);
    let output = jverify(tmp.path());
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["sound"], true);
    assert!(report["records"].as_u64().unwrap() > 400 && report["blocks"].as_u64().unwrap() > 100);
    assert_eq!(report["streams"].as_array().unwrap().len(), 1);
    let text = Command::new(env!("CARGO_BIN_EXE_jverify")).arg(tmp.path()).output().unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().ends_with("sound\n"));
}

#[test]
fn a_flipped_byte_anywhere_in_what_is_used_is_found() {
    for seed in 0..12 {
        let tmp = tempfile::tempdir().unwrap();
        store(tmp.path(), 2);
        let path = &files(tmp.path())[0];
        // Within the first segment's frames, past the padding of small groups.
        let at = 4096 + 20_000 * seed;
        let before = fs::read(path).unwrap()[at as usize];
        let padding = fs::read(path).unwrap()[at as usize..at as usize + 64].iter().all(|&b| b == 0);
        write_at(path, at, &[before ^ 0x10]);
        let output = jverify(tmp.path());
        assert_eq!(output.status.code(), Some(if padding { 0 } else { 1 }), "at {at}: {}", json(&output));
    }
}

#[test]
fn a_wiped_stretch_a_missing_file_and_a_bad_header_are_named() {
    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 3);
    let all = files(tmp.path());
    write_at(&all[0], 100_000, &[0; 8192]);
    let output = jverify(tmp.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["damage"][0]["segment"], 1);
    write_at(&all[0], 20, &[0xff; 8]);
    assert_eq!(jverify(tmp.path()).status.code(), Some(1));
    fs::remove_file(&all[0]).unwrap();
    let report = json(&jverify(tmp.path()));
    assert!(report["damage"].to_string().contains("missing"), "{report}");
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let tmp = tempfile::tempdir().unwrap();
    assert_eq!(jverify(tmp.path()).status.code(), Some(3));
    assert_eq!(jverify(&tmp.path().join("nowhere")).status.code(), Some(3));
    fs::create_dir(tmp.path().join("seg")).unwrap();
    assert_eq!(jverify(tmp.path()).status.code(), Some(3));
    let usage = Command::new(env!("CARGO_BIN_EXE_jverify")).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}
