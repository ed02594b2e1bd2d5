//! `chronogate volume`.

use clap::{Args, Subcommand};
use cx_api::{
    AcceptedView, AtGateView, ClockView, DiffView, GapView, HistoryView, KeptView, LimitState, LimitView,
    StretchView, TimelineView, VolumeView, paths,
};
use tap_block::{Clock as _, Lsn, Name, WallTime};
use tap_disk::RealClock;

use super::{Context, Globals, Result};
use crate::output::{self, or_dash, print, print_json};

/// Of `volume`.
#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Lists every volume
    Ls,
    /// Shows one, with what its history lost
    Show {
        /// Its name
        volume: Name,
    },
    /// Shows what is left of its history: points, tiers, pins, holds, gaps, where its clock was set, and how the store fills
    Timeline {
        /// Its name
        volume: Name,
        /// With -o json: the thousand points before this LSN, not the newest
        #[arg(long, value_name = "LSN", value_parser = lsn)]
        before: Option<Lsn>,
    },
    /// Lists the stretches that were written between two POINTs
    Diff {
        /// Its name
        volume: Name,
        /// A POINT
        #[arg(value_name = "FROM", allow_hyphen_values = true)]
        from: String,
        /// Another one
        #[arg(value_name = "TO", allow_hyphen_values = true)]
        to: String,
    },
    /// Has its tap copy the whole disk anew, so that later points owe nothing to earlier history; no point meanwhile opens
    Resync {
        /// Its name
        volume: Name,
    },
    /// Says that its tap, which is refused because its state is an old copy (a restored server), is the one to go on with: the whole
    /// disk is compared with the newest history, and every other copy of that tap is refused from then on
    AcceptRestored {
        /// Its name
        volume: Name,
    },
}

pub(super) async fn run(args: VolumeArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        VolumeCommand::Ls => {
            let volumes: Vec<VolumeView> = context.all(paths::VOLUMES).await?;
            if context.json() { print_json(&volumes) } else { print(&list(&volumes, RealClock.wall())) }
        }
        VolumeCommand::Show { volume } => {
            let volume: VolumeView = context.client.get(&paths::volume(volume.as_str())).await?;
            if context.json() { print_json(&volume) } else { print(&details(&volume)) }
        }
        VolumeCommand::Timeline { volume, before } => {
            let path = match before {
                Some(before) => paths::timeline_before(volume.as_str(), before),
                None => paths::timeline(volume.as_str()),
            };
            let timeline: TimelineView = context.client.get(&path).await?;
            if context.json() { print_json(&timeline) } else { print(&timeline_text(&timeline)) }
        }
        VolumeCommand::Diff { volume, from, to } => diff(&context, &volume, &from, &to).await,
        VolumeCommand::Resync { volume } => resync(&context, &volume).await,
        VolumeCommand::AcceptRestored { volume } => accept_restored(&context, &volume).await,
    }
}

/// `8` or `lsn:8`.
fn lsn(text: &str) -> std::result::Result<Lsn, String> {
    let number = text.strip_prefix("lsn:").unwrap_or(text).parse().ok();
    number.and_then(Lsn::new).ok_or_else(|| format!("{text:?} is no LSN: write it as 8 or lsn:8"))
}

fn clock_text(clock: &ClockView) -> String {
    let (lsn, from, to) = (clock.lsn.get(), clock.from, clock.to);
    if clock.ahead {
        return format!("clock set ahead at lsn:{lsn}: times from {to} to {from} never went by\n");
    }
    format!(
        "clock set back at lsn:{lsn}: times from {from} to {to} went by twice, and mean the second time\n"
    )
}

async fn resync(context: &Context, volume: &Name) -> Result<()> {
    let title = format!("copying {volume} anew");
    let job = super::image::watched(context, &paths::resync(volume.as_str()), &(), title).await?;
    if context.json() {
        return Ok(());
    }
    let size = output::size(job.total_bytes);
    print(&format!("copied {volume} anew ({size}): points from here on owe nothing to what came before\n"))
}

async fn accept_restored(context: &Context, volume: &Name) -> Result<()> {
    let accepted: AcceptedView = context.client.post(&paths::accept_restored(volume.as_str()), &()).await?;
    if context.json() { print_json(&accepted) } else { print(&accepted_text(&accepted)) }
}

fn accepted_text(accepted: &AcceptedView) -> String {
    let knows = format!("lsn:{}", accepted.knows_lsn.get());
    let facts = output::fields(&[
        ("volume", accepted.volume.to_string()),
        ("accepted", accepted.tap.clone()),
        ("refused since", accepted.refused_since.to_string()),
        ("its state knows", accepted.knows_time.map_or(knows.clone(), |time| format!("{knows} of {time}"))),
        ("history has", format!("lsn:{}", accepted.history_lsn.get())),
    ]);
    format!(
        "{facts}it goes on above that as epoch {}, within seconds, and its whole disk is compared; no point opens meanwhile\n\
         (chronogate volume show {} says how far it is); every other copy of this tap is refused from now on\n",
        accepted.epoch, accepted.volume
    )
}

/// Every page as one.
async fn diff(context: &Context, volume: &Name, from: &str, to: &str) -> Result<()> {
    let mut whole: DiffView = context.client.get(&paths::diff(volume.as_str(), from, to)).await?;
    // Moving points are frozen by the first page.
    let (from, to) = (format!("lsn:{}", whole.from_lsn.get()), format!("lsn:{}", whole.to_lsn.get()));
    while let Some(next) = whole.next.take() {
        let path = format!("{}&after={}", paths::diff(volume.as_str(), &from, &to), paths::escape(&next));
        let page: DiffView = context.client.get(&path).await?;
        whole.extents.extend(page.extents);
        whole.next = page.next;
    }
    if context.json() {
        return print_json(&whole);
    }
    let rows: Vec<_> = whole.extents.iter().map(|e| [e.offset.to_string(), e.length.to_string()]).collect();
    let total = format!("{} in {} stretches\n", output::size(whole.bytes), whole.extents.len());
    print(&format!("{}{total}", output::table(["OFFSET", "LENGTH"], &rows)))
}

fn timeline_text(timeline: &TimelineView) -> String {
    use cx_api::json::Text as _;
    let kept = |point: Option<KeptView>| {
        point.map_or_else(|| "none".to_owned(), |p| format!("{}  lsn:{}", p.time, p.lsn.get()))
    };
    let (retention, forecast) = (&timeline.policy.retention, &timeline.forecast);
    let mut text = output::fields(&[
        ("volume", timeline.volume.to_string()),
        ("oldest point", kept(timeline.oldest)),
        ("newest point", kept(timeline.newest)),
        ("every write after", format!("lsn:{}", timeline.every_write_after.get())),
        ("points before", timeline.point_count.to_string()),
        ("bookmarks", timeline.bookmark_count.to_string()),
        ("pins", timeline.pins.len().to_string()),
        (
            "policy",
            format!(
                "every write {}, {}; bookmarks {}",
                retention.every_write.to_text(),
                super::policy::tiers(retention),
                retention.bookmarks.to_text()
            ),
        ),
        ("history", grows(&timeline.history)),
        (
            "store",
            format!(
                "{} ({} settled)",
                output::size(forecast.used_bytes),
                output::size(forecast.settled_bytes)
            ),
        ),
        ("room", or_dash(forecast.free_bytes.map(output::size))),
        ("written each day", or_dash(forecast.bytes_per_day.map(output::size))),
        ("full at", forecast.full_at.map_or_else(|| "never, as it looks".to_owned(), |at| at.to_string())),
    ]);
    for hold in &timeline.holds {
        text.push_str(&format!(
            "held from {} to {} until {}  {}\n",
            hold.from, hold.to, hold.until, hold.note
        ));
    }
    for why in &timeline.held_up {
        text.push_str(&format!("note: {}\n", output::printable(why)));
    }
    for shortage in &timeline.shortages {
        text.push_str(&format!("short of room: {}\n", output::printable(&shortage.said)));
    }
    timeline.gates.iter().for_each(|gate| text.push_str(&gate_line(gate)));
    for pin in &timeline.pins {
        text.push_str(&format!("pinned lsn:{}  {}\n", pin.lsn.get(), pin.note));
    }
    for clock in &timeline.clocks {
        text.push_str(&clock_text(clock));
    }
    if !timeline.gaps.is_empty() {
        text.push('\n');
        text.push_str(&gaps(&timeline.gaps));
    }
    if !timeline.stretches.is_empty() {
        text.push('\n');
        text.push_str(&stretches(&timeline.stretches));
    }
    text
}

/// A line for each stretch of points at one distance.
fn stretches(all: &[StretchView]) -> String {
    let row = |s: &StretchView| {
        if s.points == 1 {
            return [s.first.lsn.get().to_string(), s.first.time.to_string(), "1".to_owned(), String::new()];
        }
        let apart = s.last.time.since(s.first.time).as_secs_f64()
            / f64::from(u32::try_from(s.points - 1).unwrap_or(u32::MAX));
        let how = if s.every_write {
            "every write".to_owned()
        } else {
            format!("one each {}", output::seconds(apart))
        };
        let (first, last) = (s.first.lsn.get(), s.last.lsn.get());
        [
            format!("{first}..{last}"),
            format!("{} .. {}", s.first.time, s.last.time),
            s.points.to_string(),
            how,
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    output::table(["POINT", "TIME", "POINTS", ""], &rows)
}

/// One line each.
pub(super) fn list(volumes: &[VolumeView], now: WallTime) -> String {
    let rows: Vec<_> = volumes
        .iter()
        .map(|v| {
            [
                v.name.to_string(),
                state(v),
                output::size(v.size),
                history(v),
                lag(v),
                or_dash(v.lag_bytes.map(output::size)),
                v.durable_lsn.get().to_string(),
                v.gaps.len().to_string(),
                verified_as(v, now),
            ]
        })
        .collect();
    output::table(
        ["NAME", "STATE", "SIZE", "HISTORY", "LAG", "BEHIND", "DURABLE LSN", "GAPS", "VERIFIED"],
        &rows,
    )
}

/// What waits for a hook, how that goes, and how it went last.
fn gate_line(gate: &AtGateView) -> String {
    use cx_api::json::Text as _;
    let mut text = format!(
        "gate after {}: {} {}, {} points",
        gate.keep.to_text(),
        gate.hook,
        gate.state.as_str(),
        gate.waiting
    );
    if let Some((first, last)) = gate.first.zip(gate.last) {
        text.push_str(&format!(" from lsn:{} to lsn:{}", first.lsn.get(), last.lsn.get()));
    }
    if let Some(at) = gate.deadline {
        text.push_str(&format!(", which go without it at {at}"));
    }
    if let Some((outcome, at)) = gate.last_outcome.zip(gate.last_at) {
        text.push_str(&format!("; last {} at {at}", outcome.as_str()));
    }
    if let Some(error) = &gate.error {
        text.push_str(&format!("; {}", output::printable(error)));
    }
    text + "\n"
}

/// What a volume's history takes, and when that is too much.
fn grows(history: &HistoryView) -> String {
    let taken = against(history.log_bytes + history.settled_bytes, history.limit);
    let rate = history.bytes_per_day.map(|n| format!(", {} each day", output::size(n)));
    let full = history.full_at.map(|at| format!(", full at {at}"));
    [Some(taken), rate, full].into_iter().flatten().collect()
}

/// What its history takes, and what is done about its limit.
fn history(volume: &VolumeView) -> String {
    let taken = output::size(volume.history_bytes);
    match volume.history_limit.map(|limit| limit.state) {
        None | Some(LimitState::Fits) => taken,
        Some(state) => format!("{taken} {}", state.as_str()),
    }
}

/// `12 GiB of 200 GiB (fits)`.
fn against(bytes: u64, limit: Option<LimitView>) -> String {
    let of = limit.map(|l| format!(" of {} ({})", output::size(l.bytes), l.state.as_str()));
    format!("{}{}", output::size(bytes), of.unwrap_or_default())
}

/// How long ago all of it was read and found sound, or how much was not.
fn verified_as(volume: &VolumeView, now: WallTime) -> String {
    match (volume.damaged, volume.verified) {
        (0, None) => "never".to_owned(),
        (0, Some(proof)) => format!("{} ago", output::seconds(now.since(proof.checked).as_secs_f64())),
        (damaged, _) => format!("{damaged} DAMAGED"),
    }
}

fn details(volume: &VolumeView) -> String {
    let head = volume
        .head_lsn
        .map_or_else(|| "unknown: the tap cannot be reached".to_owned(), |lsn| lsn.get().to_string());
    let mut text = output::fields(&[
        ("name", volume.name.to_string()),
        ("id", volume.id.to_string()),
        ("size", format!("{} ({} bytes)", output::size(volume.size), volume.size)),
        ("history", against(volume.history_bytes, volume.history_limit)),
        ("state", state(volume)),
        ("head lsn", head),
        ("durable lsn", volume.durable_lsn.get().to_string()),
        ("durable time", output::time(volume.durable_time)),
        ("lag", lag(volume)),
        ("behind", or_dash(volume.lag_bytes.map(output::size))),
        ("baselines", volume.baseline_count.to_string()),
        ("resynced", output::size(volume.resynced_bytes)),
        (
            "verified",
            or_dash(
                volume.verified.map(|p| format!("{}, up to lsn:{} of {}", p.checked, p.lsn.get(), p.time)),
            ),
        ),
        ("damaged", if volume.damaged == 0 { "none known".to_owned() } else { volume.damaged.to_string() }),
        ("clock", clock(volume.clock_offset_seconds)),
        ("gaps", if volume.gaps.is_empty() { "none".to_owned() } else { volume.gaps.len().to_string() }),
    ]);
    if !volume.gaps.is_empty() {
        text.push('\n');
        text.push_str(&gaps(&volume.gaps));
    }
    text
}

fn gaps(gaps: &[GapView]) -> String {
    use cx_api::json::Text as _;
    let rows: Vec<_> = gaps
        .iter()
        .map(|g| {
            [
                g.from_lsn.get().to_string(),
                g.to_lsn.map_or_else(|| "open".to_owned(), |lsn| lsn.get().to_string()),
                output::time(g.from),
                output::time(g.to),
                g.cause.to_text(),
                output::size(g.bytes),
            ]
        })
        .collect();
    output::table(["LOST AFTER LSN", "SOUND FROM LSN", "FROM", "TO", "CAUSE", "COPIED"], &rows)
}

/// The word, with how far a baseline or resync is.
fn state(volume: &VolumeView) -> String {
    let word = volume.state.as_str();
    match &volume.sync {
        Some(sync) => format!("{word} {}%", percent(sync.done_bytes, sync.total_bytes)),
        None => word.to_owned(),
    }
}

/// The source's, beside the gateway's.
fn clock(offset: Option<f64>) -> String {
    match offset {
        None => "not measured".to_owned(),
        Some(offset) if offset.abs() < 0.05 => "right".to_owned(),
        Some(offset) if offset < 0.0 => format!("{} behind", output::seconds(-offset)),
        Some(offset) => format!("{} ahead", output::seconds(offset)),
    }
}

fn lag(volume: &VolumeView) -> String {
    volume.lag_seconds.map_or_else(|| "unknown".to_owned(), output::seconds)
}

fn percent(done: u64, total: u64) -> u128 {
    (u128::from(done) * 100 / u128::from(total.max(1))).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> VolumeView {
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/volume.json")).unwrap()
    }

    #[test]
    fn a_list_has_a_line_each() {
        assert_eq!(
            list(&[golden()], WallTime::EPOCH),
            "NAME   STATE       SIZE    HISTORY  LAG    BEHIND  DURABLE LSN  GAPS  VERIFIED\n\
             web01  resync 50%  64 GiB  3 GiB    0.8 s  16 KiB  1041376      2     2 DAMAGED\n"
        );
    }

    #[test]
    fn a_clock_that_is_wrong_says_which_way() {
        let said = [None, Some(0.01), Some(-3600.0), Some(2.5)].map(clock);
        assert_eq!(said, ["not measured", "right", "60 min behind", "2.5 s ahead"]);
    }

    #[test]
    fn a_limit_is_shown_with_what_is_done_about_it() {
        let seen = |state| {
            history(&VolumeView { history_limit: Some(LimitView { bytes: 4 << 30, state }), ..golden() })
        };
        assert_eq!(seen(LimitState::Fits), "3 GiB");
        assert_eq!(seen(LimitState::Stopped), "3 GiB stopped");
        assert!(details(&golden()).contains("history       3 GiB of 4 GiB (fits)\n"));
    }

    #[test]
    fn a_proof_is_shown_with_its_age() {
        let proof = golden().verified.unwrap();
        let now = proof.checked.plus(std::time::Duration::from_secs(7200));
        let seen = |damaged, verified| verified_as(&VolumeView { damaged, verified, ..golden() }, now);
        assert_eq!(seen(0, Some(proof)), "120 min ago");
        assert_eq!(seen(0, None), "never");
        assert_eq!(seen(3, Some(proof)), "3 DAMAGED");
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        let volume: VolumeView =
            serde_json::from_str(include_str!("../../../../cx/api/tests/golden/volume-unknown.json"))
                .unwrap();
        let text = details(&volume);
        for line in ["state         unknown", "lag           unknown", "gaps          none"] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("the tap cannot be reached"), "{text}");
    }

    #[test]
    fn a_timeline_names_what_is_left() {
        let timeline: TimelineView =
            serde_json::from_str(include_str!("../../../../cx/api/tests/golden/timeline.json")).unwrap();
        let text = timeline_text(&timeline);
        for line in [
            "oldest point       2026-11-20T12:00:00Z  lsn:7",
            "policy             every write 48h, 1m for 7d then archive.sh within 6h; bookmarks 1y",
            "full at            never, as it looks",
            "history            3 GiB of 4 GiB (fits), 128 MiB each day, full at 2026-11-30T12:00:00Z",
            "pinned lsn:7  quarter",
            "note: a hold keeps what was written to db01",
            "short of room: the journal was full",
            "gate after 7d: archive.sh failing, 1 points from lsn:7 to lsn:7, which go without it at 2026-11-22T18:00:00Z; \
             last passed at 2026-11-22T08:00:00Z; the hook ended with exit status: 1; it said: no tape",
            "clock set back at lsn:700: times from 2026-11-22T10:00:00Z to 2026-11-22T11:00:00Z went by twice, and mean \
             the second time",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn gaps_are_shown_with_their_ends() {
        let text = details(&golden());
        assert!(text.contains("100             140             2026-11-22T10:00:00Z  "), "{text}");
        assert!(text.contains("1041376         open            -"), "{text}");
    }
}
