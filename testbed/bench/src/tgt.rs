//! tgt, the other target in user space: a daemon for each kind of store, so that processor time can be told apart.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::iscsi::Unit;
use crate::server::{Server, free_address, pause, words};

/// tgtd goes by the number of its control socket; ours are far from the one that a system's own has.
const FIRST_CONTROL: u16 = 3000;
const TRIES: usize = 100;

/// What a tgt keeps its blocks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// pread and pwrite on threads: the usual one.
    ReadWrite,
    /// Asynchronous, past the page cache.
    Aio,
    /// Nothing at all: what the protocol itself costs.
    Null,
}

impl Store {
    /// In a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "tgt rdwr",
            Self::Aio => "tgt aio",
            Self::Null => "tgt null",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::ReadWrite => "rdwr",
            Self::Aio => "aio",
            Self::Null => "null",
        }
    }

    /// Serves `file`.
    pub(crate) fn serve(self, file: &Path, folder: &Path) -> Result<(Server, Unit)> {
        let control = (FIRST_CONTROL + self as u16).to_string();
        let (portal, target) = (free_address()?, format!("iqn.2026-01.example.tgt:{}", self.kind()));
        let mut command = Command::new("tgtd");
        command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
        let log = folder.join(format!("tgtd-{}.log", self.kind()));
        let mut server = Server::start(&mut command, log).context("install it: apt-get install tgt")?;
        let target_of = ["--op", "new", "--mode", "target", "--tid", "1", "-T", &target];
        // It listens some time after it has begun.
        let begun = (0..TRIES).any(|_| {
            let is_up = administer(&control, &target_of).is_ok();
            if !is_up {
                pause(Duration::from_millis(50));
            }
            is_up
        });
        ensure!(begun, "{} takes no orders:\n{}", server.command(), server.said());
        let file = file.display().to_string();
        let unit =
            ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--bstype", self.kind()];
        administer(&control, &[&unit[..], &["-b", &file]].concat())?;
        administer(&control, &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"])?;
        server.wait(|| std::net::TcpStream::connect(&portal).ok())?;
        Ok((server, Unit { portal, target, lun: 1 }))
    }
}

fn administer(control: &str, order: &[&str]) -> Result<()> {
    let mut command = Command::new("tgtadm");
    command.args(["-C", control, "--lld", "iscsi"]).args(order).stdin(Stdio::null());
    let out = command.output().context("cannot run tgtadm")?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{} ended with {}: {said}", words(&command), out.status);
    Ok(())
}
