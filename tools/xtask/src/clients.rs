//! The foreign clients that the end-to-end tests drive, and how to get them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::run::check;

/// A program that must be there, and the Debian package that brings it.
const CLIENTS: &[(&str, &str)] = &[
    ("nbd-client", "nbd-client"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdfuse", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("fio", "fio"),
    ("qemu-io", "qemu-utils"),
    ("qemu-img", "qemu-utils"),
    ("openssl", "openssl"),
    ("iscsi-test-cu", "libiscsi-bin"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fusermount3", "fuse3"),
    ("fsfreeze", "util-linux"),
    ("strace", "strace"),
];
/// Found in folders of their own.
const PYTHON_LIBNBD: (&str, &str) = ("/usr/lib/python3/dist-packages/nbd.py", "python3-libnbd");
const POSTGRES: (&str, &str) = ("/usr/lib/postgresql", "postgresql");

/// Installs what is missing. Where that is not possible the tests that need it say SKIPPED, except in CI,
/// where a missing client is a failure.
pub(crate) fn ensure_there() -> Result<()> {
    let wanted = missing();
    if wanted.is_empty() {
        println!("all foreign clients are there");
        return Ok(());
    }
    println!("missing: {}", wanted.join(" "));
    let outcome = install(&wanted);
    let still = missing();
    if still.is_empty() {
        return Ok(());
    }
    let why =
        outcome.err().map_or_else(|| "apt-get brought no such program".to_owned(), |e| format!("{e:#}"));
    let advice = format!("cannot install {}: {why}", still.join(" "));
    if in_ci() {
        bail!("{advice}");
    }
    println!("{advice}\nGoing on: the tests that need them will say SKIPPED.");
    Ok(())
}

/// Is this a run where nothing may be skipped?
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

/// The packages of the clients that are not there.
fn missing() -> Vec<&'static str> {
    let programs = CLIENTS.iter().filter(|(program, _)| !on_path(program));
    let folders = [PYTHON_LIBNBD, POSTGRES];
    let folders = folders.iter().filter(|(path, _)| !Path::new(path).exists());
    let mut packages: Vec<&str> = programs.chain(folders).map(|&(_, package)| package).collect();
    packages.dedup();
    packages
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|folder| folder.join(program).is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    check(apt()?.arg("update").stdout(Stdio::null()))?;
    check(apt()?.args(["install", "-y", "--no-install-recommends"]).args(packages).stdout(Stdio::null()))
}

/// `apt-get` as root: our own, or by a sudo that asks no question.
fn apt() -> Result<Command> {
    if !on_path("apt-get") {
        bail!("there is no apt-get here; install the clients with this system's own package manager");
    }
    let mut command = if is_root() {
        Command::new("apt-get")
    } else if on_path("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    } else {
        bail!("neither root nor sudo: run `apt-get install` as root");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    Ok(command)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|out| out.stdout.starts_with(b"0\n"))
}
