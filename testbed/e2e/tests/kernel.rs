//! A real Linux kernel as the client: a file system made through the tap, and found again in a past image and on a read/write
//! one; and a whole machine that boots from a moment at which it was running.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed_e2e::lab::free_port;
use testbed_e2e::vm::{Parts, obstacle};
use testbed_e2e::{Lab, pick, say, scenario, skipped};

/// An emulated machine takes its time, and more so on a busy one.
const LIMIT: Duration = Duration::from_secs(300);

/// What the job's output says it wrote. The firmware leaves its line open.
fn sums(printed: &str) -> Result<&str> {
    let line = printed.lines().find_map(|line| line.split_once("SUMS "));
    line.map(|(_, sum)| sum.trim()).with_context(|| format!("the job did not say what it wrote:\n{printed}"))
}

#[test]
fn a_linux_kernel_finds_its_file_system_in_a_past_image() -> Result<()> {
    if let Some(why) = obstacle() {
        return skipped("a_linux_kernel_finds_its_file_system_in_a_past_image", &why);
    }
    let parts = Parts::ready(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    scenario(|lab: &Lab| {
        let disk = lab.empty_disk("web01.img", pick(64 << 20, 1 << 30))?;
        let port = free_port()?;
        let up = lab.up_with(&[("web01", &disk)], &["--tap-nbd", &format!("127.0.0.1:{port}")])?;
        let (port, files) = (port.to_string(), pick(4, 200).to_string());
        let printed = parts.run("written.sh", &[("TAP", &port), ("FILES", &files)], LIMIT)?;
        say(&printed);
        for limit in ["fua 1", "write_cache write back"] {
            ensure!(
                printed.contains(limit),
                "the kernel sees another disk than one with `{limit}`:\n{printed}"
            );
        }
        let written = sums(&printed)?.to_owned();
        lab.bookmark("web01", "written")?;
        let image = lab.verb(&["image", "create", "web01", "--at", "written", "--rw", "--name", "look"])?;
        ensure!(image["writable"] == true, "{image}");
        let gateway = lab.nbd_port().to_string();
        let printed = parts.run("read.sh", &[("GATEWAY", &gateway), ("IMAGE", "look")], LIMIT)?;
        ensure!(sums(&printed)? == written, "the past image has other files");
        up.stop()
    })
}

#[test]
fn a_machine_boots_from_a_moment_at_which_it_was_running() -> Result<()> {
    let why = obstacle().or_else(testbed_e2e::mount::obstacle);
    if let Some(why) = why {
        return skipped("a_machine_boots_from_a_moment_at_which_it_was_running", &why);
    }
    let parts = Parts::ready(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    scenario(|lab: &Lab| {
        let disk = lab.path("web01.img");
        parts.make_boot_disk(&disk)?;
        let up = lab.up(&[("web01", &disk)])?;
        let mut machine = parts.boot(&lab.path("tap.sock"), "web01", &lab.path("console-1"))?;
        ensure!(machine.wait("APP found", 0, LIMIT)? == 0, "the disk is a new one");
        machine.wait("APP safe", pick(20, 500), LIMIT)?;
        let before = machine.last("APP safe")?.context("nothing is safe")?;
        lab.bookmark("web01", "running")?;
        let after = machine.last("APP safe")?.context("nothing is safe")?;
        let last = machine.wait("APP safe", after + pick(20, 500), LIMIT)?;
        drop(machine); // The plug is pulled.
        lab.verb(&["image", "create", "web01", "--at", "running", "--rw", "--name", "look"])?;
        let mut machine = parts.boot(&lab.path("gw.sock"), "look", &lab.path("console-2"))?;
        let found = machine.wait("APP found", 0, LIMIT)?;
        say(&format!(
            "{before} were safe before the bookmark, {after} behind it, {last} at the end; the image has {found}"
        ));
        ensure!(
            (before..=after + 1).contains(&found),
            "{found} is not what was on the disk at the bookmark: {before} to {after} were safe then"
        );
        machine.wait("APP safe", found + 5, LIMIT)?;
        drop(machine);
        up.stop()
    })
}
