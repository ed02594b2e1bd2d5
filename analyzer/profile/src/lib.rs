//! What a disk's writes ask of a link, a spool and a journal, told before anything is deployed.
//!
//! ```text
//!   bytes of a trace ──► import ──► events ──► cgp frames ──► bytes of a profile file
//!                                     │             │
//!                                     ▼             ▼
//!                                  Profile: 1 s bins, histograms, the exact requirement
//!                                     │
//!                                     ▼
//!                                  model: bandwidth, lag, spool, journal ──► Report
//! ```
//!
//! The model is a queue, not a percentile: writes come in, a link of a given rate carries them away in order, and
//! the RPO is how long the last byte waits ([`model::requirement`]). Each model stands in a file of its own with its
//! formula and where that comes from.
//!
//! Architecture invariant: bytes and events in, bytes and figures out; no I/O, no clock. A trace of any length is
//! read in bounded memory: what grows is one small record for each second in which something happened.

pub mod bins;
pub mod cgp;
pub mod content;
pub mod event;
pub mod histogram;
pub mod import;
pub mod live;
pub mod model;
mod numbers;
pub mod probe;
pub mod profile;
pub mod report;
pub mod synth;

pub use bins::{Bin, Bins};
pub use content::{Content, Sampler};
pub use event::{At, DeviceNo, Event, Kind};
pub use histogram::Histogram;
pub use profile::Profile;
pub use report::Report;
