//! Frames come back from a segment, and nothing else does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Image, NOW, Scanned, cases, header, scan};
use gateway_journal::frame::FRAME_MAGIC;
use gateway_journal::table::{decode_meta, decode_records};
use gateway_journal::{Expected, FrameHeader, ImageId, MetaRecord, SegmentHeader, Start, StoreId};
use proptest::prelude::*;
use tap_block::{Batch, Lsn};
use testbed_model::{Random, Workload};

const LENGTH: u32 = 1 << 20;

/// A segment with a history in groups of one to three batches.
fn written(seed: u64, records: usize) -> Image {
    let mut image = Image::new(header(7, LENGTH, None));
    fill(&mut image, seed, records);
    image
}

fn fill(image: &mut Image, seed: u64, records: usize) {
    let mut random = Random::new(seed);
    let history = Workload::with_size(seed, 16 * 4096).history(records);
    let mut rest: &[Batch] = &history;
    while !rest.is_empty() {
        let n = (1 + random.below(3) as usize).min(rest.len());
        let (now, later) = rest.split_at(n);
        if !image.group(now) {
            return;
        }
        rest = later;
    }
}

fn assert_batches(found: &Scanned, batches: &[Batch]) {
    assert_eq!(found.frames.len(), batches.len());
    for (records, batch) in found.records().iter().zip(batches) {
        assert_eq!((&records.entries, &records.lens), (&batch.entries, &batch.lens));
    }
}

/// How many batches were laid before the group that ends last at or before `end`.
fn batches_before(image: &Image, end: u32) -> usize {
    let found = image.scan();
    found.frames.iter().filter(|(at, ..)| *at < end).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(32), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_comes_back(seed: u64) {
        let image = written(seed, 100);
        let found = image.scan();
        assert_batches(&found, &image.batches);
        prop_assert!(found.damage.is_empty() && !found.torn);
        prop_assert_eq!(found.end_at(), image.writer.sealed().end);
        for ((at, header, _), batch) in found.frames.iter().zip(&image.batches) {
            let body = header.body_at(*at) as usize;
            prop_assert_eq!(&image.bytes[body..body + batch.body.len()], &batch.body[..]);
        }
    }

    /// A crash while the last group was written: any part of it may be there.
    #[test]
    fn a_torn_last_group_is_no_damage(seed: u64, keep: u64) {
        let whole = written(seed, 100);
        let (last, before) = (whole.groups[whole.groups.len() - 1], whole.groups[whole.groups.len() - 2]);
        let mut random = Random::new(keep);
        let mut bytes = whole.bytes.clone();
        for sector in (before..last).step_by(512) {
            if random.one_in(2) {
                bytes[sector as usize..sector as usize + 512].fill(0);
            }
        }
        let found = scan(&bytes, whole.expected());
        prop_assert!(found.damage.is_empty(), "{:?}", found.damage);
        prop_assert!(found.frames.len() >= batches_before(&whole, before));
        assert_batches(&found, &whole.batches[..found.frames.len()]);
        // The mark knows better.
        let known = Expected { durable: last, ..whole.expected() };
        let found = scan(&bytes, known);
        if found.frames.len() < whole.batches.len() {
            prop_assert!(!found.damage.is_empty());
        }
    }

    /// Damage before the last group is damage, wherever it strikes a header or a table.
    #[test]
    fn a_flipped_bit_is_found_and_costs_one_group_at_most(seed: u64, flip: u64) {
        let image = written(seed, 100);
        let found = image.scan();
        let last = image.groups[image.groups.len() - 2];
        let early: Vec<_> = found.frames.iter().filter(|(at, h, _)| at + h.span <= last).collect();
        prop_assume!(early.len() > 1);
        let mut random = Random::new(flip);
        let (at, header, _) = early[random.below(early.len() as u64 - 1) as usize];
        let bit = u64::from(*at) * 8 + random.below(u64::from(header.body_at(0)) * 8);
        let mut bytes = image.bytes.clone();
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        let damaged = scan(&bytes, image.expected());
        prop_assert_eq!(damaged.damage.len(), 1, "{:?}", damaged.damage);
        prop_assert_eq!(damaged.damage[0].0, *at);
        prop_assert_eq!(damaged.end_at(), image.writer.sealed().end);
        let group = header.group;
        let lost = found.frames.iter().filter(|(_, h, _)| h.group == group || h.group == group + 1).count();
        prop_assert!(found.frames.len() - damaged.frames.len() <= lost);
        for frame in &damaged.frames {
            prop_assert!(found.frames.contains(frame));
        }
    }

    /// The file held another segment before; its frames are not ours, wherever ours end.
    #[test]
    fn stale_frames_are_never_taken(seed: u64) {
        let mut old = Image::new(header(3, LENGTH, None));
        fill(&mut old, seed ^ 1, 150);
        let mut image = Image::over(header(7, LENGTH, None), old.bytes.clone());
        fill(&mut image, seed, 30);
        let found = image.scan();
        assert_batches(&found, &image.batches);
        prop_assert!(found.damage.is_empty() && !found.torn);
        // The same with an earlier segment of the same number in another store.
        let other = SegmentHeader { store: StoreId::new(9), ..header(7, LENGTH, None) };
        let mut old = Image::new(other);
        fill(&mut old, seed, 150);
        let mut image = Image::over(header(7, LENGTH, None), old.bytes.clone());
        fill(&mut image, seed, 30);
        let found = image.scan();
        assert_batches(&found, &image.batches);
        prop_assert!(found.damage.is_empty() && !found.torn);
    }

    #[test]
    fn random_bytes_do_no_harm(seed: u64, magic in any::<bool>()) {
        let mut random = Random::new(seed);
        let mut bytes = vec![0; 40_000];
        random.fill(&mut bytes);
        if magic {
            for at in (4096..40_000).step_by(512) {
                bytes[at..at + 8].copy_from_slice(&FRAME_MAGIC);
            }
        }
        let expected = Expected { length: 40_000, ..Image::new(header(7, 40_000, None)).expected() };
        let found = scan(&bytes, expected);
        prop_assert!(found.frames.is_empty());
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        if let Ok(frame) = FrameHeader::decode(&bytes[4096..]) {
            let _ = decode_records(&frame, &bytes);
            let _ = decode_meta(&frame, &bytes);
        }
    }

    /// A table that is not what the header says: an error, never a panic.
    #[test]
    fn mangled_tables_are_errors(seed: u64, at in any::<prop::sample::Index>(), byte: u8) {
        let image = written(seed, 40);
        for (_, header, table) in &image.scan().frames {
            let mut bad = table.clone();
            let at = at.index(bad.len());
            bad[at] = byte;
            let _ = decode_records(header, &bad);
            prop_assert!(decode_records(header, &table[..at]).is_err() || at == table.len());
        }
    }
}

#[test]
fn every_truncation_gives_a_prefix() {
    let image = written(5, 60);
    let whole = image.scan();
    let end = image.writer.sealed().end;
    for cut in (0..=end).step_by(97).chain(image.groups.iter().flat_map(|&g| [g - 1, g, g + 1])) {
        let bytes = &image.bytes[..cut as usize];
        let found = scan(bytes, Expected { length: cut, ..image.expected() });
        assert!(found.frames.len() <= whole.frames.len());
        assert_eq!(found.frames[..], whole.frames[..found.frames.len()], "cut at {cut}");
        assert!(found.damage.is_empty(), "cut at {cut}");
        let known = Expected { length: cut, durable: end, ..image.expected() };
        let lost = !scan(bytes, known).damage.is_empty() || scan(bytes, known).end_at() < end;
        assert_eq!(lost, cut < end, "cut at {cut}");
    }
}

#[test]
fn what_lies_behind_a_sealed_end_is_not_ours() {
    let image = written(11, 80);
    let groups = &image.groups;
    let end = groups[groups.len() / 2];
    let n = batches_before(&image, end);
    let found = image.scan();
    let (_, last, _) = &found.frames[n - 1];
    let sealed = gateway_journal::Sealed { segment: last.segment, end, frames: n as u32, last: 0 };
    let found = scan(&image.bytes, Expected { sealed: Some(sealed), ..image.expected() });
    assert_eq!(found.frames.len(), n);
    assert_eq!(found.end_at(), end);
    assert!(found.damage.is_empty() && !found.torn);
}

#[test]
fn a_walk_may_begin_between_groups() {
    let image = written(12, 80);
    let mut scan_half = gateway_journal::SegmentScan::new(image.expected());
    let mut places: Vec<Start> = Vec::new();
    while let Some((at, len)) = scan_half.want() {
        let found = scan_half.give(&image.bytes[at as usize..(at + len) as usize]);
        if let Some(gateway_journal::Found::Frame { header, .. }) = found
            && header.following == 0
        {
            places.push(scan_half.place());
        }
    }
    let middle = places[places.len() / 2];
    let found = scan(&image.bytes, Expected { from: middle, ..image.expected() });
    assert_batches(&found, &image.batches[batches_before(&image, middle.at)..]);
}

#[test]
fn the_gateways_own_records_come_back() {
    let mut image = Image::new(header(7, LENGTH, None));
    let records = [MetaRecord::ImageRemoved { id: ImageId::new(4) }];
    let mut group = image.writer.group();
    assert!(group.push_meta(&records, Lsn::new(9).unwrap(), NOW));
    group.seal();
    let batch = Workload::new(1).batch(0);
    image.put(&group, &[batch]);
    let found = image.scan();
    let (_, frame, table) = &found.frames[0];
    assert_eq!(decode_meta(frame, table).unwrap(), records);
    assert_eq!(frame.first_lsn.get(), 9);
    assert!(decode_records(frame, table).is_err());
}

#[test]
fn a_batch_that_has_no_room_leaves_no_trace() {
    let mut image = Image::new(header(7, 64 << 10, None));
    let mut workload = Workload::with_size(1, 64 * 4096);
    let (small, large) = (workload.begin(), workload.end_sync());
    assert!(large.body.len() > 64 << 10);
    let mut group = image.writer.group();
    assert!(group.push(&small, NOW));
    assert!(!group.push(&large, NOW));
    group.seal();
    image.put(&group, std::slice::from_ref(&small));
    assert_batches(&image.scan(), &[small]);
}
