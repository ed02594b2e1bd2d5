//! `chronogate status`.

use clap::Args;
use cx_api::{StatusView, paths};

use super::{Context, Globals, Result, volume};
use crate::output::{self, or_dash, print, print_json};

/// Of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    globals: Globals,
}

pub(super) async fn run(args: StatusArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let status: StatusView = context.client.get(paths::STATUS).await?;
    if context.json() { print_json(&status) } else { print(&summary(&status)) }
}

fn summary(status: &StatusView) -> String {
    let journal = &status.journal;
    let up = output::seconds(status.now.since(status.started).as_secs_f64());
    let mut text = output::fields(&[
        ("gateway", format!("{}, version {}, up {up}", status.health.as_str(), status.version)),
        ("nbd", or_dash((!status.nbd.is_empty()).then(|| status.nbd.join(" ")))),
        (
            "in use",
            format!(
                "{} images, {} connections, {} jobs",
                status.images, status.nbd_connections, status.jobs_running
            ),
        ),
        (
            "journal",
            format!(
                "{} in {} segments, {} records, {} free",
                output::size(journal.bytes),
                journal.segments,
                journal.records,
                or_dash(journal.free_bytes.map(output::size))
            ),
        ),
        (
            "damaged",
            match journal.damaged {
                0 => "none".to_owned(),
                n => format!("{n} places: their reads are refused"),
            },
        ),
    ]);
    for reason in &status.reasons {
        text.push_str(&format!("! {}\n", output::printable(reason)));
    }
    text.push('\n');
    text.push_str(&volume::list(&status.volumes, status.now));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_above_the_volumes() {
        let golden = include_str!("../../../../cx/api/tests/golden/status.json");
        let text = summary(&serde_json::from_str(golden).unwrap());
        assert!(text.starts_with("gateway  degraded, version 0.1.0, up 60 min\n"), "{text}");
        let (above, below) = text.split_once("\n\n").unwrap();
        assert!(above.contains("! web01: a resync is running; wait for its end"), "{text}");
        assert!(below.starts_with("NAME ") && below.contains("web01"), "{text}");
    }
}
