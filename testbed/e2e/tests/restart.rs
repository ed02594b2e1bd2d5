//! fjall's directory is a view of the journal: without it, every point and bookmark is still there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use serde_json::Value;
use testbed_e2e::{Lab, Writer, digest, pick, scenario};

/// What must not change: every point's content, and everything the verbs tell of bookmarks and images.
struct Kept {
    points: Vec<(String, u128)>,
    bookmarks: Value,
    images: Value,
}

fn write_history(lab: &Lab, writer: &mut Writer) -> Result<Vec<(String, u128)>> {
    let mut points = Vec::new();
    for no in 0..pick(6, 30) {
        writer.burst(pick(50, 5000), 16)?;
        let name = format!("mark-{no}");
        let lsn = lab.bookmark("web01", &name)?;
        points.push((name, digest(writer.content())));
        points.push((format!("lsn:{lsn}"), digest(writer.content())));
    }
    Ok(points)
}

fn check(lab: &Lab, kept: &Kept) -> Result<()> {
    for (point, expected) in &kept.points {
        let content = lab.content(&lab.gateway(&format!("web01@{point}")))?;
        ensure!(digest(&content) == *expected, "web01@{point} is not what the disk was");
    }
    let bookmarks = lab.verb(&["bookmark", "ls", "web01"])?;
    ensure!(bookmarks == kept.bookmarks, "bookmarks were {}, are {bookmarks}", kept.bookmarks);
    let images = lab.verb(&["image", "ls"])?;
    ensure!(images == kept.images, "images were {}, are {images}", kept.images);
    Ok(())
}

fn delete_the_view(lab: &Lab) -> Result<()> {
    let folders = lab.folders("fjall")?;
    ensure!(!folders.is_empty(), "there is no fjall folder in the data directory");
    folders.into_iter().try_for_each(std::fs::remove_dir_all)?;
    Ok(())
}

#[test]
fn deleting_fjalls_directory_loses_nothing() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", pick(4 << 20, 64 << 20), 5)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 5)?;
        let points = write_history(lab, &mut writer)?;
        lab.verb(&["image", "create", "web01", "--at", "mark-2", "--name", "look"])?;
        let kept = Kept {
            points,
            bookmarks: lab.verb(&["bookmark", "ls", "web01"])?,
            images: lab.verb(&["image", "ls"])?,
        };
        drop(writer);
        check(lab, &kept)?;
        up.stop()?;

        delete_the_view(lab)?;
        let up = lab.up(&[("web01", &disk)])?;
        check(lab, &kept)?;
        lab.settle("web01")?;

        up.kill()?;
        delete_the_view(lab)?;
        let up = lab.up(&[("web01", &disk)])?;
        check(lab, &kept)?;
        up.stop()
    })
}

#[test]
fn writes_to_an_image_survive_a_kill() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 6)?;
        let before = std::fs::read(&disk)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        lab.verb(&["image", "create", "web01", "--at", "first", "--rw", "--name", "test"])?;
        let mut writer = Writer::open(&lab.gateway("test"), before.clone(), 6)?;
        writer.burst(200, 16)?;
        testbed_e2e::nbd::Client::connect(&lab.gateway("test"))?.call(&testbed_e2e::nbd::Request::Flush)?;
        // Answered and never flushed: a client that reconnects does not say it again.
        writer.burst(200, 16)?;
        up.kill()?;

        let up = lab.up(&[("web01", &disk)])?;
        writer.check(&lab.content(&lab.gateway("test"))?)?;
        ensure!(lab.content(&lab.gateway("web01@first"))? == before, "the point below the image changed");
        ensure!(std::fs::read(&disk)? == before, "the protected disk changed");
        lab.verb_raw(&["image", "rm", "test"])?.ok()?;
        ensure!(lab.content(&lab.gateway("test")).is_err(), "a removed image can still be opened");
        up.stop()
    })
}
