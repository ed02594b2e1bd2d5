//! `chronogate volume`.

use clap::{Args, Subcommand};
use cx_api::{GapView, VolumeView, paths};
use tap_block::Name;

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
}

pub(super) async fn run(args: VolumeArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        VolumeCommand::Ls => {
            let volumes: Vec<VolumeView> = context.all(paths::VOLUMES).await?;
            if context.json() { print_json(&volumes) } else { print(&list(&volumes)) }
        }
        VolumeCommand::Show { volume } => {
            let volume: VolumeView = context.client.get(&paths::volume(volume.as_str())).await?;
            if context.json() { print_json(&volume) } else { print(&details(&volume)) }
        }
    }
}

/// One line each.
pub(super) fn list(volumes: &[VolumeView]) -> String {
    let rows: Vec<_> = volumes
        .iter()
        .map(|v| {
            [
                v.name.to_string(),
                state(v),
                output::size(v.size),
                lag(v),
                or_dash(v.lag_bytes.map(output::size)),
                v.durable_lsn.get().to_string(),
                v.gaps.len().to_string(),
            ]
        })
        .collect();
    output::table(["NAME", "STATE", "SIZE", "LAG", "BEHIND", "DURABLE LSN", "GAPS"], &rows)
}

fn details(volume: &VolumeView) -> String {
    let head = volume
        .head_lsn
        .map_or_else(|| "unknown: the tap cannot be reached".to_owned(), |lsn| lsn.get().to_string());
    let mut text = output::fields(&[
        ("name", volume.name.to_string()),
        ("id", volume.id.to_string()),
        ("size", format!("{} ({} bytes)", output::size(volume.size), volume.size)),
        ("state", state(volume)),
        ("head lsn", head),
        ("durable lsn", volume.durable_lsn.get().to_string()),
        ("durable time", output::time(volume.durable_time)),
        ("lag", lag(volume)),
        ("behind", or_dash(volume.lag_bytes.map(output::size))),
        ("baselines", volume.baseline_count.to_string()),
        ("resynced", output::size(volume.resynced_bytes)),
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
            list(&[golden()]),
            "NAME   STATE       SIZE    LAG    BEHIND  DURABLE LSN  GAPS\n\
             web01  resync 50%  64 GiB  0.8 s  16 KiB  1041376      2\n"
        );
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
    fn gaps_are_shown_with_their_ends() {
        let text = details(&golden());
        assert!(text.contains("100             140             2026-11-22T10:00:00Z  "), "{text}");
        assert!(text.contains("1041376         open            -"), "{text}");
    }
}
