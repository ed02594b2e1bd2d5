//! The judge judged: our writer, client and mounts against nbdkit, which is known to be right.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed_e2e::mount::{Mounted, obstacle};
use testbed_e2e::nbd::{Client, Request};
use testbed_e2e::{Lab, Writer, command, difference, poll, scenario, skipped};

/// A stock NBD server on a file, killed when dropped.
struct Nbdkit {
    child: Child,
    uri: String,
}

impl Nbdkit {
    fn new(lab: &Lab, disk: &Path) -> Result<Self> {
        let socket = lab.path("nbdkit.sock");
        let mut command = Command::new(command::find("nbdkit").context("nbdkit is not installed")?);
        command.args(["-f", "--exit-with-parent", "-U"]).arg(&socket).arg("file").arg(disk);
        let child = command.spawn()?;
        poll::until("nbdkit's socket", Duration::from_secs(20), || Ok(socket.exists().then_some(())))?;
        Ok(Self { child, uri: format!("nbd+unix:///?socket={}", socket.display()) })
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        command::end(&mut self.child);
    }
}

#[test]
fn the_writer_knows_what_it_wrote() -> Result<()> {
    if let Some(why) = command::missing(&["nbdkit"]) {
        return skipped("the_writer_knows_what_it_wrote", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("disk.img", 2 << 20, 1)?;
        let server = Nbdkit::new(lab, &disk)?;
        let mut writer = Writer::open(&server.uri, std::fs::read(&disk)?, 1)?;
        writer.burst(500, 16)?;
        ensure!(difference(writer.content(), &std::fs::read(&disk)?).is_none());
        ensure!(Client::connect(&server.uri)?.read_all()? == writer.content());
        writer.check(&std::fs::read(&disk)?)?;
        let mut wrong = writer.content().to_vec();
        wrong[777_777] ^= 1;
        ensure!(writer.check(&wrong).is_err(), "a wrong byte was not noticed");
        drop(server);
        ensure!(writer.burst(500, 16).is_err());
        ensure!(!writer.uncertain().is_empty());
        writer.check(&std::fs::read(&disk)?)
    })
}

#[test]
fn errors_leave_the_client_in_step() -> Result<()> {
    if let Some(why) = command::missing(&["nbdkit"]) {
        return skipped("errors_leave_the_client_in_step", &why);
    }
    scenario(|lab| {
        let disk = lab.empty_disk("disk.img", 1 << 20)?;
        let server = Nbdkit::new(lab, &disk)?;
        let mut client = Client::connect(&server.uri)?;
        ensure!(client.call(&Request::Read(1 << 20, 512)).is_err());
        ensure!(client.call(&Request::Read(0, 512))? == [0; 512]);
        Ok(())
    })
}

#[test]
fn a_file_system_comes_and_goes() -> Result<()> {
    if let Some(why) = obstacle().or_else(|| command::missing(&["nbdkit"])) {
        return skipped("a_file_system_comes_and_goes", &why);
    }
    scenario(|lab| {
        let disk = lab.empty_disk("disk.img", 32 << 20)?;
        let server = Nbdkit::new(lab, &disk)?;
        let mounted = Mounted::make(&server.uri, &lab.path("at"))?;
        std::fs::write(mounted.path("file"), "text")?;
        mounted.frozen(|| Ok(()))?;
        drop(mounted);
        let mounted = Mounted::new(&server.uri, &lab.path("at"), "ro")?;
        ensure!(std::fs::read_to_string(mounted.path("file"))? == "text");
        Ok(())
    })
}
