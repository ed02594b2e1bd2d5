//! The `chronogate` program.

mod client;
mod output;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

/// Continuous data protection: mount any moment of a disk
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(flatten)]
    Verb(verbs::Verb),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Verb(verb) => verbs::run(verb),
    }
}
