//! The machine and the commit that a figure belongs to.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// tmpfs in statfs: a sync there costs nothing, so that figures of durable writes mean nothing.
const TMPFS: i64 = 0x0102_1994;

/// Processors, kernel and disk, without names that tell whose machine it is.
pub(crate) fn describe(folder: &Path) -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.map(|(_, name)| name),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": kernel.trim(),
        "file_system": file_system(folder),
    })
}

/// The commit of the source tree, marked when it is not what was committed.
pub(crate) fn commit() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(source()).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| s.is_empty());
    if clean { head } else { head + "+" }
}

/// The folder of this crate.
pub(crate) fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn file_system(folder: &Path) -> Option<String> {
    let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(folder).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Does `folder` lie in memory?
pub(crate) fn in_memory(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|s| s.f_type == TMPFS)
}
