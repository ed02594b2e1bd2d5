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
        volume: Name,
        /// The POINT
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
    for member in &point.members {
        pin(context, &member.volume, point.point.clone(), note.to_owned()).await?;
    }
    if context.json() {
        return print_json(&point);
    }
    print(&format!("pinned in every member: {}", place(&point)))
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
        PointCommand::Unpin { volume, at } => {
            let body = PinCreate { at: at.clone(), note: String::new() };
            context.client.post_for_nothing(&paths::unpin(volume.as_str()), &body).await?;
            if context.json() {
                return print_json(&serde_json::json!({ "volume": volume.as_str(), "unpinned": at }));
            }
            print(&format!("{volume}@{at} is pinned no more\n"))
        }
    }
}
