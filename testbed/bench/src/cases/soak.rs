//! An hour of load: records at a steady rate, all of them settled and thinned out meanwhile, and the worst that a commit
//! ever waited.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_journal::{MetaRecord, RetentionPolicy, Tier};
use gateway_store::{Store, StoreConfig};
use tap_disk::RealClock;

use super::{folder, millis};
use crate::journal::{Feeder, random_batches};
use crate::options::{Case, Options};
use crate::process::Pid;
use crate::report::{Figure, Report, Target};
use crate::sample::{Latency, Ratio, Spread};

const VOLUME_SIZE: u64 = 4 << 30;
/// 20 MiB of records each second.
const BATCHES_PER_SECOND: u32 = 80;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let folder = folder(options)?;
    let time = options.soak_time();
    let config = StoreConfig {
        settle_each: Some(Duration::from_secs(5)),
        ..StoreConfig::new(folder.path().to_owned())
    };
    let store = Store::open(config, Arc::new(RealClock))?;
    let whole = time / 30;
    keep(&store, whole)?;
    let mut feeder = Feeder::begin(&store, VOLUME_SIZE, 64 << 20)?;
    let records = feed(&mut feeder, time)?;
    let waits = Latency::of(std::mem::take(&mut feeder.waits));
    let status = store.status();
    ensure!(options.quick || status.settles > 0, "nothing was settled");
    let mut figure = |name: &str, unit: &'static str, target: Target, value: f64| {
        let note = format!(
            "{} s at 20 MiB/s of 4 KiB records at random offsets of 4 GiB, half compressible; every write kept for {:.1} s, \
             one point in {:.1} s for ten times as long, nothing before; {} settles",
            time.as_secs(),
            whole.as_secs_f64(),
            distance(whole).as_secs_f64(),
            status.settles
        );
        let (case, name, values) = (Case::Soak, name.to_owned(), Spread::of([value]));
        report.measured(&Figure { case, name, unit, values, target, note });
    };
    figure("records kept up with", "of those due", Target::AtLeast(Ratio(0.99)), records);
    figure("worst commit", "ms", Target::Below(1000.0), millis(waits.max));
    figure("commit, 1 in 100 slower than", "ms", Target::None, millis(waits.p99));
    figure("commit, 1 in 2 slower than", "ms", Target::None, millis(waits.median));
    figure("memory at the end", "MiB", Target::None, Pid::own().memory()?.resident.mib());
    Ok(())
}

/// Of points, once not every write is one.
fn distance(whole: Duration) -> Duration {
    (whole / 10).max(Duration::from_secs(1))
}

/// Every write for `whole`, then fewer points, then none.
fn keep(store: &Store, whole: Duration) -> Result<()> {
    let tier = Tier { each: distance(whole), keep: whole * 10, before_drop: None };
    let policy = RetentionPolicy { every_write: whole, tiers: vec![tier], ..RetentionPolicy::default() };
    let (sender, done) = channel();
    let record = MetaRecord::PolicySet { volume: None, policy: Some(policy) };
    store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
    done.recv().context("the store is gone")??;
    Ok(())
}

/// Writes for so long; how much of what was due was written. A batch waits from when it was due, not from when there was
/// room for it.
fn feed(feeder: &mut Feeder<'_>, time: Duration) -> Result<f64> {
    let batches = random_batches(VOLUME_SIZE);
    let (begun, mut sent) = (Instant::now(), 0u32);
    for batch in batches.iter().cycle() {
        let due = begun + Duration::from_secs(1) * sent / BATCHES_PER_SECOND;
        if due.duration_since(begun) >= time {
            break;
        }
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        feeder.write_due(batch, due)?;
        sent += 1;
    }
    feeder.drain()?;
    Ok(time.as_secs_f64() / begun.elapsed().as_secs_f64().max(time.as_secs_f64()))
}
