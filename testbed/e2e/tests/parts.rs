//! Tap, CX and gateway as three processes over TCP: each may be killed and come back, in any order.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use testbed_e2e::lab::free_port;
use testbed_e2e::{Lab, Writer, difference, scenario};

/// The ports between them.
struct Links {
    cx: u16,
    gateway: u16,
}

impl Links {
    fn new() -> Result<Self> {
        Ok(Self { cx: free_port()?, gateway: free_port()? })
    }
}

fn head_is(lab: &Lab, writer: &Writer) -> Result<()> {
    match difference(&lab.head("web01")?, writer.content()) {
        Some(how) => anyhow::bail!("the head is not the disk: {how}"),
        None => Ok(()),
    }
}

#[test]
fn three_processes_are_one_path() -> Result<()> {
    scenario(|lab| {
        let links = Links::new()?;
        let disk = lab.disk("web01.img", 4 << 20, 1)?;
        let gateway = lab.gateway_alone(links.gateway)?;
        let cx = lab.cx_alone(links.cx, &[links.gateway])?;
        let tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        lab.settle("web01")?; // the tap is ready before it has reached anybody
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 1)?;
        writer.burst(300, 16)?;
        lab.bookmark("web01", "first")?;
        let image = lab.content(&lab.gateway("web01@first"))?;
        ensure!(difference(&image, writer.content()).is_none(), "the image is not the disk");
        tap.stop()?;
        cx.stop()?;
        gateway.stop()
    })
}

#[test]
fn a_gateway_that_is_away_misses_nothing() -> Result<()> {
    scenario(|lab| {
        let links = Links::new()?;
        let disk = lab.disk("web01.img", 4 << 20, 2)?;
        let gateway = lab.gateway_alone(links.gateway)?;
        let _cx = lab.cx_alone(links.cx, &[links.gateway])?;
        let _tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 2)?;
        lab.settle("web01")?;
        gateway.kill()?;
        writer.burst(500, 16)?;

        let _gateway = lab.gateway_alone(links.gateway)?;
        let state = lab.settle("web01")?;
        ensure!(state.gaps.is_empty() && state.resynced == 0, "an outage lost history: {state:?}");
        head_is(lab, &writer)
    })
}

#[test]
fn a_cx_that_is_killed_loses_nothing() -> Result<()> {
    scenario(|lab| {
        let links = Links::new()?;
        let disk = lab.disk("web01.img", 4 << 20, 3)?;
        let gateway = lab.gateway_alone(links.gateway)?;
        let mut cx = lab.cx_alone(links.cx, &[links.gateway])?;
        let tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 3)?;
        for _ in 0..3 {
            writer.burst(200, 16)?;
            cx.kill()?;
            writer.burst(200, 16)?;
            cx = lab.cx_alone(links.cx, &[links.gateway])?;
        }
        let state = lab.settle("web01")?;
        ensure!(state.gaps.is_empty() && state.resynced == 0, "an outage lost history: {state:?}");
        head_is(lab, &writer)?;
        tap.stop()?;
        cx.stop()?;
        gateway.stop()
    })
}

#[test]
fn a_tap_that_is_killed_heals_its_head() -> Result<()> {
    scenario(|lab| {
        let links = Links::new()?;
        let disk = lab.disk("web01.img", 4 << 20, 4)?;
        let _gateway = lab.gateway_alone(links.gateway)?;
        let _cx = lab.cx_alone(links.cx, &[links.gateway])?;
        let tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 4)?;
        lab.settle("web01")?;
        writer.burst(300, 16)?;
        tap.kill()?;
        let state = lab.volume("web01")?;
        ensure!(state.head.is_none(), "the head of a tap that cannot be asked is unknown: {state:?}");

        let _tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        let state = lab.settle("web01")?;
        ensure!(state.baselines == 1, "a new baseline: {state:?}");
        head_is(lab, &writer)
    })
}

#[test]
fn a_tap_keeps_over_a_restart_what_it_could_not_send() -> Result<()> {
    scenario(|lab| {
        let links = Links::new()?;
        let disk = lab.disk("web01.img", 4 << 20, 5)?;
        let _gateway = lab.gateway_alone(links.gateway)?;
        let cx = lab.cx_alone(links.cx, &[links.gateway])?;
        let tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 5)?;
        cx.stop()?;
        writer.burst(500, 16)?;
        tap.stop()?;

        let _tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        let _cx = lab.cx_alone(links.cx, &[links.gateway])?;
        head_is(lab, &writer)?;
        let state = lab.settle("web01")?;
        ensure!(state.gaps.is_empty() && state.resynced == 0, "a clean stop lost history: {state:?}");
        Ok(())
    })
}

#[test]
fn a_cx_that_loses_its_disk_leaves_a_gap_and_a_sound_head() -> Result<()> {
    scenario(|lab| {
        let links = Links::new()?;
        let disk = lab.disk("web01.img", 4 << 20, 6)?;
        let gateway = lab.gateway_alone(links.gateway)?;
        let cx = lab.cx_alone(links.cx, &[links.gateway])?;
        let _tap = lab.tap_alone(&[("web01", &disk)], links.cx)?;
        lab.settle("web01")?;
        let before = lab.bookmark("web01", "before")?;
        let old = std::fs::read(&disk)?;
        let mut writer = Writer::open(&lab.tap("web01"), old.clone(), 6)?;
        gateway.kill()?;
        writer.burst(500, 16)?;
        // The CX has taken these over: they are in its spool and nowhere else.
        std::thread::park_timeout(std::time::Duration::from_secs(2));
        cx.kill()?;
        std::fs::remove_dir_all(lab.path("data/cx-alone"))?;

        let _gateway = lab.gateway_alone(links.gateway)?;
        let _cx = lab.cx_alone(links.cx, &[links.gateway])?;
        head_is(lab, &writer)?;
        let state = lab.settle("web01")?;
        ensure!(state.baselines == 1, "a new baseline: {state:?}");
        ensure!(!state.lost(before), "{state:?}");
        ensure!(state.head.is_some_and(|h| h > before + 400), "{state:?}");
        ensure!(lab.content(&lab.gateway("web01@before"))? == old, "an old point changed");
        let lost = state.gaps.iter().find(|g| g.from >= before);
        ensure!(lost.is_some(), "what only the lost disk held is not shown as a gap: {state:?}");
        Ok(())
    })
}
