//! `chronogate image` and `chronogate mount`.

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use cx_api::{ExitStatus, ImageClone, ImageCommit, ImageCreate, ImageView, JobState, JobView, paths};
use serde_json::json;
use tap_block::Name;

use super::job::{follow, interrupts};
use super::parse::VolumePoint;
use super::{Context, Globals, Result, export, parse};
use crate::output::{self, Failure, or_dash, print, print_json, say};

/// Of `image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Serves a moment as a disk
    Create(CreateArgs),
    /// Makes an image of an image: it shows what that shows now, and goes its own way
    Clone(CloneArgs),
    /// Copies its blocks into a flat local copy while it is in use
    Materialize {
        /// Its id or name
        image: String,
    },
    /// Makes an image a volume of its own, which is used and journalled from then on
    Commit {
        /// Its id or name
        image: String,
        /// The volume's name
        #[arg(long)]
        name: Name,
    },
    /// Lists every image, oldest first
    Ls,
    /// Shows one
    Show {
        /// Its id or name
        image: String,
    },
    /// Removes an image; what was written to it is gone, history stays
    Rm {
        /// Its id or name
        image: String,
        /// Take it away from whoever has it open; one that is gone already is no error then
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The volume
    volume: Name,
    /// now, an RFC 3339 time, a time ago such as -10m, lsn:N, mark:N of a group, or a bookmark's name
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    at: String,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct CloneArgs {
    /// Its id or name
    image: String,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// Let it be written to; history is never touched
    #[arg(long)]
    rw: bool,
    /// Its export name [default: chosen by the gateway]
    #[arg(long)]
    name: Option<Name>,
    /// The most that its writes may take, for example 10GiB [default: chosen by the gateway]
    #[arg(long, value_name = "SIZE", value_parser = parse::size, requires = "rw")]
    quota: Option<u64>,
    /// Copy its blocks into a flat local copy in the background
    #[arg(long)]
    materialize: bool,
}

/// Of `mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The volume and the moment, for example web01@-10m
    #[arg(value_name = "VOLUME@POINT")]
    what: VolumePoint,
    /// Say where it is over iSCSI, not over NBD
    #[arg(long)]
    iscsi: bool,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    rules: export::RuleArgs,
    #[command(flatten)]
    globals: Globals,
}

pub(super) async fn run(args: ImageArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        ImageCommand::Create(args) => {
            let image = create(&context, args.volume, args.at, args.options).await?;
            if context.json() { print_json(&image) } else { print(&details(&image)) }
        }
        ImageCommand::Clone(CloneArgs { image, options }) => {
            let Options { rw: writable, name, quota: quota_bytes, materialize } = options;
            let body = ImageClone { writable, name, quota_bytes };
            let image: ImageView = context.client.post(&paths::clones(&image), &body).await?;
            begin_copy(&context, &image, materialize).await?;
            if context.json() { print_json(&image) } else { print(&details(&image)) }
        }
        ImageCommand::Materialize { image } => materialize(&context, &image).await,
        ImageCommand::Commit { image, name } => commit(&context, &image, name).await,
        ImageCommand::Ls => {
            let images: Vec<ImageView> = context.all(paths::IMAGES).await?;
            if context.json() { print_json(&images) } else { print(&list(&images)) }
        }
        ImageCommand::Show { image } => {
            let image: ImageView = context.client.get(&paths::image(&image)).await?;
            if context.json() { print_json(&image) } else { print(&details(&image)) }
        }
        ImageCommand::Rm { image, force } => {
            let path = if force { paths::image_forced(&image) } else { paths::image(&image) };
            context.client.delete(&path).await?;
            if context.json() {
                return print_json(&json!({ "removed": image }));
            }
            print(&format!("removed {}\n", output::printable(&image)))
        }
    }
}

pub(super) async fn mount(args: MountArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    let VolumePoint { volume, point } = args.what;
    let asked = if args.rules.is_any() { Some(args.rules.read()?) } else { None };
    let mut image = create(&context, volume, point, args.options).await?;
    if let Some(asked) = asked {
        image = exported(&context, image, asked).await?;
    }
    if args.iscsi {
        let uri = image.uris.iter().find(|uri| uri.starts_with("iscsi://"));
        image.uri = uri.cloned().unwrap_or_default();
    }
    if context.json() {
        return print_json(&image);
    }
    if image.uri.is_empty() {
        let (cause, cure) = match args.iscsi {
            true => (
                "the gateway has no iSCSI portal, or none on loopback, and without access rules it is for this machine alone",
                "start it with --iscsi HOST:PORT, or say who may log in: --acl IQN, --chap USER",
            ),
            false => ("the gateway has no NBD listener", "start it with --nbd unix:PATH or --nbd HOST:PORT"),
        };
        return Err(Failure::new(ExitStatus::Error, format!("image {} is served nowhere", image.name))
            .because(cause)
            .fix(cure));
    }
    if std::io::stderr().is_terminal() {
        let (name, lsn) = (&image.name, image.lsn.get());
        say(&format!("image {name} at lsn:{lsn}; when done: chronogate image rm {name}\n"));
    }
    print(&format!("{}\n", image.uri))
}

/// The image with its export, or neither.
async fn exported(context: &Context, mut image: ImageView, asked: export::Asked) -> Result<ImageView> {
    let id = image.id.to_string();
    match export::create(context, &id, asked).await {
        Ok(export) => {
            image.uris.retain(|uri| !uri.starts_with("iscsi://"));
            image.uris.extend(export.uris);
            Ok(image)
        }
        Err(mut failure) => {
            if context.client.delete(&paths::image(&id)).await.is_err() {
                failure.what = format!("image {} is made, but not exported: {}", image.name, failure.what);
            }
            Err(failure)
        }
    }
}

async fn create(context: &Context, volume: Name, at: String, options: Options) -> Result<ImageView> {
    let Options { rw, name, quota, materialize } = options;
    let body = ImageCreate { volume, at, writable: rw, name, quota_bytes: quota };
    let image = context.client.post(paths::IMAGES, &body).await?;
    begin_copy(context, &image, materialize).await?;
    Ok(image)
}

/// The image is there and in use whatever becomes of its copy.
async fn begin_copy(context: &Context, image: &ImageView, wanted: bool) -> Result<()> {
    if !wanted {
        return Ok(());
    }
    let begun: Result<JobView> =
        context.client.post(&paths::materialization(&image.id.to_string()), &()).await;
    match begun {
        Ok(job) => say(&format!("materializing {}: chronogate job show {}\n", image.name, job.id)),
        Err(mut failure) => {
            failure.what = format!("image {} is made, but not materialized: {}", image.name, failure.what);
            return Err(failure);
        }
    }
    Ok(())
}

async fn materialize(context: &Context, image: &str) -> Result<()> {
    let shown = output::printable(image);
    let job = watched(context, &paths::materialization(image), &(), format!("materializing {shown}")).await?;
    if context.json() {
        return Ok(());
    }
    let (size, path) = (output::size(job.total_bytes), output::printable(&job.path));
    print(&format!("materialized {shown} ({size}): {path}\n"))
}

async fn commit(context: &Context, image: &str, name: Name) -> Result<()> {
    let (body, shown) = (ImageCommit { name }, output::printable(image));
    let job = watched(context, &paths::commit(image), &body, format!("committing {shown}")).await?;
    if context.json() {
        return Ok(());
    }
    let at = job.uris.first().map_or("-", String::as_str);
    print(&format!("{shown} is the volume {} now; use it at {at}\n", body.name))
}

/// Begins a job with an image's copy and follows it; it has ended well when this returns.
/// Begins a job and looks at it until it ends; one that does not end well is a failure.
pub(super) async fn watched(
    context: &Context,
    path: &str,
    body: &(impl serde::Serialize + Sync),
    title: String,
) -> Result<JobView> {
    let mut interrupts = interrupts()?;
    let job: JobView = context.client.post(path, body).await?;
    let ended = follow(context, job, title.clone(), &mut interrupts).await?;
    if context.json() {
        print_json(&ended)?;
    }
    let failed = |how| Failure::new(ExitStatus::Error, format!("{title} {how}"));
    match ended.state {
        JobState::Done => Ok(ended),
        JobState::Cancelled => {
            Err(failed("was cancelled").because("what was copied is thrown away; the image is as it was"))
        }
        _ => Err(ended.error.map_or_else(|| failed("failed"), Failure::from)),
    }
}

fn list(images: &[ImageView]) -> String {
    let rows: Vec<_> = images
        .iter()
        .map(|i| {
            [
                i.id.to_string(),
                i.name.to_string(),
                i.volume.to_string(),
                i.lsn.get().to_string(),
                output::time(i.time),
                mode(i).to_owned(),
                or_dash(i.used_bytes.map(output::size)),
                or_dash(copied(i)),
                or_dash(parent(i)),
                i.uri.clone(),
            ]
        })
        .collect();
    output::table(["ID", "NAME", "VOLUME", "LSN", "TIME", "MODE", "WRITTEN", "COPIED", "OF", "URI"], &rows)
}

fn details(image: &ImageView) -> String {
    output::fields(&[
        ("id", image.id.to_string()),
        ("name", image.name.to_string()),
        ("volume", image.volume.to_string()),
        ("lsn", image.lsn.get().to_string()),
        ("time", output::time(image.time)),
        ("size", output::size(image.size)),
        ("mode", mode(image).to_owned()),
        ("quota", or_dash(image.quota_bytes.map(output::size))),
        ("written", or_dash(image.used_bytes.map(output::size))),
        ("copied", or_dash(copied(image))),
        ("image of", or_dash(parent(image))),
        ("uri", if image.uri.is_empty() { "-".to_owned() } else { image.uri.clone() }),
    ])
}

/// The image that it was cloned from.
fn parent(image: &ImageView) -> Option<String> {
    let id = image.parent_id?;
    Some(image.parent.as_ref().map_or_else(|| format!("{id} (removed)"), ToString::to_string))
}

/// How much of it is in its flat local copy.
fn copied(image: &ImageView) -> Option<String> {
    let copied = image.materialized_bytes?;
    let percent = copied.saturating_mul(100).checked_div(image.size).unwrap_or(100);
    Some(if copied >= image.size { "whole".to_owned() } else { format!("{percent} %") })
}

fn mode(image: &ImageView) -> &'static str {
    if image.writable { "rw" } else { "ro" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_listed_and_detailed() {
        let golden = include_str!("../../../../cx/api/tests/golden/image.json");
        let image: ImageView = serde_json::from_str(golden).unwrap();
        assert_eq!(
            list(std::slice::from_ref(&image)),
            "ID  NAME        VOLUME  LSN  TIME  MODE  WRITTEN  COPIED  OF       URI\n\
             3   web01-test  web01   8    -     rw    0 B      50 %    web01-2  nbd+unix:///web01-test?socket=/run/gw.sock\n"
        );
        assert!(details(&image).contains("quota     1 GiB\n"), "{}", details(&image));
        let orphan = details(&ImageView { parent: None, ..image });
        assert!(orphan.contains("image of  2 (removed)\n"), "{orphan}");
    }
}
