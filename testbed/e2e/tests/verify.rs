//! Verification as an administrator uses it: rot is found on the disk, named, and put right from another gateway.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed_e2e::lab::free_port;
use testbed_e2e::{Lab, Writer, digest, poll, scenario};

fn flip(segment: &PathBuf, at: u64) -> Result<()> {
    let file = fs::OpenOptions::new().read(true).write(true).open(segment)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x20], at)?;
    Ok(())
}

/// Runs `verify`; its exit code and what it lists.
fn verify(lab: &Lab, more: &[&str]) -> Result<(i32, Value)> {
    let done = lab.verb_raw(&[&["verify", "web01"], more].concat())?;
    let listed = serde_json::from_slice(&done.stdout).with_context(|| done.stderr.clone())?;
    Ok((done.code, listed))
}

/// Findings that are blocks.
fn blocks(listed: &Value) -> Vec<&Value> {
    let all = listed["findings"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|f| f["kind"] == "block").collect()
}

fn read(lab: &Lab, point: u64) -> Option<u128> {
    lab.content(&lab.gateway(&format!("web01@lsn:{point}"))).ok().map(|content| digest(&content))
}

#[test]
fn rot_is_named_and_put_right_from_another_gateway() -> Result<()> {
    scenario(|lab| {
        let other = Lab::new()?;
        let (listen, here, there) = (free_port()?, free_port()?, free_port()?);
        let disk = lab.disk("web01.img", 4 << 20, 1)?;
        let gateway = lab.gateway_alone(here)?;
        let _sibling = other.gateway_alone(there)?;
        let _cx = lab.cx_alone(listen, &[here, there])?;
        let tap = lab.tap_alone(&[("web01", &disk)], listen)?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 1)?;
        let mut points = Vec::new();
        for no in 0..6 {
            writer.burst(60, 16)?;
            points.push((lab.bookmark("web01", &format!("mark-{no}"))?, digest(writer.content())));
        }
        lab.settle("web01")?;
        other.settle("web01")?;
        let (code, listed) = verify(lab, &[])?;
        ensure!(code == 0 && listed["open"] == 0, "nothing is damaged yet: {listed}");
        let volume = lab.verb(&["volume", "show", "web01"])?;
        ensure!(volume["verified"]["lsn"] == volume["durable_lsn"], "all of it is verified: {volume}");

        // It would put right what it still holds.
        drop(writer);
        tap.stop()?;
        let segment = lab.segments()?.first().context("no segment")?.clone();
        for no in 0..8 {
            flip(&segment, (1 << 20) + no * (90 << 10) + 777)?;
        }
        let (code, listed) = verify(lab, &[])?;
        ensure!(code == 1 && !blocks(&listed).is_empty(), "rot was not found: {code} {listed}");
        for (point, content) in &points {
            let shows = |f: &&&Value| {
                let from = f["from_lsn"].as_u64().is_some_and(|from| from <= *point);
                from && f["to_lsn"].as_u64().is_none_or(|to| *point <= to)
            };
            let named = blocks(&listed).iter().find(shows).is_some();
            match read(lab, *point) {
                Some(found) => {
                    ensure!(!named && found == *content, "lsn:{point} is wrong, or said to be: {listed}")
                }
                None => ensure!(named, "lsn:{point} cannot be read, and nobody says why: {listed}"),
            }
        }
        ensure!(lab.verb(&["status"])?["health"] == "degraded");

        let (code, listed) = verify(lab, &["--repair-from", &other.api_url()])?;
        ensure!(code == 1, "what was repaired is listed until it is acknowledged: {listed}");
        ensure!(blocks(&listed).iter().all(|f| !f["over"].is_null()), "not all is repaired: {listed}");
        for (point, content) in &points {
            ensure!(read(lab, *point) == Some(*content), "lsn:{point} is not as it was");
        }
        verify(lab, &["--acknowledge"])?;
        let (code, listed) = verify(lab, &[])?;
        ensure!(blocks(&listed).is_empty() && (code == 0) == (listed["open"] == 0), "{code} {listed}");
        let whole = listed["open"] == 0;
        gateway.stop()?;
        ensure!(!whole || lab.jverify()?.code == 0, "jverify finds what verify does not");
        Ok(())
    })
}

#[test]
fn the_scrub_finds_rot_by_itself() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 2 << 20, 1)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        up.stop()?;
        let segment = lab.segments()?.first().context("no segment")?.clone();
        (0..8).try_for_each(|no| flip(&segment, (64 << 10) + no * (90 << 10)))?;
        let _up = lab.up(&[("web01", &disk)])?;
        poll::until("the scrub", std::time::Duration::from_secs(90), || {
            let volume = lab.verb(&["volume", "show", "web01"])?;
            // The source may have put it right already.
            let mended = fs::read_to_string(lab.log())?.contains("was put right with what the source holds");
            Ok((mended || volume["damaged"].as_u64() > Some(0)).then_some(()))
        })
    })
}

#[test]
fn the_source_puts_right_what_it_still_holds() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 1)?;
        let _up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), fs::read(&disk)?, 1)?;
        let before = lab.bookmark("web01", "before")?;
        let was = writer.content().to_vec();
        writer.burst(150, 16)?;
        let durable = lab.settle("web01")?.durable;
        let segment = lab.segments()?.first().context("no segment")?.clone();
        for no in 0..40 {
            flip(&segment, (64 << 10) + no * (60 << 10) + 777)?;
        }
        let (code, listed) = verify(lab, &[])?;
        ensure!(code == 1, "rot was not found: {listed}");
        let (over, open): (Vec<_>, Vec<_>) = blocks(&listed).into_iter().partition(|f| !f["over"].is_null());
        ensure!(!over.is_empty(), "nothing was put right: {listed}");
        ensure!(open.iter().all(|f| !f["to_lsn"].is_null()), "the disk still holds the newest: {listed}");
        ensure!(read(lab, durable) == Some(digest(writer.content())), "the newest point is not as it was");
        // What the disk does not hold any more is not made up.
        ensure!(read(lab, before).is_none_or(|found| found == digest(&was)), "an older point is wrong");
        Ok(())
    })
}
