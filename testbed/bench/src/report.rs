//! Tables for people and lines for the history.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tap_block::Clock;
use tap_disk::RealClock;

use crate::machine;
use crate::options::{Case, Options};
use crate::sample::{Ratio, Sample, Spread};

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// A ratio of at least this.
    AtLeast(Ratio),
    /// A ratio of at most this.
    AtMost(Ratio),
    /// A figure below this, in its own unit.
    Below(f64),
    /// Only to be known.
    None,
}

/// A program in a comparison and its rounds.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    /// How to run it by hand.
    pub(crate) command: String,
    pub(crate) rounds: Vec<Sample>,
}

/// The outcome of a case: ours first.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) case: Case,
    pub(crate) name: String,
    /// The load and the rules of the clock.
    pub(crate) how: String,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) target: Target,
}

/// One number against a limit.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) case: Case,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) values: Spread,
    pub(crate) target: Target,
    pub(crate) note: String,
}

/// Everything found in a run.
pub(crate) struct Report {
    record: bool,
    size: &'static str,
    machine: Value,
    commit: String,
    lines: Vec<Value>,
    missed: Vec<String>,
    failed: Vec<String>,
}

impl Comparison {
    /// Ours against the fastest of the others in the same round.
    pub(crate) fn ratio(&self) -> Spread {
        let Some((ours, others)) = self.contestants.split_first() else { return Spread::of([]) };
        Spread::of(ours.rounds.iter().enumerate().map(|(round, sample)| {
            let rates = others.iter().filter_map(|o| o.rounds.get(round)).map(Sample::rate);
            sample.rate() / rates.fold(f64::MIN_POSITIVE, f64::max)
        }))
    }

    fn table(&self) -> String {
        let mut out = format!("\n### {}\n\n", self.name);
        out.push_str("| | ops/s: median (each round) | p50 us | p99 us | max ms | CPU us/op | RSS MiB | others' cores |\n");
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        for contestant in &self.contestants {
            let _ = writeln!(out, "{}", contestant.row());
        }
        let ratio = self.ratio();
        let _ = writeln!(
            out,
            "\nratio **{:.2}** ({:.2} to {:.2} over {} rounds){}",
            ratio.median,
            ratio.least,
            ratio.greatest,
            self.contestants.first().map_or(0, |c| c.rounds.len()),
            self.target.verdict(ratio.median)
        );
        let _ = writeln!(out, "\nload: {}", self.how);
        for contestant in &self.contestants {
            let _ = writeln!(out, "  {}: {}", contestant.name, contestant.command);
        }
        out
    }
}

impl Contestant {
    /// One that has not begun.
    pub(crate) fn new(name: impl Into<String>, command: impl Into<String>) -> Self {
        Self { name: name.into(), command: command.into(), rounds: Vec::new() }
    }

    /// The spread of a figure over the rounds.
    pub(crate) fn over(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure))
    }

    fn row(&self) -> String {
        let rounds: Vec<String> = self.rounds.iter().map(|s| format!("{:.0}", s.rate())).collect();
        let median = |figure: fn(&Sample) -> f64| self.over(figure).median;
        format!(
            "| {} | {:.0} ({}) | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {:.2} |",
            self.name,
            self.over(Sample::rate).median,
            rounds.join(" "),
            median(|s| s.latency.median.as_secs_f64() * 1e6),
            median(|s| s.latency.p99.as_secs_f64() * 1e6),
            median(|s| s.latency.max.as_secs_f64() * 1e3),
            median(Sample::cpu_per_op),
            median(|s| s.memory.mib()),
            median(|s| s.others),
        )
    }

    fn as_json(&self) -> Value {
        json!({
            "name": self.name,
            "ops_per_second": round(self.over(Sample::rate).median),
            "cpu_us_per_op": round(self.over(Sample::cpu_per_op).median),
            "rss_mib": round(self.over(|s| s.memory.mib()).median),
        })
    }
}

impl Target {
    /// A limit holds for the worst round, a ratio for the median: one unlucky round is no loss of speed.
    const fn judged(self, values: Spread) -> f64 {
        if matches!(self, Self::Below(_)) { values.greatest } else { values.median }
    }

    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least.0,
            Self::AtMost(most) => value <= most.0,
            Self::Below(limit) => value < limit,
            Self::None => true,
        }
    }

    fn verdict(self, value: f64) -> String {
        let word = if self.met(value) { "reached" } else { "MISSED" };
        match self {
            Self::AtLeast(least) => format!("; target at least {:.2}: {word}", least.0),
            Self::AtMost(most) => format!("; target at most {:.2}: {word}", most.0),
            Self::Below(limit) => format!("; target below {limit}: {word}"),
            Self::None => String::new(),
        }
    }

    fn as_json(self) -> Value {
        match self {
            Self::AtLeast(least) => json!({ "at_least": least.0 }),
            Self::AtMost(most) => json!({ "at_most": most.0 }),
            Self::Below(limit) => json!({ "below": limit }),
            Self::None => Value::Null,
        }
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn begin(options: &Options) -> Result<Self> {
        let folder = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        ensure!(folder.is_dir(), "{} is no folder", folder.display());
        let report = Self {
            record: options.record,
            size: options.pick("full", "quick"),
            machine: machine::describe(&folder),
            commit: machine::commit(),
            lines: Vec::new(),
            missed: Vec::new(),
            failed: Vec::new(),
        };
        println!("commit {}, {} size, on {}", report.commit, report.size, report.machine);
        if machine::in_memory(&folder) {
            println!("NOTE: {} lies in memory; use --dir to measure a disk", folder.display());
        }
        Ok(report)
    }

    /// Prints a comparison and keeps it.
    pub(crate) fn compared(&mut self, comparison: &Comparison) {
        println!("{}", comparison.table());
        let ratio = comparison.ratio();
        self.keep(
            comparison.case,
            &comparison.name,
            ratio,
            comparison.target,
            json!({
                "unit": "ratio",
                "contestants": comparison.contestants.iter().map(Contestant::as_json).collect::<Vec<_>>(),
            }),
        );
    }

    /// Prints a figure and keeps it.
    pub(crate) fn measured(&mut self, figure: &Figure) {
        let Figure { name, unit, values, target, note, .. } = figure;
        println!(
            "\n**{name}**: {:.2} {unit} ({:.2} to {:.2}){}\n  {note}",
            values.median,
            values.least,
            values.greatest,
            target.verdict(target.judged(*values))
        );
        self.keep(figure.case, name, *values, *target, json!({ "unit": unit }));
    }

    /// A case gave no figures.
    pub(crate) fn failed(&mut self, case: Case, error: &anyhow::Error) {
        println!("\n### {case} FAILED: {error:#}");
        self.failed.push(case.to_string());
    }

    /// Every figure of the run, one line each.
    fn table(&self) -> String {
        let mut out = String::from(
            "\n### all of it\n\n| | median | least | greatest | | target |\n|---|---|---|---|---|---|\n",
        );
        for line in &self.lines {
            let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
            let number = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
            let target =
                line.get("target").and_then(Value::as_object).and_then(|target| target.iter().next());
            let target =
                target.map_or_else(String::new, |(way, limit)| format!("{} {limit}", way.replace('_', " ")));
            let _ = writeln!(
                out,
                "| {}: {} | {:.2} | {:.2} | {:.2} | {} | {target} |",
                text("case"),
                text("name"),
                number("median"),
                number("least"),
                number("greatest"),
                text("unit")
            );
        }
        out
    }

    /// Says what was missed, and writes the history if asked to.
    pub(crate) fn end(self) -> Result<()> {
        println!("{}", self.table());
        if !self.missed.is_empty() {
            println!("\ntargets missed: {}", self.missed.join("; "));
        }
        if self.record {
            self.append()?;
        }
        ensure!(self.failed.is_empty(), "no figures for: {}", self.failed.join(", "));
        Ok(())
    }

    fn keep(&mut self, case: Case, name: &str, values: Spread, target: Target, more: Value) {
        let judged = target.judged(values);
        if !target.met(judged) {
            self.missed.push(format!("{name} ({judged:.2})"));
        }
        let mut line = json!({
            "when": RealClock.wall().to_string(),
            "commit": self.commit,
            "size": self.size,
            "machine": self.machine,
            "case": case.to_string(),
            "name": name,
            "median": round(values.median),
            "least": round(values.least),
            "greatest": round(values.greatest),
            "target": target.as_json(),
        });
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        self.lines.push(line);
    }

    fn append(&self) -> Result<()> {
        let path = machine::source().join("history.jsonl");
        let open = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let lines: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        file.write_all(lines.as_bytes())?;
        println!("{} lines appended to {}", self.lines.len(), path.display());
        Ok(())
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn contestant(rates: [u64; 3]) -> Contestant {
        let mut contestant = Contestant::new("x", "");
        let sample = |ops| Sample { ops, elapsed: Duration::from_secs(1), ..Sample::default() };
        contestant.rounds.extend(rates.map(sample));
        contestant
    }

    #[test]
    fn a_round_is_compared_with_the_fastest_of_the_same_round() {
        let comparison = Comparison {
            case: Case::Read,
            name: "x".to_owned(),
            how: String::new(),
            contestants: vec![
                contestant([80, 40, 100]),
                contestant([100, 20, 50]),
                contestant([50, 10, 100]),
            ],
            target: Target::AtLeast(Ratio(0.7)),
        };
        assert_eq!(comparison.ratio(), Spread { median: 1.0, least: 0.8, greatest: 2.0 });
    }

    #[test]
    fn targets_are_met_or_missed() {
        assert!(Target::AtLeast(Ratio(0.7)).met(0.7) && !Target::AtLeast(Ratio(0.7)).met(0.69));
        assert!(Target::Below(50.0).met(49.9) && !Target::Below(50.0).met(50.0));
    }
}
