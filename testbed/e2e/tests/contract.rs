//! What scripts rely on: fields, exit codes, names, and how the program starts and ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::volume::{number, text};
use testbed_e2e::{Lab, Writer, difference, scenario};

const NOT_FOUND: i32 = 3;
const USAGE: i32 = 2;
const CONFLICT: i32 = 5;
const UNREACHABLE: i32 = 6;

fn code(lab: &Lab, words: &[&str], expected: i32) -> Result<()> {
    let done = lab.verb_raw(words)?;
    ensure!(
        done.code == expected,
        "{words:?} ended with {} and not {expected}:\n{}{}",
        done.code,
        done.text(),
        done.stderr
    );
    ensure!(expected == 0 || !done.stderr.trim().is_empty(), "{words:?} failed without a word");
    Ok(())
}

/// A time as the contract wants it.
fn is_utc(time: &str) -> bool {
    time.ends_with('Z') && time.contains('T') && time.starts_with("20")
}

fn is_point(value: &Value) -> Result<()> {
    number(value, "lsn")?;
    ensure!(value.get("name").is_some(), "no name in {value}");
    ensure!(is_utc(&text(value, "time")?), "{value}");
    Ok(())
}

fn is_image(value: &Value) -> Result<()> {
    ensure!(value.get("id").is_some_and(|id| !id.is_null()), "no id in {value}");
    ensure!(text(value, "volume")? == "web01", "{value}");
    number(value, "lsn")?;
    ensure!(text(value, "uri")?.starts_with("nbd"), "{value}");
    Ok(())
}

#[test]
fn the_fields_that_scripts_rely_on() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 2 << 20, 1)?;
        let up = lab.up(&[("web01", &disk)])?;
        let ready = up.ready();
        ensure!(text(ready, "api")? == lab.api_url(), "{ready}");
        ensure!(ready["volumes"]["web01"]["tap"].as_str().unwrap().contains("tap.sock"), "{ready}");
        ensure!(ready["nbd"].as_array().unwrap().len() == 2, "{ready}");

        let bookmark = lab.verb(&["bookmark", "create", "web01", "first"])?;
        is_point(&bookmark)?;
        ensure!(text(&bookmark, "name")? == "first");
        let lsn = number(&bookmark, "lsn")?;
        let time = text(&bookmark, "time")?;
        for at in ["first", "now", &format!("lsn:{lsn}"), &time, "-0s"] {
            let point = lab.verb(&["point", "resolve", "web01", "--at", at])?;
            is_point(&point)?;
            ensure!(number(&point, "lsn")? == lsn, "{at} is {point}, not {bookmark}");
        }
        is_image(&lab.verb(&["image", "create", "web01", "--at", "first", "--name", "look"])?)?;
        is_image(&lab.verb(&["image", "create", "web01", "--at", "now", "--rw"])?)?;
        is_image(&lab.verb(&["mount", "web01@first"])?)?;

        let shown = lab.verb(&["volume", "show", "web01"])?;
        ensure!(number(&shown, "size")? == 2 << 20, "{shown}");
        for field in
            ["lag_seconds", "lag_bytes", "head_lsn", "durable_lsn", "baseline_count", "resynced_bytes"]
        {
            ensure!(shown.get(field).is_some_and(Value::is_number), "no number {field} in {shown}");
        }
        ensure!(lab.verb(&["volume", "ls"])?.to_string().contains("web01"));
        ensure!(lab.verb(&["bookmark", "ls", "web01"])?.to_string().contains("first"));
        ensure!(lab.verb(&["image", "ls"])?.to_string().contains("look"));
        lab.verb(&["status"])?;
        Ok(())
    })
}

#[test]
fn exit_codes() -> Result<()> {
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", 1 << 20)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        code(lab, &["volume", "show", "web01"], 0)?;
        code(lab, &["volume", "show", "nosuch"], NOT_FOUND)?;
        code(lab, &["point", "resolve", "web01", "--at", "nosuch"], NOT_FOUND)?;
        code(lab, &["image", "rm", "nosuch"], NOT_FOUND)?;
        code(lab, &["bookmark", "create", "web01", "first"], CONFLICT)?;
        code(lab, &["volume", "nosuchverb"], USAGE)?;
        for name in ["now", "-10m", "lsn:5", "a/b", "..", "a b"] {
            let done = lab.verb_raw(&["bookmark", "create", "web01", "--", name])?;
            ensure!(done.code != 0, "{name:?} was taken for a bookmark's name");
        }
        up.stop()?;
        code(lab, &["volume", "show", "web01"], UNREACHABLE)
    })
}

#[test]
fn a_bookmark_covers_every_write_acknowledged_before_it() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 4 << 20, 3)?;
        let _up = lab.up(&[("web01", &disk)])?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 3)?;
        for no in 0..5 {
            writer.burst(100, 16)?;
            let name = format!("mark-{no}");
            lab.bookmark("web01", &name)?;
            let image = lab.content(&lab.gateway(&format!("web01@{name}")))?;
            if let Some(how) = difference(&image, writer.content()) {
                anyhow::bail!("{name}: {how}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_bookmark_during_the_baseline_waits_for_its_end() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 48 << 20, 4)?;
        let _up = lab.up(&[("web01", &disk)])?;
        let mut guest = Client::connect(&lab.tap("web01"))?;
        guest.call(&Request::Write(4096, vec![7; 8192]))?;
        lab.bookmark("web01", "early")?;
        let image = lab.content(&lab.gateway("web01@early"))?;
        ensure!(difference(&image, &std::fs::read(&disk)?).is_none(), "the image is not the disk");
        let state = lab.volume("web01")?;
        ensure!(state.baselines == 1 && state.gaps.is_empty(), "{state:?}");
        Ok(())
    })
}

#[test]
fn a_point_that_will_never_be_is_refused_in_time() -> Result<()> {
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", 1 << 20)?;
        let _up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let begun = Instant::now();
        ensure!(
            Client::connect(&lab.gateway("web01@lsn:99999999")).is_err(),
            "a point of the future was opened"
        );
        ensure!(begun.elapsed() < Duration::from_secs(20), "the refusal took {:?}", begun.elapsed());
        ensure!(Client::connect(&lab.gateway("nosuch")).is_err(), "an unknown volume was opened");
        ensure!(Client::connect(&lab.gateway("web01@nosuch")).is_err(), "an unknown bookmark was opened");
        Ok(())
    })
}

#[test]
fn live_sockets_are_refused_and_stale_ones_replaced() -> Result<()> {
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", 1 << 20)?;
        let other = lab.empty_disk("other.img", 1 << 20)?;
        let up = lab.up(&[("web01", &disk)])?;
        let refused = lab.up_refused(&[("other", &other)], &lab.path("elsewhere"))?;
        ensure!(refused.code != 0, "two programs share their sockets");
        ensure!(
            refused.stderr.contains("tap.sock")
                || refused.stderr.contains("gw.sock")
                || refused.stderr.contains("127.0.0.1"),
            "which address is in use? {}",
            refused.stderr
        );
        ensure!(Client::connect(&lab.tap("web01")).is_ok(), "the refused one broke the live socket");
        up.kill()?;
        ensure!(lab.path("tap.sock").exists(), "kill -9 leaves the socket file behind");
        lab.up(&[("web01", &disk)])?.stop()
    })
}

#[test]
fn a_restore_is_the_image() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 8 << 20, 7)?;
        let _up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        let before = std::fs::read(&disk)?;
        Client::connect(&lab.tap("web01"))?.call(&Request::Write(0, vec![7; 1 << 20]))?;
        let out = lab.path("restored.img");
        lab.verb_raw(&["restore", "web01@first", "--to", out.to_str().unwrap()])?.ok()?;
        ensure!(difference(&std::fs::read(&out)?, &before).is_none(), "the restored file is not the image");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&out)?);
        ensure!(blocks * 512 < 7 << 20, "the restored file is not sparse: {blocks} sectors");
        Ok(())
    })
}

#[test]
fn two_disks_in_one_program() -> Result<()> {
    scenario(|lab| {
        let (one, two) = (lab.disk("one.img", 2 << 20, 8)?, lab.disk("two.img", 3 << 20, 9)?);
        let up = lab.up(&[("one", &one), ("two", &two)])?;
        for (name, disk) in [("one", &one), ("two", &two)] {
            let mut writer = Writer::open(&lab.tap(name), std::fs::read(disk)?, 8)?;
            writer.burst(100, 16)?;
            lab.bookmark(name, "same-name")?;
            let image = lab.content(&lab.gateway(&format!("{name}@same-name")))?;
            ensure!(difference(&image, writer.content()).is_none(), "{name}'s image is not its disk");
        }
        up.stop()
    })
}

#[test]
fn a_moving_name_stays_one_moment_for_one_client() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", 2 << 20, 10)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let first = lab.content(&lab.gateway("web01"))?;
        Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 10)?.burst(50, 8)?;
        ensure!(lab.head("web01")? != first, "nothing was written");
        let again = lab.content(&lab.gateway("web01"))?;
        ensure!(difference(&again, &first).is_none(), "one client saw two disks under one name");
        up.stop()
    })
}
