//! Captured records on their way to the sealer, bounded in bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use tap_block::{Extent, Marker, Position, WallTime};

/// A record as captured: plain content, not yet in its stored form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its place in history.
    pub position: Position,
    /// When.
    pub captured_at: WallTime,
    /// What.
    pub content: Content,
}

/// What a captured record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Whole blocks at `extent`; `data` may be shorter where the volume ends inside the last block.
    Write {
        /// Whole blocks.
        extent: Extent,
        /// Their content.
        data: Bytes,
    },
    /// Whole blocks that became zero.
    Zero {
        /// Whole blocks.
        extent: Extent,
    },
    /// The volume has this many bytes from here on.
    Resize {
        /// Bytes.
        size: u64,
    },
    /// A record about the stream.
    Mark(Marker),
}

/// What a record weighs besides its data.
const OVERHEAD: u64 = 128;

impl Captured {
    /// The bytes it takes in a queue, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        OVERHEAD
            + match &self.content {
                Content::Write { data, .. } => tap_block::units::count(data.len()),
                Content::Zero { .. } | Content::Resize { .. } | Content::Mark(_) => 0,
            }
    }
}

fn leads(item: &Captured) -> bool {
    matches!(item.content, Content::Mark(Marker::SyncStart { .. } | Marker::RunStart(_)))
}

/// First in, first out. The owner asks [`Queue::admits`] before it pushes data; markers always fit, there are
/// few of them.
#[derive(Debug)]
pub(crate) struct Queue {
    items: VecDeque<Captured>,
    bytes: u64,
    limit: u64,
}

impl Queue {
    pub(crate) fn new(limit: u64) -> Self {
        Self { items: VecDeque::new(), bytes: 0, limit }
    }

    /// Is there room for `records` records with `data` bytes together?
    pub(crate) fn admits(&self, records: u64, data: u64) -> bool {
        self.bytes.saturating_add(records * OVERHEAD).saturating_add(data) <= self.limit
    }

    pub(crate) fn push(&mut self, item: Captured) {
        self.bytes += item.weight();
        self.items.push_back(item);
    }

    /// Takes records up to about `bytes` together (at least one if there is any) and at most `records`. A marker
    /// that begins a sync is the first of what is taken, or left for the next time: hops look for it there.
    pub(crate) fn take(&mut self, bytes: u64, records: usize, out: &mut Vec<Captured>) {
        let mut taken = 0;
        while out.len() < records
            && let Some(item) =
                self.items.pop_front_if(|i| taken == 0 || (taken + i.weight() <= bytes && !leads(i)))
        {
            taken += item.weight();
            self.bytes -= item.weight();
            out.push(item);
        }
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
