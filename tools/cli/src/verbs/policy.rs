//! `chronogate policy` and `chronogate hold`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use cx_api::json::Text as _;
use cx_api::{
    GateView, GroupView, HoldCreate, HoldView, KeptView, Page, PoliciesApply, PolicyPreview, PolicySet,
    PolicySource, PolicyView, Retention, Span, TierView, TimelineView, VolumeView, WhenFull, paths,
};
use serde::{Deserialize, Serialize};
use tap_block::{Name, WallTime};

use super::{Context, Globals, Result};
use crate::output::{self, Failure, print, print_json, say};

/// Of `policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Lists the retention policies in force
    Ls,
    /// Sets the policies that a file names: [general], [group.NAME] for each member of a group, [volume.NAME] for one of its own
    Apply {
        /// A TOML file; - reads standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Only says what would go: nothing is set
        #[arg(long)]
        dry_run: bool,
    },
    /// Says what the policies of a file would let go, and sets nothing
    Preview {
        /// A TOML file; - reads standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Takes a volume's own policy back: the general one counts again
    Reset {
        /// The volume
        #[arg(conflicts_with = "general")]
        volume: Option<Name>,
        /// The general policy becomes the built-in one again, for every volume that has none of its own
        #[arg(long)]
        general: bool,
    },
}

/// A policy file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    general: Option<Retention>,
    /// For each volume that is a member now.
    #[serde(default)]
    group: BTreeMap<String, Retention>,
    #[serde(default)]
    volume: BTreeMap<String, Retention>,
}

/// What a file says.
#[derive(Debug)]
struct Parsed {
    general: Option<Retention>,
    groups: Vec<(Name, Retention)>,
    volumes: Vec<(Name, Retention)>,
}

pub(super) async fn run(args: PolicyArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let policies: Vec<PolicyView> = match args.command {
        PolicyCommand::Ls => context.all(paths::POLICIES).await?,
        PolicyCommand::Preview { file } | PolicyCommand::Apply { file, dry_run: true } => {
            return preview(&context, &read(&file)?).await;
        }
        PolicyCommand::Apply { file, .. } => apply(&context, &read(&file)?).await?,
        PolicyCommand::Reset { volume: None, general: false } => {
            return Err(Failure::usage(
                "give a volume, or --general for the policy of all that have none of their own",
            ));
        }
        PolicyCommand::Reset { volume, .. } => reset(&context, volume).await?,
    };
    if context.json() { print_json(&policies) } else { print(&list(&policies)) }
}

fn read(file: &std::path::Path) -> Result<String> {
    let read = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|e| Failure::usage(format!("{} cannot be read: {e}", file.display())))
}

/// Everything is checked before anything is set.
fn parse(text: &str) -> Result<Parsed> {
    let wrong = |why: String| Failure::usage("the policy file is not one").because(why).fix(EXAMPLE);
    let file: PolicyFile = toml::from_str(text).map_err(|e| {
        let failure = wrong(placed(text, &e));
        if e.message().contains("unknown field `before_drop`") { failure.fix(NO_GATE) } else { failure }
    })?;
    let named = |table: &str, all: BTreeMap<String, Retention>| -> Result<Vec<(Name, Retention)>> {
        let one = |(name, retention): (String, Retention)| match name.parse::<Name>() {
            Ok(name) => Ok((name, retention)),
            Err(e) => Err(wrong(format!("[{table}.{name}]: {e}"))),
        };
        all.into_iter().map(one).collect()
    };
    let (groups, volumes) = (named("group", file.group)?, named("volume", file.volume)?);
    if file.general.is_none() && groups.is_empty() && volumes.is_empty() {
        return Err(wrong("it names no policy".to_owned()));
    }
    Ok(Parsed { general: file.general, groups, volumes })
}

/// The error on one line, with the line of the file that it is about.
fn placed(text: &str, error: &toml::de::Error) -> String {
    let why = error.message().trim_end().replace('\n', ", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    before.map_or(why.clone(), |before| format!("line {}: {why}", before.matches('\n').count() + 1))
}

/// What is to be set: a volume's own policy wins over its group's.
async fn sets(context: &Context, parsed: Parsed) -> Result<Vec<PolicySet>> {
    let set = |volume, retention| PolicySet { volume, retention: Some(retention), check: false };
    let of = |(volume, retention)| set(Some(volume), retention);
    let mut all: Vec<PolicySet> = parsed.general.map(|general| set(None, general)).into_iter().collect();
    for (group, retention) in parsed.groups {
        for volume in members(context, &group).await? {
            let own = parsed.volumes.iter().any(|(named, _)| *named == volume);
            all.extend((!own).then(|| of((volume, retention.clone()))));
        }
    }
    all.extend(parsed.volumes.into_iter().map(of));
    Ok(all)
}

/// The volumes that are members of a group now.
async fn members(context: &Context, group: &Name) -> Result<Vec<Name>> {
    let group: GroupView = context.client.get(&paths::group(group.as_str())).await?;
    let named =
        |name: &String| name.parse().map_err(|e: tap_block::NameError| Failure::internal(e.to_string()));
    group.volumes.iter().map(named).collect()
}

const EXAMPLE: &str = r#"write it as: [general] every_write = "48h", tiers = [{ each = "1m", keep = "7d" }], bookmarks = "1y"; one for each member of a group is [group.NAME], one of its own [volume.NAME]"#;

/// Of `every_write` no gate can be had: what it lets go are single writes, which nobody could be handed as disks in time.
const NO_GATE: &str = r#"only a tier has `before_drop`: write it into one of `tiers`; to hand on all that `every_write` lets go, make the first tier as fine as you need, such as { each = "1s", keep = "49h", before_drop = { hook = "archive.sh", deadline = "6h" } }"#;

/// All at once: by none of them does history go before the others count.
async fn apply(context: &Context, text: &str) -> Result<Vec<PolicyView>> {
    let policies = sets(context, parse(text)?).await?;
    // What goes sooner is said before anything is set.
    compare(context, &policies).await?;
    let wanted = PoliciesApply { policies, check: false };
    let set: Page<PolicyView> = context.client.post(paths::POLICIES_APPLY, &wanted).await?;
    Ok(set.items)
}

/// Says what the policies come to, and what goes sooner than by those in force.
async fn compare(context: &Context, policies: &[PolicySet]) -> Result<()> {
    let wanted = PoliciesApply { policies: policies.to_vec(), check: true };
    let checked: Page<PolicyView> = context.client.post(paths::POLICIES_APPLY, &wanted).await?;
    for (set, now) in policies.iter().zip(&checked.items) {
        say(&comes_to(set, &now.retention));
    }
    Ok(())
}

/// Nothing is set.
async fn preview(context: &Context, text: &str) -> Result<()> {
    let policies = sets(context, parse(text)?).await?;
    compare(context, &policies).await?;
    let wanted = PoliciesApply { policies, check: true };
    let found: Page<PolicyPreview> = context.client.post(paths::POLICIES_PREVIEW, &wanted).await?;
    if context.json() {
        return print_json(&found.items);
    }
    if found.items.is_empty() {
        return print("no volume's policy would change\n");
    }
    let rows: Vec<_> = found.items.iter().map(preview_row).collect();
    let header = ["VOLUME", "POINTS", "GO AT ONCE", "FROM", "TO", "FREES", "LOG THINNED OUT", "ABOVE LIMIT"];
    print(&output::table(header, &rows))
}

fn preview_row(p: &PolicyPreview) -> [String; 8] {
    let kept =
        |point: Option<KeptView>| output::or_dash(point.map(|p| format!("lsn:{} {}", p.lsn.get(), p.time)));
    let about = if p.is_estimate { "about " } else { "" };
    [
        p.volume.to_string(),
        p.point_count.to_string(),
        p.goes.to_string(),
        kept(p.first),
        kept(p.last),
        format!("{about}{}", output::size(p.freed_bytes)),
        output::size(p.log_bytes),
        output::size(p.over_limit_bytes),
    ]
}

/// A volume goes by the general policy again, or all that have none of their own by the built-in one.
async fn reset(context: &Context, volume: Option<Name>) -> Result<Vec<PolicyView>> {
    let wanted = PolicySet { volume, retention: None, check: false };
    let now: PolicyView =
        context.client.post(paths::POLICIES, &PolicySet { check: true, ..wanted.clone() }).await?;
    let then = match &wanted.volume {
        None => Retention::built_in(),
        Some(_) => {
            let all: Vec<PolicyView> = context.all(paths::POLICIES).await?;
            let general = all.into_iter().find(|policy| policy.volume.is_none());
            general.map_or_else(Retention::built_in, |policy| policy.retention)
        }
    };
    say(&comes_to(&PolicySet { retention: Some(then), ..wanted.clone() }, &now.retention));
    Ok(vec![context.client.post(paths::POLICIES, &wanted).await?])
}

fn of_whom(volume: Option<&Name>) -> String {
    volume.map_or_else(|| "the general policy".to_owned(), |name| format!("the policy of {name}"))
}

/// What a policy comes to with all that it does not say, and what goes sooner than `now`.
fn comes_to(set: &PolicySet, now: &Retention) -> String {
    let Some(wanted) = &set.retention else { return String::new() };
    let then = tiers(wanted);
    let then = if then == "-" { "then nothing".to_owned() } else { format!("then {then}") };
    let whom = of_whom(set.volume.as_ref());
    let (every, bookmarks) = (wanted.every_write.to_text(), wanted.bookmarks.to_text());
    let mut text = format!("{whom}: every write {every}, {then}; bookmarks {bookmarks}\n");
    let sooner = sooner(wanted, now);
    if !sooner.is_empty() {
        text += &format!("  sooner than now: {}\n", sooner.join(", "));
    }
    text
}

/// What `wanted` lets go sooner than `now` does.
fn sooner(wanted: &Retention, now: &Retention) -> Vec<String> {
    // As long as there is a point each so often.
    let kept = |each: Duration| {
        let fine = wanted.tiers.iter().filter(|tier| tier.each.0 <= each).map(|tier| tier.keep.0);
        fine.chain([wanted.every_write.0]).max().unwrap_or_default()
    };
    let mut all = Vec::new();
    if wanted.every_write < now.every_write {
        let (to, from) = (wanted.every_write.to_text(), now.every_write.to_text());
        all.push(format!("single writes after {to} instead of {from}"));
    }
    for tier in &now.tiers {
        let left = kept(tier.each.0);
        if left < tier.keep.0 {
            let (each, to, from) = (tier.each.to_text(), Span(left).to_text(), tier.keep.to_text());
            all.push(format!("a point each {each} after {to} instead of {from}"));
        }
    }
    if wanted.bookmarks < now.bookmarks {
        let (to, from) = (wanted.bookmarks.to_text(), now.bookmarks.to_text());
        all.push(format!("bookmarks after {to} instead of {from}"));
    }
    if let Some(limit) = wanted.limit.filter(|limit| now.limit.is_none_or(|before| limit.0 < before.0)) {
        all.push(format!("whatever does not fit into {}", limit.to_text()));
    }
    all
}

fn list(policies: &[PolicyView]) -> String {
    let rows: Vec<_> = policies
        .iter()
        .map(|p| {
            [
                p.volume.as_ref().map_or_else(|| "(general)".to_owned(), ToString::to_string),
                match p.source {
                    PolicySource::BuiltIn => "built in",
                    PolicySource::General => "general",
                    PolicySource::Own => "its own",
                }
                .to_owned(),
                p.retention.every_write.to_text(),
                tiers(&p.retention),
                p.retention.bookmarks.to_text(),
                match p.retention.when_full {
                    WhenFull::Thin => "thin",
                    WhenFull::Stop => "stop",
                }
                .to_owned(),
                output::or_dash(p.retention.limit.map(|limit| limit.to_text())),
            ]
        })
        .collect();
    output::table(["VOLUME", "POLICY", "EVERY WRITE", "THEN", "BOOKMARKS", "WHEN FULL", "LIMIT"], &rows)
}

/// `1m for 7d, 1h for 30d then archive.sh within 6h`.
pub(super) fn tiers(retention: &Retention) -> String {
    let gate = |g: &GateView| format!(" then {} within {}", g.hook, g.deadline.to_text());
    let tier = |t: &TierView| {
        let gate = t.before_drop.as_ref().map(gate).unwrap_or_default();
        format!("{} for {}{gate}", t.each.to_text(), t.keep.to_text())
    };
    let tiers = retention.tiers.iter().map(tier);
    let text = tiers.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Of `hold`.
#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: HoldCommand,
}

#[derive(Debug, Subcommand)]
enum HoldCommand {
    /// Keeps every write of a stretch of history until a date; nobody can take it back
    Create {
        /// The volume
        #[arg(required_unless_present = "group", conflicts_with = "group")]
        volume: Option<Name>,
        /// Each volume that is a member of this group now
        #[arg(long, value_name = "GROUP")]
        group: Option<Name>,
        /// The date, RFC 3339
        #[arg(long, value_name = "TIME", value_parser = time)]
        until: WallTime,
        /// From this time on; the oldest point when not given
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Option<WallTime>,
        /// Up to this time; the date when not given
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: Option<WallTime>,
        /// All history, up to the date: said when neither --from nor --to is given
        #[arg(long, conflicts_with_all = ["from", "to"])]
        all: bool,
        /// Free text to remember it by
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Lists the holds in force
    Ls {
        /// Of this volume alone
        volume: Option<Name>,
    },
}

fn time(text: &str) -> std::result::Result<WallTime, String> {
    WallTime::from_text(text)
}

pub(super) async fn hold(args: HoldArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        HoldCommand::Create { volume, group, until, from, to, all, note } => {
            hold_create(&context, (volume, group), HoldCreate { from, to, until, note, all }).await
        }
        HoldCommand::Ls { volume } => hold_list(&context, volume).await,
    }
}

/// A hold, and of which volume.
#[derive(Serialize)]
struct Held {
    volume: String,
    #[serde(flatten)]
    hold: HoldView,
}

async fn hold_list(context: &Context, volume: Option<Name>) -> Result<()> {
    let volumes = match volume {
        Some(volume) => vec![volume],
        None => context.all::<VolumeView>(paths::VOLUMES).await?.into_iter().map(|v| v.name).collect(),
    };
    let mut all: Vec<Held> = Vec::new();
    for volume in volumes {
        let timeline: TimelineView = context.client.get(&paths::timeline(volume.as_str())).await?;
        all.extend(timeline.holds.into_iter().map(|hold| Held { volume: volume.to_string(), hold }));
    }
    if context.json() {
        return print_json(&all);
    }
    let row = |held: &Held| {
        let Held { volume, hold } = held;
        let from = if hold.from == WallTime::EPOCH { "-".to_owned() } else { hold.from.to_string() };
        [volume.clone(), from, hold.to.to_string(), hold.until.to_string(), hold.note.clone()]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    print(&output::table(["VOLUME", "FROM", "TO", "UNTIL", "NOTE"], &rows))
}

async fn hold_create(
    context: &Context,
    (volume, group): (Option<Name>, Option<Name>),
    body: HoldCreate,
) -> Result<()> {
    let of_group = group.is_some();
    let volumes = match (volume, group) {
        (Some(volume), _) => vec![volume],
        (None, Some(group)) => members(context, &group).await?,
        (None, None) => return Err(Failure::usage("give a volume, or --group GROUP")),
    };
    let (mut holds, mut text) = (Vec::new(), String::new());
    for volume in volumes {
        let made = context.client.post(&paths::holds(volume.as_str()), &body).await;
        let hold: HoldView = made.map_err(|e: Failure| e.after(&text))?;
        text += &format!("{volume} is held from {} to {} until {}\n", hold.from, hold.to, hold.until);
        holds.push(hold);
    }
    match (context.json(), holds.as_slice()) {
        (true, [hold]) if !of_group => print_json(hold),
        (true, _) => print_json(&holds),
        (false, _) => print(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_general_and_own_policies() {
        let text = r#"
            [general]
            every_write = "48h"
            tiers = [{ each = "1m", keep = "7d" }, { each = "1h", keep = "30d" }]
            [volume.web01]
            every_write = "1h"
            when_full = "stop"
            limit = "200GiB"
            [group.db]
            every_write = "2h"
            [volume.web02]
            every_write = "1h"
            tiers = [{ each = "1h", keep = "30d", before_drop = { hook = "archive.sh", deadline = "6h" } }]
            when_full = "purge"
        "#;
        let parsed = parse(text).unwrap();
        assert_eq!((parsed.volumes.len(), parsed.volumes[0].0.as_str()), (2, "web01"));
        let own = &parsed.volumes[0].1;
        assert_eq!((own.when_full, own.bookmarks.to_text()), (WhenFull::Stop, "1y".to_owned()));
        assert_eq!(own.limit.map(|limit| limit.0), Some(200 << 30));
        let other = &parsed.volumes[1].1;
        assert_eq!((other.when_full, other.limit), (WhenFull::Thin, None));
        assert_eq!(tiers(other), "1h for 30d then archive.sh within 6h");
        assert_eq!(tiers(parsed.general.as_ref().unwrap()), "1m for 7d, 1h for 30d");
        assert_eq!((parsed.groups.len(), parsed.groups[0].0.as_str()), (1, "db"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_an_example() {
        for bad in [
            "",
            "every_write = \"1h\"",
            "[general]\nevery_write = \"soon\"",
            "[volume.\"a b\"]\nevery_write = \"1h\"",
            "[group.\"a b\"]\nevery_write = \"1h\"",
        ] {
            let failure = parse(bad).unwrap_err();
            assert!(failure.fix.contains("[general]") && !failure.why.is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_gate_where_there_is_none_is_told_where_there_is_one() {
        let gate = "before_drop = { hook = \"archive.sh\", deadline = \"6h\" }";
        let failure = parse(&format!("[general]\nevery_write = \"48h\"\n{gate}\n")).unwrap_err();
        assert!(failure.fix.contains("only a tier has `before_drop`"), "{}", failure.fix);
        let told = format!(
            "[general]\nevery_write = \"48h\"\ntiers = [{{ each = \"1s\", keep = \"49h\", {gate} }}]"
        );
        assert!(parse(&told).is_ok(), "what is told is a policy");
    }

    #[test]
    fn errors_of_a_file_stand_on_one_line() {
        let failure = parse("[general]\nevery_write = \"1h\"\nbookmark = \"1y\"\n").unwrap_err();
        assert!(failure.why.starts_with("line 3: ") && !failure.why.contains('\n'), "{}", failure.why);
    }

    #[test]
    fn what_a_policy_comes_to_and_lets_go_sooner_is_said() {
        let of = |text: &str| parse(&format!("[general]\n{text}")).unwrap().general.unwrap();
        let now = of(
            "every_write = \"48h\"\ntiers = [{ each = \"1m\", keep = \"7d\" }, { each = \"1h\", keep = \"30d\" }]",
        );
        let set = |text: &str| PolicySet { volume: None, retention: Some(of(text)), check: false };
        let said = comes_to(&set("every_write = \"72h\""), &now);
        assert_eq!(
            said,
            "the general policy: every write 3d, then nothing; bookmarks 1y\n  sooner than now: a point each 1m after 3d \
             instead of 7d, a point each 1h after 3d instead of 30d\n"
        );
        let more = comes_to(&set("every_write = \"60d\"\nlimit = \"1GiB\""), &now);
        assert!(more.ends_with("sooner than now: whatever does not fit into 1GiB\n"), "{more}");
        assert!(!comes_to(&set("every_write = \"60d\""), &now).contains("sooner"));
    }
}
