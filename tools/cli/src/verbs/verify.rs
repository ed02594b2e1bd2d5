//! `chronogate verify`: a job at the gateway, then what is known of the volume, then putting it right.
//!
//! Scripts go by the exit code: 0 sound, 1 damage is listed (also when it was repaired and nobody has acknowledged it),
//! anything else: it could not be said.

use std::collections::BTreeMap;

use clap::Args;
use cx_api::{
    ExitStatus, FindingKind, FindingView, JobState, JobView, PointView, RepairCreate, RepairView, UnitView,
    VerificationCreate, VerificationView, paths,
};
use tap_block::{Lsn, Name};

use super::job::{follow, interrupts};
use super::{Context, Globals, Result};
use crate::client::Client;
use crate::output::{self, Failure, or_dash, print, print_json, say};

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
    let body = VerificationCreate { volume: volume.clone(), to: range.to.map(point) };
    let mut interrupts = interrupts()?;
    let job: JobView = context.client.post(paths::VERIFICATIONS, &body).await.map_err(could_not)?;
    let ended =
        follow(&context, job, format!("verifying {volume}"), &mut interrupts).await.map_err(could_not)?;
    check_ended(&ended)?;
    let mut found = look(&context, volume, range).await?;
    if let Some(source) = source {
        // The list may be longer than what is shown of it.
        loop {
            let before = found.open;
            repair(&context, &source, volume, &found).await?;
            found = look(&context, volume, range).await?;
            if found.open >= before {
                break;
            }
        }
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
    if found.open + found.over == 0 { Ok(()) } else { Err(damaged(&found)) }
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

/// Puts right what can be; what cannot is said once for all blocks of which the same is true, and stays listed.
async fn repair(context: &Context, source: &Client, volume: &Name, found: &VerificationView) -> Result<()> {
    let blocks = found.findings.iter().filter(|f| f.kind == FindingKind::Block && f.over.is_none());
    let (mut repaired, mut left) = (0u64, BTreeMap::<String, Stretches>::new());
    for finding in blocks {
        let Some((extent, version)) = finding.extent.zip(finding.version) else { continue };
        let path = paths::unit(volume.as_str(), extent.offset, version);
        let outcome = match source.get::<UnitView>(&path).await {
            Ok(UnitView { volume_id, unit }) => {
                let body = RepairCreate { volume_id, offset: extent.offset, version, unit };
                context.client.post::<_, RepairView>(&paths::repairs(volume.as_str()), &body).await
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(_) => repaired += 1,
            Err(failure) if failure.exit == ExitStatus::Unreachable => return Err(could_not(failure)),
            Err(failure) => {
                let text = failure.lines();
                // What is said of a block names it.
                let why = text.replace(&format!("byte {}", extent.offset), "these bytes");
                left.entry(why).or_default().add(extent.offset, extent.length);
            }
        }
    }
    if repaired > 0 {
        say(&format!("{repaired} blocks are repaired"));
    }
    for (why, stretches) in &left {
        say(&format!("not repaired: {}: {why}", stretches.text()));
    }
    Ok(())
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

fn damaged(found: &VerificationView) -> Failure {
    let (open, over) = (found.open, found.over);
    if open == 0 {
        return Failure::new(ExitStatus::Error, format!("{over} findings of {} are over", found.volume))
            .fix("say --acknowledge when you have read of them");
    }
    let doubted = |f: &&FindingView| matches!(f.kind, FindingKind::Altered | FindingKind::Ledger);
    if found.findings.iter().filter(|f| f.over.is_none()).all(|f| doubted(&f)) {
        let text = format!("{} may not be what was written: {open} findings", found.volume);
        return Failure::new(ExitStatus::Error, text)
            .because("the ledger and what is stored contradict each other; no read is refused for it")
            .fix(
                "compare with another gateway's history, and find out who could write to this gateway's disk",
            );
    }
    let failure = Failure::new(ExitStatus::Error, format!("{} is damaged: {open} findings", found.volume));
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
    fn one_means_damage_and_nothing_else() {
        assert_eq!(could_not(Failure::new(ExitStatus::Error, "x")).exit, ExitStatus::Internal);
        assert_eq!(could_not(Failure::new(ExitStatus::Unreachable, "x")).exit, ExitStatus::Unreachable);
        assert_eq!(damaged(&golden()).exit, ExitStatus::Error);
        let mut forged = golden();
        forged.findings.truncate(1);
        forged.findings[0].kind = FindingKind::Altered;
        assert!(damaged(&forged).lines().contains("may not be what was written"));
        assert!(damaged(&golden()).lines().contains("is damaged"));
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
