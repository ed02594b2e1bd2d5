//! The journal's bytes: segments, frames, entries and index runs; the only crate that writes the format.
