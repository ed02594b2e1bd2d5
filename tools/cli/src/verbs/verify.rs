//! `chronogate verify`: a job at the gateway, then what is known of the volume, then putting it right.
//!
//! Scripts go by the exit code: 0 sound, 1 damage is listed (also when it was repaired and nobody has acknowledged it),
//! anything else: it could not be said.

use std::collections::BTreeMap;

use clap::Args;
use cx_api::{
    ExitStatus, ExtentView, FindingKind, FindingView, JobState, JobView, PointView, Problem, RepairOf,
    RepairedView, RepairsCreate, RepairsView, UnitFound, UnitsAsk, UnitsView, VerificationCreate,
    VerificationView, VersionAt, VolumeView, paths,
};
use tap_block::{BLOCK_SIZE, Lsn, Name};
use tokio::signal::unix::Signal;

use super::job::{follow, interrupts};
use super::{Context, Globals, Result};
use crate::client::Client;
use crate::output::{self, Failure, Progress, or_dash, print, print_json, say};

/// Of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The volume
    volume: Name,
    /// Lists only what this POINT or a later one shows
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    from: Option<String>,
    /// Looks only at what this POINT or an earlier one shows
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    to: Option<String>,
    /// Puts damaged blocks right with those of the gateway whose API is at this URL
    #[arg(long, value_name = "URL")]
    repair_from: Option<String>,
    /// Says that what is listed and over has been read of: it is not listed the next time
    #[arg(long)]
    acknowledge: bool,
    #[command(flatten)]
    globals: Globals,
}

pub(super) async fn run(args: VerifyArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let source = args.repair_from.as_deref().map(Client::new).transpose()?;
    let volume = &args.volume;
    let range =
        Range { from: at(&context, volume, args.from).await?, to: at(&context, volume, args.to).await? };
    range.check()?;
    if let Some(source) = &source {
        check_source(&context, source, volume).await?;
    }
    let body = VerificationCreate { volume: volume.clone(), to: range.to.map(point) };
    let mut interrupts = interrupts()?;
    let mut found = verified(&context, &body, range, &mut interrupts).await?;
    while let Some(source) = &source
        && repair_all(&context, source, range, &mut found).await?
        && found.open > 0
    {
        // There were more than are listed: the next walk lists them.
        found = verified(&context, &body, range, &mut interrupts).await?;
    }
    let printed = if context.json() { print_json(&found) } else { print(&summary(&found)) };
    printed.map_err(could_not)?;
    if args.acknowledge {
        context
            .client
            .post::<_, VerificationView>(&paths::acknowledge(volume.as_str(), range.from, range.to), &())
            .await
            .map_err(could_not)?;
    }
    if found.open + found.over == 0 { Ok(()) } else { Err(damaged(&found, args.acknowledge)) }
}

/// What is known once the history has been read.
async fn verified(
    context: &Context,
    body: &VerificationCreate,
    range: Range,
    interrupts: &mut Signal,
) -> Result<VerificationView> {
    let job: JobView = context.client.post(paths::VERIFICATIONS, body).await.map_err(could_not)?;
    let title = format!("verifying {}", body.volume);
    let ended = follow(context, job, title, interrupts).await.map_err(could_not)?;
    check_ended(&ended)?;
    look(context, &body.volume, range).await
}

/// Puts right what is listed, until nothing more of it can be; did any of it come right?
async fn repair_all(
    context: &Context,
    source: &Client,
    range: Range,
    found: &mut VerificationView,
) -> Result<bool> {
    let (volume, begun) = (found.volume.clone(), found.open);
    let mut repairing = Repairing::new(&volume, begun);
    loop {
        let before = found.open;
        let left = repairing.listed(context, source, found).await?;
        *found = look(context, &volume, range).await?;
        if found.open >= before || found.open == 0 {
            repairing.tell(&left);
            return Ok(found.open < begun);
        }
    }
}

/// The points that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    from: Option<Lsn>,
    to: Option<Lsn>,
}

impl Range {
    fn check(self) -> Result<()> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from > to => {
                let what = format!("--from {} is later than --to {}", point(from), point(to));
                Err(Failure::usage(what)
                    .because("no point lies between them")
                    .fix("give them the other way round"))
            }
            _ => Ok(()),
        }
    }
}

async fn at(context: &Context, volume: &Name, point: Option<String>) -> Result<Option<Lsn>> {
    let Some(point) = point else { return Ok(None) };
    let view: PointView =
        context.client.get(&paths::point(volume.as_str(), &point)).await.map_err(could_not)?;
    Ok(Some(view.lsn))
}

fn point(lsn: Lsn) -> String {
    format!("lsn:{}", lsn.get())
}

/// The exit code 1 says that damage was found, so nothing else ends with it.
fn could_not(failure: Failure) -> Failure {
    let exit = if failure.exit == ExitStatus::Error { ExitStatus::Internal } else { failure.exit };
    Failure { exit, ..failure }
}

fn check_ended(job: &JobView) -> Result<()> {
    match (job.state, &job.error) {
        (JobState::Done, _) => Ok(()),
        (_, Some(problem)) => Err(could_not(problem.clone().into())),
        _ => Err(Failure::new(ExitStatus::Conflict, "the verification was cancelled")
            .because("nothing is said of what was not looked at")
            .fix(format!("start it again: chronogate verify {}", job.volume))),
    }
}

async fn look(context: &Context, volume: &Name, range: Range) -> Result<VerificationView> {
    let path = paths::verification_between(volume.as_str(), range.from, range.to);
    context.client.get(&path).await.map_err(could_not)
}

/// Is it a gateway that has this volume, and not one of the same name? Asked before anything is read.
async fn check_source(context: &Context, source: &Client, volume: &Name) -> Result<()> {
    let path = paths::volume(volume.as_str());
    let ours: VolumeView = context.client.get(&path).await.map_err(could_not)?;
    let theirs = source.get::<VolumeView>(&path).await.map_err(|mut failure| {
        failure.what = format!("--repair-from: {}", failure.what);
        could_not(failure)
    })?;
    if ours.id == theirs.id {
        return Ok(());
    }
    let what = format!("--repair-from: {volume} is another volume there ({}, not {})", theirs.id, ours.id);
    Err(Failure::usage(what).fix("name a gateway that the same tap sends to"))
}

/// A block to put right.
type Wanted = (ExtentView, VersionAt);

/// Blocks that are put right.
struct Repairing {
    volume: Name,
    repaired: u64,
    all: u64,
    progress: Progress,
}

/// Of which blocks this is true, as it is said.
type Left = BTreeMap<String, Stretches>;

impl Repairing {
    fn new(volume: &Name, all: u64) -> Self {
        let progress = Progress::new(format!("repairing {volume}"));
        Self { volume: volume.clone(), repaired: 0, all, progress }
    }

    /// Puts right what can be of what is listed; what cannot stays listed.
    async fn listed(&mut self, context: &Context, source: &Client, found: &VerificationView) -> Result<Left> {
        let blocks = found.findings.iter().filter(|f| f.kind == FindingKind::Block && f.over.is_none());
        let at = |f: &FindingView| {
            let (extent, version) = f.extent.zip(f.version)?;
            Some((extent, VersionAt { offset: extent.offset, version }))
        };
        let (wanted, mut left): (Vec<Wanted>, Left) = (blocks.filter_map(at).collect(), Left::new());
        for some in wanted.chunks(paths::MAX_UNITS) {
            let outcomes = repair_some(context, source, &self.volume, some).await?;
            for ((extent, _), outcome) in some.iter().zip(outcomes) {
                let Err(failure) = outcome else {
                    self.repaired += 1;
                    continue;
                };
                // What is said of a block names it.
                let why = failure.lines().replace(&format!("byte {}", extent.offset), "these bytes");
                left.entry(why).or_default().add(extent.offset, extent.length);
            }
            self.progress.at(self.repaired * BLOCK_SIZE, self.all * BLOCK_SIZE);
        }
        Ok(left)
    }

    /// What is not put right is said once for all blocks of which the same is true.
    fn tell(&mut self, left: &Left) {
        self.progress.clear();
        if self.repaired > 0 {
            say(&format!("repaired: {}\n", output::counted(self.repaired, "block")));
        }
        for (why, stretches) in left {
            say(&format!("not repaired: {}: {why}", stretches.text()));
        }
    }
}

/// What becomes of some of them; a gateway that cannot be reached ends it.
async fn repair_some(
    context: &Context,
    source: &Client,
    volume: &Name,
    some: &[Wanted],
) -> Result<Vec<Result<()>>> {
    let ask = UnitsAsk { blocks: some.iter().map(|(_, at)| *at).collect() };
    let given: UnitsView = source.post(&paths::units(volume.as_str()), &ask).await.map_err(could_not)?;
    let mut outcomes: Vec<Result<()>> = Vec::new();
    let (mut blocks, mut asked) = (Vec::new(), Vec::new());
    for (n, ((_, at), found)) in some.iter().zip(given.units).enumerate() {
        let &VersionAt { offset, version } = at;
        match found {
            UnitFound { unit: Some(unit), .. } => {
                blocks.push(RepairOf { offset, version, unit });
                asked.push(n);
                // Until it is told.
                outcomes.push(Err(refusal(None)));
            }
            UnitFound { error, .. } => outcomes.push(Err(refusal(error))),
        }
    }
    let mut told = Vec::new();
    for blocks in fitting(blocks) {
        let body = RepairsCreate { volume_id: given.volume_id, blocks };
        let path = paths::repairs_of_many(volume.as_str());
        let done: RepairsView = context.client.post(&path, &body).await.map_err(could_not)?;
        told.extend(done.blocks);
    }
    for (n, RepairedView { places, error }) in asked.into_iter().zip(told) {
        if let Some(outcome) = outcomes.get_mut(n) {
            *outcome = places.map(drop).ok_or_else(|| refusal(error));
        }
    }
    Ok(outcomes)
}

/// As many at a time as fit into a body.
fn fitting(blocks: Vec<RepairOf>) -> Vec<Vec<RepairOf>> {
    /// What stands around a unit in JSON, at most.
    const AROUND: usize = 128;
    let most = usize::try_from(paths::MAX_BODY).unwrap_or(usize::MAX) - AROUND;
    let (mut all, mut bytes): (Vec<Vec<RepairOf>>, usize) = (Vec::new(), usize::MAX);
    for block in blocks {
        let more = block.unit.len() + AROUND;
        bytes = bytes.saturating_add(more);
        match all.last_mut().filter(|_| bytes <= most) {
            Some(last) => last.push(block),
            None => {
                bytes = more;
                all.push(vec![block]);
            }
        }
    }
    all
}

fn refusal(problem: Option<Problem>) -> Failure {
    problem.map_or_else(|| Failure::internal("a gateway does not say what became of a block"), Failure::from)
}

/// Stretches of a volume, neighbours as one.
#[derive(Debug, Default)]
struct Stretches {
    blocks: u64,
    /// From, and behind the last byte.
    stretches: Vec<(u64, u64)>,
}

impl Stretches {
    /// So many are named.
    const NAMED: usize = 4;

    fn add(&mut self, offset: u64, length: u64) {
        self.blocks += 1;
        match self.stretches.last_mut() {
            // Another version of the same block is no other place.
            Some((from, to)) if *from <= offset && offset <= *to => *to = (*to).max(offset + length),
            _ => self.stretches.push((offset, offset + length)),
        }
    }

    fn text(&self) -> String {
        let named = self.stretches.iter().take(Self::NAMED).map(|(from, to)| format!("{from}..{to}"));
        let more = self.stretches.len().saturating_sub(Self::NAMED);
        let more = if more > 0 { format!(" and {more} more stretches") } else { String::new() };
        format!("{} versions of blocks in bytes {}{more}", self.blocks, named.collect::<Vec<_>>().join(", "))
    }
}

fn damaged(found: &VerificationView, acknowledged: bool) -> Failure {
    let (open, over) = (found.open, found.over);
    if open == 0 {
        return Failure::new(ExitStatus::Error, over_text(over, &found.volume)).fix(match acknowledged {
            true => {
                "nothing more: that is acknowledged now, and the next verify says so if it finds nothing new"
            }
            false => "say --acknowledge when you have read of them",
        });
    }
    let doubted = |f: &&FindingView| matches!(f.kind, FindingKind::Altered | FindingKind::Ledger);
    if found.findings.iter().filter(|f| f.over.is_none()).all(|f| doubted(&f)) {
        let text =
            format!("{} may not be what was written: {}", found.volume, output::counted(open, "finding"));
        return Failure::new(ExitStatus::Error, text)
            .because("the ledger and what is stored contradict each other; no read is refused for it")
            .fix(
                "compare with another gateway's history, and find out who could write to this gateway's disk",
            );
    }
    let failure = Failure::new(
        ExitStatus::Error,
        format!("{} is damaged: {}", found.volume, output::counted(open, "finding")),
    );
    let listed = || found.findings.iter().filter(|f| f.over.is_none());
    // Which blocks were written by records that are lost nobody knows.
    if listed().any(|f| f.extent.is_none() && f.from_lsn.is_some()) {
        return failure
            .because("records are lost: no point opens from the first one lost until a copy of the whole volume is complete")
            .fix("the tap is asked for that copy by itself; for points before it, use another gateway that has the volume");
    }
    if listed().all(|f| matches!(f.kind, FindingKind::Header | FindingKind::Frame | FindingKind::Manifest)) {
        return failure
            .because("what stands around blocks is damaged; no read is refused for it as long as the index is there")
            .fix("nothing is to be done where history is settled, it is written anew; keep the store's fjall directory");
    }
    failure
        .because(
            "their reads are refused, and no other block is affected; what the protected disk can be shown to hold is put back by \
             itself while its tap is connected",
        )
        .fix(
            format!(
                "say --repair-from URL if another gateway has the volume; where the newest point needs them, the tap is asked for a \
                 copy of the whole disk by itself, and points after it are whole (`chronogate volume resync {}` asks for one at once)",
                found.volume
            ),
        )
}

fn over_text(over: u64, volume: &Name) -> String {
    let are = if over == 1 { "is" } else { "are" };
    format!("{} of {volume} {are} over", output::counted(over, "finding"))
}

fn summary(found: &VerificationView) -> String {
    let verified = found.verified.map_or_else(
        || "never".to_owned(),
        |proof| format!("{}, up to lsn:{} of {}", proof.checked, proof.lsn.get(), proof.time),
    );
    let anchored = found.anchored.as_ref().map_or_else(
        || "not anchored: nobody else keeps its head".to_owned(),
        |a| format!("anchored up to entry {} of {}, at {}", a.entry, a.time, a.place),
    );
    let head = output::fields(&[
        ("volume", found.volume.to_string()),
        ("all of it verified", verified),
        ("ledger", anchored),
        ("damaged", found.open.to_string()),
        ("over", found.over.to_string()),
    ]);
    if found.findings.is_empty() {
        return format!("{head}sound\n");
    }
    let rows: Vec<_> = merged(&found.findings).iter().map(row).collect();
    let table = output::table(
        ["WHAT", "BYTES", "FIRST POINT", "LAST POINT", "FROM", "TO", "OVER SINCE", "WHY"],
        &rows,
    );
    format!("{head}\n{table}")
}

/// Neighbours that are damaged alike are one line.
fn merged(findings: &[FindingView]) -> Vec<FindingView> {
    let mut lines: Vec<FindingView> = Vec::new();
    for finding in findings {
        let alike = |f: &FindingView| {
            (f.kind, f.from_lsn, f.to_lsn, f.over, &f.detail)
                == (finding.kind, finding.from_lsn, finding.to_lsn, finding.over, &finding.detail)
        };
        let last = lines.last_mut().filter(|f| alike(f)).and_then(|f| f.extent.as_mut());
        match (last, finding.extent) {
            (Some(last), Some(extent)) if last.offset + last.length == extent.offset => {
                last.length += extent.length;
            }
            _ => lines.push(finding.clone()),
        }
    }
    lines
}

fn row(f: &FindingView) -> [String; 8] {
    let bytes = f.extent.map_or_else(
        || format!("segment {} {}..{}", f.segment, f.from_byte, f.to_byte),
        |e| format!("{}..{}", e.offset, e.offset + e.length),
    );
    let last = match (f.from_lsn, f.to_lsn) {
        (Some(_), None) => "newest".to_owned(),
        (_, last) => or_dash(last.map(point)),
    };
    [
        f.kind.as_str().to_owned(),
        bytes,
        or_dash(f.from_lsn.map(point)),
        last,
        output::time(f.from),
        output::time(f.to),
        output::time(f.over),
        f.detail.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use tap_block::units::count;

    use super::*;

    fn golden() -> VerificationView {
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/verification.json")).unwrap()
    }

    #[test]
    fn what_is_damaged_is_named() {
        let text = summary(&golden());
        for part in ["block   4096..8192", "lsn:42", "lsn:77", "2026-11-22T10:00:05Z", "segment 5 0..4096"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.contains("anchored up to entry 812 of 2026-11-22T10:58:00Z, at cx"), "{text}");
        let sound = VerificationView { findings: Vec::new(), open: 0, over: 0, ..golden() };
        assert!(summary(&sound).ends_with("sound\n"));
    }

    #[test]
    fn neighbours_are_one_line() {
        let mut findings = golden().findings;
        let mut next = findings[0].clone();
        next.extent.as_mut().unwrap().offset = 8192;
        findings.insert(1, next);
        let lines = merged(&findings);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].extent.unwrap().length, 8192);
    }

    #[test]
    fn what_is_not_repaired_is_summed_up() {
        let mut stretches = Stretches::default();
        for offset in [0, 0, 4096, 40960, 81920, 122_880, 163_840, 204_800] {
            stretches.add(offset, 4096);
        }
        assert_eq!(
            stretches.text(),
            "8 versions of blocks in bytes 0..8192, 40960..45056, 81920..86016, 122880..126976 and 2 more stretches"
        );
    }

    #[test]
    fn a_request_holds_as_many_blocks_as_fit() {
        let block = |length: usize| RepairOf { offset: 1 << 40, version: 1 << 54, unit: "f".repeat(length) };
        let all: Vec<RepairOf> = (0..400).map(|n| block(if n % 2 == 0 { 8224 } else { 80 })).collect();
        let parts = fitting(all.clone());
        assert_eq!(parts.concat(), all);
        let bytes = |blocks: &Vec<RepairOf>| {
            let body =
                RepairsCreate { volume_id: tap_block::VolumeId::new(u64::MAX), blocks: blocks.clone() };
            count(serde_json::to_string(&body).unwrap().len())
        };
        assert!(
            parts.iter().all(|part| bytes(part) <= paths::MAX_BODY) && parts.len() < 9,
            "{}",
            parts.len()
        );
        assert_eq!(fitting(Vec::new()).len(), 0);
    }

    #[test]
    fn one_means_damage_and_nothing_else() {
        assert_eq!(could_not(Failure::new(ExitStatus::Error, "x")).exit, ExitStatus::Internal);
        assert_eq!(could_not(Failure::new(ExitStatus::Unreachable, "x")).exit, ExitStatus::Unreachable);
        assert_eq!(damaged(&golden(), false).exit, ExitStatus::Error);
        let mut forged = golden();
        forged.findings.truncate(1);
        forged.findings[0].kind = FindingKind::Altered;
        assert!(damaged(&forged, false).lines().contains("may not be what was written"));
        assert!(damaged(&golden(), false).lines().contains("is damaged"));
        let over = VerificationView { open: 0, over: 1, ..golden() };
        assert!(damaged(&over, false).lines().contains("say --acknowledge"));
        assert!(damaged(&over, true).lines().contains("acknowledged now"));
    }

    #[test]
    fn a_range_the_wrong_way_round_is_no_question() {
        let lsn = |n| Some(Lsn::new(n).unwrap());
        let failure = Range { from: lsn(5), to: lsn(4) }.check().unwrap_err();
        assert!(
            failure.exit == ExitStatus::Usage && failure.what.contains("lsn:5 is later than"),
            "{failure:?}"
        );
        for (from, to) in [(lsn(4), lsn(4)), (None, lsn(1)), (lsn(1), None)] {
            assert_eq!(Range { from, to }.check(), Ok(()));
        }
    }
}
