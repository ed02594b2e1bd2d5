//! Random reads of an image, against servers of a raw file of the same content. The image is of a disk that
//! was copied in order once and then written to at random, so its blocks lie all over the journal; until history is settled.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{disk_size, folder, measure, order};
use crate::image;
use crate::load::{Depth, Kind, Load};
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
    let servers = [
        (Contestant::new("image", up.command()), up.image(point), up.pid()),
        (Contestant::new(Peer::Nbdkit.name(), nbdkit.command()), nbdkit_export, nbdkit.pid()),
        (Contestant::new(Peer::QemuNbd.name(), qemu.command()), qemu_export, qemu.pid()),
    ];
    same_content(&servers, size)?;
    for depth in [1, 16].map(Depth) {
        let load = Load { kind: Kind::Read, depth, ..scatter };
        report.compared(&compare(&servers, &load, options.rounds, "image", Target::AtLeast(Ratio(0.7)))?);
    }
    up.explain(up.settle_history(point))?;
    same_content(&servers, size)?;
    for (block, depth) in [(4 << 10, Depth(1)), (4 << 10, Depth(16)), (1 << 20, Depth(4))] {
        let load = Load { kind: Kind::Read, block, depth, ..scatter };
        let (what, target) =
            if options.corpus.is_some() { ("files, settled", 0.7) } else { ("settled", 0.9) };
        let compared = compare(&servers, &load, options.rounds, what, Target::AtLeast(Ratio(target)))?;
        report.compared(&compared);
    }
    up.stop();
    Ok(())
}

/// Reads every server from end to end: that the disks are alike is half of it, that the page cache holds them
/// all is the other half.
fn same_content(servers: &[(Contestant, Export, Pid)], size: u64) -> Result<()> {
    let sums =
        servers.iter().map(|(_, export, _)| image::read_all(export, size)).collect::<Result<Vec<_>>>()?;
    ensure!(sums.windows(2).all(|two| matches!(two, [a, b] if a == b)), "the disks differ: {sums:x?}");
    Ok(())
}

fn compare(
    servers: &[(Contestant, Export, Pid)],
    load: &Load,
    rounds: u32,
    what: &str,
    target: Target,
) -> Result<Comparison> {
    let mut contestants: Vec<Contestant> = servers.iter().map(|(c, ..)| c.clone()).collect();
    for round in 0..rounds {
        for place in order(round, servers.len()) {
            let Some(((_, export, pid), contestant)) = servers.get(place).zip(contestants.get_mut(place))
            else {
                continue;
            };
            let load = Load { seed: u64::from(round) + 1, ..*load };
            contestant.rounds.push(measure(&load, export, *pid, || Ok(()))?);
        }
    }
    Ok(Comparison {
        case: Case::Read,
        name: format!("{what}, {} KiB random reads, depth {}", load.block >> 10, load.depth.0),
        how: format!("{}; all in the page cache, ratio to the faster peer of the round", load.describe()),
        contestants,
        target,
    })
}
