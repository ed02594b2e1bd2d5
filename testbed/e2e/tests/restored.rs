//! A protected server that is restored from an old copy, while a newer one of it has written to history since: its tap is refused
//! until somebody says that it is the one to go on with.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use testbed_e2e::lab::free_port;
use testbed_e2e::{Lab, Writer, difference, poll, scenario};

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

/// What is restored with the protected disk.
fn restored_server_goes_on(lab: &Lab, restored: &[&str]) -> Result<()> {
    let (link, listen) = (free_port()?, free_port()?);
    let disk = lab.disk("web01.img", 4 << 20, 1)?;
    let restored: Vec<_> = restored.iter().map(|folder| lab.path(folder)).chain([disk.clone()]).collect();
    let backup = |n: usize, when: &str| lab.path(&format!("{when}-{n}"));
    let _gateway = lab.gateway_alone(link)?;
    let cx = lab.cx_alone(listen, &[link])?;
    let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
    lab.settle("web01")?;
    let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 1)?;
    writer.burst(20, 4)?;
    let first = lab.bookmark("web01", "first")?;
    let at_first = writer.content().to_vec();
    tap.stop()?;
    cx.stop()?;
    for (n, what) in restored.iter().enumerate() {
        copy(what, &backup(n, "backup"))?;
    }
    let cx = lab.cx_alone(listen, &[link])?;
    let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
    let mut writer = Writer::open(&lab.tap("web01"), at_first.clone(), 2)?;
    writer.burst(300, 8)?;
    let second = lab.bookmark("web01", "second")?;
    let at_second = writer.content().to_vec();
    ensure!(second > first + 100, "{first} {second}");
    let none = lab.verb_raw(&["volume", "accept-restored", "web01"])?;
    ensure!(none.code == 5 && none.stderr.contains("no tap of this volume is refused"), "{}", none.stderr);
    tap.stop()?;
    cx.stop()?;
    for (n, what) in restored.iter().enumerate() {
        copy(what, &backup(n, "newest"))?;
        put_back(&backup(n, "backup"), what)?;
    }

    let cx = lab.cx_alone(listen, &[link])?;
    let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
    let mut writer = Writer::open(&lab.tap("web01"), at_first.clone(), 3)?;
    writer.burst(50, 4)?;
    wait_until_told(lab, "chronogate volume accept-restored web01")?;
    let accepted = lab.verb(&["volume", "accept-restored", "web01"])?;
    ensure!(number(&accepted, "history_lsn") == number(&accepted, "history_lsn").max(second), "{accepted}");
    ensure!(number(&accepted, "knows_lsn") >= first && number(&accepted, "knows_lsn") < second, "{accepted}");
    ensure!(
        accepted["knows_time"].is_string() && accepted["tap"].as_str().unwrap().starts_with("tap "),
        "{accepted}"
    );
    poll::until("the tap going on", LIMIT, || {
        Ok((lab.volume("web01")?.durable > number(&accepted, "history_lsn")).then_some(()))
    })?;
    let state = lab.settle("web01")?;
    shows(lab, &format!("web01@lsn:{}", state.durable), writer.content())?;
    let gap = state.gaps.last().unwrap();
    ensure!(gap.cause == "changed_unwatched" && gap.from == number(&accepted, "history_lsn"), "{state:?}");
    let mark = format!("restored-{}", gap.from + 1);
    let marks = lab.verb(&["bookmark", "ls", "web01"])?.to_string();
    ensure!(marks.contains(&mark) && marks.contains("old copy"), "{marks}");
    shows(lab, &format!("web01@{mark}"), writer.content())?;
    writer.burst(50, 4)?;
    lab.bookmark("web01", "third")?;
    shows(lab, "web01@third", writer.content())?;
    shows(lab, "web01@first", &at_first)?;
    shows(lab, "web01@second", &at_second)?;
    let at_third = writer.content().to_vec();
    tap.stop()?;

    // The newest copy comes back all the same: it is fenced, and nothing that it writes is taken.
    let accepted_tap = lab.path("accepted-tap");
    copy(&restored[0], &accepted_tap)?;
    put_back(&backup(0, "newest"), &restored[0])?;
    let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
    let mut twin = Writer::open(&lab.tap("web01"), at_third.clone(), 4)?;
    twin.burst(50, 4)?;
    wait_until_told(lab, "another copy of this tap's state was accepted")?;
    tap.kill()?;
    let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
    wait_until_told(lab, "another copy of this tap's state was accepted")?;
    tap.kill()?;
    let before = lab.volume("web01")?.durable;
    put_back(&accepted_tap, &restored[0])?;
    let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
    ensure!(lab.settle("web01")?.durable > before);
    match difference(&lab.head("web01")?, twin.content()) {
        Some(how) => anyhow::bail!("the head is not the disk: {how}"),
        None => {}
    }
    shows(lab, "web01@third", &at_third)?;
    tap.stop()?;
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
