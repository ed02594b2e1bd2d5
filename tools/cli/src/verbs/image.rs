//! `chronogate image` and `chronogate mount`.

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use cx_api::{ExitStatus, ImageClone, ImageCreate, ImageView, paths};
use serde_json::json;
use tap_block::Name;

use super::parse::VolumePoint;
use super::{Context, Globals, Result, parse};
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
    /// Lists every image, oldest first
    Ls,
    /// Removes an image; what was written to it is gone, history stays
    Rm {
        /// Its id or name
        image: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The volume
    volume: Name,
    /// now, an RFC 3339 time, a time ago such as -10m, lsn:N, or a bookmark's name
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
}

/// Of `mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The volume and the moment, for example web01@-10m
    #[arg(value_name = "VOLUME@POINT")]
    what: VolumePoint,
    #[command(flatten)]
    options: Options,
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
            let Options { rw: writable, name, quota: quota_bytes } = options;
            let body = ImageClone { writable, name, quota_bytes };
            let image: ImageView = context.client.post(&paths::clones(&image), &body).await?;
            if context.json() { print_json(&image) } else { print(&details(&image)) }
        }
        ImageCommand::Ls => {
            let images: Vec<ImageView> = context.all(paths::IMAGES).await?;
            if context.json() { print_json(&images) } else { print(&list(&images)) }
        }
        ImageCommand::Rm { image } => {
            context.client.delete(&paths::image(&image)).await?;
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
    let image = create(&context, volume, point, args.options).await?;
    if context.json() {
        return print_json(&image);
    }
    if image.uri.is_empty() {
        return Err(Failure::new(ExitStatus::Error, format!("image {} is served nowhere", image.name))
            .because("the gateway has no NBD listener")
            .fix("start it with --nbd unix:PATH or --nbd HOST:PORT"));
    }
    if std::io::stderr().is_terminal() {
        let (name, lsn) = (&image.name, image.lsn.get());
        say(&format!("image {name} at lsn:{lsn}; when done: chronogate image rm {name}\n"));
    }
    print(&format!("{}\n", image.uri))
}

async fn create(context: &Context, volume: Name, at: String, options: Options) -> Result<ImageView> {
    let Options { rw, name, quota } = options;
    let body = ImageCreate { volume, at, writable: rw, name, quota_bytes: quota };
    context.client.post(paths::IMAGES, &body).await
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
                i.uri.clone(),
            ]
        })
        .collect();
    output::table(["ID", "NAME", "VOLUME", "LSN", "TIME", "MODE", "WRITTEN", "URI"], &rows)
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
        ("uri", if image.uri.is_empty() { "-".to_owned() } else { image.uri.clone() }),
    ])
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
            "ID  NAME        VOLUME  LSN  TIME  MODE  WRITTEN  URI\n\
             3   web01-test  web01   8    -     rw    0 B      nbd+unix:///web01-test?socket=/run/gw.sock\n"
        );
        assert!(details(&image).contains("quota   1 GiB\n"), "{}", details(&image));
    }
}
