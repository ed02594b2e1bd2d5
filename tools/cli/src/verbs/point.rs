//! `chronogate point`.

use clap::{Args, Subcommand};
use cx_api::{PinCreate, PinView, PointView, paths};
use tap_block::Name;

use super::{Context, Globals, Result};
use crate::output::{self, print, print_json};

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
        volume: Name,
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
        PointCommand::Pin { volume, at, note } => {
            let body = PinCreate { at, note };
            let pin: PinView = context.client.post(&paths::pins(volume.as_str()), &body).await?;
            if context.json() {
                return print_json(&pin);
            }
            print(&format!("{volume}@lsn:{} is pinned\n", pin.lsn.get()))
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
