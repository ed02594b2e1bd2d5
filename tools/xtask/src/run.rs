//! Steps with a name and a time, so that a slow one is seen.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How many of the slowest steps are printed.
const SHOWN: usize = 12;

/// What was run and how long each took.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Runs `work` as the step `name`.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let begun = Instant::now();
        let result = work();
        self.done.push((name.to_owned(), begun.elapsed()));
        result.with_context(|| format!("step {name:?} failed"))
    }

    /// Runs a command as the step `name`.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) -> Result<()> {
        self.run(name, || check(command))
    }

    /// Runs `cargo test`, and notes the time that each test program took as a step of its own.
    pub(crate) fn tests(&mut self, command: &mut Command) -> Result<()> {
        let mut programs = Vec::new();
        let result = self.run("run the tests", || run_tests(command, &mut programs));
        self.done.append(&mut programs);
        result
    }

    /// Prints the slowest steps.
    pub(crate) fn print(&self) {
        let mut slowest: Vec<_> = self.done.iter().collect();
        slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        println!("== slowest steps");
        for (name, took) in slowest.into_iter().take(SHOWN) {
            println!("{:8.1} s  {name}", took.as_secs_f64());
        }
    }
}

/// Runs a command; its failure is an error that names it.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Passes the output on line by line and reads off it which program took how long.
fn run_tests(command: &mut Command, programs: &mut Vec<(String, Duration)>) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot run cargo test")?;
    // The command keeps its ends of the pipe open: replace them, or the loop below never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut current = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let mut out = std::io::stdout().lock();
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        note(&String::from_utf8_lossy(&line), &mut current, programs);
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo test ended with {status}; the failures are named above");
    Ok(())
}

fn note(line: &str, current: &mut String, programs: &mut Vec<(String, Duration)>) {
    let line = line.trim_start();
    if line.starts_with("Running ") || line.starts_with("Doc-tests ") {
        current.clear();
        current.push_str(line);
    } else if let Some((_, seconds)) = line.split_once("; finished in ") {
        let seconds = seconds.trim_end_matches('s').parse().unwrap_or(0.0);
        programs.push((current.clone(), Duration::from_secs_f64(seconds)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_off_the_output() {
        let (mut current, mut programs) = (String::new(), Vec::new());
        for line in [
            "     Running tests/oracle.rs (target/debug/deps/oracle-1)",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 3.66s",
        ] {
            note(line, &mut current, &mut programs);
        }
        let expected = "Running tests/oracle.rs (target/debug/deps/oracle-1)".to_owned();
        assert_eq!(programs, [(expected, Duration::from_millis(3660))]);
    }
}
