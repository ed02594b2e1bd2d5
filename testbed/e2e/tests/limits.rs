//! Limits of single volumes with real processes: one that is full costs neither its guest nor any other volume anything.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::volume::{number, text};
use testbed_e2e::{Lab, difference, digest, poll, say, scenario};
use testbed_model::Random;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// web01 has a limit of its own.
fn limit(lab: &Lab, limit: &str, when_full: &str) -> Result<()> {
    let file = lab.path("retention.toml");
    let rules = format!("every_write = \"48h\"\nlimit = \"{limit}\"\nwhen_full = \"{when_full}\"\n");
    fs::write(&file, format!("[volume.web01]\n{rules}"))?;
    lab.verb(&["policy", "apply", "-f", &file.to_string_lossy()]).map(drop)
}

/// Noise, a mebibyte at a time, over 32 MiB of a disk.
fn write(guest: &mut Client, seed: u64, mebibytes: u64) -> Result<()> {
    let (mut random, mut data) = (Random::new(seed), vec![0; 1 << 20]);
    for no in 0..mebibytes {
        random.fill(&mut data);
        guest.call(&Request::Write(no % 32 * MIB, data.clone())).context("a limit reached the guest")?;
    }
    Ok(())
}

/// Bytes of web01's history, and what is done about its limit.
fn history(lab: &Lab) -> Result<(u64, String)> {
    let volume = lab.verb(&["volume", "show", "web01"])?;
    Ok((number(&volume, "history_bytes")?, text(&volume["history_limit"], "state")?))
}

#[test]
fn a_full_volume_gives_up_its_own_oldest_history() -> Result<()> {
    scenario(|lab| {
        let (disk, other) = (lab.disk("web01.img", 32 << 20, 4)?, lab.disk("db.img", 8 << 20, 5)?);
        let mut up = lab.up(&[("web01", &disk), ("db", &other)])?;
        lab.settle("web01")?;
        lab.settle("db")?;
        lab.bookmark("db", "first")?;
        let first = digest(&fs::read(&other)?);
        limit(lab, "160MiB", "purge")?;
        let mut guest = Client::connect(&lab.tap("web01"))?;
        for round in 0..4 {
            write(&mut guest, round, 100)?;
            let (used, state) = history(lab)?;
            say(&format!("round {round}: {} MiB, {state}", used / MIB));
        }
        let fits = || Ok(history(lab)?.0).map(|used| (used <= 160 * MIB).then_some(used));
        poll::until("a history within its limit", LIMIT, fits)?;
        ensure!(digest(&lab.content(&lab.gateway("db@first"))?) == first, "another volume's point changed");
        lab.settle("web01")?;
        ensure!(difference(&lab.head("web01")?, &fs::read(&disk)?).is_none(), "the head is not the disk");
        up.still_running()?;
        up.stop()
    })
}

#[test]
fn a_volume_that_stops_at_its_limit_stops_no_guest_and_heals() -> Result<()> {
    scenario(|lab| {
        let (disk, other) = (lab.disk("web01.img", 32 << 20, 6)?, lab.disk("db.img", 8 << 20, 7)?);
        let mut up = lab.up(&[("web01", &disk), ("db", &other)])?;
        lab.settle("web01")?;
        limit(lab, "100MiB", "stop")?;
        let mut guest = Client::connect(&lab.tap("web01"))?;
        write(&mut guest, 1, 300)?;
        let stopped = || Ok(history(lab)?.1).map(|state| (state == "stopped").then_some(()));
        poll::until("a volume that is stopped", LIMIT, stopped)?;
        write(&mut guest, 2, 50)?;
        let status = lab.verb(&["status"])?;
        ensure!(status["reasons"].to_string().contains("no more of it is taken"), "{status}");
        write(&mut Client::connect(&lab.tap("db"))?, 3, 8)?;
        lab.settle("db")?;
        ensure!(difference(&lab.head("db")?, &fs::read(&other)?).is_none(), "another volume is behind");
        let behind = lab.volume("web01")?;
        ensure!(behind.head.is_none_or(|head| head > behind.durable), "all of it was taken: {behind:?}");
        limit(lab, "4GiB", "stop")?;
        lab.settle("web01")?;
        ensure!(difference(&lab.head("web01")?, &fs::read(&disk)?).is_none(), "the head is not the disk");
        up.still_running()?;
        up.stop()
    })
}
