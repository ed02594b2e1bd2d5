//! What goes wrong in the world: noise at the ports, damaged files, full disks, missing disks, a second
//! instance. Each gets a clear word, loses nothing that was accepted, and disturbs nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Lab, Writer, command, difference, digest, poll, scenario, skipped, tool};
use testbed_model::Random;

const NOISE: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Sends noise until the other end has had enough, which is its right.
fn throw(mut socket: impl Read + Write, seed: u64) {
    let mut noise = vec![0; NOISE];
    Random::new(seed).fill(&mut noise);
    let _ = socket.write_all(&noise);
    let _ = socket.read(&mut [0; 4096]);
}

fn tcp(port: u16) -> Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

fn unix(path: &Path) -> Result<UnixStream> {
    let socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

#[test]
fn noise_at_every_port_disturbs_nobody() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 2 << 20, 1)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 1)?;
        for seed in 0..4 {
            throw(tcp(lab.nbd_port())?, seed);
            throw(tcp(lab.api_port())?, seed);
            throw(unix(&lab.path("tap.sock"))?, seed);
            throw(unix(&lab.path("gw.sock"))?, seed);
            writer.burst(50, 8)?;
        }
        up.still_running()?;
        lab.bookmark("web01", "after")?;
        let image = lab.content(&lab.gateway("web01@after"))?;
        ensure!(difference(&image, writer.content()).is_none(), "the image is not the disk");
        up.stop()
    })
}

/// Points whose content is known.
fn write_points(lab: &Lab, disk: &Path) -> Result<Vec<(String, u128)>> {
    let mut writer = Writer::open(&lab.tap("web01"), fs::read(disk)?, 7)?;
    let mut points = Vec::new();
    for no in 0..6 {
        writer.burst(60, 16)?;
        let name = format!("mark-{no}");
        lab.bookmark("web01", &name)?;
        points.push((name, digest(writer.content())));
    }
    Ok(points)
}

/// Every point is right or refused, never wrong; returns how many were right.
fn right_or_refused(lab: &Lab, points: &[(String, u128)]) -> Result<usize> {
    let mut right = 0;
    for (name, expected) in points {
        if let Ok(content) = lab.content(&lab.gateway(&format!("web01@{name}"))) {
            ensure!(digest(&content) == *expected, "web01@{name} shows a disk that never was");
            right += 1;
        }
    }
    Ok(right)
}

/// History is made, the program stopped, `harm` done to a segment; then it must start and serve what is sound.
fn after_harm(harm: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 2)?;
        let up = lab.up(&[("web01", &disk)])?;
        let points = write_points(lab, &disk)?;
        up.stop()?;
        lab.jverify()?.ok()?;
        harm(lab.segments()?.first().context("no segment")?)?;
        let found = lab.jverify()?;
        ensure!(found.code == 1, "jverify missed it: {} {}{}", found.code, found.text(), found.stderr);

        let mut up = lab.up(&[("web01", &disk)])?;
        let right = right_or_refused(lab, &points)?;
        ensure!(right < points.len(), "the harm was not noticed");
        // Protection goes on: a new point is sound although an old one may not be.
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 8)?;
        writer.burst(50, 8)?;
        writer.check(&fs::read(&disk)?)?;
        up.still_running()?;
        lab.verb(&["status"])?;
        up.stop()
    })
}

#[test]
fn a_flipped_bit_is_never_served() -> Result<()> {
    after_harm(|segment| {
        let file = fs::OpenOptions::new().read(true).write(true).open(segment)?;
        let mut piece = vec![0; 256 << 10];
        file.read_exact_at(&mut piece, 1 << 20)?;
        for at in (0..piece.len()).step_by(8 << 10) {
            piece[at] ^= 0x10;
        }
        file.write_all_at(&piece, 1 << 20)?;
        Ok(())
    })
}

#[test]
fn a_truncated_segment_is_never_served() -> Result<()> {
    after_harm(|segment| Ok(fs::OpenOptions::new().write(true).open(segment)?.set_len(1 << 20)?))
}

#[test]
fn a_stale_segment_is_never_served() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 3)?;
        let up = lab.up(&[("web01", &disk)])?;
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 3)?;
        lab.bookmark("web01", "first")?;
        up.stop()?;
        let segment = lab.segments()?.pop().context("no segment")?;
        let old = fs::read(&segment)?;

        let up = lab.up(&[("web01", &disk)])?;
        let content = fs::read(&disk)?;
        writer = Writer::open(&lab.tap("web01"), content, writer.answered() + 4)?;
        writer.burst(400, 16)?;
        lab.bookmark("web01", "second")?;
        let points = vec![("second".to_owned(), digest(writer.content()))];
        up.stop()?;
        // The newest segment goes back in time, as a disk that lied about a sync would let it.
        let newest = lab.segments()?.pop().context("no segment")?;
        fs::write(&newest, old)?;

        let mut up = lab.up(&[("web01", &disk)])?;
        ensure!(right_or_refused(lab, &points)? == 0, "history that is gone is still served");
        up.still_running()?;
        ensure!(difference(&fs::read(&disk)?, writer.content()).is_none(), "the protected disk changed");
        up.stop()
    })
}

/// A small file system in memory; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(folder: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let words = ["-t", "tmpfs", "-o", &format!("size={size}"), "none"].map(std::ffi::OsString::from);
        tool("mount", words.into_iter().chain([folder.clone().into_os_string()]))?;
        Ok(Self(folder))
    }

    fn resize(&self, size: &str) -> Result<()> {
        let words = ["-o", &format!("remount,size={size}")].map(std::ffi::OsString::from);
        tool("mount", words.into_iter().chain([self.0.clone().into_os_string()])).map(drop)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = tool("umount", ["-l".as_ref(), self.0.as_os_str()]);
    }
}

#[test]
fn a_full_store_stops_no_guest_and_heals() -> Result<()> {
    if !command::is_root() {
        return skipped("a_full_store_stops_no_guest_and_heals", "a small file system needs root to mount");
    }
    scenario(|lab| {
        let small = Small::new(lab.path("data"), "400m")?;
        let disk = lab.disk("web01.img", 64 << 20, 4)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let first = lab.bookmark("web01", "first")?;
        // A full store lets go of all that is not pinned or held, bookmarks last.
        lab.verb(&["point", "pin", "web01", "--at", "first"])?;
        let before = digest(&fs::read(&disk)?);
        let mut guest = Client::connect(&lab.tap("web01"))?;
        let mut random = Random::new(4);
        let mut data = vec![0; 1 << 20];
        for no in 0..600u64 {
            random.fill(&mut data);
            let offset = no % 64 * (1 << 20);
            guest.call(&Request::Write(offset, data.clone())).context("a full store reached the guest")?;
        }
        up.still_running()?;
        let state = lab.volume("web01")?;
        ensure!(state.head.is_none_or(|h| h > state.durable), "600 MiB fitted into 400: {state:?}");
        ensure!(digest(&lab.content(&lab.gateway("web01@first"))?) == before, "lsn {first} changed");

        small.resize("4g")?;
        let state = lab.settle("web01")?;
        ensure!(state.baselines == 1, "a new baseline: {state:?}");
        ensure!(
            difference(&lab.head("web01")?, &fs::read(&disk)?).is_none(),
            "the healed head is not the disk"
        );
        up.still_running()?;
        up.stop()
    })
}

#[test]
fn a_missing_disk_is_named() -> Result<()> {
    scenario(|lab| {
        let missing = lab.path("nosuch.img");
        let refused = lab.up_refused(&[("web01", &missing)], &lab.path("data"))?;
        ensure!(refused.code != 0, "it protects a file that is not there");
        ensure!(refused.stderr.contains("nosuch.img"), "which file? {}", refused.stderr);
        ensure!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
        ensure!(!missing.exists(), "the missing file was made up");
        Ok(())
    })
}

#[test]
fn a_disk_that_shrinks_is_an_error_and_no_zeroes() -> Result<()> {
    scenario(|lab| {
        let disk = lab.path("web01.img");
        fs::write(&disk, vec![7; 4 << 20])?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        lab.bookmark("web01", "first")?;
        fs::OpenOptions::new().write(true).open(&disk)?.set_len(1 << 20)?;
        let mut guest = Client::connect(&lab.tap("web01"))?;
        match guest.call(&Request::Read(2 << 20, 4096)) {
            Err(_) => {}
            Ok(data) => bail!("a read past the end of the shrunk file gave {:?}…", &data[..4]),
        }
        ensure!(guest.call(&Request::Read(0, 4096))? == vec![7; 4096], "the connection or the rest is lost");
        ensure!(lab.content(&lab.gateway("web01@first"))? == vec![7; 4 << 20], "history changed");
        up.still_running()
    })
}

#[test]
fn a_disk_that_changed_its_size_while_nobody_watched() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 5)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        let before = fs::read(&disk)?;
        up.stop()?;
        fs::OpenOptions::new().write(true).open(&disk)?.set_len(2 << 20)?;
        // Either it says no and why, or it goes on with the new size; the old moment is there in both cases.
        match lab.up(&[("web01", &disk)]) {
            Ok(_up) => {
                ensure!(lab.head("web01")? == fs::read(&disk)?, "the head is not the disk");
                ensure!(lab.content(&lab.gateway("web01@first"))? == before, "history changed");
            }
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("web01") && said.contains("size"), "no clear word: {said}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_second_instance_is_refused_by_name() -> Result<()> {
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", 1 << 20)?;
        let other = lab.empty_disk("other.img", 1 << 20)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        let pid = up.pid().to_string();
        let second = Lab::new()?; // its own ports and sockets, the same data
        let refused = second.up_refused(&[("other", &other)], &lab.path("data"))?;
        ensure!(refused.code != 0, "two programs share a data directory");
        let said = &refused.stderr;
        ensure!(said.contains(&pid) && said.contains("data"), "who holds what? {said}");
        up.still_running()?;
        lab.bookmark("web01", "still-fine")?;
        Ok(())
    })
}

#[test]
fn a_disk_is_protected_by_one_program_at_a_time() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 1 << 20, 8)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        let pid = up.pid().to_string();
        let second = Lab::new()?; // nothing of the first but its disk
        let refused = second.up_refused(&[("web01", &disk)], &second.path("data"))?;
        ensure!(refused.code == 5, "a disk has two taps, or the exit status is wrong: {}", refused.code);
        let said = &refused.stderr;
        ensure!(said.contains(&pid) && said.contains("web01.img"), "who holds what? {said}");
        up.still_running()?;
        up.kill()?;
        second.up(&[("web01", &disk)])?.stop()
    })
}

#[test]
fn a_disk_changed_while_nobody_watched_is_copied_again() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 6)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        let before = fs::read(&disk)?;
        up.stop()?;
        fs::OpenOptions::new().write(true).open(&disk)?.write_all_at(&[9; 10_000], 1_000_000)?;

        let up = lab.up(&[("web01", &disk)])?;
        poll::until("the change in history", LIMIT, || {
            Ok((lab.head("web01")? == fs::read(&disk)?).then_some(()))
        })?;
        ensure!(lab.content(&lab.gateway("web01@first"))? == before, "an old point shows the change");
        up.stop()
    })
}
