//! A protected disk is made larger while it is in use: whoever opens it from then on has all of it, history has each size at its
//! time, and nothing is copied that came as a hole.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, ensure};
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Lab, command, difference, poll, scenario};

const MIB: u64 = 1 << 20;
const BEFORE: usize = (8 << 20) + 512;

fn size(uri: &str) -> Result<u64> {
    Ok(Client::connect(uri)?.size())
}

/// Waits until history has this size.
fn head_has(lab: &Lab, size: u64) -> Result<()> {
    let there = || Ok((lab.volume("web01")?.size == size).then_some(()));
    poll::until("the new size in history", command::LIMIT, there)
}

#[test]
fn a_disk_that_is_made_larger_is_so_for_whoever_comes_then_and_in_history_from_then_on() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", BEFORE, 3)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        lab.bookmark("web01", "small")?;
        let small = fs::read(&disk)?;
        let mut old = Client::connect(&lab.tap("web01"))?;

        let file = File::options().write(true).open(&disk)?;
        file.set_len(16 * MIB)?;
        let mut new = Client::connect(&lab.tap("web01"))?;
        ensure!((old.size(), new.size()) == (BEFORE as u64, 16 * MIB), "{} and {}", old.size(), new.size());
        // Across the old end, and by a client that knows of no other.
        new.call(&Request::Write(BEFORE as u64 - 700, vec![7; 4000]))?;
        new.call(&Request::Write(12 * MIB, vec![8; 9000]))?;
        old.call(&Request::Write(0, vec![9; 512]))?;
        let settled = lab.settle("web01")?;
        ensure!(settled.gaps.is_empty() && settled.resynced == 0, "a hole was copied: {settled:?}");
        lab.bookmark("web01", "large")?;
        let large = fs::read(&disk)?;

        // Nobody comes, and what comes has content.
        file.write_all_at(&[5; 5000], 20 * MIB)?;
        head_has(lab, 20 * MIB + 5000)?;
        lab.settle("web01")?;
        lab.bookmark("web01", "largest")?;
        let largest = fs::read(&disk)?;
        for (name, content) in [("small", &small), ("large", &large), ("largest", &largest)] {
            let uri = lab.gateway(&format!("web01@{name}"));
            ensure!(size(&uri)? == content.len() as u64, "the size at {name}");
            if let Some(where_) = difference(&lab.content(&uri)?, content) {
                anyhow::bail!("{name}: {where_}");
            }
        }

        // A restart finds the disk as it was left.
        let before = lab.settle("web01")?;
        up.kill()?;
        let up = lab.up(&[("web01", &disk)])?;
        let after = lab.settle("web01")?;
        ensure!(after.resynced - before.resynced < 12 * MIB, "all was copied: {before:?}, {after:?}");
        ensure!(difference(&lab.head("web01")?, &fs::read(&disk)?).is_none(), "the head is not the disk");
        up.stop()
    })
}
