//! `cargo xtask test`, the README's second command.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::run::Steps;
use crate::workspace::{Workspace, cargo};
use crate::{clients, tidy};

/// How long one test program may take: many times what the slowest needs, so that one that hangs is named and
/// ended instead of taking all the others with it.
const AT_MOST: &str = r#"target."cfg(unix)".runner=["timeout", "--verbose", "--kill-after=10", "900"]"#;

/// Clients, one build, tidy, every test; `filter` goes to `cargo test`.
pub(crate) fn run(filter: &[&str]) -> Result<()> {
    let workspace = Workspace::load()?;
    let mut steps = Steps::default();
    let result = all(&workspace, &mut steps, filter);
    steps.print();
    result
}

fn all(workspace: &Workspace, steps: &mut Steps, filter: &[&str]) -> Result<()> {
    steps.run("foreign clients", clients::ensure_there)?;
    steps.command("build the programs", in_root(workspace).args(["build", "--workspace", "--bins"]))?;
    let tidied = steps.run("tidy", tidy::run); // a breach of the house's rules hides no failing test
    steps.command(
        "build the tests",
        in_root(workspace).args(["test", "--workspace", "--no-run", "--quiet"]),
    )?;
    let mut test = in_root(workspace);
    test.args(["--config", AT_MOST, "test", "--workspace", "--no-fail-fast"]).args(filter);
    steps.tests(test.env("CHRONOGATE_BIN", program(workspace, "debug")))?;
    tidied
}

/// Cargo in the root of the workspace.
pub(crate) fn in_root(workspace: &Workspace) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(&workspace.root);
    command
}

/// The program that a build with this profile leaves.
pub(crate) fn program(workspace: &Workspace, profile: &str) -> PathBuf {
    workspace.target.join(profile).join("chronogate")
}
