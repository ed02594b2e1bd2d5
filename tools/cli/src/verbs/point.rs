//! `chronogate point`.

use clap::{Args, Subcommand};
use cx_api::{GroupPointView, PinCreate, PinView, PointView, paths};
use tap_block::Name;

use super::group::place;
use super::{Context, Globals, Result};
use crate::output::{self, Failure, print, print_json};

/// Of `point`.
#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: PointCommand,
}

#[derive(Debug, Subcommand)]
enum PointCommand {
    /// Tells which LSN and time a POINT is; waits up to 10 s for one that is not durable yet
    Resolve {
        /// The volume
        volume: Name,
        /// now, an RFC 3339 time, a time ago such as -10m, lsn:N, mark:N of a group, or a bookmark's name
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        at: String,
    },
    /// Keeps a point for good: it is never thinned out, until it is unpinned
    Pin {
        /// The volume
        #[arg(required_unless_present = "group", conflicts_with = "group")]
        volume: Option<Name>,
        /// In every member of this group: the newest of its points that is not after POINT
        #[arg(long, value_name = "GROUP")]
        group: Option<Name>,
        /// The POINT
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        at: String,
        /// Free text to remember it by
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Makes a pinned point an ordinary one again
    Unpin {
        /// The volume
        #[arg(required_unless_present = "group", conflicts_with = "group")]
        volume: Option<Name>,
        /// In every member of this group that the point was pinned in
        #[arg(long, value_name = "GROUP")]
        group: Option<Name>,
        /// The POINT; of a group its `mark:N` or a bookmark
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        at: String,
    },
}

async fn pin(context: &Context, volume: &Name, at: String, note: String) -> Result<PinView> {
    context.client.post(&paths::pins(volume.as_str()), &PinCreate { at, note }).await
}

/// One point of the group, in each member.
async fn pin_group(context: &Context, group: &Name, at: &str, note: &str) -> Result<()> {
    let path = paths::group_point(group.as_str(), None, Some(at));
    let point: GroupPointView = context.client.get(&path).await?;
    let mut done = String::new();
    for member in &point.members {
        let pinned = pin(context, &member.volume, point.point.clone(), note.to_owned()).await;
        pinned.map_err(|e| e.after(&done))?;
        done += &format!("{} is pinned\n", member.volume);
    }
    if context.json() {
        return print_json(&point);
    }
    print(&format!("pinned in every member: {}", place(&point)))
}

async fn unpin(context: &Context, volume: &Name, at: &str) -> Result<()> {
    let body = PinCreate { at: at.to_owned(), note: String::new() };
    context.client.post_for_nothing(&paths::unpin(volume.as_str()), &body).await
}

/// The same point in each member; that it is pinned in some only, or in none any more, is no reason to leave the others.
async fn unpin_group(context: &Context, group: &Name, at: &str) -> Result<()> {
    let path = paths::group_point(group.as_str(), None, Some(at));
    let point: GroupPointView = context.client.get(&path).await?;
    if point.point != at && point.bookmark.as_ref().is_none_or(|name| name.as_str() != at) {
        let what = format!("{at} is no point of {group}: the one before it is {}", point.point);
        return Err(Failure::usage(what).fix("name the mark:N or the bookmark that was pinned"));
    }
    let (mut done, mut failed) = (String::new(), None);
    for member in &point.members {
        match unpin(context, &member.volume, &point.point).await {
            Ok(()) => done += &format!("{} is pinned no more\n", member.volume),
            Err(e) => failed = Some(e),
        }
    }
    if let Some(failed) = failed {
        return Err(failed.after(&done));
    }
    if context.json() {
        return print_json(&point);
    }
    print(&format!("pinned no more in every member: {}", place(&point)))
}

pub(super) async fn run(args: PointArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        PointCommand::Resolve { volume, at } => {
            let point: PointView = context.client.get(&paths::point(volume.as_str(), &at)).await?;
            if context.json() {
                return print_json(&point);
            }
            print(&format!("{}@{at}  lsn:{}  {}\n", point.volume, point.lsn.get(), output::time(point.time)))
        }
        PointCommand::Pin { volume: Some(volume), at, note, .. } => {
            let pin = pin(&context, &volume, at, note).await?;
            if context.json() {
                return print_json(&pin);
            }
            print(&format!("{volume}@lsn:{} is pinned\n", pin.lsn.get()))
        }
        PointCommand::Pin { volume: None, group, at, note } => {
            let group = group.ok_or_else(|| Failure::usage("give a volume, or --group GROUP"))?;
            pin_group(&context, &group, &at, &note).await
        }
        PointCommand::Unpin { volume: Some(volume), at, .. } => {
            unpin(&context, &volume, &at).await?;
            if context.json() {
                return print_json(&serde_json::json!({ "volume": volume.as_str(), "unpinned": at }));
            }
            print(&format!("{volume}@{at} is pinned no more\n"))
        }
        PointCommand::Unpin { volume: None, group, at } => {
            let group = group.ok_or_else(|| Failure::usage("give a volume, or --group GROUP"))?;
            unpin_group(&context, &group, &at).await
        }
    }
}
