//! Slots that are stale, torn or missing.

use std::fs;
use std::path::Path;

use super::Durability::{Synced, Unsynced};
use super::*;
use crate::segment::{MemoryDir, SegmentDir};
use crate::segment_pool::FileNo;

const STRIDE: usize = 4096;

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn reopened(path: &Path) -> Option<Vec<u8>> {
    SlottedFile::open(path, 100).unwrap().load()
}

fn store(path: &Path, contents: &[(&[u8], Durability)]) {
    let file = SlottedFile::open(path, 100).unwrap();
    for (content, durability) in contents {
        file.store(content, *durability).unwrap();
    }
}

/// The slot that holds `content`.
fn slot_of(path: &Path, content: &[u8]) -> usize {
    let all = bytes(path);
    all.chunks(STRIDE).position(|slot| slot[HEADER..].starts_with(content)).unwrap()
}

fn tear(path: &Path, slot: usize) {
    let mut all = bytes(path);
    all[slot * STRIDE + HEADER] ^= 0xff;
    fs::write(path, all).unwrap();
}

#[test]
fn the_last_content_is_found_again() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    assert_eq!(reopened(&path), None);
    store(&path, &[(b"one", Synced), (b"two", Unsynced), (b"", Synced)]);
    assert_eq!(reopened(&path), Some(Vec::new()), "an empty content is a content");
    for n in 0..10_u8 {
        store(&path, &[(&[n; 100], if n % 2 == 0 { Synced } else { Unsynced })]);
        assert_eq!(reopened(&path), Some(vec![n; 100]));
    }
}

#[test]
fn a_torn_slot_gives_way_to_the_one_before() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    store(&path, &[(b"first", Synced), (b"second", Synced), (b"third", Synced)]);
    tear(&path, slot_of(&path, b"third"));
    assert_eq!(reopened(&path).unwrap(), b"second");
    store(&path, &[(b"fourth", Synced)]);
    assert_eq!(reopened(&path).unwrap(), b"fourth");
}

#[test]
fn a_slot_that_is_not_sound_is_told_until_it_is_written_over() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    let open = || SlottedFile::open(&path, 100).unwrap();
    assert_eq!((open().is_harmed(), open().generation()), (false, 0));
    store(&path, &[(b"first", Synced), (b"second", Synced), (b"third", Synced)]);
    assert_eq!((open().is_harmed(), open().generation()), (false, 3));
    tear(&path, slot_of(&path, b"third"));
    let file = open();
    assert_eq!((file.is_harmed(), file.generation()), (true, 2));
    file.store(b"fourth", Synced).unwrap();
    assert_eq!((file.is_harmed(), open().is_harmed()), (false, false));
    assert_eq!((file.generation(), open().generation(), open().load()), (3, 3, Some(b"fourth".to_vec())));
}

#[test]
fn unsynced_stores_never_touch_the_durable_slot() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    let file = SlottedFile::open(&path, 100).unwrap();
    file.store(b"durable", Synced).unwrap();
    let mut newest = Vec::new();
    for n in 0..7 {
        newest = format!("passing {n}").into_bytes();
        file.store(&newest, Unsynced).unwrap();
        slot_of(&path, b"durable");
    }
    // A killed process may leave a torn newest slot: the one before is still there, and so is the durable.
    tear(&path, slot_of(&path, &newest));
    assert_eq!(reopened(&path).unwrap(), b"passing 5");
    tear(&path, slot_of(&path, b"passing 5"));
    assert_eq!(reopened(&path).unwrap(), b"durable");
}

#[test]
fn a_stale_slot_of_a_longer_content_is_not_mistaken() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    store(&path, &[(&[9; 100], Synced), (&[8; 100], Synced), (&[7; 100], Synced), (b"short", Synced)]);
    assert_eq!(reopened(&path).unwrap(), b"short");
}

#[test]
fn a_first_store_that_was_cut_short_never_happened() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    store(&path, &[(b"first", Synced)]);
    tear(&path, slot_of(&path, b"first"));
    assert_eq!(reopened(&path), None);
    store(&path, &[(b"again", Synced)]);
    assert_eq!(reopened(&path).unwrap(), b"again");
}

#[test]
fn damage_is_an_error_and_not_a_fresh_start() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    store(&path, &[(b"first", Synced), (b"second", Synced)]);
    tear(&path, slot_of(&path, b"first"));
    tear(&path, slot_of(&path, b"second"));
    let refused = SlottedFile::open(&path, 100).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert!(refused.to_string().contains("state"), "{refused}");
}

#[test]
fn a_file_of_another_shape_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    store(&path, &[(b"first", Synced)]);
    assert!(SlottedFile::open(&path, 10_000).is_err());
    fs::write(&path, b"cut").unwrap();
    assert!(SlottedFile::open(&path, 100).is_err());
    assert!(SlottedFile::open(&tmp.path().join("huge"), usize::MAX).is_err());
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("state");
    let file = SlottedFile::open(&path, 100).unwrap();
    file.store(b"fits", Synced).unwrap();
    let refused = file.store(&[1; 5000], Synced).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(file.load().unwrap(), b"fits");
    assert_eq!(reopened(&path).unwrap(), b"fits");
}

#[test]
fn rubbish_is_never_a_content() {
    for bytes in [&[][..], &[0; 4096], &[0xff; 4096], &MAGIC, &[MAGIC; 8].concat()] {
        assert_eq!(decode(bytes), None);
    }
    let mut good = [&header(7, b"content")[..], b"content"].concat();
    assert_eq!(decode(&good), Some((7, &b"content"[..])));
    for n in 0..good.len() * 8 {
        good[n / 8] ^= 1 << (n % 8);
        assert_eq!(decode(&good), None, "bit {n}");
        good[n / 8] ^= 1 << (n % 8);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_stored_until_it_is_opened_again() {
    let dir = MemoryDir::new();
    let no = FileNo::new(1);
    let file = SlottedFile::over(dir.create(no, SlottedFile::file_len(100).unwrap()).unwrap(), 100).unwrap();
    file.store(b"sound", Synced).unwrap();
    dir.fail_syncs(true);
    assert!(file.store(b"doubtful", Synced).is_err());
    dir.fail_syncs(false);
    assert!(file.store(b"later", Unsynced).is_err());
    assert_eq!(file.load().unwrap(), b"sound");
    let cut = dir.after_power_cut(|_, _| false);
    let again = SlottedFile::over(cut.open(no).unwrap(), 100).unwrap();
    assert_eq!(again.load().unwrap(), b"sound");
    again.store(b"later", Synced).unwrap();
}
