//! The operator verbs. Each asks the API and prints what it answers; none knows how the gateway works.
//!
//! Exit codes are a contract with scripts: [`cx_api::ExitStatus`].

mod bookmark;
mod export;
mod group;
mod image;
mod job;
mod parse;
mod point;
mod policy;
mod restore;
mod session;
mod status;
mod store;
mod verify;
mod volume;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use cx_api::Page;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::output::{Failure, OutputFormat};

pub(crate) use parse::{
    PackAfter, duration as parse_duration, pack_after as parse_pack_after, size as parse_size,
};

type Result<T> = std::result::Result<T, Failure>;

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Globals {
    /// The gateway's API
    #[arg(
        long,
        env = "CHRONOGATE_API",
        value_name = "URL",
        default_value = "http://127.0.0.1:7070",
        global = true,
        help_heading = "Connection and output"
    )]
    api: String,
    /// A table for people, JSON for scripts
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "table",
        global = true,
        help_heading = "Connection and output"
    )]
    output: OutputFormat,
}

/// The verbs that speak to the API.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Protected volumes: what they are, how far behind their history is, what it lost
    Volume(volume::VolumeArgs),
    /// Named recovery points
    Bookmark(bookmark::BookmarkArgs),
    /// Consistency groups: volumes that belong together, and the moments that all of them share
    Group(group::GroupArgs),
    /// What a POINT means
    Point(point::PointArgs),
    /// Retention: how long history is kept, and how densely
    Policy(policy::PolicyArgs),
    /// Stretches of history that nobody can delete before a date
    Hold(policy::HoldArgs),
    /// Moments served as disks over NBD
    Image(image::ImageArgs),
    /// Serves a moment as a disk and prints its URI
    Mount(image::MountArgs),
    /// Images over iSCSI, with rules of who may log in
    Export(export::ExportArgs),
    /// Writes a moment to a file or device on the gateway's machine
    Restore(restore::RestoreArgs),
    /// Reads a volume's history from the disk, checks all of it, and lists what is damaged
    Verify(verify::VerifyArgs),
    /// Long work: list, watch, cancel
    Job(job::JobArgs),
    /// NBD clients and iSCSI initiators that are connected: list, end
    Session(session::SessionArgs),
    /// The gateway's store: time that it did not count
    Store(store::StoreArgs),
    /// The gateway at a glance
    Status(status::StatusArgs),
}

/// Where to ask, and for whom to print.
#[derive(Debug, Clone)]
struct Context {
    client: Client,
    output: OutputFormat,
}

impl Context {
    fn new(globals: &Globals) -> Result<Self> {
        Ok(Self { client: Client::new(&globals.api)?, output: globals.output })
    }

    fn json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    /// Every page of a list.
    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<T> = self.client.get(&format!("{path}{after}")).await?;
            items.extend(page.items);
            let Some(next) = page.next else { return Ok(items) };
            after = format!("?after={}", cx_api::paths::escape(&next));
        }
    }
}

/// Does it, on a runtime of its own: not to be called from one.
#[must_use]
pub(crate) fn run(verb: Verb) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(perform(verb)),
        Err(e) => Err(Failure::internal(format!("no runtime can be started: {e}"))),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

async fn perform(verb: Verb) -> Result<()> {
    match verb {
        Verb::Volume(args) => volume::run(args).await,
        Verb::Bookmark(args) => bookmark::run(args).await,
        Verb::Group(args) => group::run(args).await,
        Verb::Point(args) => point::run(args).await,
        Verb::Policy(args) => policy::run(args).await,
        Verb::Hold(args) => policy::hold(args).await,
        Verb::Image(args) => image::run(args).await,
        Verb::Mount(args) => image::mount(args).await,
        Verb::Export(args) => export::run(args).await,
        Verb::Restore(args) => restore::run(args).await,
        Verb::Verify(args) => verify::run(args).await,
        Verb::Job(args) => job::run(args).await,
        Verb::Session(args) => session::run(args).await,
        Verb::Store(args) => store::run(args).await,
        Verb::Status(args) => status::run(args).await,
    }
}
