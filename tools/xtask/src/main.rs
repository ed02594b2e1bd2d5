//! The project's own chores, run as `cargo xtask NAME`.
//!
//! They live in Rust so that they run wherever the project builds, and so that the tests can call them.

mod analyzer;
mod clients;
mod licences;
mod run;
mod show;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask test          install the foreign clients, build everything, run every test
cargo xtask tidy          check levels, sizes and bans (the tests do, too)
cargo xtask licences      check the licence of every package linked
cargo xtask show NAME     one end-to-end scenario at full size (without NAME: the list)
cargo xtask bench ...     benchmarks: ratios measured in one run
cargo xtask analyzer [N]  what the analyzer promises of itself, N I/Os piped (10^9 without N)
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test", filter @ ..] => test::run(filter),
        ["tidy"] => tidy::run(),
        ["licences"] => licences::run(),
        ["show"] => {
            show::list();
            Ok(())
        }
        ["show", name] => show::run(name),
        ["bench", rest @ ..] => show::bench(rest),
        ["analyzer", rest @ ..] => analyzer::run(rest),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        [other, ..] => bail!("there is no chore {other:?}; what there is:\n{USAGE}"),
    }
}
