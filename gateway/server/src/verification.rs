//! Verifying, what was found, and putting it right.

use std::collections::BTreeSet;
use std::sync::Arc;

use cx_api::{
    AnchorView, Code, ExtentView, FindingKind, FindingView, JobKind, JobView, Problem, ProofView,
    RepairCreate, RepairOf, RepairView, RepairedView, RepairsCreate, RepairsView, UnitFound, UnitView,
    UnitsAsk, UnitsView, VerificationCreate, VerificationView, VersionAt, VolumeState, VolumeView,
};
use gateway_image::catalogue::Volume;
use gateway_journal::{Kept, KeptPoint, SegmentId};
use gateway_store::{Anchor, Finding, Offered, Proof, Repair, Scope, Store, StoreError};
use tap_block::units::count;
use tap_block::{BlockNo, Lsn, Name, Position, WallTime};
use tokio::runtime::Handle;

use crate::gateway::Gateway;
use crate::http::{Answer, Points};
use crate::jobs::Task;
use crate::mending::mend_once;
use crate::problems;

/// Findings shown; they are counted all.
const SHOWN: usize = 1000;

impl Gateway {
    /// Starts a job that reads a volume's history.
    pub(crate) async fn start_verification(&self, wanted: VerificationCreate) -> Answer<JobView> {
        let volume = self.known(&wanted.volume)?;
        let to = match &wanted.to {
            Some(text) => {
                let point = text.parse().map_err(|e: gateway_image::PointError| {
                    Problem::new(Code::Invalid, format!("{text:?} is not a point in time"))
                        .because(e.to_string())
                        .fix("give --from and --to as points of the volume; without them all of it is verified")
                })?;
                Some(self.points.resolve(&wanted.volume, &point).await?.lsn)
            }
            None => None,
        };
        let durable = self.store.durable(volume.stream()).map_or(Lsn::ZERO, |d| d.lsn);
        let (path, total) = (Default::default(), 0);
        let task =
            Task { kind: JobKind::Verify, volume: wanted.volume, lsn: to.unwrap_or(durable), path, total };
        let job = self.jobs.add(task, self.clock.wall())?;
        let (store, clock, worker) = (Arc::clone(&self.store), Arc::clone(&self.clock), Arc::clone(&job));
        let (source, runtime) = (self.streams.get(volume.stream()), Handle::current());
        let scope = Scope { volume: Some(volume.id()), to, fresh: true };
        self.spawn_job(&job, move || {
            let done = store.verify(scope, &mut |progress| {
                worker.progress_of(progress.done, progress.total);
                !worker.is_cancelled()
            });
            let done = done.inspect(|report| worker.progress_of(report.bytes, report.bytes));
            if let (Ok(_), Some(source)) = (&done, source) {
                runtime
                    .block_on(mend_once(&store, volume.id(), |question, limit| source.ask(question, limit)));
            }
            worker.finish(done.map(drop).map_err(|e| problems::stored(&e)), clock.wall());
        })?;
        Ok(job.view())
    }

    /// What is known of a volume's soundness. Times are looked up in the journal: may block.
    pub(crate) fn verification_view(&self, name: &Name, points: Points) -> Answer<VerificationView> {
        let volume = self.known(name)?;
        let (found, more) = self.store.found(volume.id());
        let findings = listed(found, points);
        let missed = self.missed_stores();
        let open = findings.iter().filter(|f| f.over_at.is_none()).count() + missed.len();
        let kept = self.store.kept(volume.id()).unwrap_or_default();
        let shown = findings.iter().map(|f| self.finding_view(&volume, &kept, f));
        let shown = missed.into_iter().chain(shown).take(SHOWN).collect();
        Ok(VerificationView {
            volume: name.clone(),
            verified: self.store.proof(volume.id()).map(|proof| proof_view(&proof)),
            anchored: self.store.anchored().map(anchor_view),
            open: count(open) + more,
            over: count(findings.iter().filter(|f| f.over_at.is_some()).count()),
            findings: shown,
        })
    }

    /// What is over has been read of, as far as these points show it; of what is not over, the segments that there is room to show.
    pub(crate) fn acknowledge_findings(&self, name: &Name, points: Points) -> Answer<VerificationView> {
        let id = self.known(name)?.id();
        let findings = listed(self.store.findings(id), points);
        let shown: BTreeSet<SegmentId> = findings.iter().take(SHOWN).map(|f| f.segment).collect();
        let is_read =
            |f: &Finding| is_shown(f, points) && (f.over_at.is_some() || shown.contains(&f.segment));
        let acknowledged = self.store.acknowledge(id, is_read);
        acknowledged.map_err(|e| problems::stored(&e))?;
        self.verification_view(name, points)
    }

    /// The stored form of a version of a block, for another gateway.
    pub(crate) fn unit_view(&self, name: &Name, offset: u64, version: u64) -> Answer<UnitView> {
        let wanted = UnitsAsk { blocks: vec![VersionAt { offset, version }] };
        let found = self.units_view(name, &wanted)?;
        match found.units.into_iter().next() {
            Some(UnitFound { unit: Some(unit), .. }) => Ok(UnitView { volume_id: found.volume_id, unit }),
            Some(UnitFound { error: Some(problem), .. }) => Err(problem),
            _ => Err(problems::internal("nothing is said of the block")),
        }
    }

    /// The same of several: one that is not to be had is no reason not to give the others.
    pub(crate) fn units_view(&self, name: &Name, wanted: &UnitsAsk) -> Answer<UnitsView> {
        let volume = self.known(name)?;
        let at = |at: &VersionAt| Ok((BlockNo::holding(at.offset), position(at.version)?));
        let versions = wanted.blocks.iter().map(at).collect::<Answer<Vec<_>>>()?;
        let found = self.store.stored_units(volume.id(), &versions).map_err(|e| problems::stored(&e))?;
        let missing = |offset: u64| {
            let text = format!("{name} has no such version of the block at byte {offset} here");
            Problem::new(Code::NotFound, text).because("it never came here, or is not kept here any more")
        };
        let units = wanted.blocks.iter().zip(found).map(|(at, found)| match found {
            Ok(Some(unit)) => UnitFound { unit: Some(to_hex(&unit)), error: None },
            Ok(None) => UnitFound { unit: None, error: Some(missing(at.offset)) },
            Err(e) => UnitFound { unit: None, error: Some(problems::stored(&e)) },
        });
        Ok(UnitsView { volume_id: volume.id(), units: units.collect() })
    }

    /// Puts a damaged block right.
    pub(crate) fn repair_block(&self, name: &Name, wanted: &RepairCreate) -> Answer<RepairView> {
        let &RepairCreate { volume_id, offset, version, ref unit } = wanted;
        let blocks = vec![RepairOf { offset, version, unit: unit.clone() }];
        let done = self.repair_blocks(name, &RepairsCreate { volume_id, blocks })?;
        match done.blocks.into_iter().next() {
            Some(RepairedView { places: Some(places), .. }) => Ok(RepairView { places }),
            Some(RepairedView { error: Some(problem), .. }) => Err(problem),
            _ => Err(problems::internal("nothing is said of the block")),
        }
    }

    /// Puts several damaged blocks right: one that cannot be is no reason not to put the others right.
    pub(crate) fn repair_blocks(&self, name: &Name, wanted: &RepairsCreate) -> Answer<RepairsView> {
        let volume = self.known(name)?;
        if wanted.volume_id != volume.id() {
            let (id, given) = (volume.id(), wanted.volume_id);
            let text = format!("the block is of another volume: {name} is {id}, not {given}");
            return Err(Problem::new(Code::Invalid, text).fix("ask a gateway that the same tap sends to"));
        }
        let understood: Vec<Answer<Repair>> = wanted.blocks.iter().map(repair_of).collect();
        let repairs: Vec<Repair> = understood.iter().flatten().cloned().collect();
        let put = self.store.repair(volume.id(), &repairs, Offered::Version);
        let mut put = put.map_err(|e| problems::stored(&e))?.into_iter();
        let missing = || StoreError::Invalid("nothing is said of the block".to_owned());
        let outcome = |repair: Answer<Repair>| {
            repair.and_then(|_| put.next().unwrap_or_else(|| Err(missing())).map_err(|e| not_repaired(&e)))
        };
        let view = |outcome: Answer<usize>| match outcome {
            Ok(places) => RepairedView { places: Some(count(places)), error: None },
            Err(problem) => RepairedView { places: None, error: Some(problem) },
        };
        Ok(RepairsView { blocks: understood.into_iter().map(outcome).map(view).collect() })
    }

    fn finding_view(&self, volume: &Volume, kept: &Kept, finding: &Finding) -> FindingView {
        // Damage may be what keeps the time from being known.
        let time = |lsn: Lsn| self.store.time_of(volume.stream(), lsn).ok().flatten();
        let (first, last) =
            (finding.points.map(|(first, _)| first), finding.points.and_then(|(_, last)| last));
        let (from, to) = finding.points.map_or((None, None), |points| affected(points, kept, time));
        FindingView {
            kind: kind(finding.kind),
            extent: finding.extent.map(|e| ExtentView { offset: e.offset(), length: e.length() }),
            version: finding.position.map(Position::get),
            from_lsn: first,
            to_lsn: last,
            from,
            to,
            segment: finding.segment.get(),
            from_byte: finding.from,
            to_byte: finding.to,
            detail: finding.detail.clone(),
            found: finding.found_at,
            over: finding.over_at,
        }
    }
}

/// The times of the first and the last point that show something. In settled history few records are points: there it is the
/// first and the last of those that are kept.
fn affected(
    (first, last): (Lsn, Option<Lsn>),
    kept: &Kept,
    time: impl Fn(Lsn) -> Option<WallTime>,
) -> (Option<WallTime>, Option<WallTime>) {
    let within = |p: &&KeptPoint| first <= p.lsn && last.is_none_or(|last| p.lsn <= last);
    let begins = || kept.points.iter().find(within).map(|p| p.captured_at);
    let ends = || kept.points.iter().rfind(within).map(|p| p.captured_at);
    (time(first).or_else(begins), last.and_then(|last| time(last).or_else(ends)))
}

/// What these points show, in the order in which it is listed: what concerns whole segments first, for blocks may be many.
fn listed(mut findings: Vec<Finding>, points: Points) -> Vec<Finding> {
    findings.retain(|f| is_shown(f, points));
    findings.sort_by_key(|f| {
        let of_block = (f.extent.map(|e| e.offset()), f.position);
        (f.over_at.is_some(), f.extent.is_some(), f.kind, of_block)
    });
    findings
}

/// Does any of the points show it? What concerns the store as a whole concerns them all.
fn is_shown(finding: &Finding, points: Points) -> bool {
    let Some((first, last)) = finding.points else { return true };
    let early = last.zip(points.from).is_some_and(|(last, from)| last < from);
    let late = points.to.is_some_and(|to| first > to);
    !early && !late
}

/// With what the store knows of the volume's soundness, which what the tap says is not better than; what concerns the store as a whole concerns it too.
pub(crate) fn with_proof(view: VolumeView, store: &Store) -> VolumeView {
    let (findings, more) = store.found(view.id);
    let damaged = count(findings.iter().filter(|f| f.over_at.is_none()).count()) + more;
    let wounded = store.catalogue().volume(view.id).is_some_and(|v| store.wound(v.stream()).is_some());
    let wounded = wounded || store.is_head_wounded(view.id);
    let state = match view.state {
        // Its newest point cannot be opened before a copy of the whole volume is complete.
        VolumeState::Protected if wounded => VolumeState::Resync,
        state => state,
    };
    VolumeView { verified: store.proof(view.id).map(|proof| proof_view(&proof)), damaged, state, ..view }
}

const fn proof_view(proof: &Proof) -> ProofView {
    ProofView { checked: proof.begun, lsn: proof.lsn, time: proof.at }
}

fn anchor_view(anchor: Anchor) -> AnchorView {
    AnchorView { entry: anchor.entry.get(), time: anchor.at, place: anchor.place }
}

const fn kind(kind: gateway_store::FindingKind) -> FindingKind {
    match kind {
        gateway_store::FindingKind::Block => FindingKind::Block,
        gateway_store::FindingKind::Frame => FindingKind::Frame,
        gateway_store::FindingKind::Header => FindingKind::Header,
        gateway_store::FindingKind::Manifest => FindingKind::Manifest,
        gateway_store::FindingKind::Index => FindingKind::Index,
        gateway_store::FindingKind::Missing => FindingKind::Missing,
        gateway_store::FindingKind::Altered => FindingKind::Altered,
        gateway_store::FindingKind::Ledger => FindingKind::Ledger,
    }
}

fn repair_of(wanted: &RepairOf) -> Answer<Repair> {
    let (position, unit) = (position(wanted.version)?, from_hex(&wanted.unit)?);
    Ok(Repair { block: BlockNo::holding(wanted.offset), position, unit })
}

fn not_repaired(why: &StoreError) -> Problem {
    match why {
        StoreError::Invalid(why) => {
            Problem::new(Code::Invalid, "the block cannot be put right with this").because(why.clone())
        }
        why => problems::stored(why),
    }
}

fn position(raw: u64) -> Answer<Position> {
    Position::from_raw(raw)
        .ok_or_else(|| Problem::new(Code::Invalid, format!("{raw} is no version of a block")))
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Answer<Vec<u8>> {
    let wrong = || Problem::new(Code::Invalid, "the unit is not hex");
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let (pairs, rest) = digits.as_deref().ok_or_else(wrong)?.as_chunks::<2>();
    if rest.is_empty() { Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_points_asked_for_show_is_listed() {
        let lsn = |raw| Lsn::new(raw).unwrap();
        let finding = |points| Finding {
            kind: gateway_store::FindingKind::Block,
            volume: None,
            extent: None,
            position: None,
            points,
            segment: gateway_journal::SegmentId::new(1),
            from: 0,
            to: 1,
            detail: String::new(),
            found_at: tap_block::WallTime::EPOCH,
            over_at: None,
        };
        let bounded = finding(Some((lsn(42), Some(lsn(77)))));
        let shown = |from: Option<u64>, to: Option<u64>| Points { from: from.map(lsn), to: to.map(lsn) };
        for (points, is) in [
            (shown(None, None), true),
            (shown(Some(77), Some(90)), true),
            (shown(Some(78), None), false),
            (shown(None, Some(42)), true),
            (shown(None, Some(41)), false),
        ] {
            assert_eq!(is_shown(&bounded, points), is, "{points:?}");
        }
        assert!(is_shown(&finding(Some((lsn(42), None))), shown(Some(1000), None)), "the newest shows it");
        assert!(is_shown(&finding(None), shown(Some(78), None)), "the store's own concerns every point");
    }

    #[test]
    fn what_concerns_whole_segments_is_listed_before_blocks_and_what_is_open_before_what_is_over() {
        let of = |kind, block: Option<u64>, over: bool| {
            let (segment, at) = (gateway_journal::SegmentId::new(1), WallTime::from_nanos);
            Finding {
                kind,
                volume: None,
                extent: block.and_then(|n| tap_block::Extent::new(n * 4096, 4096)),
                position: None,
                points: None,
                segment,
                from: 0,
                to: 1,
                detail: String::new(),
                found_at: at(1),
                over_at: over.then(|| at(2)),
            }
        };
        use gateway_store::FindingKind::{Block, Missing};
        let found = vec![
            of(Missing, None, true),
            of(Block, Some(9), false),
            of(Block, Some(3), false),
            of(Missing, None, false),
        ];
        let order: Vec<_> = listed(found, Points::default())
            .iter()
            .map(|f| (f.kind, f.extent.map(|e| e.offset() / 4096), f.over_at.is_some()))
            .collect();
        let open = [(Missing, None, false), (Block, Some(3), false), (Block, Some(9), false)];
        assert_eq!(order, [&open[..], &[(Missing, None, true)]].concat());
    }

    #[test]
    fn damage_of_settled_history_has_the_times_of_the_kept_points_that_show_it() {
        let (lsn, at) = (|raw| Lsn::new(raw).unwrap(), WallTime::from_nanos);
        let point = |n| KeptPoint::new(lsn(n), at(n * 10), at(n * 10));
        let kept = Kept { settled: lsn(100), points: [20, 40, 60, 100].map(point).into() };
        let time = |asked: Lsn| (asked > lsn(100)).then(|| at(asked.get() * 10));
        let of = |first, last: Option<u64>| affected((lsn(first), last.map(lsn)), &kept, time);
        assert_eq!(of(15, Some(59)), (Some(at(200)), Some(at(400))));
        assert_eq!(of(50, Some(150)), (Some(at(600)), Some(at(1500))), "from there into the log");
        assert_eq!(of(50, None), (Some(at(600)), None), "and the newest");
        assert_eq!(of(41, Some(59)), (None, None), "nothing that is kept shows it");
        assert_eq!(of(120, Some(130)), (Some(at(1200)), Some(at(1300))));
    }

    #[test]
    fn hex_goes_both_ways_and_nothing_else_passes() {
        assert_eq!(from_hex("00ff7a").unwrap(), [0, 255, 122]);
        assert_eq!(to_hex(&[0, 255, 122]), "00ff7a");
        assert_eq!(from_hex("").unwrap(), [0; 0]);
        for wrong in ["0", "0g", "ä", "00 1"] {
            assert!(from_hex(wrong).is_err(), "{wrong}");
        }
    }
}
