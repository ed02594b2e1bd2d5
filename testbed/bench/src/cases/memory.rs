//! Memory of `chronogate up` under full write load: the most it ever held, from its start on.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{disk_size, folder};
use crate::image;
use crate::load::{Depth, Kind, Load, Order};
use crate::options::{Case, Options};
use crate::report::{Figure, Report, Target};
use crate::sample::{Spread, to_float};
use crate::up::Up;

const LIMIT_MIB: f64 = 512.0;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let size = disk_size(options);
    let disk = folder.path().join("disk.img");
    image::make(&disk, size, 13)?;
    let up = Up::start(&disk, folder.path())?;
    let baseline = up.pid().memory()?.peak;
    let load = Load {
        kind: Kind::Write,
        order: Order::Random,
        block: 4096,
        depth: Depth(64),
        connections: 4,
        span: size,
        time: options.load_time(Duration::from_secs(10)),
        seed: 1,
    };
    let loads = [
        load,
        Load { depth: Depth(16), connections: 8, ..load },
        Load { block: 256 << 10, depth: Depth(16), ..load },
        Load { block: 1 << 20, depth: Depth(8), connections: 2, ..load },
    ];
    let mut peaks = Vec::new();
    let mut notes = vec![format!("after the baseline {:.0} MiB", baseline.mib())];
    for load in loads {
        let done = up.explain(load.run(&up.tap()))?;
        let rate = to_float(done.ops) / done.elapsed.as_secs_f64();
        let begun = Instant::now();
        let gaps = up.explain(up.catch_up())?.gaps;
        let peak = up.pid().memory()?.peak;
        peaks.push(peak.mib());
        notes.push(format!(
            "{}: {rate:.0} op/s, history behind by {:.1} s, {gaps} gap(s), peak so far {:.0} MiB",
            load.describe(),
            begun.elapsed().as_secs_f64(),
            peak.mib()
        ));
    }
    notes.push(format!("with {}", up.command()));
    report.measured(&Figure {
        case: Case::Memory,
        name: "memory of up under full write load, the most ever (VmHWM)".to_owned(),
        unit: "MiB",
        values: Spread::of(peaks),
        target: Target::Below(LIMIT_MIB),
        note: notes.join("\n  "),
    });
    up.stop();
    Ok(())
}
