//! A report for people on a terminal, for programs as JSON, for a meeting as HTML.

mod html;
mod terminal;

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;

pub(crate) use html::html;
pub(crate) use terminal::{aligned, side_by_side, terminal};

/// As JSON, a line end after it.
///
/// # Errors
/// A figure has no form in JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n").map_err(|e| Failure::new("the report cannot be written as JSON").because(e))
}

/// Into a file, or to standard output for `-`.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if path == Path::new("-") {
        return print(text);
    }
    std::fs::write(path, text)
        .map_err(|e| Failure::new(format!("cannot write {}", path.display())).because(e))
}

/// To standard output; a reader that has gone (`| head`) is no error.
///
/// # Errors
/// It cannot be written.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("the output cannot be written").because(e))
        }
        _ => Ok(()),
    }
}
