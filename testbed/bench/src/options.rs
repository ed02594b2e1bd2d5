//! What the command line asks for.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Ratios against raw baselines and peers, measured alternately in one run
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// `journal`: everything that says what the journal can do, in one table; without it, every case
    group: Option<Group>,
    /// A smoke run of less than half a minute: small disks, short rounds; its figures are noise
    #[arg(long)]
    pub(crate) quick: bool,
    /// Run this case only (repeatable)
    #[arg(long, value_name = "CASE")]
    only: Vec<Case>,
    /// Rounds of each case, at least 3
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) rounds: u32,
    /// Append the ratios to testbed/bench/history.jsonl
    #[arg(long)]
    pub(crate) record: bool,
    /// Work below this folder, on the disk to be measured
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// Seconds of load in each round of `tap`, `read`, `nbd` and `iscsi` (10, 4, 3 and 3; 0.4 with --quick)
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// The largest journal of `open`, in records (10000000; 100000 with --quick)
    #[arg(long, value_name = "COUNT")]
    pub(crate) records: Option<u64>,
    /// GiB of the volume in `open` (16)
    #[arg(long, value_name = "GIB", default_value_t = 16)]
    pub(crate) volume: u64,
    /// What the disk of `read` holds instead of made-up content: the files below this folder, one after the other
    #[arg(long, value_name = "FOLDER")]
    pub(crate) corpus: Option<PathBuf>,
    /// Minutes of `soak` (60)
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    minutes: u32,
}

/// Cases that are looked at together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// All but the tap, the servers and the hour of load.
    Journal,
}

impl Group {
    fn has(self, case: Case) -> bool {
        match self {
            Self::Journal => !matches!(case, Case::Tap | Case::Nbd | Case::Iscsi | Case::Soak),
        }
    }
}

/// A group of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Records into the gateway's store, durable, against raw segment writes
    Ingest,
    /// Writes through the tap until history has them, against nbdkit
    Tap,
    /// Opening an image and reading its first block, by length of history
    Open,
    /// Random reads of an image, against nbdkit and qemu-nbd
    Read,
    /// Our NBD server, over an image, the head, a read/write image and the tap, against nbdkit, qemu-nbd, nbd-server and
    /// nbdkit's null disk
    Nbd,
    /// Our iSCSI target, over the head and a read/write image, against tgt on files (rdwr, aio) and tgt's null store, and
    /// our own NBD server
    Iscsi,
    /// Settling old history: its speed, its price for commits, and reads of what is settled
    Settle,
    /// Memory of `chronogate up` under full write load
    Memory,
    /// An hour of steady load with settling: the worst commit. Only when it is named
    Soak,
}

impl Options {
    /// The cases to run, in order.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let all = Case::value_variants().iter().copied();
        all.filter(|case| self.group.is_none_or(|group| group.has(*case)))
            .filter(|case| if self.only.is_empty() { *case != Case::Soak } else { self.only.contains(case) })
            .collect()
    }

    /// `full`, or `quick` for a smoke run.
    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How long `soak` lasts.
    pub(crate) fn soak_time(&self) -> Duration {
        self.pick(Duration::from_secs(60) * self.minutes, Duration::from_secs(6))
    }

    /// How long a round of load lasts.
    pub(crate) fn load_time(&self, full: Duration) -> Duration {
        let asked = self.seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        asked.unwrap_or_else(|| self.pick(full, Duration::from_millis(400)))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("?", |v| v.get_name()))
    }
}
