//! The command: `jverify STORE [-o json]`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use jverify::{Report, VerifyError, verify};

/// Check a gateway's journal while the gateway is stopped.
///
/// Every frame and every stored block is read. Exit codes: 0 sound, 1 damage was found and is listed, 2 usage,
/// 3 not a store, 8 could not run.
#[derive(Debug, Parser)]
#[command(name = "jverify", version)]
struct Arguments {
    /// The store: the directory that holds `seg` and `MARK`.
    store: PathBuf,
    /// How to print the outcome.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(lock) = jverify::in_use(&arguments.store) {
        let _ = writeln!(
            std::io::stderr(),
            "jverify: warning: a gateway uses the store ({} is locked): what it writes meanwhile may be taken for damage; stop \
             it first",
            lock.display()
        );
    }
    match verify(&arguments.store) {
        Ok(report) => match print(&report, arguments.output) {
            Ok(()) => ExitCode::from(u8::from(!report.sound)),
            Err(e) => fail(&e, 8),
        },
        Err(e @ (VerifyError::NotAStore(_) | VerifyError::Newer { .. })) => fail(&e, 3),
        Err(e @ VerifyError::Io { .. }) => fail(&e, 8),
    }
}

fn print(report: &Report, output: Output) -> std::io::Result<()> {
    let text = match output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string_pretty(report)?,
    };
    writeln!(std::io::stdout(), "{text}")
}

fn fail(e: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "jverify: {e}");
    ExitCode::from(code)
}
