//! Why a command did not do what it was asked: what, why, and what to do.

use std::io::Write as _;
use std::process::ExitCode;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    why: String,
    fix: String,
    usage: bool,
}

impl Failure {
    /// It could not be done.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: String::new(), fix: String::new(), usage: false }
    }

    /// The command line is wrong.
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(what) }
    }

    /// With the reason.
    #[must_use]
    pub fn because(mut self, why: impl ToString) -> Self {
        self.why = why.to_string();
        self
    }

    /// With what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Says so on standard error, and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        say(&format!("error: {}", self.what));
        for (label, part) in [("why", &self.why), ("fix", &self.fix)] {
            if !part.is_empty() {
                say(&format!("  {label}: {part}"));
            }
        }
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

/// A line on standard error; nobody can be told when that fails. Control characters of others are shown, not obeyed.
pub(crate) fn say(text: &str) {
    let shown: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() })
        .collect();
    let _ = writeln!(std::io::stderr().lock(), "{shown}");
}
