//! What was proven when, and what was found: kept on the disk (`VERIFIED`), so that damage stays known until somebody says
//! that they have read of it. Losing the file loses nothing that the next walk does not find again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use prost::Message;
use tap_block::units::count;
use tap_block::{BlockNo, Extent, Lsn, Position, VolumeId, WallTime};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use gateway_journal::SegmentId;

use super::given_up::GivenUp;
use super::judge::is_kept;
use super::{Finding, FindingKind, MOST_FINDINGS, VerifyReport};
use crate::layout::Layout;
use crate::mark::MarkStore;
use crate::sync::lock;

/// The last time that all of a volume's history was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// When that began, on the store's own clock.
    pub begun: WallTime,
    /// Up to this record.
    pub lsn: Lsn,
    /// When that was captured.
    pub at: WallTime,
}

/// The last time that the whole store was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) begun: WallTime,
    pub(crate) ended: WallTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Proofs {
    volumes: BTreeMap<VolumeId, Proof>,
    whole: Option<Whole>,
    findings: Vec<Finding>,
    /// Findings that were counted only, when the volume was last walked.
    unlisted: BTreeMap<Option<VolumeId>, u64>,
    /// Segments that are gone, and not waited for.
    given_up: GivenUp,
}

/// The proofs, and where they are kept.
pub(crate) struct Proving {
    store: Box<dyn MarkStore>,
    state: Mutex<Proofs>,
    /// Damaged versions of blocks that cannot be shown to be what the protected disk holds. Whoever mends finds out anew after a
    /// start.
    unproven: Mutex<BTreeSet<Damaged>>,
}

/// A damaged version of a block.
type Damaged = (VolumeId, BlockNo, Position);

impl Proving {
    pub(crate) fn new(store: Box<dyn MarkStore>) -> Self {
        let known = store.load().and_then(|bytes| Proofs::decode(&bytes));
        Self { store, state: Mutex::new(known.unwrap_or_default()), unproven: Mutex::default() }
    }

    pub(crate) fn proof(&self, volume: VolumeId) -> Option<Proof> {
        lock(&self.state).volumes.get(&volume).copied()
    }

    pub(super) fn whole(&self) -> Option<Whole> {
        lock(&self.state).whole
    }

    /// Everything of a volume and of the store as a whole that is not acknowledged.
    pub(crate) fn findings(&self, volume: VolumeId) -> Vec<Finding> {
        let state = lock(&self.state);
        let own = state.findings.iter().filter(|f| f.volume.is_none_or(|v| v == volume));
        own.cloned().collect()
    }

    /// Findings of a volume that there is no room to list.
    pub(crate) fn unlisted(&self, volume: VolumeId) -> u64 {
        let state = lock(&self.state);
        [Some(volume), None].iter().filter_map(|of| state.unlisted.get(of)).sum()
    }

    /// What the protected disk holds does not mend this.
    pub(super) fn note_unproven(&self, damaged: Damaged) {
        lock(&self.unproven).insert(damaged);
    }

    /// Blocks that the newest point showed when that was last looked at, that are damaged, and that the disk does not mend.
    pub(crate) fn head_wounds(&self, volume: VolumeId) -> Vec<Finding> {
        self.with_head_wounds(volume, |wounds| wounds.cloned().collect())
    }

    /// Are there any?
    pub(crate) fn is_head_wounded(&self, volume: VolumeId) -> bool {
        self.with_head_wounds(volume, |wounds| wounds.next().is_some())
    }

    fn with_head_wounds<T>(
        &self,
        volume: VolumeId,
        look: impl FnOnce(&mut dyn Iterator<Item = &Finding>) -> T,
    ) -> T {
        let (state, unproven) = (lock(&self.state), lock(&self.unproven));
        let of = |f: &Finding| Some((f.volume?, BlockNo::holding(f.extent?.offset()), f.position?));
        let open = |f: &Finding| f.kind == FindingKind::Block && f.over_at.is_none();
        let newest = |f: &Finding| f.points.is_some_and(|(_, last)| last.is_none());
        let wounds = |f: &&Finding| {
            f.volume == Some(volume) && open(f) && newest(f) && of(f).is_some_and(|of| unproven.contains(&of))
        };
        // Most of the time there is nothing to look for.
        let all = if unproven.is_empty() { &[][..] } else { state.findings.as_slice() };
        look(&mut all.iter().filter(wounds))
    }

    /// It is time for another walk through everything.
    pub(super) fn doubt(&self) {
        self.change(|proofs| proofs.whole = None);
    }

    pub(super) fn take(&self, report: &VerifyReport, now: WallTime) {
        self.change(|proofs| proofs.take(report, now));
    }

    /// What a walk found that did not come to its end.
    pub(super) fn add(&self, report: &VerifyReport) {
        if !report.findings.is_empty() {
            self.change(|proofs| {
                proofs.unlisted.extend(report.unlisted.iter().map(|(of, n)| (*of, *n)));
                proofs.add(&report.findings);
            });
        }
    }

    /// Is it listed, and not over?
    pub(super) fn knows(&self, finding: &Finding) -> bool {
        let is_it = |f: &Finding| f.over_at.is_none() && f.key() == finding.key();
        lock(&self.state).findings.iter().any(is_it)
    }

    /// What is listed, over or not.
    pub(super) fn listed(&self, wanted: impl Fn(&Finding) -> bool) -> Vec<Finding> {
        lock(&self.state).findings.iter().filter(|f| wanted(f)).cloned().collect()
    }

    /// Is there one that is not over?
    pub(super) fn any_open(&self, is_it: impl Fn(&Finding) -> bool) -> bool {
        lock(&self.state).findings.iter().any(|f| f.over_at.is_none() && is_it(f))
    }

    /// Blocks of a volume of which reads are refused.
    pub(super) fn open_blocks(&self, volume: VolumeId) -> u64 {
        let is_one =
            |f: &&Finding| f.kind == FindingKind::Block && f.over_at.is_none() && f.volume == Some(volume);
        count(lock(&self.state).findings.iter().filter(is_one).count())
    }

    /// Something that no walk came past.
    pub(crate) fn note(&self, finding: Finding) {
        self.note_all(&[finding]);
    }

    /// The same of several; of none, nothing is written.
    pub(super) fn note_all(&self, found: &[Finding]) {
        if !found.is_empty() {
            self.change(|proofs| proofs.add(found));
        }
    }

    /// These findings are over; if none is, nothing is written.
    pub(super) fn end(&self, now: WallTime, is_over: impl Fn(&Finding) -> bool) {
        let is_over = |f: &Finding| f.over_at.is_none() && is_over(f);
        if lock(&self.state).findings.iter().any(is_over) {
            self.change(|proofs| {
                proofs.findings.iter_mut().filter(|f| is_over(f)).for_each(|f| f.over_at = Some(now));
            });
        }
    }

    /// Is the ledger's file listed as not what was written?
    pub(crate) fn doubts_ledger(&self) -> bool {
        lock(&self.state).findings.iter().any(Finding::is_of_ledger)
    }

    /// It was put aside.
    pub(crate) fn ledger_began_anew(&self, now: WallTime) {
        self.change(|proofs| {
            proofs.findings.iter_mut().filter(|f| f.is_of_ledger()).for_each(|f| f.over_at = Some(now));
        });
    }

    /// What is over, and was `read` of, need not be listed any more, and these segments are given up.
    pub(crate) fn acknowledge(&self, is_read: impl Fn(&Finding) -> bool, given_up: &GivenUp) {
        self.change(|proofs| {
            proofs.findings.retain(|f| f.over_at.is_none() || !is_read(f));
            proofs.given_up.extend(given_up);
        });
    }

    pub(crate) fn gives_up(&self, segment: SegmentId) -> bool {
        lock(&self.state).given_up.holds(segment)
    }

    /// Segments that are there again are given up no more; of none, nothing is written.
    pub(crate) fn take_back(&self, there: &BTreeSet<SegmentId>) {
        let left = {
            let state = lock(&self.state);
            let left = state.given_up.without(there);
            (left != state.given_up).then_some(left)
        };
        left.into_iter().for_each(|left| self.change(|proofs| proofs.given_up = left));
    }

    pub(crate) fn given_up(&self) -> GivenUp {
        lock(&self.state).given_up.clone()
    }

    /// Of these settled segments, which may be put back, those that nobody gave up and of which some point shows something that is
    /// damaged. Of what there is no room to list it may be any.
    pub(crate) fn waited_for(&self, awaited: BTreeSet<SegmentId>, layout: &Layout) -> BTreeSet<SegmentId> {
        let state = lock(&self.state);
        let is_shown = |f: &&Finding| {
            let kept = f.volume.and_then(|volume| layout.kept.get(&volume));
            let points = f.points.filter(|_| f.kind == FindingKind::Block && f.over_at.is_none());
            points.is_some_and(|(first, last)| kept.is_none_or(|kept| is_kept(kept, first, last)))
        };
        let shown: BTreeSet<SegmentId> = state.findings.iter().filter(is_shown).map(|f| f.segment).collect();
        let any = state.unlisted.values().any(|more| *more > 0);
        let waits = |s: &SegmentId| (any || shown.contains(s)) && !state.given_up.holds(*s);
        awaited.into_iter().filter(waits).collect()
    }

    /// Segments that are listed as gone, as a whole.
    pub(super) fn missing(&self) -> Vec<Finding> {
        let of = |f: &&Finding| f.kind == FindingKind::Missing && f.volume.is_none() && f.over_at.is_none();
        lock(&self.state).findings.iter().filter(of).cloned().collect()
    }

    /// Segments that are named by something that is not over, and that is not `read` of.
    pub(crate) fn named(&self, is_read: impl Fn(&Finding) -> bool) -> BTreeSet<SegmentId> {
        let state = lock(&self.state);
        state.findings.iter().filter(|f| f.over_at.is_none() && !is_read(f)).map(|f| f.segment).collect()
    }

    /// These versions of blocks of a volume are as they should be; of none, nothing is written.
    pub(super) fn repaired(&self, volume: VolumeId, versions: &BTreeSet<(BlockNo, Position)>, now: WallTime) {
        let of = |f: &Finding| Some((BlockNo::holding(f.extent?.offset()), f.position?));
        let here = |f: &Finding| f.volume == Some(volume) && of(f).is_some_and(|of| versions.contains(&of));
        if versions.is_empty() {
            return;
        }
        self.change(|proofs| {
            for finding in proofs.findings.iter_mut().filter(|f| here(f)) {
                finding.over_at.get_or_insert(now);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Proofs)) {
        let mut state = lock(&self.state);
        change(&mut state);
        forget_oldest(&mut state.findings);
        if let Err(e) = self.store.store(&state.encode()) {
            warn!("what was verified cannot be noted on the disk, it is known until the next start: {e}");
        }
    }
}

/// What makes two findings one and the same: a block's version is the same wherever it lies; of one entry of the ledger several
/// things may be said.
type Key =
    (FindingKind, Option<VolumeId>, Option<(Extent, Position)>, Option<(SegmentId, u32)>, Option<String>);

impl Finding {
    /// What only happened to the ledger is over from the start.
    fn is_of_ledger(&self) -> bool {
        self.kind == FindingKind::Ledger && self.over_at.is_none()
    }

    /// Is it about the copy of the manifest?
    pub(super) fn is_of_copy(&self) -> bool {
        self.kind == FindingKind::Manifest && self.segment == SegmentId::new(0)
    }

    fn key(&self) -> Key {
        let version = self.extent.zip(self.position);
        let place = version.is_none().then_some((self.segment, self.from));
        let said = (self.kind == FindingKind::Ledger).then(|| self.detail.clone());
        (self.kind, self.volume, version, place, said)
    }
}

impl Proofs {
    fn take(&mut self, report: &VerifyReport, now: WallTime) {
        let found: BTreeSet<Key> = report.findings.iter().map(Finding::key).collect();
        for old in &mut self.findings {
            if old.over_at.is_none() && !found.contains(&old.key()) && is_answered(old, report) {
                old.over_at = Some(now);
            }
        }
        let scope = report.scope;
        self.unlisted.retain(|of, _| !of.map_or(scope.volume.is_none(), |of| scope.has(of)));
        self.unlisted.extend(report.unlisted.iter().map(|(of, n)| (*of, *n)));
        self.add(&report.findings);
        // What is not known in full is no proof.
        if scope.to.is_some() || !report.unlisted.is_empty() {
            return;
        }
        for &(id, lsn, at) in &report.through {
            let proof = Proof { begun: report.begun, lsn, at };
            let known = self.volumes.entry(id).or_insert(proof);
            if known.begun <= proof.begun {
                *known = proof;
            }
        }
        if scope.volume.is_none() {
            self.whole = Some(Whole { begun: report.begun, ended: now });
        }
    }

    /// What was found is known from here on, as it was found last; what was put right since is not. What is over takes no room from
    /// what is not: there is as much for each.
    fn add(&mut self, findings: &[Finding]) {
        let mut known: BTreeMap<Key, usize> = BTreeMap::new();
        let mut listed: BTreeMap<Option<VolumeId>, usize> = BTreeMap::new();
        for (n, old) in self.findings.iter().enumerate() {
            known.insert(old.key(), n);
            *listed.entry(old.volume).or_default() += usize::from(old.over_at.is_none());
        }
        for found in findings {
            match known.get(&found.key()).and_then(|n| self.findings.get_mut(*n)) {
                Some(old) if old.over_at.is_some_and(|over| over >= found.found_at) => {}
                Some(old) if old.over_at.is_none() => {
                    *old = Finding { found_at: old.found_at, ..found.clone() };
                }
                again => {
                    let listed = listed.entry(found.volume).or_default();
                    *listed += 1;
                    if *listed > MOST_FINDINGS {
                        *self.unlisted.entry(found.volume).or_default() += 1;
                    } else if let Some(old) = again {
                        *old = Finding { found_at: old.found_at, ..found.clone() };
                    } else {
                        known.insert(found.key(), self.findings.len());
                        self.findings.push(found.clone());
                    }
                }
            }
        }
    }
}

/// Of what is over the oldest go, beyond [`MOST_FINDINGS`] of a volume: it would grow without an end.
fn forget_oldest(findings: &mut Vec<Finding>) {
    let mut over: BTreeMap<Option<VolumeId>, Vec<WallTime>> = BTreeMap::new();
    for finding in findings.iter() {
        over.entry(finding.volume).or_default().extend(finding.over_at);
    }
    over.retain(|_, times| times.len() > MOST_FINDINGS);
    for (volume, mut times) in over {
        times.sort_unstable();
        let mut spare = times.len() - MOST_FINDINGS;
        let last = times.get(spare - 1).copied();
        findings.retain(|f| {
            let goes = spare > 0 && f.volume == volume && f.over_at.is_some() && f.over_at <= last;
            spare -= usize::from(goes);
            !goes
        });
    }
}

/// Would the walk have found it again, were it still there? Not if it was found while the walk was under way.
fn is_answered(old: &Finding, report: &VerifyReport) -> bool {
    let scope = report.scope;
    let looked = match old.volume {
        Some(volume) => scope.has(volume),
        // Every walk looks at the whole ledger, and at the copy of the manifest.
        None if old.kind == FindingKind::Ledger || old.is_of_copy() => true,
        None => scope.volume.is_none() || report.walked.contains(&old.segment),
    };
    let reached = scope.to.is_none_or(|to| old.points.is_some_and(|(first, _)| first <= to));
    looked && reached && old.found_at < report.begun && report.unlisted.is_empty()
}

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct PProofs {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    volumes: Vec<PProof>,
    #[prost(message, repeated, tag = "3")]
    findings: Vec<PFinding>,
    #[prost(fixed64, optional, tag = "4")]
    begun: Option<u64>,
    #[prost(fixed64, optional, tag = "5")]
    ended: Option<u64>,
    /// First and last of each stretch.
    #[prost(uint32, repeated, tag = "6")]
    given_up: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct PProof {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(fixed64, tag = "2")]
    begun: u64,
    #[prost(uint64, tag = "3")]
    lsn: u64,
    #[prost(fixed64, tag = "4")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PFinding {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(fixed64, optional, tag = "2")]
    volume: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    offset: Option<u64>,
    #[prost(uint64, tag = "4")]
    length: u64,
    #[prost(uint64, optional, tag = "5")]
    position: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    first: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    last: Option<u64>,
    #[prost(uint32, tag = "8")]
    segment: u32,
    #[prost(uint32, tag = "9")]
    from: u32,
    #[prost(uint32, tag = "10")]
    to: u32,
    #[prost(string, tag = "11")]
    detail: String,
    #[prost(fixed64, tag = "12")]
    found_at: u64,
    #[prost(fixed64, optional, tag = "13")]
    over_at: Option<u64>,
}

impl Proofs {
    /// A message, and its xxh3 before it.
    fn encode(&self) -> Vec<u8> {
        let volumes = self.volumes.iter().map(|(volume, proof)| PProof {
            volume: volume.get(),
            begun: proof.begun.nanos(),
            lsn: proof.lsn.get(),
            at: proof.at.nanos(),
        });
        let message = PProofs {
            version: VERSION,
            volumes: volumes.collect(),
            findings: self.findings.iter().map(finding_out).collect(),
            begun: self.whole.map(|w| w.begun.nanos()),
            ended: self.whole.map(|w| w.ended.nanos()),
            given_up: self.given_up.encode(),
        }
        .encode_to_vec();
        [&xxh3_64(&message).to_le_bytes()[..], &message].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, message) = bytes.split_first_chunk::<8>()?;
        if u64::from_le_bytes(*sum) != xxh3_64(message) {
            return None;
        }
        let twin = PProofs::decode(message).ok().filter(|t| t.version == VERSION)?;
        let proof = |p: &PProof| {
            let (begun, at) = (WallTime::from_nanos(p.begun), WallTime::from_nanos(p.at));
            Some((VolumeId::new(p.volume), Proof { begun, lsn: Lsn::new(p.lsn)?, at }))
        };
        let whole = twin.begun.zip(twin.ended).map(|(begun, ended)| Whole {
            begun: WallTime::from_nanos(begun),
            ended: WallTime::from_nanos(ended),
        });
        Some(Self {
            volumes: twin.volumes.iter().map(proof).collect::<Option<_>>()?,
            whole,
            findings: twin.findings.into_iter().map(finding_in).collect::<Option<_>>()?,
            // The next walk counts them again; until then those that are listed say enough.
            unlisted: BTreeMap::new(),
            given_up: GivenUp::decode(&twin.given_up)?,
        })
    }
}

const KINDS: [FindingKind; 8] = [
    FindingKind::Block,
    FindingKind::Frame,
    FindingKind::Header,
    FindingKind::Manifest,
    FindingKind::Index,
    FindingKind::Missing,
    FindingKind::Altered,
    FindingKind::Ledger,
];

fn finding_out(f: &Finding) -> PFinding {
    let kind = KINDS.iter().position(|k| *k == f.kind).unwrap_or_default();
    PFinding {
        kind: u32::try_from(count(kind)).unwrap_or(u32::MAX),
        volume: f.volume.map(VolumeId::get),
        offset: f.extent.map(|e| e.offset()),
        length: f.extent.map_or(0, |e| e.length()),
        position: f.position.map(Position::get),
        first: f.points.map(|(first, _)| first.get()),
        last: f.points.and_then(|(_, last)| last).map(Lsn::get),
        segment: f.segment.get(),
        from: f.from,
        to: f.to,
        detail: f.detail.clone(),
        found_at: f.found_at.nanos(),
        over_at: f.over_at.map(WallTime::nanos),
    }
}

fn finding_in(twin: PFinding) -> Option<Finding> {
    let extent = match twin.offset {
        Some(offset) => Some(Extent::new(offset, twin.length)?),
        None => None,
    };
    let last = match twin.last {
        Some(last) => Some(Lsn::new(last)?),
        None => None,
    };
    let points = match twin.first {
        Some(first) => Some((Lsn::new(first)?, last)),
        None => None,
    };
    let position = match twin.position {
        Some(raw) => Some(Position::from_raw(raw)?),
        None => None,
    };
    Some(Finding {
        kind: *KINDS.get(usize::try_from(twin.kind).ok()?)?,
        volume: twin.volume.map(VolumeId::new),
        extent,
        position,
        points,
        segment: SegmentId::new(twin.segment),
        from: twin.from,
        to: twin.to,
        detail: twin.detail,
        found_at: WallTime::from_nanos(twin.found_at),
        over_at: twin.over_at.map(WallTime::from_nanos),
    })
}

#[cfg(test)]
mod tests {
    use tap_block::BLOCK_SIZE;

    use super::*;
    use crate::mark::MemoryMark;
    use crate::verify::Scope;
    use std::sync::Arc;

    const VOLUME: VolumeId = VolumeId::new(7);

    fn finding(block: u64, lsn: u64) -> Finding {
        let lsn = Lsn::new(lsn).unwrap();
        Finding {
            kind: FindingKind::Block,
            volume: Some(VOLUME),
            extent: Some(Extent::new(block * BLOCK_SIZE, BLOCK_SIZE).unwrap()),
            position: Some(Position::record(lsn)),
            points: Some((lsn, None)),
            segment: SegmentId::new(3),
            from: 10,
            to: 20,
            detail: "rot".into(),
            found_at: WallTime::from_nanos(4),
            over_at: None,
        }
    }

    fn report(scope: Scope, findings: Vec<Finding>) -> VerifyReport {
        let through = vec![(VOLUME, Lsn::new(9).unwrap(), WallTime::from_nanos(8))];
        let begun = WallTime::from_nanos(5);
        let (unlisted, walked) = (BTreeMap::new(), BTreeSet::new());
        VerifyReport { scope, begun, through, frames: 0, blocks: 0, bytes: 0, findings, unlisted, walked }
    }

    fn position(lsn: u64) -> Position {
        Position::record(Lsn::new(lsn).unwrap())
    }

    fn open(proofs: &Proving) -> usize {
        proofs.findings(VOLUME).iter().filter(|f| f.over_at.is_none()).count()
    }

    #[test]
    fn damage_stays_known_until_it_is_over_and_acknowledged() {
        let disk = Arc::new(MemoryMark::default());
        let proofs = Proving::new(Box::new(Arc::clone(&disk)));
        let whole = Scope::default();
        proofs.take(&report(whole, vec![finding(1, 4), finding(2, 5)]), WallTime::from_nanos(6));
        proofs.acknowledge(|_| true, &GivenUp::default());
        assert_eq!(open(&proofs), 2, "what is damaged cannot be waved away");
        proofs.repaired(VOLUME, &[(BlockNo::new(1), position(4))].into(), WallTime::from_nanos(7));
        // Another program: everything is still known.
        let proofs = Proving::new(Box::new(disk));
        assert_eq!((open(&proofs), proofs.findings(VOLUME).len()), (1, 2));
        assert_eq!(proofs.proof(VOLUME).unwrap().lsn.get(), 9);
        proofs.take(&report(whole, Vec::new()), WallTime::from_nanos(9));
        assert_eq!((open(&proofs), proofs.findings(VOLUME).len()), (0, 2));
        let one = |f: &Finding| f.position == Some(Position::record(Lsn::new(4).unwrap()));
        proofs.acknowledge(one, &GivenUp::default());
        assert_eq!(proofs.findings(VOLUME).len(), 1, "nobody has read of the other");
        proofs.acknowledge(|_| true, &GivenUp::default());
        assert_eq!(proofs.findings(VOLUME), []);
    }

    #[test]
    fn a_walk_answers_only_for_what_it_looked_at() {
        let proofs = Proving::new(Box::new(MemoryMark::default()));
        proofs.take(&report(Scope::default(), vec![finding(1, 4), finding(2, 8)]), WallTime::from_nanos(6));
        let other = Scope { volume: Some(VolumeId::new(8)), to: None, fresh: true };
        proofs.take(&report(other, Vec::new()), WallTime::from_nanos(7));
        assert_eq!(open(&proofs), 2);
        let early = Scope { volume: Some(VOLUME), to: Lsn::new(5), fresh: true };
        proofs.take(&report(early, Vec::new()), WallTime::from_nanos(8));
        assert_eq!(open(&proofs), 1, "the later one was not looked at");
        let found = Finding { found_at: WallTime::from_nanos(9), ..finding(1, 4) };
        proofs.take(&report(Scope::default(), vec![found]), WallTime::from_nanos(10));
        assert_eq!(open(&proofs), 1, "the first is back, the second is over");
    }

    /// A scrub takes days; what others find and repair meanwhile it knows nothing of.
    #[test]
    fn walks_that_overlap_do_not_undo_each_other() {
        let proofs = Proving::new(Box::new(MemoryMark::default()));
        let late = Finding { found_at: WallTime::from_nanos(7), ..finding(1, 4) };
        let other = VerifyReport { begun: WallTime::from_nanos(6), ..report(Scope::default(), vec![late]) };
        proofs.take(&other, WallTime::from_nanos(8));
        proofs.take(&report(Scope::default(), Vec::new()), WallTime::from_nanos(9));
        assert_eq!(open(&proofs), 1, "a walk that had passed it before answers nothing");
        assert_eq!(
            proofs.proof(VOLUME).unwrap().begun,
            WallTime::from_nanos(6),
            "nor is its proof the newer one"
        );
        proofs.repaired(VOLUME, &[(BlockNo::new(1), position(4))].into(), WallTime::from_nanos(10));
        proofs.take(&report(Scope::default(), vec![finding(1, 4)]), WallTime::from_nanos(11));
        assert_eq!(open(&proofs), 0, "it was seen before it was repaired");
    }

    #[test]
    fn what_there_is_no_room_to_list_is_counted_and_no_proof() {
        let proofs = Proving::new(Box::new(MemoryMark::default()));
        let unlisted = BTreeMap::from([(Some(VOLUME), 3)]);
        let walk = report(Scope::default(), vec![finding(1, 4)]);
        proofs.take(&VerifyReport { unlisted, ..walk.clone() }, WallTime::from_nanos(6));
        assert_eq!((proofs.unlisted(VOLUME), proofs.unlisted(VolumeId::new(8))), (3, 0));
        assert_eq!(proofs.proof(VOLUME), None);
        proofs.take(&walk, WallTime::from_nanos(7));
        assert_eq!(proofs.unlisted(VOLUME), 0);
        assert!(proofs.proof(VOLUME).is_some());
        let many = (0..count(MOST_FINDINGS) + 5).map(|n| finding(n, 4)).collect();
        proofs.add(&report(Scope::default(), many));
        assert_eq!((proofs.findings(VOLUME).len(), proofs.unlisted(VOLUME)), (MOST_FINDINGS, 5));
    }

    #[test]
    fn what_is_over_takes_no_room_from_new_damage() {
        let (proofs, most) = (Proving::new(Box::new(MemoryMark::default())), count(MOST_FINDINGS));
        let many = |from: u64| (from..from + most).map(|n| finding(n, 4)).collect::<Vec<_>>();
        proofs.take(&report(Scope::default(), many(0)), WallTime::from_nanos(6));
        proofs.repaired(
            VOLUME,
            &(0..most).map(|n| (BlockNo::new(n), position(4))).collect(),
            WallTime::from_nanos(7),
        );
        assert_eq!(open(&proofs), 0);
        let late = |f: Finding| Finding { found_at: WallTime::from_nanos(8), ..f };
        let again = vec![late(finding(most + 1, 4)), late(finding(3, 4))];
        proofs.take(&report(Scope::default(), again), WallTime::from_nanos(9));
        assert_eq!((open(&proofs), proofs.unlisted(VOLUME)), (2, 0), "a new one, and one that is back");
        // What is over is not kept without an end, either; the oldest goes.
        proofs.take(
            &report(Scope::default(), many(2 * most).into_iter().map(late).collect()),
            WallTime::from_nanos(10),
        );
        let all = (most..3 * most).map(|n| (BlockNo::new(n), position(4))).collect();
        proofs.repaired(VOLUME, &all, WallTime::from_nanos(11));
        assert_eq!(proofs.findings(VOLUME).len(), MOST_FINDINGS);
        assert!(proofs.findings(VOLUME).iter().all(|f| f.over_at >= Some(WallTime::from_nanos(10))));
    }

    #[test]
    fn half_a_walk_finds_and_answers_for_nothing() {
        let proofs = Proving::new(Box::new(MemoryMark::default()));
        proofs.take(&report(Scope::default(), vec![finding(1, 4)]), WallTime::from_nanos(6));
        proofs.add(&report(Scope::default(), vec![finding(2, 5)]));
        assert_eq!(open(&proofs), 2);
    }

    #[test]
    fn a_damaged_file_is_no_proof() {
        let mut proofs = Proofs::default();
        proofs.take(&report(Scope::default(), vec![finding(1, 4)]), WallTime::from_nanos(6));
        let bytes = proofs.encode();
        assert_eq!(Proofs::decode(&bytes), Some(proofs));
        for n in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[n] ^= 1;
            assert_eq!(Proofs::decode(&bad), None, "byte {n}");
        }
    }
}
