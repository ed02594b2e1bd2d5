//! The main promise: every recorded moment comes back byte for byte, in any order, many at once, and after
//! `kill -9` of everything in the middle of writing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed_e2e::nbd::Client;
use testbed_e2e::{Lab, Up, Writer, difference, digest, pick, say, scenario, seed};
use testbed_model::Random;

const MOMENTS: usize = 50;
const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// What the whole disk was at one LSN.
#[derive(Debug, Clone, Copy)]
struct Moment {
    lsn: u64,
    digest: u128,
}

fn size() -> usize {
    pick(6 << 20, 128 << 20)
}

/// Notes where history stands while the writer pauses.
fn note(lab: &Lab, writer: &Writer) -> Result<Moment> {
    let lsn = lab.volume("web01")?.head.context("the tap cannot be reached")?;
    Ok(Moment { lsn, digest: digest(writer.content()) })
}

fn write_moments(lab: &Lab, writer: &mut Writer) -> Result<Vec<Moment>> {
    let mut moments = Vec::new();
    for no in 0..MOMENTS {
        writer.burst(pick(40, 2000), 16)?;
        moments.push(if no % 10 == 9 {
            let lsn = lab.bookmark("web01", &format!("moment-{no}"))?;
            Moment { lsn, digest: digest(writer.content()) }
        } else {
            note(lab, writer)?
        });
    }
    say(&format!("{} writes, {MOMENTS} moments noted", writer.answered()));
    Ok(moments)
}

/// Every way to open a moment in turn.
fn open(lab: &Lab, lsn: u64) -> Result<Client> {
    match lsn % 3 {
        0 => Client::connect(&lab.gateway(&format!("web01@lsn:{lsn}"))),
        1 => Client::connect(&format!("nbd://127.0.0.1:{}/web01@lsn%3A{lsn}", lab.nbd_port())),
        _ => Client::connect(&lab.mount(&format!("web01@lsn:{lsn}"), false)?),
    }
}

/// Opens every moment, in an order of its own, eight at once.
fn check_moments(lab: &Lab, moments: &[Moment], seed: u64) -> Result<()> {
    let mut order = moments.to_vec();
    Random::new(seed).shuffle(&mut order);
    let queue = Mutex::new(order);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(moment) = queue.lock().unwrap().pop() else { return };
                    if let Err(error) = check_moment(lab, moment) {
                        errors.lock().unwrap().push(format!("lsn {}: {error:#}", moment.lsn));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap();
    ensure!(
        errors.is_empty(),
        "{} of {} moments are wrong:\n{}",
        errors.len(),
        moments.len(),
        errors.join("\n")
    );
    say(&format!("{} moments match", moments.len()));
    Ok(())
}

fn check_moment(lab: &Lab, moment: Moment) -> Result<()> {
    let content = open(lab, moment.lsn)?.read_all()?;
    ensure!(digest(&content) == moment.digest, "the image is not what the disk was");
    Ok(())
}

/// Writes and notes moments until the server is gone.
fn write_until_killed(lab: &Lab, mut writer: Writer, noted: &Sender<Moment>) -> Writer {
    loop {
        if writer.burst(60, 16).is_err() {
            return writer;
        }
        match note(lab, &writer) {
            Ok(moment) => noted.send(moment).unwrap(),
            Err(_) => return writer,
        }
    }
}

/// Lets it write, kills everything somewhere in the middle; returns what was noted, and which of it was durable.
fn kill_while_writing(lab: &Lab, up: Up, writer: Writer, seed: u64) -> Result<(Writer, Vec<Moment>, u64)> {
    let (send, receive): (_, Receiver<Moment>) = channel();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || write_until_killed(lab, writer, &send));
        let mut moments = Vec::new();
        for _ in 0..8 {
            moments.push(receive.recv_timeout(LIMIT)?);
        }
        let durable = lab.volume("web01")?.durable;
        std::thread::park_timeout(Duration::from_millis(Random::new(seed).below(150)));
        up.kill()?;
        let writer = thread.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        moments.extend(receive.try_iter());
        Ok((writer, moments, durable))
    })
}

/// A moment that may or may not have reached history: it is refused, or right.
fn check_undurable(lab: &Lab, moment: Moment) -> Result<()> {
    if lab.volume("web01")?.lost(moment.lsn) {
        return Ok(());
    }
    let done = lab.verb_raw(&["point", "resolve", "web01", "--at", &format!("lsn:{}", moment.lsn)])?;
    if done.code == 0 { check_moment(lab, moment) } else { Ok(()) }
}

/// Starts again after a kill and checks every promise.
fn recover(lab: &Lab, disk: &Path, writer: &Writer, moments: &[Moment], durable: u64) -> Result<Up> {
    let up = lab.up(&[("web01", disk)])?;
    let truth = std::fs::read(disk)?;
    writer.check(&truth)?;
    let state = lab.settle("web01")?;
    say(&format!("after the kill: {state:?}; durable before it {durable}"));
    ensure!(state.baselines == 1, "a new baseline was made: {state:?}");
    let latest = moments.iter().map(|m| m.lsn).max().unwrap_or(0);
    ensure!(state.head > Some(latest), "the head {:?} is not past {latest}: LSNs are used twice", state.head);
    if let Some(how) = difference(&lab.head("web01")?, &truth) {
        anyhow::bail!("the healed head is not the disk: {how}");
    }
    let (sound, rest): (Vec<Moment>, Vec<Moment>) = moments.iter().copied().partition(|m| m.lsn <= durable);
    ensure!(!sound.iter().any(|m| state.lost(m.lsn)), "a gap covers what was durable: {state:?}");
    check_moments(lab, &sound, durable)?;
    rest.into_iter().try_for_each(|m| check_undurable(lab, m))?;
    Ok(up)
}

#[test]
fn every_moment_comes_back() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", size(), 1)?;
        let up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 11)?;
        let moments = write_moments(lab, &mut writer)?;
        ensure!(
            difference(writer.content(), &std::fs::read(&disk)?).is_none(),
            "the disk is not what was written"
        );
        check_moments(lab, &moments, 1)?;
        up.stop()?;

        // A clean stop loses nothing and copies nothing again.
        let _up = lab.up(&[("web01", &disk)])?;
        let state = lab.settle("web01")?;
        ensure!(state.gaps.is_empty() && state.resynced == 0 && state.baselines == 1, "{state:?}");
        check_moments(lab, &moments, 2)
    })
}

#[test]
fn every_durable_moment_survives_kill_9() -> Result<()> {
    scenario(|lab| {
        let seed = seed(2);
        let disk = lab.disk("web01.img", size(), seed)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        let mut all: Vec<Moment> = Vec::new();
        for round in (0..pick(2, 5)).map(|r| seed.wrapping_mul(1000) + r) {
            let writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, round)?;
            let (writer, moments, durable) = kill_while_writing(lab, up, writer, round)?;
            up = recover(lab, &disk, &writer, &moments, durable)?;
            all.extend(moments.iter().filter(|m| m.lsn <= durable));
            check_moments(lab, &all, round)?;
        }
        up.stop()?;
        lab.jverify()?.ok().map(drop)
    })
}

#[test]
fn a_baseline_cut_short_goes_on() -> Result<()> {
    scenario(|lab| {
        let seed = seed(3);
        let disk = lab.disk("web01.img", pick(48 << 20, 512 << 20), seed)?;
        let mut writer = None;
        for round in 0..3 {
            let mut up = lab.up(&[("web01", &disk)])?;
            let mut guest = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, seed + round)?;
            guest.burst(100, 16)?;
            std::thread::park_timeout(Duration::from_millis(Random::new(seed + round).below(300)));
            up.still_running()?;
            up.kill()?;
            guest.check(&std::fs::read(&disk)?)?;
            writer = Some(guest);
        }
        let _up = lab.up(&[("web01", &disk)])?;
        let state = lab.settle("web01")?;
        say(&format!("after three kills in the baseline: {state:?}"));
        ensure!(state.baselines == 1, "a new baseline was made: {state:?}");
        let content = writer.context("no round")?.content().to_vec();
        match difference(&lab.head("web01")?, &content) {
            Some(how) => anyhow::bail!("the head is not the disk: {how}"),
            None => Ok(()),
        }
    })
}

#[test]
fn a_baseline_is_made_once_whenever_it_is_cut() -> Result<()> {
    let mut random = Random::new(seed(5));
    for _ in 0..pick(4, 20) {
        scenario(|lab| {
            let disk = lab.disk("web01.img", 2 << 20, random.next())?;
            let up = lab.up(&[("web01", &disk)])?;
            // Around the moment when the gateway knows of the end and the tap has yet to note it.
            std::thread::park_timeout(Duration::from_millis(random.below(600)));
            up.kill()?;
            let up = lab.up(&[("web01", &disk)])?;
            let state = lab.settle("web01")?;
            ensure!(state.baselines == 1, "a new baseline was made: {state:?}");
            up.stop()
        })?;
    }
    Ok(())
}
