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
    /// The part of a disk that it is, if it is one.
    pub(crate) part: Option<Part>,
    /// What it lies on, all the way down.
    pub(crate) below: BTreeSet<String>,
}

/// Where a partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The disk's number.
    pub(crate) disk: u32,
    /// Where it begins there, in bytes.
    pub(crate) begin: u64,
}

impl Part {
    /// `None`: it is a disk of its own.
    fn read(name: &str) -> Option<Self> {
        let folder = Path::new(CLASS).join(name);
        let begin = std::fs::read_to_string(folder.join("start")).ok()?.trim().parse::<u64>().ok()?;
        let disk = std::fs::read_to_string(std::fs::canonicalize(folder).ok()?.parent()?.join("dev")).ok()?;
        Some(Self { disk: number(&disk)?, begin: begin.checked_mul(512)? })
    }
}

/// `major:minor` in the kernel's own packing.
fn number(text: &str) -> Option<u32> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

impl Target {
    fn read(name: &str) -> Option<Self> {
        let folder = Path::new(CLASS).join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let mut below = BTreeSet::new();
        gather_below(name, &mut below);
        Some(Self {
            name: name.to_owned(),
            number: number(&text("dev")?)?,
            size: text("size").and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0) * 512,
            part: Part::read(name),
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

impl Target {
    /// The device by whose number the kernel traces it: the disk, for a part of one.
    pub(super) fn traced(&self) -> u32 {
        self.part.map_or(self.number, |part| part.disk)
    }

    /// What the kernel is to trace for it. A flush has no place: it is of the whole disk.
    pub(super) fn filter(&self) -> String {
        match self.part {
            None => format!("dev == {}", self.number),
            Some(Part { disk, begin }) => {
                let (first, end) = (begin / 512, begin.saturating_add(self.size) / 512);
                format!("(dev == {disk} && ((sector >= {first} && sector < {end}) || nr_sector == 0))")
            }
        }
    }

    /// Where in it an I/O of the traced device lies; `None`: it is another one's.
    pub(super) fn place(&self, device: u32, offset: u64, length: u64) -> Option<u64> {
        if device != self.traced() {
            return None;
        }
        match self.part {
            Some(Part { begin, .. }) if length > 0 => {
                offset.checked_sub(begin).filter(|&inside| inside < self.size)
            }
            _ => Some(offset),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_of_a_partition_lies_in_it_and_a_flush_is_of_the_disk() {
        let part = Some(Part { disk: 7 << 20, begin: 1 << 20 });
        let (name, below) = ("loop0p1".to_owned(), BTreeSet::new());
        let target = Target { name, number: 259 << 20, size: 8192, part, below };
        assert_eq!(
            target.filter(),
            "(dev == 7340032 && ((sector >= 2048 && sector < 2064) || nr_sector == 0))"
        );
        assert_eq!(target.place(7 << 20, (1 << 20) + 4096, 4096), Some(4096));
        assert_eq!(target.place(7 << 20, (1 << 20) + 8192, 4096), None, "the next partition's");
        assert_eq!(target.place(7 << 20, 512, 4096), None);
        assert_eq!(target.place(7 << 20, 0, 0), Some(0));
        assert_eq!(target.place(259 << 20, 1 << 20, 4096), None);
    }
}
