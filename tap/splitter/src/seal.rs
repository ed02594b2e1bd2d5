//! From captured records to a batch in stored form: compressed and checksummed once, here, and copied
//! verbatim on every hop after this.

use bytes::Bytes;
use tap_block::stored::{self, UNIT};
use tap_block::{Action, Batch, Entry, Epoch, Extent, Lsn, RunId, StreamId, VolumeId};

use crate::queue::{Captured, Content};

/// Whose records they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The stream.
    pub stream: StreamId,
    /// The volume (one per stream as yet).
    pub volume: VolumeId,
    /// This life of the tap.
    pub run: RunId,
    /// The fencing number in force.
    pub epoch: Epoch,
}

/// Makes one batch of `records`, in their order. `next` is the LSN due next when they are all copies.
#[must_use]
pub fn seal(whose: Identity, next: Lsn, records: Vec<Captured>) -> Batch {
    let first = records.iter().find(|r| !r.position.is_copy()).map_or(next, |r| r.position.lsn());
    let capacity = records.iter().map(|r| tap_block::units::index(r.weight())).sum::<usize>();
    let mut body = Vec::with_capacity(capacity * 5 / 8);
    let mut lens = Vec::with_capacity(records.len());
    let entries = records.into_iter().map(|r| entry(whose.volume, r, &mut lens, &mut body)).collect();
    Batch {
        stream: whose.stream,
        run: whose.run,
        epoch: whose.epoch,
        first_lsn: first,
        entries,
        lens,
        body: Bytes::from(body),
    }
}

fn entry(volume: VolumeId, record: Captured, lens: &mut Vec<u16>, body: &mut Vec<u8>) -> Entry {
    let action = match record.content {
        Content::Write { extent, data } => {
            pack_blocks(extent, &data, lens, body);
            Action::Write { volume, extent }
        }
        Content::Zero { extent } => Action::Zero { volume, extent },
        Content::Resize { size } => Action::Resize { volume, size },
        Content::Mark(marker) => Action::Mark(Box::new(marker)),
    };
    Entry { position: record.position, captured_at: record.captured_at, action }
}

fn pack_blocks(extent: Extent, data: &[u8], lens: &mut Vec<u16>, body: &mut Vec<u8>) {
    let mut chunks = data.chunks(UNIT);
    for no in extent.blocks() {
        lens.push(stored::pack(no, chunks.next().unwrap_or_default(), body));
    }
}
