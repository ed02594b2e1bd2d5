//! The command `chronogate-analyzer`.

use std::process::ExitCode;

use analyzer_cli::Verb;
use clap::Parser;

/// Know the RPO you can promise before you deploy.
///
/// Records or imports what disks write, and says what link, spool and journal that takes. Exit codes: 0 done, 1 it could
/// not be done, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "chronogate-analyzer", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

fn main() -> ExitCode {
    Arguments::parse().verb.run()
}
