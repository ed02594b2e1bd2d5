//! The oracle against the disk that the generator plays, and against cases worked out by hand.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use tap_block::stored::UNIT;
use tap_block::{Lsn, Marker, RunId, RunStart, StreamId, VolumeId, WallTime};
use testbed_model::{BatchBuilder, Oracle, Workload};

const VOLUME: VolumeId = VolumeId::new(7);

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn start(blocks: usize) -> BatchBuilder {
    let mut b = BatchBuilder::new(StreamId::new(1), VOLUME, RunId::new(2), lsn(1), WallTime::EPOCH);
    let size = (blocks * UNIT) as u64;
    let name = "v".parse().unwrap();
    let durable = Lsn::ZERO;
    b.mark(Marker::RunStart(RunStart { previous: None, durable, volume: VOLUME, name, size, sync: None }));
    b
}

fn block_bytes(image: &[u8]) -> Vec<u8> {
    image.chunks(UNIT).map(|b| b[0]).collect()
}

#[test]
fn the_greatest_visible_position_wins() {
    let mut b = start(3);
    b.write(0, &[1; UNIT]).write(1, &[2; UNIT]).write(0, &[3; UNIT]).zero(1, 2);
    b.copy(lsn(2), 2, &[9; UNIT]).copy(lsn(2), 0, &[8; UNIT]);
    let mut oracle = Oracle::new();
    oracle.apply(&b.build()).unwrap();
    assert_eq!(oracle.image_at(VOLUME, Lsn::ZERO), []);
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(1))), [0, 0, 0], "no copy changes an older point");
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(2))), [8, 0, 9], "a copy stands after its LSN");
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(3))), [8, 2, 9]);
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(4))), [3, 2, 9], "a copy hides no newer write");
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(5))), [3, 0, 0]);
    assert_eq!(oracle.last_lsn(), lsn(5));
}

#[test]
fn the_later_delivered_of_equal_positions_wins() {
    let mut b = start(1);
    b.copy(lsn(1), 0, &[1; UNIT]).copy(lsn(1), 0, &[2; UNIT]);
    let mut oracle = Oracle::new();
    oracle.apply(&b.build()).unwrap();
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(1))), [2]);
}

#[test]
fn a_disk_that_shrinks_loses_what_was_cut_off() {
    let mut b = start(2);
    b.write(0, &[1; 2 * UNIT]).resize(UNIT as u64).resize(2 * UNIT as u64);
    let mut oracle = Oracle::new();
    oracle.apply(&b.build()).unwrap();
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(2))), [1, 1]);
    assert_eq!(oracle.size_at(VOLUME, lsn(3)), UNIT as u64);
    assert_eq!(block_bytes(&oracle.image_at(VOLUME, lsn(4))), [1, 0]);
}

#[test]
fn the_image_at_the_end_of_a_generated_history_is_the_disk() {
    for seed in 0..40 {
        let mut workload = Workload::new(seed);
        let mut oracle = Oracle::new();
        for batch in workload.history(120) {
            oracle.apply(&batch).unwrap();
        }
        assert!(!workload.syncing());
        assert_eq!(oracle.last_lsn(), workload.next_lsn().previous());
        let image = oracle.image_at(workload.volume(), oracle.last_lsn());
        assert!(image == workload.disk(), "seed {seed}");
    }
}

#[test]
fn a_seed_decides_everything() {
    assert_eq!(Workload::new(5).history(50), Workload::new(5).history(50));
    assert_ne!(Workload::new(5).history(50), Workload::new(6).history(50));
}
