//! Region maps and read plans against the oracle: whatever happened, in whatever order the copies arrived,
//! the image at every LSN is the oracle's replay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::BTreeMap;

use gateway_image::{Catalogue, Origin, Passed, RegionMap, RegionMapBuilder, Source, plan_read};
use gateway_journal::{RegionNo, SegmentId, Version, versions_of};
use proptest::prelude::*;
use tap_block::stored::{UNIT, unpack};
use tap_block::units::index;
use tap_block::{Batch, Extent, Lsn, SyncCause, VolumeId};
use testbed_model::{Oracle, Random, Workload};

/// One segment as long as it needs to be, and every version by region.
#[derive(Default)]
struct Shelf {
    segment: Vec<u8>,
    versions: BTreeMap<(VolumeId, RegionNo), Vec<Version>>,
}

impl Shelf {
    fn add(&mut self, batch: &Batch) {
        for (entry, lens, units) in batch.iter() {
            let at = (SegmentId::new(1), self.segment.len() as u32);
            self.segment.extend_from_slice(&units);
            let Some((volume, _)) = entry.action.changes() else { continue };
            versions_of(&entry.action, entry.position, lens, at, |region, version| {
                self.versions.entry((volume, region)).or_default().push(version);
            });
        }
    }

    /// Gathers a region's map, by way of a checkpoint taken at `checkpoint`.
    fn map(&self, key: (VolumeId, RegionNo), point: Lsn, checkpoint: Lsn) -> RegionMap {
        let versions = self.versions.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut older = RegionMapBuilder::new(checkpoint.min(point));
        versions.iter().for_each(|v| older.apply(v));
        let mut builder = RegionMapBuilder::new(point);
        older.versions().iter().for_each(|v| builder.apply(v));
        versions.iter().filter(|v| !v.position.visible_at(checkpoint)).for_each(|v| builder.apply(v));
        builder.build()
    }

    fn read(&self, volume: VolumeId, extent: Extent, size: u64, point: Lsn, checkpoint: Lsn) -> Vec<u8> {
        let maps: BTreeMap<RegionNo, RegionMap> =
            gateway_image::regions(extent).map(|r| (r, self.map((volume, r), point, checkpoint))).collect();
        let mut out = Vec::new();
        for piece in plan_read(extent, size, |r| maps.get(&r)) {
            match piece.source {
                Source::Zero => out.resize(out.len() + index(piece.extent.length()), 0),
                Source::Unit(block, at) => {
                    let stored = &self.segment[at.offset as usize..][..usize::from(at.len)];
                    let mut whole = [0; UNIT];
                    unpack(block, stored, &mut whole).unwrap();
                    let from = index(piece.extent.offset() - block.offset());
                    out.extend_from_slice(&whole[from..][..index(piece.extent.length())]);
                }
            }
        }
        out
    }
}

/// Every record a batch of its own; copies wait for a random while and some come twice.
fn delivered(history: &[Batch], random: &mut Random) -> Vec<Batch> {
    let mut all: Vec<(u64, Batch)> = Vec::new();
    for (turn, batch) in history.iter().enumerate() {
        for (entry, lens, units) in batch.iter() {
            let first_lsn = if entry.position.is_copy() { batch.first_lsn } else { entry.position.lsn() };
            let one =
                Batch { first_lsn, entries: vec![entry.clone()], lens: lens.to_vec(), body: units, ..*batch };
            let turn = turn as u64 * 10;
            if entry.position.is_copy() {
                let late = turn + random.below(60);
                all.push((late, one.clone()));
                if random.below(4) == 0 {
                    all.push((late + random.below(30), one));
                }
            } else {
                all.push((turn, one));
            }
        }
    }
    all.sort_by_key(|(turn, _)| *turn);
    all.into_iter().map(|(_, batch)| batch).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn every_point_is_the_oracles_replay(seed in any::<u64>(), records in 20usize..80, big in prop::bool::weighted(0.1)) {
        let mut random = Random::new(seed ^ 0x5eed);
        let size = if big { (1 << 24) + 40_000 } else { 200_000 };
        let mut workload = Workload::with_size(seed, size);
        let history = workload.history(records);
        let (mut oracle, mut shelf) = (Oracle::new(), Shelf::default());
        for batch in delivered(&history, &mut random) {
            oracle.apply(&batch).unwrap();
            shelf.add(&batch);
        }
        let volume = workload.volume();
        let lsns = oracle.lsns();
        let wanted = if big { 2 } else { 10 };
        let picked: Vec<Lsn> =
            (0..wanted).map(|_| lsns[random.below(lsns.len() as u64) as usize]).collect();
        for point in picked {
            let expected = oracle.image_at(volume, point);
            let size = expected.len() as u64;
            let checkpoint = Lsn::new(random.below(point.get() + 2)).unwrap();
            let whole = shelf.read(volume, Extent::between(0, size), size, point, checkpoint);
            prop_assert!(whole == expected, "image at {point} differs");
            let start = random.below(size);
            let part = Extent::between(start, size.min(start + 1 + random.below(20_000)));
            let got = shelf.read(volume, part, size, point, checkpoint);
            prop_assert!(got == expected[index(part.offset())..index(part.end())], "{part} at {point} differs");
        }
    }

    /// What the catalogue calls sound is the disk that was.
    #[test]
    fn a_selectable_point_is_a_disk_that_was(seed in any::<u64>(), steps in 5usize..40, blank in any::<bool>()) {
        let mut random = Random::new(seed ^ 0xd15c);
        let mut workload = if blank { Workload::blank(seed, 100_000) } else { Workload::with_size(seed, 100_000) };
        let (mut oracle, mut catalogue) = (Oracle::new(), Catalogue::new());
        let (mut last, mut seen) = (None, Vec::new());
        let mut batches = vec![workload.begin()];
        for _ in 0..steps {
            batches.extend(played(&mut workload, &mut random));
            for batch in batches.drain(..).filter(|b| !b.entries.is_empty()) {
                oracle.apply(&batch).unwrap();
                last = taken(&mut catalogue, &batch, last);
            }
            seen.push((last.unwrap().lsn, workload.disk().to_vec()));
        }
        let volume = catalogue.volume(workload.volume()).unwrap();
        let sound = seen.iter().filter(|(lsn, _)| volume.selectable(*lsn).is_ok());
        for (lsn, disk) in sound {
            prop_assert!(oracle.image_at(workload.volume(), *lsn) == *disk, "image at {lsn} differs");
        }
        prop_assert_eq!(volume.size_at(last.unwrap().lsn), workload.size());
        prop_assert_eq!(&Catalogue::decode(&catalogue.encode()).unwrap(), &catalogue);
    }
}

fn played(workload: &mut Workload, random: &mut Random) -> Vec<Batch> {
    match random.below(8) {
        0 => vec![workload.end_sync()],
        1 => vec![workload.grow(1)],
        2 => vec![workload.copies()],
        3 => {
            let ended = workload.end_sync();
            let sync = (random.below(2) == 0).then_some(SyncCause::UncleanStop);
            vec![ended, workload.restart(random.below(2) * 1000, sync)]
        }
        n => vec![workload.batch(n as usize)],
    }
}

/// Gives the catalogue a batch as the store does.
fn taken(catalogue: &mut Catalogue, batch: &Batch, mut last: Option<Passed>) -> Option<Passed> {
    for entry in batch.entries.iter().filter(|e| !e.position.is_copy()) {
        if Catalogue::concerns(&entry.action) {
            let origin = Origin {
                stream: batch.stream,
                run: batch.run,
                epoch: batch.epoch,
                previous: last,
                received_at: entry.captured_at,
            };
            catalogue.apply(&origin, entry);
        }
        last = Some(Passed { lsn: entry.position.lsn(), at: entry.captured_at });
    }
    last
}
