//! `chronogate store`.

use std::time::Duration;

use clap::{Args, Subcommand};
use cx_api::json::Text as _;
use cx_api::{ElapsedConfirm, ElapsedView, Span, paths};

use super::{Context, Globals, Result};
use crate::output::{self, or_dash, print, print_json};

/// Of `store`.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Shows what went by while the gateway was down and is not counted for retention and holds; counts it with --yes
    ConfirmTime {
        /// It did go by: the machine's clock is right. History ages by it at once, holds end, and nothing takes that back
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(args: StoreArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let StoreCommand::ConfirmTime { yes } = args.command;
    let mut elapsed: ElapsedView = context.client.get(paths::ELAPSED).await?;
    let seconds = elapsed.creditable_seconds;
    if yes && seconds > 0 {
        elapsed = context.client.post(paths::ELAPSED, &ElapsedConfirm { seconds }).await?;
    }
    if context.json() {
        return print_json(&elapsed);
    }
    match (yes, seconds) {
        (_, 0) => print(&format!("{}there is nothing to confirm\n", shown(&elapsed))),
        (true, _) => print(&format!("{}{} are counted now\n", shown(&elapsed), span(seconds))),
        (false, _) => print(&format!("{}{}", shown(&elapsed), asked(&elapsed))),
    }
}

fn shown(elapsed: &ElapsedView) -> String {
    output::fields(&[
        ("the store's clock", elapsed.age.to_string()),
        ("the machine's clock", elapsed.machine.to_string()),
        ("went on while down", or_dash(elapsed.went_seconds.map(span))),
        ("not counted of it", span(elapsed.uncounted_seconds)),
        ("may be confirmed", span(elapsed.creditable_seconds)),
    ])
}

fn asked(elapsed: &ElapsedView) -> String {
    let holds = elapsed.holds_ending.iter().map(|hold| format!("this hold would be over: {hold}\n"));
    let what = span(elapsed.creditable_seconds);
    format!(
        "{}if the machine's clock is right, and {what} did go by: chronogate store confirm-time --yes\n",
        holds.collect::<String>()
    )
}

fn span(seconds: u64) -> String {
    Span(Duration::from_secs(seconds)).to_text()
}
