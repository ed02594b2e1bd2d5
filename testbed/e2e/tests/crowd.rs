//! Five hundred connections to one program, a tenth of them hostile: they never read, or just so much that they are not hung up on,
//! stop in the middle of a request, send noise, or say nothing at all. The honest ones check every byte that they get.
//!
//! First the honest ones are alone, then beside the hostile ones. Each asks, waits for the answer, and rests a while, so that what
//! is measured is how long an answer takes and not how many clients fit on a machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Lab, Up, full, pick, scenario};
use testbed_model::Random;

/// What each honest client has to itself on the disk that it writes to.
const STRETCH: usize = 64 << 10;
const SIZE: usize = 500 * STRETCH;
/// What one that trickles takes at a time of what it asked for.
const TRICKLE: usize = 64 << 10;
/// What the tap's and the gateway's front let replies hold before they hang up on those that take none, and room beside it.
const MOST_MEMORY: u64 = (2 << 30) + (256 << 20);

/// What an honest client does.
#[derive(Clone, Copy)]
enum Work {
    /// Writes at the tap, and reads that back.
    Tap,
    /// The same on a read/write image.
    Scratch,
    /// Reads a moment of the past.
    Past,
}

/// What all of them share.
struct Scene<'a> {
    lab: &'a Lab,
    /// The moment of the past.
    past: &'a [u8],
    over: AtomicBool,
}

/// What came of a run.
struct Seen {
    answers: usize,
    /// Of the answers.
    p50: Duration,
    p99: Duration,
    slowest: Duration,
    /// The most memory that the program had in the first half, and in the second.
    memory: [u64; 2],
    /// How often a hostile client came.
    harm: u64,
}

/// One honest client.
struct Honest {
    work: Work,
    /// Where its stretch begins.
    at: u64,
    random: Random,
    expected: Vec<u8>,
    client: Client,
    waits: Vec<Duration>,
}

impl Honest {
    fn new(scene: &Scene<'_>, no: usize) -> Result<Self> {
        let work = [Work::Tap, Work::Scratch, Work::Past][no % 3];
        let at = no * STRETCH;
        let uri = match work {
            Work::Tap => scene.lab.tap("web01"),
            Work::Scratch => scene.lab.gateway("scratch"),
            Work::Past => scene.lab.gateway("web01@past"),
        };
        let mut client = Client::connect(&uri).with_context(|| format!("client {no}"))?;
        let expected = match work {
            Work::Past => scene.past[at..at + STRETCH].to_vec(),
            _ => client.call(&Request::Read(u64::try_from(at)?, u32::try_from(STRETCH)?))?,
        };
        let random = Random::new(u64::try_from(no)?);
        Ok(Self { work, at: u64::try_from(at)?, random, expected, client, waits: Vec::new() })
    }

    fn timed(&mut self, request: &Request) -> Result<Vec<u8>> {
        let since = Instant::now();
        let answer = self.client.call(request)?;
        self.waits.push(since.elapsed());
        Ok(answer)
    }

    fn turn(&mut self) -> Result<()> {
        let stretch = u64::try_from(STRETCH)?;
        let from = self.random.below(stretch);
        let length = 1 + self.random.below((stretch - from).min(16 << 10));
        let range = usize::try_from(from)?..usize::try_from(from + length)?;
        if !matches!(self.work, Work::Past) && self.random.one_in(2) {
            self.random.fill(&mut self.expected[range.clone()]);
            let data = self.expected[range].to_vec();
            return self.timed(&Request::Write(self.at + from, data)).map(drop);
        }
        let got = self.timed(&Request::Read(self.at + from, u32::try_from(length)?))?;
        ensure!(got == self.expected[range], "other bytes at {}", self.at + from);
        Ok(())
    }

    /// Until it is over, then once all of its stretch.
    fn live(mut self, over: &AtomicBool, rest: Duration) -> Result<Vec<Duration>> {
        while !over.load(Ordering::Relaxed) {
            self.turn()?;
            std::thread::park_timeout(rest);
        }
        let all = self.client.call(&Request::Read(self.at, u32::try_from(STRETCH)?))?;
        ensure!(all == self.expected, "other bytes at the end in the stretch at {}", self.at);
        Ok(self.waits)
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// An export opened, and what is to be done with it.
fn opened(export: &str) -> Vec<u8> {
    let name = [&u32::try_from(export.len()).unwrap_or(0).to_be_bytes(), export.as_bytes(), &[0, 0]].concat();
    [vec![0, 0, 0, 3], option(7, &name)].concat()
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let head = [&[0x25, 0x60, 0x95, 0x13, 0, 0][..], &command.to_be_bytes(), &[0; 8]].concat();
    [head, offset.to_be_bytes().to_vec(), length.to_be_bytes().to_vec()].concat()
}

/// What a client sends that means harm, in one of several ways.
fn harmful(way: usize, random: &mut Random, export: &str) -> Vec<u8> {
    let mut noise = vec![0; 200_000];
    random.fill(&mut noise);
    match way % 8 {
        // Asks for much and reads nothing, or next to nothing.
        0 | 1 => [opened(export), request(0, 0, 1 << 20).repeat(1000)].concat(),
        // Half a request, and silence.
        2 => [opened(export), request(1, 0, 4 << 20), vec![1; 100]].concat(),
        3 => [opened(export), request(1, 0, 4096)[..20].to_vec()].concat(),
        // No protocol at all, from the beginning or once it is trusted.
        4 => noise,
        5 => [opened(export), noise].concat(),
        // Comes, and says nothing.
        6 => Vec::new(),
        // Options without end.
        _ => [vec![0, 0, 0, 3], option(3, &[]).repeat(20_000)].concat(),
    }
}

/// Does harm again and again until it is over.
fn harm(scene: &Scene<'_>, no: usize, times: &AtomicU64) -> Result<()> {
    let (socket, export) =
        if no.is_multiple_of(4) { ("tap.sock", "web01") } else { ("gw.sock", "web01@past") };
    let mut random = Random::new(u64::try_from(no)? + 1000);
    while !scene.over.load(Ordering::Relaxed) {
        let mut socket = UnixStream::connect(scene.lab.path(socket))?;
        socket.set_write_timeout(Some(Duration::from_millis(500)))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let _ = socket.read(&mut [0; 18]);
        let _ = socket.write_all(&harmful(no, &mut random, export));
        times.fetch_add(1, Ordering::Relaxed);
        // Those that read nothing stay, and so do half of the others; the rest come again and again.
        let is_lasting = no % 8 < 2 || no.is_multiple_of(2);
        let stays = if is_lasting {
            Duration::from_secs(pick(2, 60))
        } else {
            Duration::from_millis(pick(500, 1500))
        };
        let stays = Instant::now() + stays;
        let mut next = Instant::now();
        while Instant::now() < stays && !scene.over.load(Ordering::Relaxed) {
            if no % 8 == 1 && Instant::now() >= next {
                // Just within the patience that the server has in need.
                next += Duration::from_millis(pick(900, 4900));
                let _ = socket.read_exact(&mut vec![0; TRICKLE]);
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// Bytes of memory that the program has.
fn resident(up: &Up) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(up.pid().to_string()).join("statm"))?;
    Ok(text.split(' ').nth(1).context("no statm")?.parse::<u64>()? * 4096)
}

/// Tells everybody to end, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets them at it for `time`.
fn run(scene: &Scene<'_>, up: &Up, (honest, hostile): (usize, usize), time: Duration) -> Result<Seen> {
    scene.over.store(false, Ordering::Relaxed);
    let (times, mut memory) = (AtomicU64::new(0), [0; 2]);
    // Each rests so long that the program has as much to do at either size.
    let rest = pick(40, 100) * Duration::from_millis(1);
    let waits = std::thread::scope(|scope| {
        let over = Over(&scene.over);
        let bad: Vec<_> = (0..hostile).map(|no| (no, &times)).collect();
        let bad: Vec<_> =
            bad.into_iter().map(|(no, times)| scope.spawn(move || harm(scene, no, times))).collect();
        let coming: Vec<_> = (0..honest).map(|no| scope.spawn(move || Honest::new(scene, no))).collect();
        // All are there before any begins.
        let there = coming.into_iter().map(|one| one.join().unwrap()).collect::<Result<Vec<_>>>()?;
        let good: Vec<_> = there.into_iter().map(|one| scope.spawn(|| one.live(&scene.over, rest))).collect();
        let since = Instant::now();
        while since.elapsed() < time && !good.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            let half = &mut memory[usize::from(since.elapsed() > time / 2)];
            *half = resident(up)?.max(*half);
            std::thread::park_timeout(Duration::from_millis(50));
        }
        drop(over);
        bad.into_iter().try_for_each(|one| one.join().unwrap())?;
        good.into_iter().map(|one| one.join().unwrap()).collect::<Result<Vec<_>>>()
    })?;
    let mut waits = waits.concat();
    waits.sort_unstable();
    let at = |hundredths: usize| waits[(waits.len() * hundredths / 100).min(waits.len() - 1)];
    ensure!(!waits.is_empty(), "nobody was answered");
    let (answers, slowest) = (waits.len(), at(100));
    Ok(Seen { answers, p50: at(50), p99: at(99), slowest, memory, harm: times.into_inner() })
}

fn tell(who: &str, seen: &Seen) {
    let Seen { answers, p50, p99, slowest, memory, harm } = seen;
    let [first, second] = memory.map(|bytes| bytes >> 20);
    let text = format!(
        "{who}: {answers} answers, each byte right; p50 {p50:.1?}, p99 {p99:.1?}, slowest {slowest:.1?}; at most {first} MiB in the first half, {second} in the second; harm done {harm} times"
    );
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn a_hostile_tenth_of_five_hundred_clients_costs_the_others_next_to_nothing() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 14)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        lab.bookmark("web01", "past")?;
        let past = std::fs::read(&disk)?;
        lab.verb(&["image", "create", "web01", "--at", "past", "--rw", "--name", "scratch"])?;
        let scene = Scene { lab, past: &past, over: AtomicBool::new(false) };
        let (honest, hostile) = pick((90, 10), (450, 50));
        let before = resident(&up)?;
        let alone = run(&scene, &up, (honest, 0), pick(2, 60) * Duration::from_secs(1))?;
        tell(&format!("{honest} alone"), &alone);
        let beside = run(&scene, &up, (honest, hostile), pick(4, 180) * Duration::from_secs(1))?;
        tell(&format!("{honest} beside {hostile} hostile ones"), &beside);
        ensure!(beside.harm >= u64::try_from(hostile)?, "no harm was done");
        let [first, second] = beside.memory;
        ensure!(
            first.max(second).saturating_sub(before) < MOST_MEMORY,
            "{:?} bytes of memory",
            beside.memory
        );
        ensure!(!full() || second < first + first / 4, "memory grows: {:?} bytes", beside.memory);
        // A small run says nothing of the last hundredth.
        let bound = alone.p99.max(Duration::from_millis(1)) * 2;
        ensure!(!full() || beside.p99 <= bound, "p99 is {:.1?}, alone {:.1?}", beside.p99, alone.p99);
        up.still_running()?;
        lab.settle("web01")?;
        up.stop()
    })
}
