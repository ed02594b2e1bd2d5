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
fn a_store_in_use_or_without_a_ledger_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("store");
    store(&dir, 4);
    let said = || {
        let output = Command::new(env!("CARGO_BIN_EXE_jverify")).arg(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let _ = fs::remove_file(dir.join("LEDGER"));
    let [report, warning] = said();
    assert!(report.contains("ledger: there is none") && warning.is_empty(), "{report}{warning}");
    let _gateway = tap_disk::DirLock::acquire(tmp.path()).unwrap();
    let [_, warning] = said();
    assert!(warning.contains("a gateway uses the store"), "{warning}");
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

/// Enters all that is finished into the ledger.
fn enter(dir: &Path) {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments) = (1 << 20, 0);
    Store::open(config, Arc::new(RealClock)).unwrap().keep_ledger().unwrap();
}

#[test]
fn what_the_ledger_says_is_held_against_the_segments() {
    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 5);
    enter(tmp.path());
    let report = json(&jverify(tmp.path()));
    let hashed = report["ledger"]["hashed"].as_u64().unwrap();
    assert!(report["sound"] == true && hashed > 0 && report["ledger"]["anchored"].is_null(), "{report}");
    let path = files(tmp.path()).into_iter().find(|f| segment_of(f) == Some(1)).unwrap();
    let (at, unit) = forged(&fs::read(&path).unwrap());
    let before = fs::read(&path).unwrap();
    write_at(&path, at, &unit);
    let report = json(&jverify(tmp.path()));
    assert_eq!(report["damage"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["damage"].to_string().contains("entered in the ledger"), "{report}");
    write_at(&path, at, &before[at as usize..at as usize + unit.len()]);
    assert_eq!(json(&jverify(tmp.path()))["sound"], true);
    let ledger = tmp.path().join("LEDGER");
    let byte = fs::read(&ledger).unwrap()[150];
    write_at(&ledger, 150, &[byte ^ 1]);
    assert_eq!(json(&jverify(tmp.path()))["damage"][0]["file"], "LEDGER");
}

#[test]
fn segments_that_only_the_ledger_knows_of_are_named_when_they_are_taken_away() {
    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 5);
    enter(tmp.path());
    assert_eq!(json(&jverify(tmp.path()))["sound"], true);
    for path in files(tmp.path()).into_iter().filter(|f| matches!(segment_of(f), Some(1 | 2))) {
        fs::remove_file(path).unwrap();
    }
    // The header of the third speaks of the second, and nothing of the first.
    let report = json(&jverify(tmp.path()));
    let named = |n: u32| report["damage"].as_array().unwrap().iter().filter(|d| d["segment"] == n).count();
    assert_eq!((named(1), named(2)), (1, 1), "{report}");
    assert!(report["damage"].to_string().contains("taken away"), "{report}");
}

#[test]
fn a_contradiction_in_the_ledger_is_damage_until_it_is_acknowledged() {
    use gateway_journal::{Digest, EntryNo, Head};
    use tap_block::{VolumeId, WallTime};

    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 5);
    enter(tmp.path());
    let report = json(&jverify(tmp.path()));
    let id =
        gateway_journal::StoreId::new(u64::from_str_radix(report["store"].as_str().unwrap(), 16).unwrap());
    let mut config = StoreConfig::new(tmp.path().to_owned());
    (config.segment_len, config.spare_segments) = (1 << 20, 0);
    let open = || Store::open(config.clone(), Arc::new(RealClock)).unwrap();
    let other = Head { number: EntryNo::new(500), digest: Digest::of(b"other"), at: WallTime::EPOCH };
    let gateway = open();
    gateway.hear_heads("cx", &[(id, other)]);
    gateway.keep_ledger().unwrap();
    drop(gateway);
    let report = json(&jverify(tmp.path()));
    assert_eq!(report["damage"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["damage"][0]["detail"].as_str().unwrap().contains("entry 500"), "{report}");
    open().acknowledge(VolumeId::new(1), |_| true).unwrap();
    assert_eq!(json(&jverify(tmp.path()))["sound"], true);
    // Lost, put aside, begun anew.
    fs::write(tmp.path().join("LEDGER"), [9; 5000]).unwrap();
    open().keep_ledger().unwrap();
    let report = json(&jverify(tmp.path()));
    assert!(report["damage"].to_string().contains("began anew"), "{report}");
    assert_eq!(fs::read(tmp.path().join("LEDGER.unreadable-1")).unwrap(), [9; 5000]);
}

fn segment_of(path: &Path) -> Option<u32> {
    gateway_journal::SegmentHeader::decode(&fs::read(path).unwrap()).ok().map(|h| h.segment.get())
}

/// Another content for some block, of the same length and with a right checksum; where.
fn forged(bytes: &[u8]) -> (u64, Vec<u8>) {
    use tap_block::BlockNo;
    use tap_block::stored::{pack, verify};
    for at in 4096..bytes.len() - 4108 {
        let len = 12 + usize::from(u16::from_le_bytes([bytes[at + 10], bytes[at + 11]]));
        let Some(unit) = bytes.get(at..at + len).filter(|_| (13..=4108).contains(&len)) else { continue };
        let Some(block) = (0..256).map(BlockNo::new).find(|b| verify(*b, unit).is_ok()) else { continue };
        let mut content = [0; 4096];
        tap_block::stored::unpack(block, unit, &mut content).unwrap();
        // A content of the same shape packs to the same length, often enough.
        for n in 1..=255 {
            let mut other = Vec::new();
            pack(block, &content.map(|b| b ^ n), &mut other);
            if other.len() == len {
                return (at as u64, other);
            }
        }
    }
    panic!("no block to forge");
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

/// What lies in memory, as files.
fn dump(dir: &tap_disk::MemoryDir, mark: &dyn gateway_store::MarkStore, to: &Path) {
    use tap_disk::SegmentDir;
    fs::create_dir_all(to.join("seg")).unwrap();
    for no in dir.list().unwrap() {
        let file = dir.open(no).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).unwrap();
        fs::write(to.join("seg").join(format!("{no}.seg")), bytes).unwrap();
    }
    if let Some(bytes) = mark.load() {
        let file = tap_disk::SlottedFile::open(&to.join("MARK"), gateway_journal::MARK_BYTES).unwrap();
        file.store(&bytes, tap_disk::Durability::Synced).unwrap();
    }
}

#[test]
fn what_a_power_cut_leaves_is_sound_and_what_is_struck_is_not() {
    use gateway_store::{MarkStore, MemoryIndex, MemoryLedger, MemoryMark, Parts};
    use tap_disk::{MemoryDir, PoolOptions, SegmentPool};
    use testbed_model::Random;

    for seed in 0..20 {
        let mut random = Random::new(seed);
        let (dir, mark) = (MemoryDir::new(), Arc::new(MemoryMark::default()));
        let mut config = StoreConfig::new("/nowhere".into());
        config.segment_len = 512 << 10;
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let parts = Parts {
            segments: SegmentPool::over(Box::new(dir.clone()), 512 << 10, options).unwrap(),
            index: Box::new(MemoryIndex::new()),
            mark: Box::new(Arc::clone(&mark)),
            manifest: Box::new(MemoryMark::default()),
            proofs: Box::new(MemoryMark::default()),
            ledger: Box::new(MemoryLedger::default()),
            free: Box::new(|| None),
        };
        let store = Store::open_on(config, Arc::new(RealClock), parts).unwrap();
        let history = Workload::new(seed).history(150);
        let fails = random.below(history.len() as u64) as usize;
        for (n, batch) in history.into_iter().enumerate() {
            if n == fails {
                dir.fail_syncs(true);
            }
            let (sender, receiver) = channel();
            store.append(batch, Box::new(move |outcome| drop(sender.send(outcome))));
            assert_eq!(receiver.recv().unwrap().is_ok(), n < fails);
            if n > fails + 5 {
                break;
            }
        }
        let mark = MemoryMark::holding(mark.load());
        let left = dir.after_power_cut(|_, _| random.one_in(2));
        drop(store);
        let tmp = tempfile::tempdir().unwrap();
        dump(&left, &mark, tmp.path());
        let report = jverify::verify(tmp.path()).unwrap();
        assert!(report.sound, "seed {seed}: {report}");
    }
}

fn small(dir: &Path) -> Arc<Store> {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.segment_len, config.spare_segments, config.group_versions) = (1 << 20, 0, 50);
    config.settle_each = None;
    Store::open(config, Arc::new(RealClock)).unwrap()
}

fn append(store: &Store, batch: tap_block::Batch) {
    let (sender, receiver) = channel();
    store.append(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    receiver.recv().unwrap().unwrap();
}

fn settle(store: &Store) {
    while store.status().groups_waiting > 0 {
        std::thread::yield_now();
    }
    while store.settle().unwrap().is_some() {}
}

/// A store of which most is settled.
fn settled_store(dir: &Path) {
    use gateway_journal::{MetaRecord, RetentionPolicy};
    let store = small(dir);
    let none = std::time::Duration::ZERO;
    let policy = RetentionPolicy { every_write: none, tiers: Vec::new(), ..RetentionPolicy::default() };
    let (sender, receiver) = channel();
    let record = MetaRecord::PolicySet { volume: None, policy: Some(policy) };
    store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
    receiver.recv().unwrap().unwrap();
    Workload::new(7).history(400).into_iter().for_each(|batch| append(&store, batch));
    settle(&store);
    assert!(store.status().settled_segments > 0);
}

/// What a volume takes by the store's own count, by what is on the disk, and after a restart with and without the index.
#[test]
fn what_volumes_take_is_what_lies_on_the_disk() {
    let tmp = tempfile::tempdir().unwrap();
    settled_store(tmp.path());
    let store = small(tmp.path());
    let mut others = [Workload::new(8), Workload::new(9)];
    for workload in &mut others {
        workload.history(50).into_iter().for_each(|batch| append(&store, batch));
    }
    for batch in 0..60 {
        append(&store, others[batch % 2].batch(9));
        if batch == 40 {
            settle(&store);
        }
    }
    let usage = store.usage();
    drop(store);
    let report = jverify::verify(tmp.path()).unwrap();
    assert!(report.sound, "{report}");
    let streams = [Workload::new(7), others[0].clone(), others[1].clone()];
    for workload in &streams {
        let taken = usage[&workload.volume()];
        let (volume, stream) =
            (format!("{:016x}", workload.volume().get()), format!("{:016x}", workload.stream().get()));
        let log = report.streams.iter().find(|s| s.stream == stream).map_or(0, |s| s.log_bytes);
        let settled = report.volumes.iter().find(|v| v.volume == volume).map_or(0, |v| v.settled_bytes);
        assert_eq!((taken.log, taken.settled), (log, settled), "{workload:?}");
    }
    assert!(usage.values().all(|u| u.settled > 0) && usage.values().any(|u| u.log > 0), "{usage:?}");
    assert_eq!(small(tmp.path()).usage(), usage);
    fs::remove_dir_all(tmp.path().join("fjall")).unwrap();
    assert_eq!(small(tmp.path()).usage(), usage);
}

#[test]
fn settled_history_is_checked_as_the_log_is() {
    let tmp = tempfile::tempdir().unwrap();
    settled_store(tmp.path());
    let output = jverify(tmp.path());
    let sound = json(&output);
    assert_eq!(output.status.code(), Some(0), "{sound}");
    let settled =
        files(tmp.path()).into_iter().find(|f| fs::read(f).unwrap().starts_with(b"CGSETTL")).unwrap();
    let bytes = fs::read(&settled).unwrap();
    let end = u64::from(gateway_journal::SettledHeader::decode(&bytes).unwrap().end);
    for at in (4096..end).step_by(1009) {
        let byte = bytes[at as usize];
        write_at(&settled, at, &[byte ^ 4]);
        let report = json(&jverify(tmp.path()));
        // Up to seven zeroes pad a frame, and nine bytes of a unit carry nothing.
        if report["sound"] == true {
            assert!(byte == 0, "byte {at} was changed and nothing found");
        }
        write_at(&settled, at, &[byte]);
    }
    // A damaged header is said to be damaged, and what it is the header of is checked all the same.
    write_at(&settled, 20, &[0xff; 8]);
    let report = json(&jverify(tmp.path()));
    let said = report["damage"].to_string();
    assert!(said.contains("the header of") && !said.contains("missing"), "{said}");
    assert_eq!(report["damage"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(report["blocks"], sound["blocks"]);
    let at = (4096..end).step_by(1009).find(|at| bytes[*at as usize] != 0).unwrap();
    write_at(&settled, at, &[bytes[at as usize] ^ 4]);
    assert!(json(&jverify(tmp.path()))["damage"].as_array().unwrap().len() > 1);
    fs::remove_file(&settled).unwrap();
    let report = json(&jverify(tmp.path()));
    assert!(report["damage"].to_string().contains("missing"), "{report}");
}

/// As a gateway's own verification says.
#[test]
fn damage_in_a_segment_of_the_log_that_is_settled_costs_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    settled_store(tmp.path());
    let manifest = gateway_journal::Manifest::unseal(&fs::read(tmp.path().join("SETTLED")).unwrap()).unwrap();
    let (segment, start) = manifest.through;
    let path = files(tmp.path()).into_iter().find(|f| segment_of(f) == Some(segment.get())).unwrap();
    let (bytes, end) = (fs::read(&path).unwrap(), start.at as usize);
    let at = (4096 + 64..end).find(|&at| bytes[at..at + 16].iter().all(|b| *b != 0)).unwrap();
    write_at(&path, at as u64, &bytes[at..at + 16].iter().map(|b| b ^ 8).collect::<Vec<_>>());
    let report = json(&jverify(tmp.path()));
    assert_eq!(report["sound"], true, "{report}");
    let store = small(tmp.path());
    let walk = store.verify(gateway_store::Scope::default(), &mut |_| true).unwrap();
    assert!(walk.findings.is_empty(), "{:?}", walk.findings);
}

/// A copy that somebody made earlier lies beside a segment, before it or behind it.
#[test]
fn of_two_files_of_a_segment_the_one_with_more_of_it_counts() {
    let tmp = tempfile::tempdir().unwrap();
    settled_store(tmp.path());
    let store = small(tmp.path());
    let mut other = Workload::new(8);
    other.history(200).into_iter().for_each(|batch| append(&store, batch));
    drop(store);
    assert!(jverify::verify(tmp.path()).unwrap().sound);
    for path in files(tmp.path()) {
        let mut part = fs::read(&path).unwrap();
        let Some(half) = part.iter().rposition(|byte| *byte != 0).map(|used| used / 2) else { continue };
        part[half.max(4096)..].fill(0);
        for called in ["0.seg", "zz.seg"] {
            let copy = tmp.path().join("seg").join(called);
            fs::write(&copy, &part).unwrap();
            let report = jverify::verify(tmp.path()).unwrap();
            assert!(report.sound, "{called}, {}: {report}", path.display());
            fs::remove_file(copy).unwrap();
        }
    }
}

/// The segment that the manifest lay in is gone, and held nothing else.
#[test]
fn a_manifest_that_lies_in_no_segment_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    settled_store(tmp.path());
    let path = tmp.path().join("SETTLED");
    let manifest = gateway_journal::Manifest::unseal(&fs::read(&path).unwrap()).unwrap();
    let later = gateway_journal::Manifest { settle: manifest.settle + 1, ..manifest };
    fs::write(&path, later.seal()).unwrap();
    let report = jverify::verify(tmp.path()).unwrap();
    assert!(!report.sound && report.to_string().contains("lies in no segment"), "{report}");
}

#[test]
fn an_empty_mark_is_none() {
    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 1);
    let before = json(&jverify(tmp.path()));
    fs::write(tmp.path().join("MARK"), b"").unwrap();
    let mut without = json(&jverify(tmp.path()));
    assert_eq!(without["sound"], true, "{without}");
    without["torn_tail"] = before["torn_tail"].clone();
    assert_eq!(without, before);
    let store = small(tmp.path());
    assert_eq!(store.catalogue().volumes().count(), 1, "it opens, and holds what it held");
    drop(store);
    assert!(fs::metadata(tmp.path().join("MARK")).unwrap().len() > 0);
}

#[test]
fn a_store_of_a_newer_format_is_no_damaged_one() {
    let tmp = tempfile::tempdir().unwrap();
    store(tmp.path(), 9);
    for at in [7, 4096 + 7] {
        let file = &files(tmp.path())[0];
        write_at(file, at, &[2]);
        let output = jverify(tmp.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("version 2") && said.contains(&*file.to_string_lossy()), "{said}");
        write_at(file, at, &[1]);
    }
    assert_eq!(jverify(tmp.path()).status.code(), Some(0));
    // One bit that flipped.
    write_at(&files(tmp.path())[0], 7, &[3]);
    assert_eq!(jverify(tmp.path()).status.code(), Some(1));
}

/// More bookmarks than fit into a segment, with names that look like no others.
#[test]
fn a_manifest_in_pieces_is_found_in_its_segments_and_is_none_without_one_of_them() {
    let tmp = tempfile::tempdir().unwrap();
    let mut config = StoreConfig::new(tmp.path().to_owned());
    (config.segment_len, config.spare_segments, config.group_versions) = (256 << 10, 0, 50);
    (config.settle_each, config.ledger_each) = (None, None);
    let store = Store::open(config, Arc::new(RealClock)).unwrap();
    let (every_write, tiers) = (std::time::Duration::ZERO, Vec::new());
    let policy = gateway_journal::RetentionPolicy { every_write, tiers, ..Default::default() };
    let (sender, receiver) = channel();
    let record = gateway_journal::MetaRecord::PolicySet { volume: None, policy: Some(policy) };
    store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
    receiver.recv().unwrap().unwrap();
    let mut workload = Workload::new(7);
    workload.history(50).into_iter().for_each(|batch| append(&store, batch));
    let hash = |n: u64| (n + 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for first in (0..10_000).step_by(100) {
        let mut marks = (first..first + 100).map(|n| {
            let (a, b) = (hash(n * 2), hash(n * 2 + 1));
            workload.bookmark(&format!("{:016x}{:016x}", a ^ (a >> 29), b ^ (b >> 31)).parse().unwrap())
        });
        let mut batch = marks.next().unwrap();
        marks.for_each(|more| batch.entries.extend(more.entries));
        append(&store, batch);
        append(&store, workload.batch(6));
    }
    settle(&store);
    drop(store);
    fs::remove_file(tmp.path().join("SETTLED")).unwrap();
    let report = jverify::verify(tmp.path()).unwrap();
    assert!(report.sound && report.volumes.iter().any(|v| v.settled_bytes > 0), "{report}");
    let is_piece = |path: &&PathBuf| fs::read(path).unwrap().get(4096 + 32).is_some_and(|kind| *kind == 3);
    let pieces = files(tmp.path());
    let piece = pieces.iter().find(is_piece).unwrap();
    write_at(piece, 4096 + 1000, b"something else");
    let report = jverify::verify(tmp.path()).unwrap();
    assert!(!report.sound && report.to_string().contains("the manifest of settle"), "{report}");
}
