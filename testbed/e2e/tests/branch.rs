//! A branch of history that becomes production: an image is tried out, committed, and goes on as a volume of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed_e2e::lab::{Up, free_port};
use testbed_e2e::{Lab, Writer, poll, scenario};

const SIZE: usize = 4 << 20;

/// Commits as soon as nobody has the image open any more; where the volume is used.
fn commit(lab: &Lab, image: &str, name: &str) -> Result<String> {
    let words = ["image", "commit", image, "--name", name];
    let done = poll::until("the image being free", testbed_e2e::command::LIMIT, || {
        let done = lab.verb_raw(&words)?;
        if done.code == 0 {
            return Ok(Some(done));
        }
        let busy = ["is open", "works on image"].iter().any(|why| done.stderr.contains(why));
        ensure!(busy, "the commit fails: {}", done.stderr);
        Ok(None)
    })?;
    let job: Value = serde_json::from_slice(&done.stdout).with_context(|| done.stderr.clone())?;
    let uri = job["uris"][0].as_str().context("it is used nowhere")?;
    Ok(uri.to_owned())
}

/// Writes on the volume and looks whether its history follows.
fn goes_on(lab: &Lab, uri: &str, content: Vec<u8>, seed: u64) -> Result<Vec<u8>> {
    let mut writer = Writer::open(uri, content, seed)?;
    writer.burst(200, 16)?;
    let content = writer.content().to_vec();
    ensure!(lab.head("branch")? == content, "history is not what was written");
    Ok(content)
}

#[test]
fn a_branch_becomes_a_volume_and_survives_restart_and_kill() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 1)?;
        let disks: [(&str, &Path); 1] = [("web01", &disk)];
        let up = lab.up(&disks)?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 1)?;
        writer.burst(200, 16)?;
        let start = writer.content().to_vec();
        let point = lab.bookmark("web01", "before")?;
        writer.burst(200, 16)?;
        lab.settle("web01")?;

        lab.verb(&["image", "create", "web01", "--at", "before", "--rw", "--name", "look", "--materialize"])?;
        let mut tried = Writer::open(&lab.gateway("look"), start.clone(), 2)?;
        tried.burst(300, 16)?;
        let content = tried.content().to_vec();
        drop(tried);
        let uri = commit(lab, "look", "branch")?;
        ensure!(uri == lab.tap("branch"), "it is not used at the tap: {uri}");
        ensure!(lab.content(&uri)? == content, "the volume is not what the image was");
        ensure!(lab.verb_raw(&["image", "rm", "look"])?.code == 3, "the image is still there");
        let content = goes_on(lab, &uri, content, 3)?;
        ensure!(lab.content(&lab.gateway(&format!("web01@lsn:{point}")))? == start, "the past has changed");
        drop(writer);
        up.stop()?;

        let up = lab.up(&disks)?;
        ensure!(lab.content(&uri)? == content, "a restart changed the volume");
        let content = goes_on(lab, &uri, content, 4)?;
        up.kill()?;
        let _up = lab.up(&disks)?;
        ensure!(lab.content(&uri)? == content, "a kill changed the volume");
        goes_on(lab, &uri, content, 5).map(drop)
    })
}

/// Tap and CX are gone with the site: the gateway alone makes a volume of the last good moment.
#[test]
fn a_gateway_alone_makes_production_of_a_moment() -> Result<()> {
    scenario(|lab| {
        let (listen, link) = (free_port()?, free_port()?);
        let disk = lab.disk("web01.img", SIZE, 1)?;
        let gateway = lab.gateway_alone(link)?;
        let cx = lab.cx_alone(listen, &[link])?;
        let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 1)?;
        writer.burst(200, 16)?;
        let content = writer.content().to_vec();
        lab.settle("web01")?;
        drop(writer);
        tap.kill()?;
        cx.kill()?;
        lab.verb(&["image", "create", "web01", "--at", "now", "--name", "rescue"])?;
        let uri = commit(lab, "rescue", "branch")?;
        ensure!(lab.content(&uri)? == content, "the volume is not the last moment");
        let content = goes_on(lab, &uri, content, 2)?;
        gateway.stop()?;
        let _gateway: Up = lab.gateway_alone(link)?;
        ensure!(lab.content(&uri)? == content, "a restart changed the volume");
        goes_on(lab, &uri, content, 3).map(drop)
    })
}
