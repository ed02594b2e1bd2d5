//! `chronogate policy` and `chronogate hold`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use cx_api::json::Text as _;
use cx_api::{
    GateView, HoldCreate, HoldView, PolicySet, PolicySource, PolicyView, Retention, TierView, WhenFull, paths,
};
use serde::Deserialize;
use tap_block::{Name, WallTime};

use super::{Context, Globals, Result};
use crate::output::{self, Failure, print, print_json};

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
    /// Sets the policies that a file names: [general], and [volume.NAME] for one of its own
    Apply {
        /// A TOML file; - reads standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Takes a volume's own policy back: the general one counts again
    Reset {
        /// The volume
        volume: Name,
    },
}

/// A policy file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    general: Option<Retention>,
    #[serde(default)]
    volume: BTreeMap<String, Retention>,
}

pub(super) async fn run(args: PolicyArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let policies: Vec<PolicyView> = match args.command {
        PolicyCommand::Ls => context.all(paths::POLICIES).await?,
        PolicyCommand::Apply { file } => apply(&context, &read(&file)?).await?,
        PolicyCommand::Reset { volume } => {
            let wanted = PolicySet { volume: Some(volume), retention: None };
            vec![context.client.post(paths::POLICIES, &wanted).await?]
        }
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
fn parse(text: &str) -> Result<Vec<PolicySet>> {
    let wrong = |why: String| Failure::usage("the policy file is not one").because(why).fix(EXAMPLE);
    let file: PolicyFile = toml::from_str(text).map_err(|e| {
        let failure = wrong(e.to_string());
        if e.message().contains("unknown field `before_drop`") { failure.fix(NO_GATE) } else { failure }
    })?;
    let general = file.general.map(|retention| PolicySet { volume: None, retention: Some(retention) });
    let mut all: Vec<PolicySet> = general.into_iter().collect();
    for (name, retention) in file.volume {
        let volume =
            name.parse().map_err(|e: tap_block::NameError| wrong(format!("[volume.{name}]: {e}")))?;
        all.push(PolicySet { volume: Some(volume), retention: Some(retention) });
    }
    if all.is_empty() {
        return Err(wrong("it names no policy".to_owned()));
    }
    Ok(all)
}

const EXAMPLE: &str = r#"write it as: [general] every_write = "48h", tiers = [{ each = "1m", keep = "7d" }], bookmarks = "1y"; one of its own is [volume.NAME]"#;

/// Of `every_write` no gate can be had: what it lets go are single writes, which nobody could be handed as disks in time.
const NO_GATE: &str = r#"only a tier has `before_drop`: write it into one of `tiers`; to hand on all that `every_write` lets go, make the first tier as fine as you need, such as { each = "1s", keep = "49h", before_drop = { hook = "archive.sh", deadline = "6h" } }"#;

async fn apply(context: &Context, text: &str) -> Result<Vec<PolicyView>> {
    let mut views = Vec::new();
    for wanted in parse(text)? {
        views.push(context.client.post(paths::POLICIES, &wanted).await?);
    }
    Ok(views)
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
        volume: Name,
        /// The date, RFC 3339
        #[arg(long, value_name = "TIME", value_parser = time)]
        until: WallTime,
        /// From this time on; the oldest point when not given
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Option<WallTime>,
        /// Up to this time; the date when not given
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: Option<WallTime>,
        /// Free text to remember it by
        #[arg(long, default_value = "")]
        note: String,
    },
}

fn time(text: &str) -> std::result::Result<WallTime, String> {
    WallTime::from_text(text)
}

pub(super) async fn hold(args: HoldArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let HoldCommand::Create { volume, until, from, to, note } = args.command;
    let body = HoldCreate { from, to, until, note };
    let hold: HoldView = context.client.post(&paths::holds(volume.as_str()), &body).await?;
    if context.json() {
        return print_json(&hold);
    }
    print(&format!("{volume} is held from {} to {} until {}\n", hold.from, hold.to, hold.until))
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
            [volume.web02]
            every_write = "1h"
            tiers = [{ each = "1h", keep = "30d", before_drop = { hook = "archive.sh", deadline = "6h" } }]
            when_full = "purge"
        "#;
        let sets = parse(text).unwrap();
        assert_eq!(sets.len(), 3);
        assert_eq!((sets[0].volume.as_ref(), sets[1].volume.as_ref().unwrap().as_str()), (None, "web01"));
        let own = sets[1].retention.as_ref().unwrap();
        assert_eq!((own.when_full, own.bookmarks.to_text()), (WhenFull::Stop, "1y".to_owned()));
        assert_eq!(own.limit.map(|limit| limit.0), Some(200 << 30));
        let other = sets[2].retention.as_ref().unwrap();
        assert_eq!((other.when_full, other.limit), (WhenFull::Thin, None));
        assert_eq!(tiers(other), "1h for 30d then archive.sh within 6h");
        assert_eq!(tiers(sets[0].retention.as_ref().unwrap()), "1m for 7d, 1h for 30d");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_an_example() {
        for bad in [
            "",
            "every_write = \"1h\"",
            "[general]\nevery_write = \"soon\"",
            "[volume.\"a b\"]\nevery_write = \"1h\"",
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
}
