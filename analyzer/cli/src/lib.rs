//! The analyzer's program: files, devices and people around [`analyzer_profile`], which does the thinking.
//!
//! ```text
//!   files, pipes ──► input ──► stream ──► one order of time ──► Profile ──► Report ──► show: terminal, JSON, HTML
//!   /proc/diskstats, tracefs ──► record ──► .cgp
//! ```
//!
//! Architecture invariant: it runs on production servers, so it links neither CX nor gateway, loads no kernel module, and
//! only reads what it looks at.

mod failure;
mod input;
mod parse;
mod progress;
mod show;
mod stream;
mod verbs;

pub use failure::Failure;
pub use verbs::Verb;
