//! What people and scripts see: tables and JSON on standard output, errors and progress on standard error.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use cx_api::{ExitStatus, Problem};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tap_block::WallTime;

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// People.
    Table,
    /// Scripts.
    Json,
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: ExitStatus,
    /// What happened.
    pub(crate) what: String,
    /// Why; empty when unknown.
    pub(crate) why: String,
    /// What to do; empty when there is nothing.
    pub(crate) fix: String,
}

impl Failure {
    /// A failure that ends the program so.
    #[must_use]
    pub(crate) fn new(exit: ExitStatus, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: String::new(), fix: String::new() }
    }

    /// The command line is wrong.
    #[must_use]
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, what)
    }

    /// A defect.
    #[must_use]
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::new(ExitStatus::Internal, what)
            .fix("this is a defect: please report it with the command you gave")
    }

    /// With the reason.
    #[must_use]
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// With what to do.
    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// With what was done before it, of an act on several things: `text` is what would have been printed.
    #[must_use]
    pub(crate) fn after(mut self, text: &str) -> Self {
        if !text.is_empty() {
            self.what = format!("not all of it was done: {}", self.what);
            let done = format!("done before it: {}", text.trim_end().replace('\n', ", "));
            self.why = [self.why, done].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ");
        }
        self
    }

    /// The lines for standard error.
    #[must_use]
    pub(crate) fn lines(&self) -> String {
        let mut text = format!("error: {}\n", printable(&self.what));
        for (label, part) in [("why", &self.why), ("fix", &self.fix)] {
            if !part.is_empty() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "  {label}: {}", printable(part));
            }
        }
        text
    }

    /// Says so on standard error, and gives the exit code.
    #[must_use]
    pub(crate) fn report(&self) -> ExitCode {
        say(&self.lines());
        ExitCode::from(self.exit.number())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            exit: problem.code.exit_status(),
            what: problem.detail,
            why: problem.cause,
            fix: problem.correction,
        }
    }
}

/// Prints to standard output.
///
/// # Errors
/// It cannot be written; a reader that has gone (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitStatus::Error, "the output cannot be written").because(e.to_string()))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON, a line end after it.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::internal(format!("the answer cannot be written as JSON: {e}")))?;
    print(&format!("{text}\n"))
}

/// Prints to standard error; nobody can be told when that fails.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Free text of others, safe on a terminal: control characters are shown, not obeyed.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    let show = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// Rows under a header, columns aligned; the last is never padded.
#[must_use]
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let all: Vec<_> =
        std::iter::once(&header).chain(rows).map(|row| row.each_ref().map(|c| printable(c))).collect();
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    all.iter().fold(String::new(), |text, row| text + &line(row, &widths))
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, &width) in cells.iter().zip(widths) {
        let _ = write!(text, "{cell:width$}  ");
    }
    format!("{}\n", text.trim_end())
}

/// Names and values, one a line.
#[must_use]
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:width$}  {}", printable(value));
        text
    })
}

/// So many of something, with the word for more than one made by an s.
#[must_use]
pub(crate) fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Bytes as people read them: three digits at least, powers of 1024.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 6] =
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    if tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// Seconds as people read them, rounded up: a lag is never shown better than it is.
#[must_use]
pub(crate) fn seconds(seconds: f64) -> String {
    let Ok(d) = Duration::try_from_secs_f64(seconds.max(0.0)) else { return "?".to_owned() };
    let milliseconds = d.as_nanos().div_ceil(1_000_000);
    match milliseconds.div_ceil(1000) {
        0..10 => {
            let tenths = milliseconds.div_ceil(100);
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        whole @ 10..=120 => format!("{whole} s"),
        whole @ 121..=7200 => format!("{} min", whole.div_ceil(60)),
        whole @ 7201..=172_800 => format!("{} h", whole.div_ceil(3600)),
        whole => format!("{} d", whole.div_ceil(86400)),
    }
}

/// A time in full, so that it can be given back as a POINT; `-` for none.
#[must_use]
pub(crate) fn time(at: Option<WallTime>) -> String {
    or_dash(at)
}

/// The value, or `-` for none.
#[must_use]
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// Progress on standard error: a bar on a terminal, now and then a line elsewhere.
pub(crate) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    /// The last tenth that was said.
    tenth: Option<u64>,
}

impl Progress {
    /// Nothing is drawn before the first [`Progress::at`].
    #[must_use]
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), bar: None, tenth: None }
    }

    /// So much is done.
    pub(crate) fn at(&mut self, done: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| bar(&self.what));
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        let tenth = u128::from(done) * 10 / u128::from(total.max(1));
        let tenth = u64::try_from(tenth).unwrap_or(10);
        if self.tenth.replace(tenth) != Some(tenth) {
            say(&format!("{}: {}% of {}\n", self.what, tenth * 10, size(total)));
        }
    }

    /// The bar goes; what follows stands on a clean line.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str) -> ProgressBar {
    let template = "{msg} [{bar:30}] {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_before_a_failure_is_told() {
        let failure = Failure::new(ExitStatus::Error, "b is gone").because("it was removed");
        let said = failure.clone().after("a is held\nc is held\n").lines();
        assert!(said.starts_with("error: not all of it was done: b is gone\n"), "{said}");
        assert!(said.contains("why: it was removed; done before it: a is held, c is held\n"), "{said}");
        assert_eq!(failure.clone().after(""), failure);
    }

    #[test]
    fn sizes_and_times_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 30, "64 GiB"),
            ((1 << 40) - 1, "1023.9 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (given, text) in [
            (0.0, "0.0 s"),
            (0.75, "0.8 s"),
            (9.0, "9.0 s"),
            (59.9, "60 s"),
            (600.0, "10 min"),
            (1e9, "11575 d"),
            (7201.0, "3 h"),
            (f64::NAN, "0.0 s"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(seconds(given), text);
        }
    }

    #[test]
    fn columns_are_aligned_and_end_without_blanks() {
        let rows = [["web01".into(), "64 GiB".into()], ["database-of-billing".into(), String::new()]];
        assert_eq!(
            table(["NAME", "SIZE"], &rows),
            "NAME                 SIZE\nweb01                64 GiB\ndatabase-of-billing\n"
        );
        assert_eq!(fields(&[("name", "web01".into()), ("lag", "-".into())]), "name  web01\nlag   -\n");
    }

    #[test]
    fn what_others_wrote_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc ä"), "a\\u{1b}[2Jb\\nc ä");
        assert!(!table(["X"], &[["\u{1b}]0;x\u{7}".into()]]).contains('\u{1b}'));
        assert!(!Failure::usage("\u{1b}").lines().contains('\u{1b}'));
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new(ExitStatus::NotFound, "there is no volume db").because("b").fix("c");
        assert_eq!(failure.lines(), "error: there is no volume db\n  why: b\n  fix: c\n");
        assert_eq!(Failure::usage("a").lines(), "error: a\n");
    }
}
