//! `chronogate store`.

use std::time::Duration;

use clap::{Args, Subcommand};
use cx_api::json::Text as _;
use cx_api::{ElapsedConfirm, ElapsedView, Span, StoreGone, StoresView, paths};

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
    /// Lists the stores that the gateway has had: the one in use, and those that were here
    Ls,
    /// Says that a store that was here is gone for good: nobody is told any more that it is missed
    ConfirmGone {
        /// Its id, as `store ls` shows it
        store: String,
    },
}

pub(super) async fn run(args: StoreArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        StoreCommand::ConfirmTime { yes } => confirm_time(&context, yes).await,
        StoreCommand::Ls => show(&context, &context.client.get(paths::STORES).await?),
        StoreCommand::ConfirmGone { store } => {
            show(&context, &context.client.post(paths::STORES, &StoreGone { store }).await?)
        }
    }
}

fn show(context: &Context, stores: &StoresView) -> Result<()> {
    if context.json() {
        return print_json(stores);
    }
    let mut rows = vec![[stores.store.clone(), "in use".to_owned(), "-".to_owned(), "-".to_owned()]];
    rows.extend(stores.others.iter().map(|other| {
        let state = if other.confirmed_gone { "confirmed gone" } else { "MISSED" };
        [other.store.clone(), state.to_owned(), other.last.to_string(), other.known_by.clone()]
    }));
    print(&output::table(["STORE", "STATE", "LAST TOLD", "KNOWN BY"], &rows))
}

async fn confirm_time(context: &Context, yes: bool) -> Result<()> {
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
