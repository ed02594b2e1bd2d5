//! `chronogate status`.

use clap::Args;
use cx_api::{JournalView, StatusView, paths};

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
        ("damaged", damaged(journal)),
    ]);
    for reason in &status.reasons {
        text.push_str(&format!("! {}\n", output::printable(reason)));
    }
    text.push('\n');
    text.push_str(&volume::list(&status.volumes, status.now));
    text
}

/// How many places, and what that costs.
fn damaged(journal: &JournalView) -> String {
    let (all, refused) = (journal.damaged, journal.refused.min(journal.damaged));
    let places = output::counted(all, "place");
    match (all, refused) {
        (0, _) => "none".to_owned(),
        (_, 0) => format!("{places}, and no read is refused for that"),
        (1, _) => format!("{places}: its reads are refused"),
        (_, refused) if refused == all => format!("{places}: their reads are refused"),
        (_, refused) => format!("{places}: reads of {refused} of them are refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_what_it_costs() {
        let said = |damaged, refused| {
            let (segments, bytes, free_bytes, records) = (1, 2, None, 3);
            super::damaged(&JournalView { segments, bytes, free_bytes, records, damaged, refused })
        };
        assert_eq!(said(0, 0), "none");
        assert_eq!(said(1, 0), "1 place, and no read is refused for that");
        assert_eq!(said(1, 1), "1 place: its reads are refused");
        assert_eq!(said(3, 1), "3 places: reads of 1 of them are refused");
        assert_eq!(said(3, 3), "3 places: their reads are refused");
    }

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
