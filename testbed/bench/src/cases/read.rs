//! Reads of an image, against servers of a raw file of the same content: of the head, of a moment that history has gone on
//! from, and of the same moment once it is settled; from the page cache and from the disk. The disk was copied in order once
//! and then written to at random, so its blocks lie all over the journal until they are settled.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{disk_size, folder, measure, order};
use crate::image;
use crate::load::{Depth, Kind, Load, Order};
use crate::nbd::Export;
use crate::options::{Case, Options};
use crate::process::Pid;
use crate::report::{Comparison, Contestant, Report, Target};
use crate::sample::Ratio;
use crate::server::Peer;
use crate::up::Up;

const SEED: u64 = 12;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let size = disk_size(options);
    let (disk, raw) = (folder.path().join("disk.img"), folder.path().join("raw.img"));
    match &options.corpus {
        Some(corpus) => image::make_of(&disk, size, corpus)?,
        None => image::make(&disk, size, SEED)?,
    }
    let up = Up::start(&disk, folder.path())?;
    let time = options.load_time(Duration::from_secs(4));
    let scatter = Load {
        kind: Kind::Write,
        order: Order::Random,
        block: 4096,
        depth: Depth(16),
        connections: 1,
        span: size,
        time,
        seed: SEED,
    };
    if options.corpus.is_none() {
        up.explain(scatter.run(&up.tap()))?;
    }
    let point = up.settle()?.durable;
    std::fs::copy(&disk, &raw)?;
    image::write_back(folder.path())?;
    let (nbdkit, nbdkit_export) = Peer::Nbdkit.serve(&raw, folder.path())?;
    let (qemu, qemu_export) = Peer::QemuNbd.serve(&raw, folder.path())?;
    let ours = |export| (Contestant::new("image", up.command()), export, up.pid());
    let mut field = Field {
        folder: folder.path(),
        options,
        load: Load { kind: Kind::Read, ..scatter },
        servers: vec![
            ours(up.head()),
            (Contestant::new(Peer::Nbdkit.name(), nbdkit.command()), nbdkit_export, nbdkit.pid()),
            (Contestant::new(Peer::QemuNbd.name(), qemu.command()), qemu_export, qemu.pid()),
        ],
    };
    field.compare_all("head", Target::None, report)?;
    if options.corpus.is_none() {
        up.explain(Load { seed: SEED + 1, ..scatter }.run(&up.tap()))?;
        up.settle()?;
    }
    *field.servers.first_mut().context("no server")? = ours(up.image(point));
    field.compare_all("history in the log", Target::None, report)?;
    up.explain(up.settle_history(point))?;
    let (what, goal) =
        if options.corpus.is_some() { ("files, settled history", 0.7) } else { ("settled history", 0.9) };
    field.compare_all(what, Target::AtLeast(Ratio(goal)), report)?;
    up.stop();
    Ok(())
}

/// Who is compared, and over what.
struct Field<'a> {
    folder: &'a Path,
    options: &'a Options,
    load: Load,
    servers: Vec<(Contestant, Export, Pid)>,
}

/// Where the bytes are at the beginning of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Warm,
    Cold,
}

impl Field<'_> {
    /// All the ways to read.
    fn compare_all(&mut self, what: &str, target: Target, report: &mut Report) -> Result<()> {
        use self::{Cache::*, Order::*};
        let all = [
            (Warm, Random, 4 << 10, Depth(1)),
            (Warm, Random, 4 << 10, Depth(16)),
            (Warm, Random, 1 << 20, Depth(4)),
            (Warm, Sequential, 1 << 20, Depth(4)),
            (Cold, Random, 4 << 10, Depth(16)),
            (Cold, Sequential, 1 << 20, Depth(1)),
            (Cold, Sequential, 1 << 20, Depth(4)),
        ];
        same_content(&self.servers, self.load.span)?;
        // A smoke run takes one of each cache.
        for (cache, order, block, depth) in all.into_iter().step_by(self.options.pick(1, 5)) {
            let load = Load { order, block, depth, ..self.load };
            // Of the disk there is one, whoever reads it: what is to be known is only whether we are slower than it.
            let target = if cache == Cold { Target::None } else { target };
            report.compared(&self.compare(&load, cache, what, target)?);
            if cache == Cold {
                same_content(&self.servers, self.load.span)?;
            }
        }
        Ok(())
    }

    fn compare(&self, load: &Load, cache: Cache, what: &str, target: Target) -> Result<Comparison> {
        let mut contestants: Vec<Contestant> = self.servers.iter().map(|(c, ..)| c.clone()).collect();
        for round in 0..self.options.rounds {
            for place in order(round, self.servers.len()) {
                let Some(((_, export, pid), contestant)) =
                    self.servers.get(place).zip(contestants.get_mut(place))
                else {
                    continue;
                };
                if cache == Cache::Cold {
                    image::go_cold(self.folder)?;
                }
                let load = Load { seed: u64::from(round) + 1, ..*load };
                contestant.rounds.push(measure(&load, export, *pid, || Ok(()))?);
            }
        }
        let (how, from) = match cache {
            Cache::Warm => ("", "all in the page cache"),
            Cache::Cold => (", cold", "none of it in the page cache at first"),
        };
        let order = if load.order == Order::Random { "random" } else { "sequential" };
        Ok(Comparison {
            case: Case::Read,
            name: format!("{what}, {} KiB {order} reads, depth {}{how}", load.block >> 10, load.depth.0),
            how: format!("{}; {from}, ratio to the faster peer of the round", load.describe()),
            contestants,
            target,
        })
    }
}

/// Reads every server from end to end: that the disks are alike is half of it, that the page cache holds them
/// all is the other half.
fn same_content(servers: &[(Contestant, Export, Pid)], size: u64) -> Result<()> {
    let sums =
        servers.iter().map(|(_, export, _)| image::read_all(export, size)).collect::<Result<Vec<_>>>()?;
    ensure!(sums.windows(2).all(|two| matches!(two, [a, b] if a == b)), "the disks differ: {sums:x?}");
    Ok(())
}
