//! Columns that no sender of ours would write.

use bytes::Bytes;

use super::*;

/// One write of one block at LSN 10.
fn one_write() -> proto::Batch {
    proto::Batch {
        stream: 1,
        run: 2,
        epoch: 0,
        first_lsn: 10,
        volumes: vec![7],
        kinds: Bytes::from_static(&[WRITE]),
        positions: vec![0],
        times: vec![5],
        volume: vec![0],
        offsets: vec![4096],
        lengths: vec![4096],
        markers: Vec::new(),
        lens: vec![13],
        body: Bytes::from_static(&[0; 13]),
    }
}

fn refused(change: impl FnOnce(&mut proto::Batch)) -> WireError {
    let mut batch = one_write();
    change(&mut batch);
    unpack(batch).unwrap_err()
}

#[test]
fn the_sound_one_is_taken() {
    let batch = unpack(one_write()).unwrap();
    assert_eq!(batch.entries.len(), 1);
    assert_eq!(pack(&batch), proto::Batch { body: Bytes::new(), ..one_write() });
}

#[test]
fn columns_of_different_lengths_are_refused() {
    assert_eq!(refused(|b| b.positions.clear()), WireError::Columns);
    assert_eq!(refused(|b| b.times.push(1)), WireError::Columns);
    assert_eq!(refused(|b| b.offsets.clear()), WireError::Columns);
    assert_eq!(refused(|b| b.lengths.push(1)), WireError::Columns);
    assert_eq!(refused(|b| b.volume.push(0)), WireError::Columns);
    assert_eq!(refused(|b| b.kinds = Bytes::from_static(&[MARK])), WireError::Columns);
}

#[test]
fn numbers_without_meaning_are_refused() {
    let what = |error| match error {
        WireError::OutOfRange { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(refused(|b| b.kinds = Bytes::from_static(&[9]))), "kind of record");
    assert_eq!(what(refused(|b| b.first_lsn = Lsn::LIMIT)), "LSN");
    assert_eq!(what(refused(|b| b.positions = vec![-21])), "position");
    assert_eq!(what(refused(|b| b.volume = vec![1])), "volume index");
    assert_eq!(what(refused(|b| b.offsets = vec![u64::MAX - 4095])), "extent offset");
    assert_eq!(what(refused(|b| b.lens = vec![5])), "stored length");
    assert_eq!(what(refused(|b| b.lens = vec![1 << 16])), "stored length");
    assert_eq!(what(refused(|b| b.lens = vec![1 << 13])), "stored length");
    assert_eq!(what(refused(|b| b.first_lsn = 0)), "record LSN");
}

#[test]
fn records_that_do_not_fit_together_are_refused() {
    assert!(matches!(refused(|b| b.positions = vec![2]), WireError::Batch(BatchError::Discontiguous { .. })));
    assert!(matches!(refused(|b| b.offsets = vec![1]), WireError::Batch(BatchError::Unaligned(_))));
    assert!(matches!(refused(|b| b.lengths = vec![0]), WireError::Batch(_)));
    assert!(matches!(refused(|b| b.lens = vec![14]), WireError::Batch(BatchError::Lengths)));
    assert!(matches!(refused(|b| b.lens.push(13)), WireError::Batch(BatchError::Lengths)));
    assert!(matches!(refused(|b| b.body = Bytes::new()), WireError::Batch(BatchError::Lengths)));
    assert!(matches!(refused(|b| b.positions = vec![1]), WireError::CopyAhead { as_of: 10, due: 10 }));
}

#[test]
fn huge_extents_do_not_overflow_a_sum() {
    let huge = refused(|b| {
        b.kinds = Bytes::from(vec![WRITE; 2]);
        b.positions = vec![0, 2];
        b.times = vec![0, 0];
        b.volume = vec![0, 0];
        b.offsets = vec![0, 0];
        b.lengths = vec![1 << 63, 1 << 63];
    });
    assert_eq!(huge, WireError::Batch(BatchError::Lengths));
}

#[test]
fn too_many_and_none_are_refused() {
    let many = refused(|b| b.kinds = Bytes::from(vec![ZERO; MAX_ENTRIES + 1]));
    assert_eq!(many, WireError::TooManyEntries(MAX_ENTRIES + 1));
    let none = unpack(proto::Batch { first_lsn: 10, ..proto::Batch::default() });
    assert!(matches!(none, Err(WireError::Missing(_))));
}

#[test]
fn a_marker_without_content_is_refused() {
    let empty = refused(|b| {
        b.kinds = Bytes::from_static(&[MARK]);
        b.markers = vec![proto::Marker::default()];
    });
    assert!(matches!(empty, WireError::Missing(_)));
}

#[test]
fn a_record_at_the_limit_of_lsns_is_refused() {
    let last = refused(|b| {
        b.first_lsn = Lsn::LIMIT - 1;
        b.kinds = Bytes::from(vec![ZERO; 2]);
        b.positions = vec![0, 0];
        b.times = vec![0, 0];
        b.volume = vec![0, 0];
        b.offsets = vec![0, 0];
        b.lengths = vec![4096, 4096];
        b.lens = vec![];
        b.body = Bytes::new();
    });
    assert!(matches!(last, WireError::OutOfRange { what: "record LSN", .. }));
}
