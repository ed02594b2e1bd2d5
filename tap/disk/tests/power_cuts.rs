//! What state files and segments show after a power cut at any moment, with any part of the unsynced pages
//! lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use proptest::collection::vec;
use proptest::prelude::*;
use tap_disk::{Durability, FileNo, MemoryDir, SegmentDir, SlottedFile};

/// Three pages, so that a slot can be torn.
const SLOT: usize = 10_000;
const NO: FileNo = FileNo::new(1);

#[derive(Debug, Clone)]
enum Step {
    Store {
        length: usize,
        synced: bool,
    },
    /// The process dies, its writes stay in the page cache.
    Kill,
    /// The power fails; each unsynced page survives if its bit says so.
    Cut {
        lost: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let store = (0..SLOT, any::<bool>()).prop_map(|(length, synced)| Step::Store { length, synced });
    let cut = any::<u64>().prop_map(|lost| Step::Cut { lost });
    vec(prop_oneof![6 => store, 1 => Just(Step::Kill), 2 => cut], 1..60)
}

fn open(dir: &MemoryDir) -> SlottedFile {
    SlottedFile::over(dir.open(NO).unwrap(), SLOT).unwrap()
}

/// Content that names the store it came from on every byte.
fn content(n: usize, length: usize) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(8 + length.min(SLOT - 8), u8::try_from(n % 256).unwrap());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_slotted_file_never_falls_behind_its_last_sync(steps in steps()) {
        let mut dir = MemoryDir::new();
        dir.create(NO, SlottedFile::file_len(SLOT).unwrap()).unwrap();
        let mut file = open(&dir);
        // All since the last synced one, that one included: what a power cut may leave.
        let mut possible: Vec<Option<Vec<u8>>> = vec![None];
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Store { length, synced } => {
                    let stored = content(n, length);
                    // The first one is synced whatever was asked for.
                    let synced = synced || possible == [None];
                    file.store(&stored, if synced { Durability::Synced } else { Durability::Unsynced }).unwrap();
                    if synced { possible.clear(); }
                    possible.push(Some(stored));
                }
                Step::Kill => {
                    file = open(&dir);
                    prop_assert_eq!(Some(&file.load()), possible.last());
                    possible = vec![file.load()];
                }
                Step::Cut { lost } => {
                    dir = dir.after_power_cut(|_, page| lost >> (page % 64) & 1 == 0);
                    file = open(&dir);
                    prop_assert!(possible.contains(&file.load()));
                    possible = vec![file.load()];
                }
            }
            prop_assert_eq!(Some(&file.load()), possible.last());
        }
    }

    #[test]
    fn a_first_store_cut_short_is_none_or_whole(length in 0..SLOT, lost in any::<u64>()) {
        let dir = MemoryDir::new();
        dir.create(NO, SlottedFile::file_len(SLOT).unwrap()).unwrap();
        let file = open(&dir);
        dir.fail_syncs(true);
        prop_assert!(file.store(&content(1, length), Durability::Unsynced).is_err());
        let left = open(&dir.after_power_cut(|_, page| lost >> (page % 64) & 1 == 0)).load();
        prop_assert!(left.is_none() || left == Some(content(1, length)));
    }
}
