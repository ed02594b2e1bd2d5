//! The models, each in a file of its own: what it answers, its formula, where that comes from.

pub mod at_rest;
pub mod batches;
pub mod calendar;
pub mod coalescing;
pub mod confidence;
pub mod content;
pub mod coverage;
pub mod drain;
pub mod initial;
pub mod outage;
pub mod recovery;
pub mod requirement;
pub mod spread;
pub mod trend;
