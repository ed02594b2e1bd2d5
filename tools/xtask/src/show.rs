//! The end-to-end scenarios at full size, and the benchmarks: both with the release build.

use anyhow::{Result, bail};

use crate::run::Steps;
use crate::test::{in_root, program};
use crate::workspace::Workspace;

/// A scenario, its test program in `testbed/e2e`, and what it shows.
const SCENARIOS: &[(&str, &str, &str)] = &[
    ("time-machine", "time_machine", "50 recorded moments, also after kill -9: every image byte for byte"),
    (
        "retention",
        "retention",
        "history grows sparse, kept moments stay, also after kill -9 while it is settled",
    ),
    ("restart", "restart", "fjall's directory deleted: every point and bookmark is still there"),
    ("crash-matrix", "crash_matrix", "kill -9 at every system call that makes something durable"),
    ("branch", "branch", "an image becomes a volume of its own, also by a gateway alone"),
    (
        "crowd",
        "crowd",
        "500 connections, 50 of them hostile, for three minutes: every byte, p99 with and without them, memory",
    ),
    (
        "resize",
        "resize",
        "a protected disk is made larger while it is used: its size in history, at each moment",
    ),
    ("clients", "clients", "nbdinfo, nbdcopy, qemu-io, fio and hostile requests against tap and images"),
    ("filesystem", "filesystem", "ext4 through the tap; yesterday's file comes back; e2fsck is content"),
    (
        "kernel",
        "kernel",
        "a Linux kernel as the client: ext4 through the tap, in a past image, on a read/write one",
    ),
    (
        "iscsi",
        "initiator",
        "open-iscsi in a Linux kernel: CHAP, multipath, fio; the gateway killed five times while it writes",
    ),
    ("postgres", "postgres", "PostgreSQL under pgbench: an image at a random moment recovers and adds up"),
    (
        "bad-input",
        "bad_input",
        "noise at every port, damaged segments, full disk, shrunk file, second instance",
    ),
    (
        "prediction",
        "prediction",
        "a workload profiled through the tap, then run over a shaped link: RPO, spool and journal as predicted",
    ),
    ("contract", "contract", "the JSON fields and exit codes that scripts rely on"),
];

/// Prints what there is.
pub(crate) fn list() {
    println!("cargo xtask show NAME, where NAME is one of");
    for (name, _, what) in SCENARIOS {
        println!("  {name:14} {what}");
    }
}

/// Runs one at full size.
pub(crate) fn run(name: &str) -> Result<()> {
    let Some((_, test, what)) = SCENARIOS.iter().find(|(n, ..)| *n == name) else {
        list();
        bail!("there is no scenario {name:?}");
    };
    println!("{name}: {what}");
    let workspace = Workspace::load()?;
    let mut steps = Steps::default();
    let build = ["build", "--release", "--package", "chronogate", "--package", "jverify"];
    steps.command("build the programs", in_root(&workspace).args(build))?;
    let mut command = in_root(&workspace);
    command.args(["test", "--release", "--package", "testbed-e2e", "--test", test, "--"]);
    command.args(["--nocapture", "--test-threads", "1"]);
    command.env("CHRONOGATE_BIN", program(&workspace, "release")).env("CHRONOGATE_E2E", "full");
    let result = steps.command(name, &mut command);
    steps.print();
    result
}

/// Runs the benchmarks.
pub(crate) fn bench(rest: &[&str]) -> Result<()> {
    let workspace = Workspace::load()?;
    let mut steps = Steps::default();
    let build = ["build", "--release", "--package", "chronogate"];
    steps.command("build the program", in_root(&workspace).args(build))?;
    let mut command = in_root(&workspace);
    command.args(["run", "--release", "--package", "testbed-bench", "--"]).args(rest);
    steps.command("benchmarks", command.env("CHRONOGATE_BIN", program(&workspace, "release")))
}
