//! Batches made by hand, record by record, with real stored units.

use bytes::Bytes;
use tap_block::stored::{StoredLen, UNIT, pack};
use tap_block::units::count;
use tap_block::{
    Action, BLOCK_SIZE, Batch, BlockNo, Entry, Epoch, Extent, Lsn, Marker, Position, RunId, StreamId,
    VolumeId, WallTime,
};

/// Gathers records of one volume and run into a [`Batch`]. LSNs count up by themselves.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    volume: VolumeId,
    next: Lsn,
    now: WallTime,
    batch: Batch,
    body: Vec<u8>,
}

impl BatchBuilder {
    /// A batch whose first stream record has the LSN `first`; records are captured at `now`.
    #[must_use]
    pub const fn new(stream: StreamId, volume: VolumeId, run: RunId, first: Lsn, now: WallTime) -> Self {
        let batch = Batch {
            stream,
            run,
            epoch: Epoch::new(0),
            first_lsn: first,
            entries: Vec::new(),
            lens: Vec::new(),
            body: Bytes::new(),
        };
        Self { volume, next: first, now, batch, body: Vec::new() }
    }

    /// The records that follow are captured at `now`.
    pub const fn at(&mut self, now: WallTime) -> &mut Self {
        self.now = now;
        self
    }

    /// The next record is a write of `data` (padded to whole blocks) from block `first` on.
    pub fn write(&mut self, first: u64, data: &[u8]) -> &mut Self {
        let action = self.store(first, data);
        self.record(action)
    }

    /// The next record makes `blocks` blocks from block `first` on zero.
    pub fn zero(&mut self, first: u64, blocks: u64) -> &mut Self {
        let action = Action::Zero { volume: self.volume, extent: blocks_at(first, blocks) };
        self.record(action)
    }

    /// The next record is this marker.
    pub fn mark(&mut self, marker: Marker) -> &mut Self {
        self.record(Action::Mark(Box::new(marker)))
    }

    /// The next record gives the volume this size.
    pub fn resize(&mut self, size: u64) -> &mut Self {
        let action = Action::Resize { volume: self.volume, size };
        self.record(action)
    }

    /// A copy of `data` that was on the disk from block `first` on as of `as_of`.
    pub fn copy(&mut self, as_of: Lsn, first: u64, data: &[u8]) -> &mut Self {
        let action = self.store(first, data);
        self.push(Position::copy_as_of(as_of), action)
    }

    /// A copy that says: as of `as_of`, these blocks were zero.
    pub fn copy_zero(&mut self, as_of: Lsn, first: u64, blocks: u64) -> &mut Self {
        let action = Action::Zero { volume: self.volume, extent: blocks_at(first, blocks) };
        self.push(Position::copy_as_of(as_of), action)
    }

    /// The LSN that the next stream record gets.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The batch.
    #[must_use]
    pub fn build(mut self) -> Batch {
        self.batch.body = Bytes::from(self.body);
        self.batch
    }

    fn store(&mut self, first: u64, data: &[u8]) -> Action {
        let mut blocks = 0;
        for chunk in data.chunks(UNIT) {
            let len: StoredLen = pack(BlockNo::new(first + blocks), chunk, &mut self.body);
            self.batch.lens.push(len);
            blocks += 1;
        }
        Action::Write { volume: self.volume, extent: blocks_at(first, blocks) }
    }

    fn record(&mut self, action: Action) -> &mut Self {
        let position = Position::record(self.next);
        self.next = self.next.next();
        self.push(position, action)
    }

    fn push(&mut self, position: Position, action: Action) -> &mut Self {
        self.batch.entries.push(Entry { position, captured_at: self.now, action });
        self
    }
}

/// `blocks` blocks from block `first` on.
#[must_use]
pub fn blocks_at(first: u64, blocks: u64) -> Extent {
    let start = first.saturating_mul(BLOCK_SIZE);
    Extent::between(start, start.saturating_add(blocks.saturating_mul(BLOCK_SIZE)))
}

/// How many blocks `bytes` bytes take.
#[must_use]
pub const fn blocks_in(bytes: usize) -> u64 {
    count(bytes).div_ceil(BLOCK_SIZE)
}
