//! Writes through the tap, sustained: the clock runs until history has every one of them durably, and nothing was lost. Beside
//! it the same tap with nobody to send to, and a peer; both write the same to identical files and promise nothing about history.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{disk_size, folder, measure, order};
use crate::image;
use crate::load::{Depth, Kind, Load, Order};
use crate::options::{Case, Options};
use crate::report::{Comparison, Contestant, Report, Target};
use crate::sample::Ratio;
use crate::server::Peer;
use crate::up::{LoneTap, Up, show_command};

const SEED: u64 = 11;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let size = disk_size(options);
    let disk = |name: &str| -> Result<PathBuf> {
        let path = folder.path().join(name);
        image::make(&path, size, SEED)?;
        Ok(path)
    };
    let up = Up::start(&disk("ours.img")?, folder.path())?;
    let alone = LoneTap::start(&disk("alone.img")?, folder.path())?;
    let (peer, peer_export) = Peer::Nbdkit.serve(&disk("theirs.img")?, folder.path())?;
    let load = |depth, round| Load {
        kind: Kind::Write,
        order: Order::Random,
        block: 4096,
        depth,
        connections: 1,
        span: size,
        time: options.load_time(Duration::from_secs(10)),
        seed: u64::from(round) + 1,
    };
    // From here on it only marks what changes.
    load(Depth(16), 0).run(&alone.export())?;
    for depth in [1, 16].map(Depth) {
        let mut tap = Contestant::new("tap", up.command());
        let mut without = Contestant::new("tap, no gateway", alone.command());
        let mut nbdkit = Contestant::new(Peer::Nbdkit.name(), peer.command());
        for round in 0..options.rounds {
            let load = load(depth, round);
            for place in order(round, 3) {
                image::write_back(folder.path())?;
                match place {
                    0 => {
                        let settled = || up.settle().map(drop);
                        tap.rounds.push(up.explain(measure(&load, &up.tap(), up.pid(), settled))?);
                    }
                    1 => without.rounds.push(measure(&load, &alone.export(), alone.pid(), || Ok(()))?),
                    _ => nbdkit.rounds.push(measure(&load, &peer_export, peer.pid(), || Ok(()))?),
                }
            }
        }
        let load = load(depth, 0);
        report.compared(&comparison(&load, &tap, without, "against itself without a gateway"));
        report.compared(&comparison(&load, &tap, nbdkit, "against a plain server"));
    }
    let volume = up.settle()?;
    ensure!(volume.baselines == 1, "a second baseline was made: {volume:?}");
    up.stop();
    Ok(())
}

fn comparison(load: &Load, tap: &Contestant, other: Contestant, what: &str) -> Comparison {
    Comparison {
        case: Case::Tap,
        name: format!("tap, 4 KiB random writes, depth {}, {what}", load.depth.0),
        how: format!(
            "{}; ours until durable_lsn = head_lsn in `{}`, no gap (history is durable then; the writes of the others are in \
             the page cache only)",
            load.describe(),
            show_command("bench")
        ),
        contestants: vec![tap.clone(), other],
        target: Target::AtLeast(Ratio(0.7)),
    }
}
