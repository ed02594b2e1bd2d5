//! Writes through the tap, sustained: the clock runs until history has every one of them durably, and nothing
//! was lost. The peer writes the same to an identical file, and promises nothing about durability.

use anyhow::{Result, ensure};

use std::time::Duration;

use super::{disk_size, folder, measure, order};
use crate::image;
use crate::load::{Depth, Kind, Load};
use crate::options::{Case, Options};
use crate::report::{Comparison, Contestant, Report, Target};
use crate::sample::Ratio;
use crate::server::Peer;
use crate::up::{Up, show_command};

const SEED: u64 = 11;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let size = disk_size(options);
    let (ours, theirs) = (folder.path().join("ours.img"), folder.path().join("theirs.img"));
    image::make(&ours, size, SEED)?;
    image::make(&theirs, size, SEED)?;
    let up = Up::start(&ours, folder.path())?;
    let (peer, peer_export) = Peer::Nbdkit.serve(&theirs, folder.path())?;
    for depth in [1, 16].map(Depth) {
        let mut tap = Contestant::new("tap", up.command());
        let mut nbdkit = Contestant::new(Peer::Nbdkit.name(), peer.command());
        let time = options.load_time(Duration::from_secs(10));
        let load = |round| Load {
            kind: Kind::Write,
            block: 4096,
            depth,
            connections: 1,
            span: size,
            time,
            seed: u64::from(round) + 1,
        };
        for round in 0..options.rounds {
            for place in order(round, 2) {
                image::write_back(folder.path())?;
                if place == 0 {
                    let settled = || up.settle().map(drop);
                    let measured = measure(&load(round), &up.tap(), up.pid(), settled);
                    tap.rounds.push(up.explain(measured)?);
                } else {
                    nbdkit.rounds.push(measure(&load(round), &peer_export, peer.pid(), || Ok(()))?);
                }
            }
        }
        report.compared(&Comparison {
            case: Case::Tap,
            name: format!("tap, 4 KiB random writes, depth {}", depth.0),
            how: format!(
                "{}; ours until durable_lsn = head_lsn in `{}`, no gap (history is durable then; the peer's \
                 writes are in the page cache only)",
                load(0).describe(),
                show_command("bench")
            ),
            contestants: vec![tap, nbdkit],
            target: Target::AtLeast(Ratio(0.7)),
        });
    }
    let volume = up.settle()?;
    ensure!(volume.baselines == 1, "a second baseline was made: {volume:?}");
    up.stop();
    Ok(())
}
