//! `chronogate point`.

use clap::{Args, Subcommand};
use cx_api::{PointView, paths};
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
        /// now, an RFC 3339 time, a time ago such as -10m, lsn:N, or a bookmark's name
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        at: String,
    },
}

pub(super) async fn run(args: PointArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let PointCommand::Resolve { volume, at } = args.command;
    let point: PointView = context.client.get(&paths::point(volume.as_str(), &at)).await?;
    if context.json() {
        return print_json(&point);
    }
    print(&format!("{}@{at}  lsn:{}  {}\n", point.volume, point.lsn.get(), output::time(point.time)))
}
