//! A protected server that is restored from an old copy, while a newer one of it has written to history since: its tap is refused
//! until somebody says that it is the one to go on with.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use testbed_e2e::lab::free_port;
use testbed_e2e::{Lab, Up, Writer, difference, poll, scenario};

const LIMIT: Duration = Duration::from_secs(60);

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Puts `from` in the place of `to`.
fn put_back(from: &Path, to: &Path) -> Result<()> {
    if to.is_dir() {
        fs::remove_dir_all(to)?;
    }
    copy(from, to)
}

fn wait_until_told(lab: &Lab, what: &str) -> Result<()> {
    poll::until(&format!("the status saying {what:?}"), LIMIT, || {
        Ok(lab.verb(&["status"])?.to_string().contains(what).then_some(()))
    })
}

fn shows(lab: &Lab, export: &str, content: &[u8]) -> Result<()> {
    match difference(&lab.content(&lab.gateway(export))?, content) {
        Some(how) => anyhow::bail!("{export} is not what it was: {how}"),
        None => Ok(()),
    }
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap()
}

/// A protected disk with its tap and CX.
struct Server<'a> {
    lab: &'a Lab,
    disk: PathBuf,
    /// What is restored with the disk, the tap's state first.
    restored: Vec<PathBuf>,
    link: u16,
    listen: u16,
}

/// What the disk held at two bookmarks.
struct Held {
    first: (u64, Vec<u8>),
    second: (u64, Vec<u8>),
}

impl Server<'_> {
    fn tap(&self) -> Result<Up> {
        self.lab.tap_alone(&[("web01", &self.disk)], self.listen)
    }

    fn cx(&self) -> Result<Up> {
        self.lab.cx_alone(self.listen, &[self.link])
    }

    fn writer(&self, content: &[u8], seed: u64) -> Result<Writer> {
        Writer::open(&self.lab.tap("web01"), content.to_vec(), seed)
    }

    fn copies(&self, when: &str) -> impl Iterator<Item = (&Path, PathBuf)> {
        let kept = |n: usize| self.lab.path(&format!("{when}-{n}"));
        self.restored
            .iter()
            .enumerate()
            .map(|(n, what)| (what.as_path(), kept(n)))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// A backup is made at the first bookmark; what was written until the second is there when it is put back.
    fn write_and_restore(&self) -> Result<Held> {
        let (cx, tap) = (self.cx()?, self.tap()?);
        self.lab.settle("web01")?;
        let mut writer = self.writer(&fs::read(&self.disk)?, 1)?;
        writer.burst(20, 4)?;
        let first = (self.lab.bookmark("web01", "first")?, writer.content().to_vec());
        tap.stop()?;
        cx.stop()?;
        self.copies("backup").try_for_each(|(what, kept)| copy(what, &kept))?;
        let (cx, tap) = (self.cx()?, self.tap()?);
        let mut writer = self.writer(&first.1, 2)?;
        writer.burst(300, 8)?;
        let second = (self.lab.bookmark("web01", "second")?, writer.content().to_vec());
        ensure!(second.0 > first.0 + 100, "{} {}", first.0, second.0);
        let none = self.lab.verb_raw(&["volume", "accept-restored", "web01"])?;
        ensure!(
            none.code == 5 && none.stderr.contains("no tap of this volume is refused"),
            "{}",
            none.stderr
        );
        tap.stop()?;
        cx.stop()?;
        self.copies("newest").try_for_each(|(what, kept)| copy(what, &kept))?;
        self.copies("backup").try_for_each(|(what, kept)| put_back(&kept, what))?;
        Ok(Held { first, second })
    }

    /// It is refused, accepted, and goes on; what the disk holds at its first bookmark from then on.
    fn accept(&self, held: &Held) -> Result<Vec<u8>> {
        let (lab, tap) = (self.lab, self.tap()?);
        let mut writer = self.writer(&held.first.1, 3)?;
        writer.burst(50, 4)?;
        wait_until_told(lab, "chronogate volume accept-restored web01")?;
        let accepted = lab.verb(&["volume", "accept-restored", "web01"])?;
        let (knows, history) = (number(&accepted, "knows_lsn"), number(&accepted, "history_lsn"));
        ensure!(history >= held.second.0 && (held.first.0..held.second.0).contains(&knows), "{accepted}");
        ensure!(accepted["knows_time"].is_string(), "{accepted}");
        ensure!(accepted["tap"].as_str().unwrap().starts_with("tap "), "{accepted}");
        poll::until(
            "the tap going on",
            LIMIT,
            || Ok((lab.volume("web01")?.durable > history).then_some(())),
        )?;
        let state = lab.settle("web01")?;
        shows(lab, &format!("web01@lsn:{}", state.durable), writer.content())?;
        let gap = state.gaps.last().unwrap();
        ensure!(gap.cause == "changed_unwatched" && gap.from == history, "{state:?}");
        let mark = format!("restored-{}", gap.from + 1);
        let marks = lab.verb(&["bookmark", "ls", "web01"])?.to_string();
        ensure!(marks.contains(&mark) && marks.contains("old copy"), "{marks}");
        shows(lab, &format!("web01@{mark}"), writer.content())?;
        writer.burst(50, 4)?;
        lab.bookmark("web01", "third")?;
        shows(lab, "web01@third", writer.content())?;
        shows(lab, "web01@first", &held.first.1)?;
        shows(lab, "web01@second", &held.second.1)?;
        tap.stop()?;
        Ok(writer.content().to_vec())
    }

    /// The newest copy comes back all the same: it is fenced, and nothing that it writes is taken. The accepted one goes on.
    fn fence_the_newest(&self, at_third: &[u8]) -> Result<()> {
        let (lab, state) = (self.lab, &self.restored[0]);
        let accepted = lab.path("accepted-tap");
        copy(state, &accepted)?;
        put_back(&lab.path("newest-0"), state)?;
        let tap = self.tap()?;
        let mut twin = self.writer(at_third, 4)?;
        twin.burst(50, 4)?;
        wait_until_told(lab, "another copy of this tap's state was accepted")?;
        tap.kill()?;
        let tap = self.tap()?;
        wait_until_told(lab, "another copy of this tap's state was accepted")?;
        tap.kill()?;
        let before = lab.volume("web01")?.durable;
        put_back(&accepted, state)?;
        let tap = self.tap()?;
        ensure!(lab.settle("web01")?.durable > before);
        if let Some(how) = difference(&lab.head("web01")?, twin.content()) {
            anyhow::bail!("the head is not the disk: {how}");
        }
        shows(lab, "web01@third", at_third)?;
        tap.stop()
    }
}

/// What is restored with the protected disk, the tap's state first.
fn restored_server_goes_on(lab: &Lab, restored: &[&str]) -> Result<()> {
    let disk = lab.disk("web01.img", 4 << 20, 1)?;
    let restored = restored.iter().map(|folder| lab.path(folder)).chain([disk.clone()]).collect();
    let server = Server { lab, disk, restored, link: free_port()?, listen: free_port()? };
    let _gateway = lab.gateway_alone(server.link)?;
    let held = server.write_and_restore()?;
    let cx = server.cx()?;
    let at_third = server.accept(&held)?;
    server.fence_the_newest(&at_third)?;
    cx.stop()
}

#[test]
fn a_server_that_was_restored_from_a_backup_goes_on_once_that_is_said() -> Result<()> {
    scenario(|lab| restored_server_goes_on(lab, &["data/tap-alone"]))
}

#[test]
fn a_server_that_was_restored_with_its_cx_goes_on_once_that_is_said() -> Result<()> {
    scenario(|lab| restored_server_goes_on(lab, &["data/tap-alone", "data/cx-alone"]))
}
