//! `chronogate bookmark`.

use std::time::Duration;

use clap::{Args, Subcommand};
use cx_api::json::Text as _;
use cx_api::{BookmarkCreate, BookmarkView, Code, GroupPointView, VolumeView, paths};
use tap_block::{Consistency, Name};

use super::group::place;
use super::{Context, Globals, Result, parse};
use crate::output::{self, Failure, Progress, print, print_json};

/// How often a wait looks at what it waits for.
const GLANCE: Duration = Duration::from_millis(500);

/// Of `bookmark`.
#[derive(Debug, Args)]
pub(crate) struct BookmarkArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: BookmarkCommand,
}

#[derive(Debug, Subcommand)]
enum BookmarkCommand {
    /// Marks this moment: every write acknowledged before is in it
    Create(CreateArgs),
    /// Lists the bookmarks of a volume, oldest first
    Ls {
        /// The volume
        volume: Name,
    },
    /// Removes a bookmark; its point is then kept as any other of its age, or not
    Rm(RmArgs),
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
struct RmArgs {
    /// The volume
    #[arg(required_unless_present = "group", conflicts_with = "group")]
    volume: Option<Name>,
    /// The bookmark's name
    #[arg(required = true)]
    name: Name,
    /// In every member of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<Name>,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
struct CreateArgs {
    /// The volume
    #[arg(required_unless_present = "group", conflicts_with = "group")]
    volume: Option<Name>,
    /// The bookmark's name, unique on its volume
    #[arg(required = true)]
    name: Name,
    /// In every member of this group, at one moment
    #[arg(long, value_name = "GROUP")]
    group: Option<Name>,
    /// How long to wait for a baseline or resync to end
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::duration)]
    wait: Duration,
    /// Free text to remember it by
    #[arg(long, default_value = "")]
    note: String,
    /// What you have made sure of: crash, filesystem (frozen) or application (quiesced)
    #[arg(long, value_name = "LEVEL", default_value = "crash", value_parser = consistency)]
    consistency: Consistency,
}

fn consistency(text: &str) -> std::result::Result<Consistency, String> {
    Consistency::from_text(text)
}

pub(super) async fn run(args: BookmarkArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        BookmarkCommand::Create(args) => create(&context, args).await,
        BookmarkCommand::Ls { volume } => {
            let bookmarks: Vec<BookmarkView> = context.all(&paths::bookmarks(volume.as_str())).await?;
            if context.json() { print_json(&bookmarks) } else { print(&list(&bookmarks)) }
        }
        BookmarkCommand::Rm(args) => remove(&context, args).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    let whole_seconds = args.wait.as_secs() + u64::from(args.wait.subsec_nanos() > 0);
    let body = BookmarkCreate {
        name: args.name,
        consistency: args.consistency,
        note: args.note,
        wait_seconds: u32::try_from(whole_seconds).unwrap_or(u32::MAX),
    };
    let client = context.client.patient(args.wait);
    let volume = match (args.volume, args.group) {
        (Some(volume), _) => volume,
        (None, Some(group)) => {
            let point: GroupPointView = client.post(&paths::group_bookmarks(group.as_str()), &body).await?;
            return if context.json() { print_json(&point) } else { print(&place(&point)) };
        }
        (None, None) => return Err(Failure::usage("give a volume, or --group GROUP")),
    };
    let path = paths::bookmarks(volume.as_str());
    // Whichever ends first: the glances never do.
    let bookmark: BookmarkView = tokio::select! {
        made = client.post(&path, &body) => made?,
        never = watch(context, &volume) => match never {},
    };
    let lsn = bookmark.lsn.get();
    if context.json() {
        print_json(&bookmark)?;
    } else {
        print(&format!("{}@{}  lsn:{lsn}  {}\n", bookmark.volume, bookmark.name, bookmark.time))?;
    }
    if bookmark.selectable { Ok(()) } else { Err(under_way(&bookmark)) }
}

/// It is made, and lies in no gateway yet, or within a sync.
fn under_way(bookmark: &BookmarkView) -> Failure {
    let (volume, name) = (&bookmark.volume, &bookmark.name);
    Failure::new(
        Code::NotYetDurable.exit_status(),
        format!("{volume}@{name} is made, and cannot be opened yet"),
    )
    .because(
        "the gateway is behind, takes nothing at present, or copies the disk anew; until it has the bookmark, that can be lost with \
         all that is under way",
    )
    .fix(format!("see what `chronogate status` says; `chronogate bookmark ls {volume}` lists it once it is kept"))
}

async fn remove(context: &Context, args: RmArgs) -> Result<()> {
    let name = args.name.as_str();
    let (path, of) = match (args.volume, args.group) {
        (Some(volume), _) => (paths::bookmark(volume.as_str(), name), volume),
        (None, Some(group)) => (paths::group_bookmark(group.as_str(), name), group),
        (None, None) => return Err(Failure::usage("give a volume, or --group GROUP")),
    };
    context.client.delete(&path).await?;
    if context.json() {
        return print_json(&serde_json::json!({ "of": of.as_str(), "removed": name }));
    }
    print(&format!("{of}@{name} is removed\n"))
}

/// Shows what a bookmark waits for, until it is made.
async fn watch(context: &Context, volume: &Name) -> std::convert::Infallible {
    let mut progress = None;
    loop {
        tokio::time::sleep(GLANCE).await;
        // A glance that fails shows nothing: the bookmark itself will say what is wrong.
        let seen = context.client.get::<VolumeView>(&paths::volume(volume.as_str())).await;
        let Some(sync) = seen.ok().and_then(|v| v.sync) else { continue };
        let what = || format!("waiting for the {} of {volume}", sync.cause.to_text());
        progress.get_or_insert_with(|| Progress::new(what())).at(sync.done_bytes, sync.total_bytes);
    }
}

fn list(bookmarks: &[BookmarkView]) -> String {
    let rows: Vec<_> = bookmarks
        .iter()
        .map(|b| {
            [
                b.name.to_string(),
                b.lsn.get().to_string(),
                b.time.to_string(),
                b.consistency.to_text(),
                if b.selectable { "yes" } else { "no" }.to_owned(),
                b.note.clone(),
            ]
        })
        .collect();
    output::table(["NAME", "LSN", "TIME", "CONSISTENCY", "OPENS", "NOTE"], &rows)
}

#[cfg(test)]
mod tests {
    use cx_api::Page;

    use super::*;

    #[test]
    fn a_list_has_a_line_each() {
        let golden = include_str!("../../../../cx/api/tests/golden/bookmarks.json");
        let page: Page<BookmarkView> = serde_json::from_str(golden).unwrap();
        assert_eq!(
            list(&page.items),
            "NAME            LSN  TIME                            CONSISTENCY  OPENS  NOTE\n\
             before-upgrade  8    2026-11-22T12:00:00.000000001Z  filesystem   yes    apt full-upgrade\n"
        );
    }
}
