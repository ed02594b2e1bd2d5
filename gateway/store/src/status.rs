//! What a store is doing, at one moment.

use std::sync::atomic::{AtomicU64, Ordering};

use gateway_journal::Uncounted;

use crate::error::{Damage, StoreError};
use crate::index::IndexError;
use crate::settle::SettleReport;
use crate::store::Store;
use crate::sync::{lock, read};
use crate::verify::Progress;

/// Numbers for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// Segments of the log.
    pub segments: u64,
    /// Segments of settled history.
    pub settled_segments: u64,
    /// The number of the last settle; 0 for none.
    pub settles: u64,
    /// Bytes of them that hold something.
    pub settled_bytes: u64,
    /// What the last settle since the start did.
    pub last_settle: Option<SettleReport>,
    /// Why settling fails at the moment.
    pub settle_failing: Option<String>,
    /// Bytes their files take.
    pub segment_bytes: u64,
    /// Bytes that wait for their commit.
    pub queue_bytes: u64,
    /// Versions that are not in the index yet.
    pub tail_versions: u64,
    /// Groups in the index.
    pub groups: u64,
    /// Groups on their way into the index.
    pub groups_waiting: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Batches committed since the start.
    pub batches: u64,
    /// Records committed since the start.
    pub records: u64,
    /// Bytes written to segments since the start.
    pub bytes_written: u64,
    /// Region maps found in the cache.
    pub map_hits: u64,
    /// Region maps built.
    pub map_misses: u64,
    /// Blocks read.
    pub blocks_read: u64,
    /// Blocks that the disk was told of before they were read.
    pub blocks_ahead: u64,
    /// Blocks whose stored form was found damaged when it was read.
    pub blocks_damaged: u64,
    /// How far the scrub is that is under way.
    pub scrub: Option<Progress>,
    /// Bytes that the log can still take, where anything limits it.
    pub log_room_bytes: Option<u64>,
    /// Bytes free for segments, where known.
    pub free_bytes: Option<u64>,
    /// What of the time that the store was closed is not counted for retention and holds, and is still to be told.
    pub uncounted: Option<Uncounted>,
    /// Why appends fail at the moment.
    pub failing: Option<String>,
    /// Why nothing goes into the index at the moment.
    pub index_failing: Option<String>,
    /// What of the index was found damaged: it is built again at the next start, and until then points do not open.
    pub index_damaged: Option<String>,
    /// Damage found in the journal.
    pub damage: Vec<Damage>,
}

/// Damage has words of its own.
fn said(e: IndexError) -> String {
    if e.is_full() { StoreError::from(e).to_string() } else { e.to_string() }
}

impl Store {
    /// Numbers as they are now.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let shared = self.shared();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        // Before the published state is locked: whoever has the one lock may wait for the other.
        let index_failing = shared.index.illness().or_else(|| lock(&shared.ingest).failing.clone());
        let failing = shared.still_failing();
        let segments = tap_block::units::count(shared.segments.count());
        let settled_segments = tap_block::units::count(shared.segments.settled_count());
        let published = read(&shared.published);
        StoreStatus {
            segments,
            settled_segments,
            settles: published.layout.settle,
            settled_bytes: published.layout.bytes(),
            last_settle: shared.settling.last(),
            settle_failing: shared.settling.failing(),
            segment_bytes: (segments + settled_segments) * u64::from(shared.config.segment_len),
            queue_bytes: shared.queue.bytes(),
            tail_versions: tap_block::units::count(published.tail_versions()),
            groups: tap_block::units::count(published.ingested.len()),
            groups_waiting: tap_block::units::count(published.frozen.len()),
            commits: get(&counters.commits),
            batches: get(&counters.batches),
            records: get(&counters.records),
            bytes_written: get(&counters.bytes),
            map_hits: get(&counters.map_hits),
            map_misses: get(&counters.map_misses),
            blocks_read: get(&counters.blocks_read),
            blocks_ahead: get(&counters.blocks_ahead),
            blocks_damaged: get(&counters.blocks_damaged),
            scrub: shared.scrubbing.progress(),
            log_room_bytes: shared
                .log_room()
                .map(|n| tap_block::units::count(n) * u64::from(shared.config.segment_len)),
            free_bytes: (shared.free)(),
            uncounted: shared.age.uncounted(),
            failing: failing.map(|why| why.to_string()),
            index_failing: index_failing.map(said),
            index_damaged: shared.index.damage().map(str::to_owned),
            damage: published.damage.clone(),
        }
    }
}
