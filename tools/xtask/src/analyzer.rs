//! What the analyzer promises of itself, measured on its release build: size, speed of imports, memory, cost of recording.
//!
//! Figures are of processor time, not of the clock: they hold on a machine that others share, within a quarter or so.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::run::{Steps, check};
use crate::test::in_root;
use crate::workspace::Workspace;

/// I/Os of the traces whose import is timed.
const TRACE: u64 = 10_000_000;
/// I/Os piped through a report, unless a number is given.
const PIPED: u64 = 1_000_000_000;

/// Builds it and measures all; `piped` I/Os for the memory.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let piped = match words {
        [] => PIPED,
        [number] => number.parse().context("cargo xtask analyzer [I/Os for the memory]")?,
        _ => anyhow::bail!("cargo xtask analyzer [I/Os for the memory]"),
    };
    let workspace = Workspace::load()?;
    let mut steps = Steps::default();
    let build = ["build", "--release", "--package", "analyzer-cli", "--locked"];
    steps.command("build it", in_root(&workspace).args(build))?;
    let measuring = Measuring::new(&workspace)?;
    let mut lines = vec![measuring.size()?];
    steps.run("import", || {
        lines.push(measuring.import("blktrace", 2e6)?);
        lines.push(measuring.import("alibaba", 1e6)?);
        Ok(())
    })?;
    steps.run("memory", || {
        lines.push(measuring.memory(piped)?);
        Ok(())
    })?;
    steps.run("recording", || {
        lines.push(measuring.recording("")?);
        lines.push(measuring.recording("--latency")?);
        Ok(())
    })?;
    println!("== what it promises of itself");
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// The program, and a folder for its files that goes with us.
struct Measuring {
    program: PathBuf,
    folder: PathBuf,
}

impl Drop for Measuring {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Measuring {
    fn new(workspace: &Workspace) -> Result<Self> {
        let target = &workspace.target;
        let folder = target.join(format!("analyzer-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self { program: target.join("release/chronogate-analyzer"), folder })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words);
        command
    }

    fn size(&self) -> Result<String> {
        let stripped = self.folder.join("stripped");
        check(Command::new("strip").arg("-o").arg(&stripped).arg(&self.program))?;
        let mib = std::fs::metadata(&stripped)?.len() as f64 / f64::from(1 << 20);
        Ok(verdict(mib < 8.0, &format!("stripped, {mib:.1} MiB (8 at most)")))
    }

    /// Processor time of reading a trace into a report, `least` I/Os a second.
    fn import(&self, format: &str, least: f64) -> Result<String> {
        let (profile, trace) = (self.folder.join("trace.cgp"), self.folder.join(format));
        check(self.command(&["synth", "--count"]).arg(TRACE.to_string()).arg("--out").arg(&profile))?;
        check(self.command(&["export", "--format", format, "--out"]).arg(&trace).arg(&profile))?;
        std::fs::remove_file(&profile)?;
        let before = children_seconds()?;
        check(self.command(&["report", "--json", "-"]).arg(&trace).stdout(Stdio::null()))?;
        let rate = TRACE as f64 / (children_seconds()? - before);
        std::fs::remove_file(&trace)?;
        let text =
            format!("{format}: {:.2} M I/Os a second of a core ({:.0} at least)", rate / 1e6, least / 1e6);
        Ok(verdict(rate >= least, &text))
    }

    /// The most memory of a report of so many I/Os that are piped into it.
    fn memory(&self, piped: u64) -> Result<String> {
        let mut synth = self.command(&["synth", "--out", "-", "--count"]);
        let mut synth = synth.arg(piped.to_string()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let from = synth.stdout.take().context("no pipe")?;
        let mut report = self.command(&["report", "-", "--link", "200Mbit", "--json", "-"]);
        let mut report = report.stdin(from).stdout(Stdio::null()).spawn()?;
        let kib = peak_kib(&mut report)?;
        ensure!(synth.wait()?.success() && report.wait()?.success(), "the report of a pipe failed");
        let mib = kib as f64 / 1024.0;
        Ok(verdict(mib < 256.0, &format!("{piped} I/Os piped: {mib:.0} MiB (256 at most)")))
    }

    /// What recording costs at 100,000 events a second, from what it cost at the rate that this machine makes.
    fn recording(&self, more: &str) -> Result<String> {
        let file = Path::new("/dev/shm").join(format!("analyzer-{}", std::process::id()));
        File::create(&file)?.set_len(256 << 20)?;
        let disk = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        let disk =
            disk.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default();
        let text = if disk.is_empty() {
            Ok("recording: not measured, it takes root and loop devices".to_owned())
        } else {
            self.recording_of(&disk, more)
        };
        let _ = Command::new("losetup").args(["--detach", &disk]).status();
        let _ = std::fs::remove_file(&file);
        text
    }

    fn recording_of(&self, disk: &str, more: &str) -> Result<String> {
        let out = self.folder.join("run.cgp");
        let _ = std::fs::remove_file(&out);
        let mount =
            "mountpoint -q /sys/kernel/tracing || mount -t tracefs nodev /sys/kernel/tracing; exec \"$@\"";
        let mut record = Command::new("unshare");
        record.args(["--mount", "sh", "-c", mount, "sh"]).arg(&self.program);
        record.args([
            "record",
            "--mode",
            "events",
            "--max-overhead",
            "100%",
            "--for",
            "15s",
            "--device",
            disk,
        ]);
        record.args((!more.is_empty()).then_some(more)).arg("--out").arg(&out);
        let mut record = record.stderr(Stdio::piped()).spawn()?;
        let mut said = std::io::BufReader::new(record.stderr.take().context("no pipe")?);
        wait_for(&mut said, "recording into")?;
        let words = [
            "--name=t",
            "--rw=randwrite",
            "--bs=4k",
            "--direct=1",
            "--minimal",
            "--time_based",
            "--runtime=10",
        ];
        let mut fio = Command::new("fio");
        fio.args(words).args(["--ioengine=libaio", "--iodepth=32", "--rate_iops=100000"]);
        check(fio.arg(format!("--filename={disk}")).stdout(Stdio::null()))?;
        let line = wait_for(&mut said, "own share of a processor")?;
        ensure!(record.wait()?.success(), "recording failed");
        let number = |text: Option<&str>| text.and_then(|t| t.trim().parse::<f64>().ok()).unwrap_or(f64::NAN);
        let events = number(line.split(' ').next());
        let share = number(line.rsplit(':').next().map(|t| t.trim_end().trim_end_matches('%')));
        let each = share / 100.0 * 15.0 / events;
        let name = if more.is_empty() { "recording" } else { "recording with latencies" };
        let text = format!(
            "{name}: {:.2} µs of a core for each of {events:.0} I/Os, {:.1} % at 100,000 a second (3 at most)",
            each * 1e6,
            each * 1e7
        );
        Ok(verdict(each * 1e5 < 0.03, &text))
    }
}

fn verdict(kept: bool, text: &str) -> String {
    format!("{}  {text}", if kept { "kept  " } else { "MISSED" })
}

/// Reads until a line has it.
fn wait_for(lines: &mut impl std::io::BufRead, what: &str) -> Result<String> {
    let (mut line, mut all) = (String::new(), String::new());
    while !line.contains(what) {
        line.clear();
        ensure!(lines.read_line(&mut line)? > 0, "it ended without {what:?}: {all}");
        all.push_str(&line);
    }
    Ok(line)
}

/// Processor time of the children that have ended, from the kernel's account of this process.
fn children_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name in parentheses; cutime and cstime are the 16th and 17th field, in hundredths of a second.
    let fields = text.rsplit(')').next().unwrap_or("").split_ascii_whitespace().skip(13).take(2);
    Ok(fields.map(|f| f.parse::<f64>().unwrap_or(0.0)).sum::<f64>() / 100.0)
}

/// The most memory that a child has while it runs, in KiB.
fn peak_kib(child: &mut Child) -> Result<u64> {
    let (status, begun, mut peak) = (format!("/proc/{}/status", child.id()), Instant::now(), 0);
    while child.try_wait()?.is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
        peak = kib.unwrap_or(0).max(peak);
        // The kernel keeps the highest: a look every so often sees all but the last moment's.
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    Ok(peak)
}
