//! Proof that what is stored is what was written: everything is read, in the order in which it lies, and checked.
//!
//! ```text
//!   log       group by group, along a trail of its own: frames, units, and does the index say the same (log.rs)
//!   ledger    every finished segment: does it hold what it held when it was hashed (ledger.rs)
//!   settled   every segment that lives: header, frames, units, index; the manifest and its copy (segment.rs)
//!   index     do checkpoints say what the rows do that they were made of (checkpoints.rs)
//!               └─ what is not as it was ─► which points show it (judge.rs) ─► findings, kept on the disk (proofs.rs)
//! ```
//!
//! History moves on meanwhile. What was read of segments that were given back while they were read is forgotten, and what
//! took their place is read as well; so a walk that ends has seen all that there was when it began, wherever it went.

mod astray;
mod checkpoints;
mod given_up;
mod hidden;
mod judge;
mod known;
mod ledger;
mod log;
mod met;
mod passed;
mod proofs;
mod repair;
mod scrub;
mod segment;
mod set_back;
mod sound;
mod torn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_journal::{Location, RegionNo, SegmentId};
use tap_block::{BlockNo, Extent, Lsn, Position, VolumeId, WallTime};

use crate::error::StoreError;
use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::read;

pub(crate) use given_up::GivenUp;
pub use proofs::Proof;
pub(crate) use proofs::Proving;
pub use repair::{Offered, Repair, StoredUnit};
pub(crate) use repair::{repair, stored_units};
pub(crate) use scrub::Scrubbing;
pub(crate) use sound::is_sound;

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scope {
    /// Only blocks of this volume; frames and headers are looked at whosever they are.
    pub volume: Option<VolumeId>,
    /// Nothing that only later points show.
    pub to: Option<Lsn>,
    /// From the disk, even what the page cache has: it has to be read again by whoever needs it. The scrub leaves it alone.
    pub fresh: bool,
}

/// What was found not to be as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Whose it is; `None`: the store's as a whole.
    pub volume: Option<VolumeId>,
    /// Where in the volume; `None` when that is not known.
    pub extent: Option<Extent>,
    /// Which version of the block it is.
    pub position: Option<Position>,
    /// The first and the last point that show it; no last one: the newest does.
    pub points: Option<(Lsn, Option<Lsn>)>,
    /// The segment it lies in.
    pub segment: SegmentId,
    /// The first byte there.
    pub from: u32,
    /// The byte behind the last.
    pub to: u32,
    /// What is wrong.
    pub detail: String,
    /// When it was found.
    pub found_at: WallTime,
    /// Since when it is known to be as it should again: repaired, or history that is not kept any more.
    pub over_at: Option<WallTime>,
}

impl Finding {
    /// Of the store as a whole.
    pub(crate) const fn of_store(
        kind: FindingKind,
        segment: SegmentId,
        (from, to): (u32, u32),
        detail: String,
        found_at: WallTime,
    ) -> Self {
        let (volume, extent, position, points) = (None, None, None, None);
        Self { kind, volume, extent, position, points, segment, from, to, detail, found_at, over_at: None }
    }

    /// Is it about the directory of segments as a whole?
    fn is_of_directory(&self) -> bool {
        self.kind == FindingKind::Missing && self.segment == SegmentId::new(0)
    }

    /// Is it about something that blocks are read without?
    const fn is_renewable(&self) -> bool {
        matches!(self.kind, FindingKind::Frame | FindingKind::Header | FindingKind::Manifest)
    }
}

/// Kinds of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A block's stored form; its reads are refused.
    Block,
    /// A frame's head. The index knows what lies in it; were the index lost, nobody would.
    Frame,
    /// A segment's header.
    Header,
    /// The manifest of settled history, or its copy.
    Manifest,
    /// The index says something else than the segments.
    Index,
    /// A segment that is not there.
    Missing,
    /// A segment whose checksums are all right, and whose content is not what was entered in the ledger.
    Altered,
    /// The ledger itself.
    Ledger,
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// What it looked at.
    pub scope: Scope,
    /// When it began.
    pub begun: WallTime,
    /// Up to where each volume was looked at, and when that was captured.
    pub through: Vec<(VolumeId, Lsn, WallTime)>,
    /// Frames that were read.
    pub frames: u64,
    /// Blocks that were checked.
    pub blocks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
    /// How many more there are of each volume: beyond [`MOST_FINDINGS`] they are counted only.
    pub unlisted: BTreeMap<Option<VolumeId>, u64>,
    /// The segments that were read.
    pub walked: BTreeSet<SegmentId>,
}

/// Findings of a volume that are listed.
pub const MOST_FINDINGS: usize = 10_000;

/// How far a walk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Read so far.
    pub done: u64,
    /// To read in all, as it looks now.
    pub total: u64,
}

/// Is told of the progress about once a MiB, and may take its time; false ends the walk.
pub type Watch<'a> = dyn FnMut(Progress) -> bool + 'a;

/// While commits wait, so long a pause is made once a MiB.
const YIELD: Duration = Duration::from_millis(4);
const TELL_EACH: u64 = 1 << 20;

/// A unit that is not what was written there.
struct Suspect {
    volume: VolumeId,
    block: BlockNo,
    position: Position,
    at: Location,
    detail: String,
}

/// What one step found: a group, or a segment. It counts when nothing of it was given back meanwhile.
#[derive(Default)]
struct Step {
    suspects: Vec<Suspect>,
    findings: Vec<Finding>,
    frames: u64,
    blocks: u64,
}

/// See the module.
struct Verifier<'a, 'w> {
    shared: &'a Shared,
    report: VerifyReport,
    listed: BTreeMap<Option<VolumeId>, usize>,
    watch: &'a mut Watch<'w>,
    /// Bytes in what is left, as it looked last.
    left: u64,
    told_at: u64,
    /// Read once more, since the watch was told of that.
    reread: u64,
    /// Segments that were compared with the ledger.
    compared: BTreeSet<SegmentId>,
    /// Those of them that do not hold what they held.
    differing: BTreeSet<SegmentId>,
}

impl Shared {
    /// Looks at everything in `scope`, and notes what came of it.
    pub(crate) fn verify(&self, scope: Scope, watch: &mut Watch<'_>) -> Result<VerifyReport, StoreError> {
        let astray = self.look_for_files();
        let (report, outcome) = verify(self, scope, watch, astray);
        if let Err(e) = outcome {
            // What half a walk found is known all the same; it answers for nothing.
            self.proving.add(&report);
            return Err(e);
        }
        self.proving.take(&report, self.age.now());
        // A settle reads blocks by the index and writes frames, headers and the manifest anew; not what is waited for.
        let waits = self.waited_for(&Arc::clone(&read(&self.published).layout));
        let is_renewed = |f: &Finding| {
            f.is_renewable() && self.segments.is_settled(f.segment) && !waits.contains(&f.segment)
        };
        if report.findings.iter().any(is_renewed) {
            self.settling.renew();
        }
        Ok(report)
    }
}

/// Looks at everything in `scope`. An error ends it: `watch` did not want it any more, or the index or the disk's directory
/// cannot be used. What is damaged is no error.
fn verify(
    shared: &Shared,
    scope: Scope,
    watch: &mut Watch<'_>,
    astray: Vec<Finding>,
) -> (VerifyReport, Result<(), StoreError>) {
    let mut verifier = Verifier::new(shared, scope, watch);
    verifier.list(astray);
    let outcome = verifier.log().and_then(|()| verifier.settled()).and_then(|()| verifier.checkpoints());
    let outcome = outcome.and_then(|()| verifier.ledger());
    (verifier.report, outcome)
}

fn through(shared: &Shared, scope: Scope) -> Vec<(VolumeId, Lsn, WallTime)> {
    let published = read(&shared.published);
    let wanted = published.catalogue.volumes().filter(|v| scope.volume.is_none_or(|only| only == v.id()));
    let known = wanted.filter_map(|v| published.streams.get(&v.stream()).map(|d| (v.id(), d.lsn, d.at)));
    known.collect()
}

impl Scope {
    fn has(&self, volume: VolumeId) -> bool {
        self.volume.is_none_or(|only| only == volume)
    }
}

impl<'a, 'w> Verifier<'a, 'w> {
    fn new(shared: &'a Shared, scope: Scope, watch: &'a mut Watch<'w>) -> Self {
        let report = VerifyReport {
            scope,
            begun: shared.age.now(),
            through: through(shared, scope),
            frames: 0,
            blocks: 0,
            bytes: 0,
            findings: Vec::new(),
            unlisted: BTreeMap::new(),
            walked: BTreeSet::new(),
        };
        let listed = BTreeMap::new();
        let (compared, differing) = (BTreeSet::new(), BTreeSet::new());
        Self { shared, report, listed, watch, left: 0, told_at: 0, reread: 0, compared, differing }
    }
}

impl Verifier<'_, '_> {
    fn layout(&self) -> Arc<Layout> {
        Arc::clone(&read(&self.shared.published).layout)
    }

    /// So many bytes more were read.
    fn passed(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.report.bytes += bytes;
        self.left = self.left.saturating_sub(bytes);
        if self.report.bytes - self.told_at < TELL_EACH {
            return Ok(());
        }
        self.told_at = self.report.bytes;
        self.pause()
    }

    /// Tells the watch, which may take its time.
    fn pause(&mut self) -> Result<(), StoreError> {
        if self.shared.queue.bytes() > 0 {
            std::thread::park_timeout(YIELD);
        }
        let progress = Progress { done: self.report.bytes, total: self.report.bytes + self.left };
        if (self.watch)(progress) { Ok(()) } else { Err(StoreError::Cancelled) }
    }

    /// Reads what was read before: that takes as long, and can be ended as well, but is no progress. `read` is given what is to be
    /// told of the bytes that it comes past, and ends when that says so.
    fn again<T>(&mut self, read: impl FnOnce(&mut dyn FnMut(u32) -> bool) -> T) -> Result<T, StoreError> {
        let mut ended = Ok(());
        let found = read(&mut |bytes| {
            self.reread += u64::from(bytes);
            if self.reread >= TELL_EACH {
                self.reread -= TELL_EACH;
                ended = self.pause();
            }
            ended.is_ok()
        });
        ended.map(|()| found)
    }

    /// A step counts. Its suspects are judged at once: what a settle moves meanwhile is met again where it is moved to.
    fn accept(&mut self, step: Step) -> Result<(), StoreError> {
        self.report.frames += step.frames;
        self.report.blocks += step.blocks;
        self.list(step.findings);
        self.judge(step.suspects)
    }

    fn list(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            let listed = self.listed.entry(finding.volume).or_default();
            *listed += 1;
            if *listed <= MOST_FINDINGS {
                self.report.findings.push(finding);
            } else {
                *self.report.unlisted.entry(finding.volume).or_default() += 1;
            }
        }
    }

    /// A finding of the store as a whole.
    fn finding(
        &self,
        kind: FindingKind,
        segment: SegmentId,
        (from, to): (u32, u32),
        detail: String,
    ) -> Finding {
        Finding::of_store(kind, segment, (from, to), detail, self.shared.age.now())
    }
}

fn not_indexed(region: RegionNo) -> String {
    format!(
        "the index does not hold what the segments say of the 16 MiB from byte {}: stop the gateway and delete the store's \
         fjall directory, it is built again",
        region.offset()
    )
}
