//! Bytes of a peer are never trusted: whatever comes, decoding gives a message that keeps every rule, or an error.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::sync::Arc;

use bytes::Bytes;
use cx_wire::{
    Hashes, Lookup, MAX_LOOKUP, Message, Query, QueryReply, WireError, decode_batch, encode_batch,
    verify_units, without_records_to,
};
use proptest::prelude::*;
use tap_block::{Batch, Extent, Lsn, VolumeId};
use testbed_model::Workload;

fn batches(seed: u64) -> Vec<Batch> {
    Workload::new(seed).history(30).into_iter().filter(|b| !b.entries.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn histories_go_both_ways(seed: u64) {
        for batch in batches(seed) {
            prop_assert_eq!(verify_units(&batch), Ok(()));
            let sent = Message::Data(Arc::new(batch.clone()));
            prop_assert_eq!(Message::decode(sent.encode().concat()), Ok(sent));
            prop_assert_eq!(decode_batch(encode_batch(&batch).concat()), Ok(batch));
        }
    }

    #[test]
    fn noise_is_no_message_or_a_sound_one(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(noise.into()) {
            prop_assert!(is_sound(&message));
        }
    }

    #[test]
    fn a_changed_message_is_refused_or_still_sound(
        seed in 0u64..16,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        truncate: bool,
    ) {
        for batch in batches(seed).into_iter().take(4) {
            let mut bytes = Message::Data(Arc::new(batch)).encode().concat().to_vec();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(message) = Message::decode(bytes.into()) {
                prop_assert!(is_sound(&message));
            }
        }
    }

    #[test]
    fn a_changed_query_is_refused_or_still_sound(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        truncate: bool,
    ) {
        for message in [query(1 << 20, 1 << 20), hashes(64)] {
            let mut bytes = message.encode().concat().to_vec();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(message) = Message::decode(bytes.into()) {
                prop_assert!(is_sound(&message));
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_exactly_the_records_before(seed: u64, upto in 0u64..60) {
        let upto = tap_block::Lsn::new(upto).unwrap();
        for batch in batches(seed) {
            let kept: Vec<_> = parts(&batch).into_iter().filter(|(e, ..)| {
                e.position.is_copy() || e.position.lsn() > upto
            }).collect();
            match without_records_to(&batch, upto) {
                None => prop_assert!(kept.is_empty()),
                Some(rest) => {
                    prop_assert_eq!(rest.validate(), Ok(()));
                    prop_assert_eq!(verify_units(&rest), Ok(()));
                    prop_assert_eq!(parts(&rest), kept);
                }
            }
        }
    }
}

type Part = (tap_block::Entry, Vec<u16>, Bytes);

fn parts(batch: &Batch) -> Vec<Part> {
    batch.iter().map(|(e, lens, units)| (e.clone(), lens.to_vec(), units)).collect()
}

/// Encodes again to the same value, and a batch keeps its rules.
fn is_sound(message: &Message) -> bool {
    if let Message::Data(batch) = message {
        assert_eq!(batch.validate(), Ok(()));
        // Damaged units are found, not believed; neither panics.
        let _ = verify_units(batch);
        let _ = parts(batch);
    }
    if let Message::Query(Query { lookup, .. }) = message {
        assert!(lookup.extent.is_block_aligned() && !lookup.extent.is_empty());
        assert!(lookup.extent.length() <= MAX_LOOKUP);
    }
    Message::decode(message.encode().concat()).as_ref() == Ok(message)
}

fn query(offset: u64, length: u64) -> Message {
    let extent = Extent::new(offset, length).unwrap();
    let lookup = Lookup { volume: VolumeId::new(2), extent, after: Lsn::ZERO, seed: 7 };
    Message::Query(Query { id: 1, lookup })
}

fn hashes(bytes: usize) -> Message {
    let hashes = vec![0xEE; bytes].into();
    Message::QueryReply(QueryReply { id: 1, result: Ok(Hashes { at: Lsn::ZERO, hashes }) })
}

#[test]
fn a_query_is_for_a_bounded_stretch_of_whole_blocks() {
    let decoded = |message: Message| Message::decode(message.encode().concat());
    assert!(decoded(query(4096, MAX_LOOKUP)).is_ok());
    for (offset, length) in [(0, 0), (0, 512), (1, 4096), (0, MAX_LOOKUP + 4096), (0, !4095)] {
        let refused = decoded(query(offset, length));
        assert!(matches!(refused, Err(WireError::OutOfRange { .. })), "{offset} {length}");
    }
    assert!(decoded(hashes(32)).is_ok());
    assert!(matches!(decoded(hashes(33)), Err(WireError::OutOfRange { .. })));
}

#[test]
fn a_damaged_unit_is_found() {
    let batch = batches(3).into_iter().find(|b| !b.body.is_empty()).unwrap();
    let mut body = batch.body.to_vec();
    body[20] ^= 4;
    let damaged = Batch { body: body.into(), ..batch };
    assert!(matches!(verify_units(&damaged), Err(WireError::Damaged { .. })));
}

#[test]
fn too_long_is_refused_before_it_is_looked_at() {
    let long = Bytes::from(vec![0; cx_wire::MAX_MESSAGE + 1]);
    assert!(matches!(Message::decode(long.clone()), Err(WireError::TooLong(_))));
    assert!(matches!(decode_batch(long), Err(WireError::TooLong(_))));
}
