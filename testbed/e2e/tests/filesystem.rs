//! A real file system on a protected disk: yesterday's file comes back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;

use anyhow::{Result, ensure};
use testbed_e2e::mount::{Fuse, Mounted, obstacle};
use testbed_e2e::{Lab, pick, say, scenario, skipped, tool};
use testbed_model::Random;

/// Files whose content the seed decides.
fn fill(fs_root: &Mounted, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    for no in 0..pick(20, 400) {
        let mut content = vec![0; usize::try_from(random.below(200_000))?];
        random.fill(&mut content);
        fs::write(fs_root.path(&format!("file-{no}")), content)?;
    }
    Ok(())
}

/// e2fsck of an export, which must find nothing to do.
fn is_clean(lab: &Lab, export: &str) -> Result<()> {
    let fuse = Fuse::new(&lab.gateway(export), &lab.path("fsck.nbd"), true)?;
    tool("e2fsck", ["-f".as_ref(), "-n".as_ref(), fuse.file().as_os_str()])?;
    say(&format!("e2fsck -fn of {export} is clean"));
    Ok(())
}

#[test]
fn yesterdays_file_comes_back() -> Result<()> {
    if let Some(why) = obstacle() {
        return skipped("yesterdays_file_comes_back", &why);
    }
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", pick(64 << 20, 1 << 30))?;
        let up = lab.up(&[("web01", &disk)])?;
        let live = Mounted::make(&lab.tap("web01"), &lab.path("live"))?;
        fill(&live, 1)?;
        fs::write(live.path("letter"), "yesterday's text")?;
        live.sync()?;
        lab.bookmark("web01", "yesterday")?;

        fs::write(live.path("letter"), "today's text")?;
        fs::remove_file(live.path("file-3"))?;
        let deleted_later = fs::read(live.path("file-4"))?;
        live.frozen(|| lab.bookmark("web01", "frozen"))?;
        fs::remove_file(live.path("file-4"))?;
        fill(&live, 2)?;
        live.sync()?;

        // "ro" lets ext4 replay its journal only on a device that can be written, so a crash-consistent point
        // is mounted read/write; a frozen one needs no replay.
        let yesterday = Mounted::new(&lab.mount("web01@yesterday", true)?, &lab.path("yesterday"), "rw")?;
        ensure!(fs::read_to_string(yesterday.path("letter"))? == "yesterday's text");
        ensure!(yesterday.path("file-3").exists());
        drop(yesterday);
        let frozen = Mounted::new(&lab.mount("web01@frozen", false)?, &lab.path("frozen"), "ro")?;
        ensure!(fs::read_to_string(frozen.path("letter"))? == "today's text");
        ensure!(!frozen.path("file-3").exists());
        ensure!(fs::read(frozen.path("file-4"))? == deleted_later);
        drop(frozen);
        is_clean(lab, "web01@frozen")?;

        drop(live);
        lab.bookmark("web01", "unmounted")?;
        is_clean(lab, "web01@unmounted")?;
        up.stop()
    })
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_file_system_that_recovers() -> Result<()> {
    if let Some(why) = obstacle() {
        return skipped("a_power_cut_at_any_moment_leaves_a_file_system_that_recovers", &why);
    }
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", pick(64 << 20, 512 << 20))?;
        let up = lab.up(&[("web01", &disk)])?;
        let live = Mounted::make(&lab.tap("web01"), &lab.path("live"))?;
        let begun = lab.bookmark("web01", "made")?;
        fill(&live, 3)?;
        live.sync()?;
        drop(live);
        let end = lab.bookmark("web01", "end")?;
        let mut random = Random::new(9);
        for no in 0..pick(4, 20) {
            let lsn = begun + random.below(end - begun);
            let folder = lab.path(&format!("cut-{no}"));
            let image = lab.mount(&format!("web01@lsn:{lsn}"), true)?;
            let mounted = Mounted::new(&image, &folder, "rw")?; // replays ext4's journal
            let device = mounted.device().to_owned();
            fs::write(mounted.path("alive"), "yes")?;
            drop(mounted);
            say(&format!("lsn {lsn} on {device} recovers"));
            let fuse = Fuse::new(&image, &lab.path("fsck.nbd"), false)?;
            tool("e2fsck", ["-f".as_ref(), "-n".as_ref(), fuse.file().as_os_str()])?;
        }
        up.stop()
    })
}
