//! The disks of this machine, and which of them may be recorded together.

use std::collections::BTreeSet;
use std::path::Path;

use crate::failure::Failure;

const CLASS: &str = "/sys/class/block";

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The kernel's name.
    pub(crate) name: String,
    /// Twelve bits of major, twenty of minor.
    pub(crate) number: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// Is it a part of a disk?
    pub(crate) partition: bool,
    /// What it lies on, all the way down.
    pub(crate) below: BTreeSet<String>,
}

impl Target {
    fn read(name: &str) -> Option<Self> {
        let folder = Path::new(CLASS).join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let (major, minor) = text("dev")?
            .trim()
            .split_once(':')
            .and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)))?;
        let mut below = BTreeSet::new();
        gather_below(name, &mut below);
        Some(Self {
            name: name.to_owned(),
            number: major << 20 | minor,
            size: text("size").and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0) * 512,
            partition: folder.join("partition").exists(),
            below,
        })
    }
}

/// What a device lies on: a map's devices, a partition's disk.
fn gather_below(name: &str, below: &mut BTreeSet<String>) {
    let folder = Path::new(CLASS).join(name);
    let slaves = std::fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    let mut next: Vec<String> = slaves.map(|s| s.file_name().to_string_lossy().into_owned()).collect();
    if folder.join("partition").exists() {
        let whole = std::fs::canonicalize(&folder).ok();
        let whole = whole.as_deref().and_then(Path::parent).and_then(Path::file_name);
        next.extend(whole.map(|w| w.to_string_lossy().into_owned()));
    }
    for name in next {
        if below.insert(name.clone()) {
            gather_below(&name, below);
        }
    }
}

/// All disks of this machine, by name.
pub(crate) fn all() -> Vec<Target> {
    let names = std::fs::read_dir(CLASS).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.map(|n| n.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.iter().filter_map(|name| Target::read(name)).collect()
}

/// The disks that were named.
///
/// # Errors
/// One is not there, or lies on another one: its writes would count twice.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Target>, Failure> {
    let mut targets: Vec<Target> = Vec::new();
    for given in names {
        let target = Target::read(&kernel_name(given)).ok_or_else(|| {
            Failure::new(format!("there is no block device {given}"))
                .fix("`chronogate-analyzer devices` lists them")
        })?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    for upper in &targets {
        if let Some(lower) = targets.iter().find(|t| upper.below.contains(&t.name)) {
            return Err(Failure::new(format!(
                "{} lies on {}: what is written to it would count twice",
                upper.name, lower.name
            ))
            .fix("name the one whose writes are to be protected"));
        }
    }
    Ok(targets)
}

/// `/dev/mapper/db` is a link to `/dev/dm-3`.
fn kernel_name(given: &str) -> String {
    let path = if given.contains('/') { Path::new(given).to_owned() } else { Path::new("/dev").join(given) };
    let real = std::fs::canonicalize(&path).unwrap_or(path);
    real.file_name().map_or_else(|| given.to_owned(), |n| n.to_string_lossy().into_owned())
}
