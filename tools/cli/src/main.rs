//! The `chronogate` program: the parts of the system as one process or several, the demonstration, and the verbs
//! for operators.

mod client;
mod demo;
mod listen;
mod output;
mod programs;
mod secret;
mod site;
mod tap_iscsi;
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
    /// Protects disks and serves their history: tap, CX and gateway in one process
    Up(programs::UpArgs),
    /// Shows the main job on a sample disk, and leaves it running
    Demo(demo::DemoArgs),
    /// The tap alone: serves protected disks, sends their writes to a CX
    Tap(programs::TapArgs),
    /// The CX alone: takes writes from taps, spools them, forwards them to gateways
    Cx(programs::CxArgs),
    /// The gateway alone: keeps history, serves any moment of it
    Gateway(programs::GatewayArgs),
    /// Says before a deployment what RPO a link can promise: traces and live disks into figures
    #[command(subcommand)]
    Analyze(analyzer_cli::Verb),
    #[command(flatten)]
    Verb(verbs::Verb),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Verb(verb) => return verbs::run(verb),
        Command::Analyze(verb) => return verb.run(),
        Command::Up(args) => programs::run(args.into_plan()),
        Command::Tap(args) => programs::run(args.into_plan()),
        Command::Cx(args) => programs::run(args.into_plan()),
        Command::Gateway(args) => programs::run(args.into_plan()),
        Command::Demo(args) => demo::run(args),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}
