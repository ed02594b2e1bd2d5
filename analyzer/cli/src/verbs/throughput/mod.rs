//! `throughput`: what a link carries, measured between two analyzers.

mod listen;
mod measure;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use analyzer_profile::model::spread::Spread;
use analyzer_profile::report::rate_text;
use serde::Serialize;
use tap_block::Clock as _;
use tap_disk::RealClock;

use super::told_to_stop;
use crate::failure::Failure;
use crate::{parse, progress, show};
use measure::{Carried, Direction, Peer};

/// What is sent and taken at once.
const BUFFER: usize = 256 << 10;
/// Threads that carry streams.
const THREADS: usize = 4;
/// The most streams of one measurement.
const MAX_STREAMS: usize = 16;

/// Measures what a link carries
///
/// On one side `throughput --listen 0.0.0.0:7070`, on the other `throughput --to HOST:7070`: one stream and several, both directions,
/// round trips with and without load. The link is filled while it measures: do it when that harms nobody.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("side").required(true)))]
pub struct ThroughputArgs {
    /// The listener, HOST:PORT
    #[arg(long, group = "side")]
    to: Option<String>,
    /// Listens here, ADDRESS:PORT, for others to measure against
    #[arg(long, group = "side")]
    listen: Option<SocketAddr>,
    /// How long it takes in all; 20 s, and an hour with --listen
    #[arg(long = "for", value_parser = parse::duration)]
    time: Option<Duration>,
    /// How many streams are measured beside one
    #[arg(long, default_value_t = 4)]
    streams: usize,
    /// Writes the figures as JSON, `-` for standard output instead of the text
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    schema: &'static str,
    to: String,
    seconds: f64,
    idle_round_trip_ms: Spread,
    carried: Vec<Carried>,
    /// What to give `report`: what one stream carried there in nine of ten stretches.
    link_bytes_per_second: f64,
    link: String,
}

impl ThroughputArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Streams on threads of their own, so that filling the link does not delay the round trips beside it.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
        let runtime = runtime.map_err(|e| Failure::new("cannot use the network").because(e))?;
        if let Some(address) = self.listen {
            let time = self.time.unwrap_or(Duration::from_secs(3600));
            return runtime.block_on(listen::listen(address, time));
        }
        let to = self.to.clone().unwrap_or_default();
        let time = self.time.unwrap_or(Duration::from_secs(20));
        if time < Duration::from_secs(1) || time > Duration::from_secs(3600) {
            return Err(Failure::usage("--for goes from 1s to 1h"));
        }
        if !(1..=MAX_STREAMS).contains(&self.streams) {
            return Err(Failure::usage(format!("--streams goes from 1 to {MAX_STREAMS}")));
        }
        let measured = runtime.block_on(async {
            let told = told_to_stop()?;
            tokio::select! {
                measured = self.measure(to, time) => measured,
                () = told => Err(Failure::new("ended before all was measured")),
            }
        })?;
        if let Some(path) = &self.json {
            show::write(path, &show::json(&measured)?)?;
            if path == Path::new("-") {
                return Ok(());
            }
        }
        show::print(&text(&measured))
    }

    /// A tenth of the time without load, the rest shared by the phases.
    async fn measure(&self, to: String, time: Duration) -> Result<Measured, Failure> {
        let begun = RealClock.monotonic();
        let session = RealClock.wall().nanos() ^ (u64::from(std::process::id()) << 40);
        let peer = Peer { address: to, session };
        let mut counts = vec![1, self.streams];
        counts.dedup();
        let phases: Vec<_> =
            counts.iter().flat_map(|&n| [(n, Direction::There), (n, Direction::Back)]).collect();
        let bar = progress::steps(tap_block::units::count(phases.len()) + 1, "measuring");
        let idle_round_trip_ms = peer.idle(time / 10).await?;
        let each = time.mul_f64(0.9 / phases.len() as f64);
        let mut carried = Vec::new();
        for (streams, direction) in phases {
            bar.inc(1);
            carried.push(peer.carry(streams, direction, each).await?);
        }
        bar.finish_and_clear();
        let link = carried.first().map_or(0.0, |one| one.rate.tenth);
        Ok(Measured {
            schema: "chronogate-throughput/1",
            to: peer.address,
            seconds: RealClock.monotonic().since(begun).as_secs_f64(),
            idle_round_trip_ms,
            carried,
            link_bytes_per_second: link,
            link: link_text(link),
        })
    }
}

/// As `--link` takes it.
fn link_text(bytes_per_second: f64) -> String {
    let bits = bytes_per_second * 8.0;
    if bits >= 1e6 { format!("{:.1}Mbit", bits / 1e6) } else { format!("{:.1}kbit", bits / 1e3) }
}

fn text(m: &Measured) -> String {
    let rate = |r: f64| rate_text(r).split(" (").next().unwrap_or("").to_owned();
    let trips = |s: &Spread| [format!("{:.2} ms", s.median), format!("{:.2} ms", s.ninety_five)];
    let mut rows = vec![
        ["", "MEAN", "A TENTH BELOW", "MEDIAN", "A TENTH ABOVE", "ROUND TRIP", "95 %"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let [half, most] = trips(&m.idle_round_trip_ms);
    rows.push(vec!["no load".into(), "-".into(), "-".into(), "-".into(), "-".into(), half, most]);
    for c in &m.carried {
        let way = if c.direction == Direction::There { "there" } else { "back" };
        let streams = if c.streams == 1 { "1 stream".to_owned() } else { format!("{} streams", c.streams) };
        let [half, most] = trips(&c.round_trip_ms);
        let r = &c.rate;
        rows.push(vec![
            format!("{streams}, {way}"),
            rate(r.mean),
            rate(r.tenth),
            rate(r.median),
            rate(r.ninety),
            half,
            most,
        ]);
    }
    let mut text = format!("The link to {}, measured for {:.0} s\n{}", m.to, m.seconds, show::aligned(&rows));
    if let Some(times) = several(m).filter(|&times| times > 1.3) {
        text.push_str(&format!(
            "Several streams carry {times:.1} times as much as one: the window of a stream, or what shares the link, holds one back.\n"
        ));
    }
    text.push_str(&format!(
        "For `report`: --link {} (what one stream carried there in nine of ten stretches of 200 ms)\n",
        m.link
    ));
    text
}

/// How much more several streams carry there than one.
fn several(m: &Measured) -> Option<f64> {
    let there = |many: bool| {
        m.carried
            .iter()
            .find(|c| c.direction == Direction::There && (c.streams > 1) == many)
            .map(|c| c.rate.mean)
    };
    there(true).zip(there(false)).map(|(many, one)| many / one)
}
