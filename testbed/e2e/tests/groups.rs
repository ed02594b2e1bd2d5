//! Consistency groups: two disks of which one is written to because of what the other answered, opened at points that both
//! share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed_e2e::lab::free_port;
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Lab, Up, command, pick, poll, run, scenario, skipped, tool};

const SIZE: u64 = 1 << 20;

struct Disks {
    data: PathBuf,
    log: PathBuf,
}

impl Disks {
    fn up(&self, lab: &Lab) -> Result<Up> {
        let disks = [("data01", self.data.as_path()), ("log01", self.log.as_path())];
        let up = lab.up_with(&disks, &["--group", "db=data01,log01", "--group-interval", "100ms"])?;
        lab.settle("data01")?;
        lab.settle("log01")?;
        Ok(up)
    }
}

/// A stock client at work on both disks.
struct Guest {
    child: Child,
    stop: PathBuf,
}

impl Guest {
    fn start(lab: &Lab) -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/dependent_writes.py");
        let stop = lab.path("stop");
        let _ = std::fs::remove_file(&stop);
        let mut python = Command::new("/usr/bin/python3");
        python.arg(script).arg(lab.tap("data01")).arg(lab.tap("log01")).arg(&stop);
        let child = python.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("no python3")?;
        Ok(Self { child, stop })
    }

    fn end(self) -> Result<u64> {
        std::fs::write(&self.stop, "")?;
        let done = self.child.wait_with_output()?;
        ensure!(done.status.success(), "the guest failed");
        Ok(String::from_utf8(done.stdout)?.trim().parse()?)
    }
}

/// The greatest number that was written to an export.
fn number(lab: &Lab, export: &str) -> Result<u64> {
    let content = lab.content(&lab.gateway(export))?;
    let words = content[..256 << 10].as_chunks::<8>().0;
    words.iter().map(|word| u64::from_le_bytes(*word)).max().context("an empty disk")
}

fn export(point: &Value, member: usize) -> Result<&str> {
    point["members"][member]["export"].as_str().context("no export")
}

/// Both disks at a point show one moment; the number there.
fn check(lab: &Lab, point: &Value) -> Result<u64> {
    let mut exports = [export(point, 0)?, export(point, 1)?];
    exports.sort_unstable();
    let [data, log] = [number(lab, exports[0])?, number(lab, exports[1])?];
    ensure!(log <= data && data <= log + 1, "{data} on data01 and {log} on log01: {point}");
    Ok(data)
}

/// Points of the group as time goes by.
fn gather(lab: &Lab, how_many: usize) -> Result<Vec<Value>> {
    let mut points: Vec<Value> = Vec::new();
    poll::until("points of the group", command::LIMIT, || {
        let found = lab.verb_raw(&["group", "point", "db"])?;
        if found.code == 0 {
            let point: Value = serde_json::from_slice(&found.stdout)?;
            if points.last() != Some(&point) {
                points.push(point);
            }
        }
        std::thread::park_timeout(Duration::from_millis(30));
        Ok((points.len() >= how_many).then_some(()))
    })?;
    Ok(points)
}

#[test]
fn two_disks_at_a_point_of_their_group_show_one_moment() -> Result<()> {
    if let Some(missing) = command::missing(&["nbdsh", "nbdcopy"]) {
        return skipped("two_disks_at_a_point_of_their_group_show_one_moment", &missing);
    }
    scenario(|lab| {
        let (data, log) = (lab.empty_disk("data.img", SIZE)?, lab.empty_disk("log.img", SIZE)?);
        let disks = Disks { data, log };
        let up = disks.up(lab)?;
        let guest = Guest::start(lab)?;
        let mut points = gather(lab, pick(8, 40))?;
        let named = lab.verb(&["bookmark", "create", "--group", "db", "monday"])?;
        ensure!(named["bookmark"] == "monday", "{named}");
        points.push(named);
        points.extend(gather(lab, 3)?);
        let last = guest.end()?;
        quiet(lab)?;
        let numbers = points.iter().map(|point| check(lab, point)).collect::<Result<Vec<u64>>>()?;
        ensure!(numbers.is_sorted() && numbers.last() <= Some(&last), "{numbers:?} of {last}");
        ensure!(numbers.last() > numbers.first(), "nothing was written meanwhile: {numbers:?}");
        torn_apart(lab, &points)?;
        ways_to_a_point(lab, &points)?;
        up.kill()?;
        for folder in lab.folders("fjall")? {
            std::fs::remove_dir_all(folder)?;
        }
        let up = disks.up(lab)?;
        for (point, number) in points.iter().zip(&numbers) {
            ensure!(check(lab, point)? == *number, "{point} is another moment after a restart");
        }
        thinned(lab)?;
        up.stop()?;
        lab.jverify()?.ok().map(drop)
    })
}

/// Nothing is written: there are no further points.
fn quiet(lab: &Lab) -> Result<()> {
    let mut before = None;
    poll::until("an end of the group's points", command::LIMIT, || {
        std::thread::park_timeout(Duration::from_millis(400));
        let point = lab.verb(&["group", "point", "db"])?;
        Ok((before.replace(point.clone()) == Some(point)).then_some(()))
    })
}

/// What the checks are worth: disks of two different points are found out.
fn torn_apart(lab: &Lab, points: &[Value]) -> Result<()> {
    let (old, new) = (points.first().context("no point")?, points.last().context("no point")?);
    let mut torn = old.clone();
    let log = |member: &&Value| member["volume"] == "log01";
    let newer = new["members"].as_array().and_then(|all| all.iter().find(log)).context("no log01")?.clone();
    for member in torn["members"].as_array_mut().context("no members")? {
        if member["volume"] == "log01" {
            *member = newer.clone();
        }
    }
    ensure!(check(lab, &torn).is_err(), "a torn group passes for a sound one");
    Ok(())
}

fn ways_to_a_point(lab: &Lab, points: &[Value]) -> Result<()> {
    let group = lab.verb(&["group", "show", "db"])?;
    let count = group["point_count"].as_u64().context("no count")?;
    ensure!(count >= points.len() as u64 && group["one_policy"] == true, "{group}");
    ensure!(lab.verb(&["group", "ls"])?[0]["name"] == "db");
    let (one, time) = (&points[2], points[2]["time"].as_str().context("no time")?);
    ensure!(lab.verb(&["group", "point", "db", "--before", time])? == *one, "a point is found by its time");
    // Time and name lead to the same place in each member, and so does an image.
    for member in one["members"].as_array().context("no members")? {
        let volume = member["volume"].as_str().context("no volume")?;
        for at in [time, one["point"].as_str().context("no point")?] {
            let resolved = lab.verb(&["point", "resolve", volume, "--at", at])?;
            ensure!(resolved["lsn"] == member["lsn"], "{at}: {resolved} and {member}");
        }
        let name = format!("set-{volume}");
        let made =
            lab.verb(&["image", "create", volume, "--at", one["point"].as_str().unwrap(), "--name", &name])?;
        ensure!(made["lsn"] == member["lsn"], "{made}");
        let monday = lab.verb(&["bookmark", "ls", volume])?;
        ensure!(monday[0]["name"] == "monday", "{monday}");
    }
    let copy = lab.path("copy.raw");
    tool("nbdcopy", [lab.gateway(export(one, 0)?).as_ref(), copy.as_os_str()])?;
    ensure!(
        std::fs::read(&copy)? == lab.content(&lab.gateway(export(one, 0)?))?,
        "a stock client sees the same"
    );
    let none = lab.verb_raw(&["group", "point", "db", "--before", "2001-01-01T00:00:00Z"])?;
    ensure!(none.code == 5 && none.stderr.contains("the oldest point of the group is of"), "{}", none.stderr);
    let early = lab.verb_raw(&["group", "point", "db", "--before", "2200-01-01T00:00:00Z"])?;
    ensure!(
        early.code != 0 && early.stderr.contains("may still come"),
        "what comes is no guess: {}",
        early.stderr
    );
    ensure!(lab.verb_raw(&["group", "point", "db", "--before", "now"])?.code == 0);
    let nobody = lab.verb_raw(&["group", "show", "nobody"])?;
    ensure!(nobody.code == 3 && nobody.stderr.contains("--group NAME=VOLUME"), "{}", nobody.stderr);
    let again = lab.verb_raw(&["bookmark", "create", "--group", "db", "monday"])?;
    ensure!(again.code == 5 && again.stderr.contains("is taken"), "{}", again.stderr);
    pinned_by_its_bookmark(lab)
}

fn pinned_by_its_bookmark(lab: &Lab) -> Result<()> {
    let at = ["--group", "db", "--at", "monday"];
    let pinned = lab.verb(&[&["point", "pin"][..], &at].concat())?;
    ensure!(
        pinned["bookmark"] == "monday"
            && lab.verb(&["group", "point", "db", "--before", "monday"])? == pinned
    );
    let unpinned = lab.verb(&[&["point", "unpin"][..], &at].concat())?;
    ensure!(unpinned["point"] == pinned["point"], "{unpinned}");
    let again = lab.verb_raw(&[&["point", "unpin"][..], &at].concat())?;
    ensure!(again.code != 0 && again.stderr.contains("is not pinned"), "{}", again.stderr);
    let alone = lab.verb_raw(&["bookmark", "create", "log01", "alone"])?;
    ensure!(alone.code == 0, "{}", alone.stderr);
    let alone = lab.verb_raw(&["point", "pin", "--group", "db", "--at", "alone"])?;
    ensure!(alone.code == 3 && alone.stderr.contains("db has no bookmark alone"), "{}", alone.stderr);
    Ok(())
}

/// A policy for the group counts for each member, and both keep the same points.
fn thinned(lab: &Lab) -> Result<()> {
    let file = lab.path("retention.toml");
    std::fs::write(
        &file,
        "[group.db]\nevery_write = \"0s\"\ntiers = [{ each = \"300ms\", keep = \"1d\" }]\n",
    )?;
    let before = lab.verb(&["group", "show", "db"])?["point_count"].as_u64();
    let left = poll::until("history being thinned out", command::LIMIT, || {
        let policies = lab.verb(&["policy", "apply", "-f", &file.to_string_lossy()])?;
        ensure!(policies.as_array().is_some_and(|all| all.len() == 2), "{policies}");
        std::thread::park_timeout(Duration::from_millis(200));
        let group = lab.verb(&["group", "show", "db"])?;
        Ok((group["point_count"].as_u64() < before).then_some(group))
    })?;
    let point = lab.verb(&["group", "point", "db"])?;
    check(lab, &point)?;
    ensure!(left["oldest"] != Value::Null, "{left}");
    check(lab, &left["oldest"])?;
    ["data01", "log01"].iter().try_for_each(|volume| lab.verb(&["verify", volume]).map(drop))
}

#[test]
fn three_programs_on_tcp_know_a_group_too() -> Result<()> {
    scenario(|lab| {
        let (data, log) = (lab.empty_disk("data.img", SIZE)?, lab.empty_disk("log.img", SIZE)?);
        let (link, listen) = (free_port()?, free_port()?);
        let _gateway = lab.gateway_alone(link)?;
        let _cx = lab.cx_alone(listen, &[link])?;
        let disks = [("data01", data.as_path()), ("log01", log.as_path())];
        let words = ["--group", "db=data01,log01", "--group-interval", "100ms"];
        let _tap = lab.tap_alone_with(&disks, listen, &words)?;
        let [mut first, mut second] =
            [Client::connect(&lab.tap("data01"))?, Client::connect(&lab.tap("log01"))?];
        let (mut n, mut found) = (0u64, Vec::new());
        poll::until("points of the group", command::LIMIT, || {
            for _ in 0..50 {
                n += 1;
                let write = Request::Write(512 * (n % 128), n.to_le_bytes().repeat(64));
                first.call(&write)?;
                second.call(&write)?;
            }
            let point = lab.verb_raw(&["group", "point", "db"])?;
            if point.code == 0 {
                found.push(serde_json::from_slice::<Value>(&point.stdout)?);
            }
            Ok((found.len() > 4).then_some(()))
        })?;
        found.iter().try_for_each(|point| check(lab, point).map(drop))
    })
}

#[test]
fn a_group_that_cannot_be_is_refused_at_the_start() -> Result<()> {
    scenario(|lab| {
        let disk = lab.empty_disk("a.img", SIZE)?;
        let mut command = lab.program("up")?;
        command.arg("--data").arg(lab.path("data")).arg("--protect").arg(format!("a={}", disk.display()));
        // Not the ports that everybody's own gateway has.
        command
            .arg("--nbd")
            .arg(format!("unix:{}", lab.path("gw.sock").display()))
            .args(["--api", "127.0.0.1:0"]);
        command.args(["--group", "db=a,b"]);
        let refused = run(&mut command, Duration::from_secs(20))?;
        ensure!(refused.code == 1, "{}", refused.stderr);
        ensure!(refused.stderr.contains("this tap does not protect b"), "{}", refused.stderr);
        Ok(())
    })
}
