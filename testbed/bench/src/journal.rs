//! Records for a store, made by hand: no tap, no link, only what a gateway receives.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use gateway_store::{Store, StoreError};
use tap_block::stored::{StoredLen, UNIT, pack};
use tap_block::units::count;
use tap_block::{
    Action, BLOCK_SIZE, Batch, BlockNo, Entry, Epoch, Extent, Lsn, Marker, Name, Position, RunId, RunStart,
    StreamId, SyncCause, VolumeId, WallTime,
};
use testbed_model::Random;

use crate::payload::{Mix, Payload};

/// A commit that takes longer is a broken disk, not a slow one.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two records, on the clock of the tap that never was.
const TICK: Duration = Duration::from_micros(100);

/// The stream, volume and run that every record here belongs to.
pub(crate) const STREAM: StreamId = StreamId::new(0xbe_7c4);
/// See [`STREAM`].
pub(crate) const VOLUME: VolumeId = VolumeId::new(0xd15c);
const RUN: RunId = RunId::new(1);
/// Records of a batch.
const BATCH_RECORDS: u64 = 64;
/// The volume's name.
pub(crate) const NAME: &str = "bench";

/// Writes, in the form in which they arrive: packed and checksummed.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    extents: Vec<Extent>,
    lens: Vec<StoredLen>,
    body: Bytes,
}

/// Collects writes.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    extents: Vec<Extent>,
    lens: Vec<StoredLen>,
    body: Vec<u8>,
}

impl Packer {
    /// Adds a write of one block.
    pub(crate) fn add(&mut self, no: BlockNo, content: &[u8; UNIT]) {
        self.add_write(no, std::slice::from_ref(content));
    }

    /// Adds a write of whole blocks, from `first` on.
    pub(crate) fn add_write(&mut self, first: BlockNo, contents: &[[u8; UNIT]]) {
        for (n, content) in (first.get()..).zip(contents) {
            self.lens.push(pack(BlockNo::new(n), content, &mut self.body));
        }
        let from = first.offset();
        self.extents.push(Extent::between(from, from + count(contents.len()) * BLOCK_SIZE));
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> u64 {
        count(self.lens.len())
    }

    /// What was collected; begins anew.
    pub(crate) fn take(&mut self) -> Packed {
        let body = Bytes::from(std::mem::take(&mut self.body));
        Packed { extents: std::mem::take(&mut self.extents), lens: std::mem::take(&mut self.lens), body }
    }
}

impl Packed {
    /// One record for each write, from `first` on.
    fn batch(&self, first: Lsn) -> Batch {
        let record = |(n, extent): (u64, &Extent)| {
            entry(first.plus(n), Action::Write { volume: VOLUME, extent: *extent })
        };
        Batch {
            entries: (0u64..).zip(&self.extents).map(record).collect(),
            lens: self.lens.clone(),
            body: self.body.clone(),
            ..empty(first)
        }
    }

    /// How many records.
    pub(crate) fn records(&self) -> u64 {
        count(self.extents.len())
    }

    /// Bytes as they lie in a segment, without the frame around them.
    pub(crate) fn stored(&self) -> u64 {
        count(self.body.len())
    }
}

/// Enough half-compressible records, one block each at random offsets of a volume, to be written again and again.
pub(crate) fn random_batches(volume_size: u64) -> Vec<Packed> {
    let (mut payload, mut random, mut packer) =
        (Payload::new(Mix::Half, 3), Random::new(4), Packer::default());
    let mut batch = || {
        while packer.blocks() < BATCH_RECORDS {
            let block = BlockNo::new(random.below(volume_size / BLOCK_SIZE));
            let mut content = [0; UNIT];
            payload.fill(block.offset(), &mut content);
            packer.add(block, &content);
        }
        packer.take()
    };
    (0..2048).map(|_| batch()).collect()
}

/// Appends with so many bytes in flight, and knows when each became durable.
pub(crate) struct Feeder<'a> {
    store: &'a Store,
    next: Lsn,
    window: u64,
    in_flight: u64,
    outcomes: (Sender<Outcome>, Receiver<Outcome>),
    /// From append to durable, for each batch.
    pub(crate) waits: Vec<Duration>,
}

struct Outcome {
    weight: u64,
    sent: Instant,
    at: Instant,
    durable: Result<Lsn, StoreError>,
}

impl<'a> Feeder<'a> {
    /// Begins the stream in an empty store: a volume of `size` bytes that was all zeroes.
    pub(crate) fn begin(store: &'a Store, size: u64, window: u64) -> Result<Self> {
        let mut feeder = Self {
            store,
            next: Lsn::ZERO.next(),
            window,
            in_flight: 0,
            outcomes: channel(),
            waits: Vec::new(),
        };
        let cause = SyncCause::Baseline;
        let start = RunStart {
            previous: None,
            durable: Lsn::ZERO,
            volume: VOLUME,
            name: NAME.parse::<Name>()?,
            size,
            sync: Some(cause),
        };
        let end = Marker::SyncEnd { cause, copied: 0, from_zero: true };
        let markers = [Marker::RunStart(start), end].map(|m| Action::Mark(Box::new(m)));
        let entries = (0u64..).zip(markers).map(|(n, mark)| entry(feeder.next.plus(n), mark)).collect();
        feeder.append(Batch { entries, ..empty(feeder.next) }, Instant::now())?;
        feeder.drain()?;
        feeder.waits.clear();
        Ok(feeder)
    }

    /// The LSN of the next record.
    pub(crate) const fn next(&self) -> Lsn {
        self.next
    }

    /// Appends, once there is room in the window.
    pub(crate) fn write(&mut self, packed: &Packed) -> Result<()> {
        self.write_due(packed, Instant::now())
    }

    /// The same; it counts as waiting since `due`.
    pub(crate) fn write_due(&mut self, packed: &Packed, due: Instant) -> Result<()> {
        self.append(packed.batch(self.next), due)
    }

    fn append(&mut self, batch: Batch, sent: Instant) -> Result<()> {
        let (weight, tell) = (batch.weight(), self.outcomes.0.clone());
        while self.in_flight > 0 && self.in_flight + weight > self.window {
            self.settle_one()?;
        }
        self.in_flight += weight;
        self.next = batch.last_lsn().context("a batch without records")?.next();
        let done = move |durable| {
            let _ = tell.send(Outcome { weight, sent, at: Instant::now(), durable });
        };
        self.store.append(batch, Box::new(done));
        Ok(())
    }

    /// Waits until everything is durable.
    pub(crate) fn drain(&mut self) -> Result<()> {
        while self.in_flight > 0 {
            self.settle_one()?;
        }
        match self.store.durable(STREAM) {
            Some(durable) if durable.lsn == self.next.previous() => Ok(()),
            found => bail!("{found:?} is durable, not {:?}", self.next.previous()),
        }
    }

    fn settle_one(&mut self) -> Result<()> {
        let outcome = self.outcomes.1.recv_timeout(PATIENCE).context("the store does not answer")?;
        outcome.durable.context("the store refused a batch")?;
        self.in_flight -= outcome.weight;
        self.waits.push(outcome.at.duration_since(outcome.sent));
        Ok(())
    }
}

fn entry(lsn: Lsn, action: Action) -> Entry {
    let since = TICK * u32::try_from(lsn.get()).unwrap_or(u32::MAX);
    // 2026 began then.
    let begun = WallTime::from_nanos(1_767_225_600_000_000_000);
    Entry { position: Position::record(lsn), captured_at: begun.plus(since), action }
}

fn empty(first_lsn: Lsn) -> Batch {
    Batch {
        stream: STREAM,
        run: RUN,
        epoch: Epoch::new(0),
        first_lsn,
        entries: Vec::new(),
        lens: Vec::new(),
        body: Bytes::new(),
    }
}
