//! Our NBD server against the others: an image and the head to read, a read/write image and the tap to write to. The peers
//! serve raw files of the same content from the same page cache; what the protocol itself costs is nbdkit's null disk.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{disk_size, folder, measure, order};
use crate::image;
use crate::load::{Depth, Kind, Load, Order};
use crate::nbd::Export;
use crate::options::{Case, Options};
use crate::process::Pid;
use crate::report::{Comparison, Contestant, Figure, Report, Target};
use crate::sample::{Ratio, Sample, Spread};
use crate::server::{Peer, Server};
use crate::up::Up;

const SEED: u64 = 13;
/// Where the bytes are at the beginning of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Warm,
    Cold,
}

/// Depth and connections.
const PARALLEL: [(usize, u32); 4] = [(1, 1), (16, 1), (64, 1), (16, 4)];

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let size = disk_size(options);
    let disk = folder.path().join("disk.img");
    make(options, &disk, size)?;
    let up = Up::start(&disk, folder.path())?;
    let point = up.settle()?.durable;
    let mut field = Field { folder: folder.path(), options, report, size, peers: Vec::new() };
    field.start(&[Peer::Nbdkit, Peer::QemuNbd, Peer::NbdServer, Peer::Ceiling, Peer::QemuOverlay])?;
    field.reads(&up, "head", &up.head())?;
    field.durable_writes(&up)?;
    field.overlay_writes(&up, point)?;
    up.settle_history(point)?;
    field.reads(&up, "settled image", &up.image(point))?;
    up.stop();
    Ok(())
}

/// A disk with made-up content, or with some of the corpus.
fn make(options: &Options, disk: &Path, size: u64) -> Result<()> {
    match &options.corpus {
        Some(corpus) => image::make_of(disk, size, corpus),
        None => image::make(disk, size, SEED),
    }
}

/// Who is compared, and over what.
struct Field<'a> {
    folder: &'a Path,
    options: &'a Options,
    report: &'a mut Report,
    size: u64,
    peers: Vec<(Peer, Server, Export)>,
}

impl Field<'_> {
    /// Starts peers, each over a file of its own: some are written to.
    fn start(&mut self, peers: &[Peer]) -> Result<()> {
        for peer in peers {
            let file = self.folder.join(format!("{}.img", peer.name().replace(' ', "-")));
            make(self.options, &file, self.size)?;
            let (server, export) = peer.serve(&file, self.folder)?;
            self.peers.push((*peer, server, export));
        }
        image::write_back(self.folder)
    }

    fn load(&self, kind: Kind, order: Order, block: usize, (depth, connections): (usize, u32)) -> Load {
        let time = self.options.load_time(Duration::from_secs(3));
        Load { kind, order, block, depth: Depth(depth), connections, span: self.size, time, seed: SEED }
    }

    /// Every way to read: against the fastest of all servers of files, and against the ceiling.
    fn reads(&mut self, up: &Up, what: &str, ours: &Export) -> Result<()> {
        let servers = [Peer::Nbdkit, Peer::QemuNbd, Peer::NbdServer];
        for parallel in PARALLEL.into_iter().step_by(self.options.pick(1, 3)) {
            let load = self.load(Kind::Read, Order::Random, 4096, parallel);
            let name = format!("{what}, 4 KiB random reads, {}", depth_of(&load));
            self.compare(up, &name, ours, &load, &servers, 1.1)?;
            self.compare(up, &name, ours, &load, &[Peer::Ceiling], 0.85)?;
        }
        // Made-up content is as hard as any to unpack; files are harder.
        let least = if self.options.corpus.is_some() { 0.7 } else { 1.0 };
        let load = self.load(Kind::Read, Order::Sequential, 1 << 20, (4, 1));
        self.compare(up, &format!("{what}, 1 MiB sequential reads"), ours, &load, &servers, least)?;
        for parallel in PARALLEL.into_iter().take(self.options.pick(2, 1)) {
            let load = self.load(Kind::Read, Order::Random, 4096, parallel);
            let name = format!("{what}, 4 KiB random reads, {}, not cached", depth_of(&load));
            self.compare_from(Cache::Cold, up, &name, ours, &load, &servers, 1.0)?;
        }
        Ok(())
    }

    /// Writes to read/write images. Large ones have an image of their own, after all else: a kernel keeps what was written by the
    /// megabyte in large pieces, of which each small write walks the whole (nbdkit's file on ext4: 90,000 writes a second become
    /// 19,000), and the peers' files were not written so.
    fn overlay_writes(&mut self, up: &Up, point: u64) -> Result<()> {
        let ours = up.overlay(point, "work")?;
        for parallel in PARALLEL.into_iter().filter(|parallel| *parallel != (64, 1)) {
            let load = self.load(Kind::Write, Order::Random, 4096, parallel);
            let name = format!("read/write image, 4 KiB random writes, {}", depth_of(&load));
            self.compare(up, &name, &ours, &load, &[Peer::QemuOverlay], 2.0)?;
            self.compare(up, &name, &ours, &load, &[Peer::Nbdkit], 0.8)?;
        }
        let large = self.load(Kind::Write, Order::Sequential, 1 << 20, (4, 1));
        let fresh = up.overlay(point, "fresh")?;
        let name = "read/write image, 1 MiB sequential writes";
        self.compare(up, name, &fresh, &large, &[Peer::Nbdkit], 1.0)?;
        // Each goes to as many places as small ones have made of it.
        let name = "read/write image, 1 MiB sequential writes over small ones";
        self.compare(up, name, &ours, &large, &[Peer::Nbdkit], 1.0)
    }

    /// Writes that are durable when they are answered, at the tap: its disk is a file as the peers' are.
    fn durable_writes(&mut self, up: &Up) -> Result<()> {
        let servers = [Peer::Nbdkit, Peer::QemuNbd, Peer::NbdServer];
        let load = self.load(Kind::DurableWrite, Order::Random, 4096, (1, 1));
        self.compare(up, "tap, 4 KiB durable random writes, depth 1", &up.tap(), &load, &servers, 1.0)
    }

    fn compare(
        &mut self,
        up: &Up,
        name: &str,
        ours: &Export,
        load: &Load,
        peers: &[Peer],
        least: f64,
    ) -> Result<()> {
        self.compare_from(Cache::Warm, up, name, ours, load, peers, least)
    }

    #[allow(clippy::too_many_arguments, reason = "names every part of a comparison")]
    fn compare_from(
        &mut self,
        cache: Cache,
        up: &Up,
        name: &str,
        ours: &Export,
        load: &Load,
        peers: &[Peer],
        least: f64,
    ) -> Result<()> {
        let theirs = self.peers.iter().filter(|(peer, ..)| peers.contains(peer));
        let theirs = theirs.map(|(peer, server, export)| {
            (Contestant::new(peer.name(), server.command()), export.clone(), server.pid())
        });
        let ours = (Contestant::new("chronogate", up.command()), ours.clone(), up.pid());
        let mut field: Vec<(Contestant, Export, Pid)> = std::iter::once(ours).chain(theirs).collect();
        if cache == Cache::Warm {
            self.warm(load, &field)?;
        }
        for round in 0..self.options.rounds {
            for place in order(round, field.len()) {
                let Some((contestant, export, pid)) = field.get_mut(place) else { continue };
                if cache == Cache::Cold {
                    image::go_cold(self.folder)?;
                }
                let load = Load { seed: u64::from(round) + 1, ..*load };
                contestant.rounds.push(up.explain(measure(&load, export, *pid, || Ok(())))?);
            }
            if load.kind != Kind::Read {
                image::write_back(self.folder)?;
            }
        }
        let from = if cache == Cache::Warm { "all" } else { "none of it at first" };
        let compared = Comparison {
            case: Case::Nbd,
            name: format!("{name}, against {}", if peers.len() > 1 { "the fastest" } else { names(peers) }),
            how: format!(
                "{}; {from} in the page cache, ratio to the fastest peer of the round",
                load.describe()
            ),
            contestants: field.into_iter().map(|(contestant, ..)| contestant).collect(),
            target: Target::AtLeast(Ratio(least)),
        };
        self.report.compared(&compared);
        if cache == Cache::Warm && (load.depth.0, load.connections) == (1, 1) && peers.len() > 1 {
            self.report.measured(&slowest_hundredth(name, &compared));
        }
        Ok(())
    }

    /// The page cache does not stay: what is read is read once before.
    fn warm(&self, load: &Load, field: &[(Contestant, Export, Pid)]) -> Result<()> {
        if load.kind == Kind::Read {
            for (_, export, _) in field {
                image::read_all(export, self.size)?;
            }
        }
        Ok(())
    }
}

/// How the slowest in a hundred answers compare.
fn slowest_hundredth(name: &str, compared: &Comparison) -> Figure {
    let p99 = |sample: &Sample| sample.latency.p99.as_secs_f64();
    let (ours, others) = compared.contestants.split_first().map_or((None, &[][..]), |(a, b)| (Some(a), b));
    let ratios = ours.into_iter().flat_map(|ours| ours.rounds.iter().enumerate()).map(|(round, sample)| {
        let best =
            others.iter().filter_map(|other| other.rounds.get(round)).map(p99).fold(f64::MAX, f64::min);
        best / p99(sample).max(1e-9)
    });
    Figure {
        case: Case::Nbd,
        name: format!("{name}, p99 of the best peer to ours"),
        unit: "ratio",
        values: Spread::of(ratios),
        target: Target::AtLeast(Ratio(1.0)),
        note: "of the rounds above".to_owned(),
    }
}

fn names(peers: &[Peer]) -> &'static str {
    peers.first().map_or("nobody", |peer| peer.name())
}

fn depth_of(load: &Load) -> String {
    match load.connections {
        1 => format!("depth {}", load.depth.0),
        connections => format!("{connections} x {}", load.depth.0),
    }
}
