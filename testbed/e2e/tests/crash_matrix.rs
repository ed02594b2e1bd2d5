//! The crash matrix over the real programs and files: everything is killed at the n-th time that a thread makes one of the
//! system calls that make something durable, and what was acknowledged is there afterwards, at every moment.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Lab, Up, Writer, command, digest, pick, say, scenario, skipped};

const SIZE: usize = 2 << 20;
/// So long a life goes on that is not killed.
const LIFE: Duration = Duration::from_secs(4);

/// What a step calls. Segments, spools and overlays are written by `pwrite64` and `pwritev`, notes and the index by `write`.
const CALLS: [&str; 9] =
    ["fdatasync", "pwritev", "pwrite64", "write", "fsync", "rename", "unlink", "ftruncate", "fallocate"];

/// What was acknowledged.
#[derive(Default)]
struct Told {
    /// Bookmarks, and what the disk was.
    marks: Vec<(String, u128)>,
    /// The read/write image's content at its last flush; `None` while it may be either.
    image: Option<Vec<u8>>,
}

/// One life: writes, marks moments, writes on an image, changes the policy, verifies, until it is killed or has had its time.
fn live(lab: &Lab, up: &mut Up, writer: &mut Writer, told: &mut Told, life: usize) -> Result<bool> {
    let begun = Instant::now();
    for no in 0.. {
        if act(lab, writer, told, (life, no)).is_err() {
            // Whatever failed did so because nothing is there any more.
            let ended =
                testbed_e2e::poll::until("the end", command::LIMIT, || Ok(up.is_killed()?.then_some(())));
            return ended.map(|()| true);
        }
        if begun.elapsed() > LIFE {
            break;
        }
    }
    Ok(false)
}

fn act(lab: &Lab, writer: &mut Writer, told: &mut Told, (life, no): (usize, usize)) -> Result<()> {
    writer.burst(40, 8)?;
    let name = format!("m{life}-{no}");
    lab.bookmark("web01", &name)?;
    told.marks.push((name.clone(), digest(writer.content())));
    if told.image.is_none() {
        // Of an earlier life; it may be there or not.
        lab.verb_raw(&["image", "rm", "test"])?;
        lab.verb(&["image", "create", "web01", "--at", &name, "--rw", "--name", "test"])?;
        told.image = Some(writer.content().to_vec());
    }
    write_on_image(lab, told, no)?;
    if no % 3 == 2 {
        let file = lab.path("retention.toml");
        std::fs::write(&file, "[general]\nevery_write = \"0s\"\nbookmarks = \"1y\"\n")?;
        lab.verb(&["policy", "apply", "-f", &file.to_string_lossy()])?;
        ensure!(lab.verb_raw(&["verify", "web01"])?.code == 0, "it is not sound");
    }
    Ok(())
}

/// Until the flush is answered the image may be what it was or what it is to be.
fn write_on_image(lab: &Lab, told: &mut Told, no: usize) -> Result<()> {
    let mut content = told.image.take().context("there is no image")?;
    let at = no * 12_288 % (SIZE - 4096);
    let mut client = Client::connect(&lab.gateway("test"))?;
    let data = vec![u8::try_from(no % 250).unwrap() + 1; 4096];
    client.call(&Request::Write(u64::try_from(at)?, data.clone()))?;
    client.call(&Request::Flush)?;
    content[at..at + 4096].copy_from_slice(&data);
    told.image = Some(content);
    Ok(())
}

/// After the crash, with nothing that kills.
fn check(lab: &Lab, writer: &Writer, told: &Told, disk: &Path) -> Result<()> {
    lab.settle("web01")?;
    writer.check(&std::fs::read(disk)?)?;
    let head = lab.head("web01")?;
    ensure!(head == std::fs::read(disk)?, "the head is not what the disk is");
    for (name, expected) in &told.marks {
        let content = lab.content(&lab.gateway(&format!("web01@{name}")))?;
        ensure!(digest(&content) == *expected, "web01@{name} is not what the disk was");
    }
    if let Some(image) = &told.image {
        ensure!(&lab.content(&lab.gateway("test"))? == image, "the image lost what was flushed");
    }
    let verified = lab.verb_raw(&["verify", "web01"])?;
    ensure!(verified.code == 0, "a crash is taken for damage: {}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}

#[test]
fn a_kill_at_any_system_call_loses_nothing_acknowledged() -> Result<()> {
    if let Some(why) = command::missing(&["strace"]) {
        return skipped("a_kill_at_any_system_call_loses_nothing_acknowledged", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 1)?;
        let disks: [(&str, &Path); 1] = [("web01", &disk)];
        let mut told = Told::default();
        let nos: &[u32] = pick(&[4], &[1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]);
        let mut killed = 0;
        for (life, (no, call)) in
            nos.iter().flat_map(|no| CALLS.iter().map(move |call| (no, call))).enumerate()
        {
            let content = std::fs::read(&disk)?;
            let Some(mut up) = lab.up_killed_at(&disks, call, *no)? else {
                say(&format!("killed at {call} {no}, while it started"));
                killed += 1;
                continue;
            };
            let opened =
                lab.settle("web01").and_then(|_| Writer::open(&lab.tap("web01"), content, (*no).into()));
            let Ok(mut writer) = opened else {
                // Killed while the first copy was under way.
                ensure!(up.is_killed()?, "it runs and cannot be used");
                killed += 1;
                continue;
            };
            let was_killed = live(lab, &mut up, &mut writer, &mut told, life)?;
            say(&format!("{call} {no}: killed: {was_killed}, {} moments", told.marks.len()));
            killed += u32::from(was_killed);
            if !was_killed {
                up.kill_traced()?;
            }
            let up = lab.up(&disks)?;
            check(lab, &writer, &told, &disk).with_context(|| format!("after a kill at {call} {no}"))?;
            up.stop()?;
        }
        ensure!(killed >= pick(4, 40), "only {killed} lives were cut short");
        let checked = lab.jverify()?;
        ensure!(checked.code == 0, "{}", checked.text());
        Ok(())
    })
}
