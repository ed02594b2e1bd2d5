//! Our iSCSI target against tgt: the head to read and a read/write image to write to, over loopback TCP, everybody under the same
//! initiator. tgt serves raw files of the same content (`rdwr` from the same page cache, `aio` past it); what the protocol itself
//! costs it is its null store. What iSCSI costs us beside NBD is our own NBD server over TCP.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{disk_size, folder, measure, order};
use crate::image;
use crate::iscsi::Unit;
use crate::load::{Depth, Kind, Load, Order, Served};
use crate::nbd::Export;
use crate::options::{Case, Options};
use crate::process::Pid;
use crate::report::{Comparison, Contestant, Figure, Report, Target};
use crate::sample::{Ratio, Sample, Spread};
use crate::server::Server;
use crate::tgt::Store;
use crate::up::Up;

const SEED: u64 = 17;
/// Depth and sessions, and how many times as fast as tgt on a file we have to be.
const ROWS: [((usize, u32), f64); 4] = [((1, 1), 1.3), ((16, 1), 2.0), ((64, 1), 2.0), ((16, 4), 2.0)];

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let size = disk_size(options);
    let disk = folder.path().join("disk.img");
    image::make(&disk, size, SEED)?;
    let up = Up::start(&disk, folder.path())?;
    let point = up.settle()?.durable;
    let mut field = Field { folder: folder.path(), options, report, size, peers: Vec::new() };
    field.start()?;
    let head = up.head();
    let rows = ROWS.into_iter().step_by(options.pick(1, 3));
    for (parallel, least) in rows.clone() {
        let load = field.load(Kind::Read, Order::Random, 4096, parallel);
        field.row(&up, "head, 4 KiB random reads", &head, &load, least)?;
    }
    let load = field.load(Kind::Read, Order::Sequential, 1 << 20, (4, 1));
    field.row(&up, "head, 1 MiB sequential reads", &head, &load, 1.5)?;
    let work = up.overlay(point, "work")?;
    for (parallel, least) in rows {
        let load = field.load(Kind::Write, Order::Random, 4096, parallel);
        field.row(&up, "read/write image, 4 KiB random writes", &work, &load, least)?;
    }
    let load = field.load(Kind::Write, Order::Sequential, 1 << 20, (4, 1));
    let fresh = up.overlay(point, "fresh")?;
    field.row(&up, "read/write image, 1 MiB sequential writes", &fresh, &load, 1.5)?;
    // Each goes to as many places as small ones have made of it.
    field.row(&up, "read/write image, 1 MiB sequential writes over small ones", &work, &load, 1.5)?;
    up.stop();
    Ok(())
}

/// Who is compared, and over what.
struct Field<'a> {
    folder: &'a Path,
    options: &'a Options,
    report: &'a mut Report,
    size: u64,
    peers: Vec<(Store, Server, Unit)>,
}

/// One row's contestants, in this order: ours, ours over NBD, tgt's stores.
struct Row {
    name: String,
    load: Load,
    ours: Contestant,
    nbd: Contestant,
    files: Vec<Contestant>,
    null: Contestant,
}

impl Field<'_> {
    /// Starts tgt with every store, each over a file of its own: some are written to.
    fn start(&mut self) -> Result<()> {
        for store in [Store::ReadWrite, Store::Aio, Store::Null] {
            let file = self.folder.join(format!("{}.img", store.name().replace(' ', "-")));
            image::make(&file, self.size, SEED)?;
            let (server, unit) = store.serve(&file, self.folder)?;
            self.peers.push((store, server, unit));
        }
        image::write_back(self.folder)
    }

    fn load(&self, kind: Kind, order: Order, block: usize, (depth, connections): (usize, u32)) -> Load {
        let time = self.options.load_time(Duration::from_secs(3));
        Load { kind, order, block, depth: Depth(depth), connections, span: self.size, time, seed: SEED }
    }

    /// Everybody in every round; then what the targets speak of.
    fn row(&mut self, up: &Up, name: &str, export: &Export, load: &Load, least: f64) -> Result<()> {
        let (unit, nbd) = (up.over_iscsi(export), up.over_tcp(export));
        let mut all: Vec<(Contestant, &dyn Served, Pid)> = vec![
            (Contestant::new("chronogate iSCSI", up.command()), &unit, up.pid()),
            (Contestant::new("chronogate NBD over TCP", up.command()), &nbd, up.pid()),
        ];
        let peers = self.peers.iter();
        all.extend(peers.map(|(store, server, unit)| {
            (Contestant::new(store.name(), server.command()), unit as &dyn Served, server.pid())
        }));
        if load.kind == Kind::Read {
            // The page cache does not stay.
            image::read_all(&nbd, self.size)?;
            for entry in std::fs::read_dir(self.folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|kind| kind == "img") {
                    std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
                }
            }
        }
        for round in 0..self.options.rounds {
            for place in order(round, all.len()) {
                let Some((contestant, disk, pid)) = all.get_mut(place) else { continue };
                let load = Load { seed: u64::from(round) + 1, ..*load };
                contestant.rounds.push(up.explain(measure(&load, *disk, *pid, || Ok(())))?);
                if load.kind != Kind::Read {
                    image::write_back(self.folder)?;
                }
            }
        }
        let mut all = all.into_iter().map(|(contestant, ..)| contestant);
        let mut next = || all.next().unwrap_or_else(|| Contestant::new("nobody", ""));
        let (ours, nbd, files, null) = (next(), next(), vec![next(), next()], next());
        let row = Row { name: format!("{name}, {}", depth_of(load)), load: *load, ours, nbd, files, null };
        self.tell(row, least);
        Ok(())
    }

    fn tell(&mut self, row: Row, least: f64) {
        let Row { name, load, ours, nbd, files, null } = row;
        let compare = |name: String, others: Vec<Contestant>, target| Comparison {
            case: Case::Iscsi,
            name,
            how: format!("{}; ratio to the fastest peer of the round", load.describe()),
            contestants: std::iter::once(ours.clone()).chain(others).collect(),
            target,
        };
        let on_file = Target::AtLeast(Ratio(least));
        self.report.compared(&compare(format!("{name}, against tgt on a file"), files.clone(), on_file));
        if load.connections > 1 {
            let target = Target::AtLeast(Ratio(1.0));
            self.report.compared(&compare(format!("{name}, against tgt null"), vec![null], target));
        } else {
            self.report.compared(&compare(format!("{name}, beside"), vec![null, nbd.clone()], Target::None));
        }
        let mut figure = |what: &str, others: &[Contestant], most, of: fn(&Sample) -> f64| {
            self.report.measured(&Figure {
                case: Case::Iscsi,
                name: format!("{name}, {what}"),
                unit: "ratio",
                values: quotient(&ours, others, of),
                target: Target::AtMost(Ratio(most)),
                note: "of the same rounds".to_owned(),
            });
        };
        figure("server CPU per operation, of tgt on a file", &files, 1.0, Sample::cpu_per_op);
        figure("server CPU per operation, of our NBD", &[nbd], 1.5, Sample::cpu_per_op);
        if load.depth.0 == 1 {
            figure("p99, of tgt on a file", &files, 1.0, |sample| sample.latency.p99.as_secs_f64());
        }
    }
}

/// Ours by that of the fastest of the others in the same round.
fn quotient(ours: &Contestant, others: &[Contestant], of: fn(&Sample) -> f64) -> Spread {
    let rounds = ours.rounds.iter().enumerate();
    Spread::of(rounds.filter_map(|(round, sample)| {
        let theirs = others.iter().filter_map(|other| other.rounds.get(round));
        let fastest = theirs.max_by(|a, b| a.rate().total_cmp(&b.rate()))?;
        Some(of(sample) / of(fastest).max(f64::MIN_POSITIVE))
    }))
}

fn depth_of(load: &Load) -> String {
    match load.connections {
        1 => format!("depth {}", load.depth.0),
        sessions => format!("{sessions} sessions x {}", load.depth.0),
    }
}
