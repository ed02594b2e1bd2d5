//! What each volume's history takes in the journal, kept up with every commit and every settle.
//!
//! ```text
//!  a commit    its frame's bytes to the stream's count of the open group        tail.rs
//!  a group     goes into the index with its counts                              state.rs
//!  a settle    takes groups away, and says in its manifest what volumes take of its segments
//! ```
//!
//! A stream carries one volume, so its frames are the volume's, heads and padding included. Of settled segments a volume
//! takes the frames that hold its regions, as long as something of them counts.

use std::collections::{BTreeMap, HashMap};

use gateway_image::catalogue::Volume;
use gateway_journal::FrameKind;
use tap_block::{StreamId, VolumeId};
use tracing::{info, warn};

use crate::error::StoreError;
use crate::index::{IndexStore as _, keys};
use crate::settle::{Met, Trail};
use crate::state;
use crate::store::Shared;
use crate::sync::{read, write};
use crate::tail::{GroupInfo, Published};

/// What a volume's history takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeBytes {
    /// Bytes of its frames in the log, those that are settled apart.
    pub log: u64,
    /// Bytes of its frames in settled segments.
    pub settled: u64,
}

impl VolumeBytes {
    /// All of it.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.log + self.settled
    }
}

impl Published {
    /// What every volume's history takes.
    pub(crate) fn usage(&self) -> BTreeMap<VolumeId, VolumeBytes> {
        let mut streams: HashMap<StreamId, u64> = self.active.spans().clone();
        let frozen = self.frozen.iter().flat_map(|f| f.group.spans()).map(|(&s, &n)| (s, n));
        for (stream, bytes) in frozen.chain(self.ingested.iter().flat_map(|g| g.spans.iter().copied())) {
            *streams.entry(stream).or_default() += bytes;
        }
        let of = |volume: &Volume| VolumeBytes {
            log: streams.get(&volume.stream()).copied().unwrap_or(0),
            settled: self.layout.shares.get(&volume.id()).copied().unwrap_or(0),
        };
        self.catalogue.volumes().map(|volume| (volume.id(), of(volume))).collect()
    }
}

/// Counts groups that an earlier program brought into the index, which counted nothing, by their frames.
pub(crate) fn count_old_groups(shared: &Shared) {
    let groups = read(&shared.published).ingested.clone();
    let Some(last) = groups.iter().rposition(|g| g.spans.is_empty()) else { return };
    info!("counting what volumes take of {} groups of the log", last + 1);
    let mut trail = Trail::clone(&read(&shared.published).layout.trail);
    for group in groups.into_iter().take(last + 1) {
        if let Err(e) = count_group(shared, &mut trail, group) {
            return warn!("what volumes take of the log is not known in full until it is settled: {e}");
        }
    }
}

fn count_group(shared: &Shared, trail: &mut Trail, mut group: GroupInfo) -> Result<(), StoreError> {
    let mut spans = BTreeMap::new();
    trail.advance(shared, (group.no, group.through), &mut |met| {
        if let Met::Frame(frame, _) = met
            && frame.header.kind == FrameKind::Records
        {
            *spans.entry(frame.header.stream).or_default() += u64::from(frame.header.span);
        }
        Ok(())
    })?;
    if !group.spans.is_empty() {
        return Ok(());
    }
    group.spans = spans.into_iter().collect();
    shared.index.commit(vec![(keys::group(group.no), state::encode_group(&group))])?;
    if let Some(known) = write(&shared.published).ingested.iter_mut().find(|g| g.no == group.no) {
        *known = group;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use gateway_journal::GroupNo;
    use tap_disk::{MemoryDir, PoolOptions, RealClock, SegmentPool};
    use testbed_model::Workload;

    use super::*;
    use crate::{MemoryIndex, MemoryLedger, MemoryMark, Parts, Store, StoreConfig, Table};

    #[test]
    fn groups_that_an_earlier_program_brought_in_are_counted() {
        let (dir, index, mark) = (MemoryDir::new(), MemoryIndex::new(), Arc::new(MemoryMark::default()));
        let open = || {
            let mut config = StoreConfig::new("/nowhere".into());
            (config.segment_len, config.group_versions, config.spare_segments) = (512 << 10, 40, 0);
            let options = PoolOptions { ready: 0, ..PoolOptions::default() };
            let parts = Parts {
                segments: SegmentPool::over(Box::new(dir.clone()), 512 << 10, options).unwrap(),
                index: Box::new(index.clone()),
                mark: Box::new(Arc::clone(&mark)),
                manifest: Box::new(MemoryMark::default()),
                proofs: Box::new(MemoryMark::default()),
                ledger: Box::new(MemoryLedger::default()),
                free: Box::new(|| None),
            };
            Store::open_on(config, Arc::new(RealClock), parts).unwrap()
        };
        let store = open();
        for batch in Workload::new(4).history(200) {
            let (sender, done) = channel();
            store.append(batch, Box::new(move |outcome| drop(sender.send(outcome))));
            done.recv().unwrap().unwrap();
        }
        while store.status().groups_waiting > 0 {
            std::thread::yield_now();
        }
        let usage = store.usage();
        drop(store);
        let (mut rows, to) = (Vec::new(), keys::group(GroupNo::new(u64::MAX)));
        let each = &mut |key: &[u8], value: &[u8]| {
            let mut group =
                state::decode_group(GroupNo::new(keys::last_number(key).unwrap()), value).unwrap();
            group.spans.clear();
            rows.push((key.to_vec(), state::encode_group(&group)));
            true
        };
        index.scan(Table::State, &keys::group(GroupNo::new(0)), &to, each).unwrap();
        assert!(rows.len() > 3, "{}", rows.len());
        index.commit(rows).unwrap();
        assert_eq!(open().usage(), usage);
    }
}
