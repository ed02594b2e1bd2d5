//! What the kernel tells of its disks, as bytes into figures: counters and traced events.

pub mod diskstats;
pub mod ring;
