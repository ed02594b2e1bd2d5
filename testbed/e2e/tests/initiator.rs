//! A real Linux kernel as iSCSI initiator: it proves who it is, sees one disk over two paths, and while it writes the gateway is
//! killed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed_e2e::lab::free_port;
use testbed_e2e::vm::{Parts, obstacle};
use testbed_e2e::{Lab, command, pick, say, scenario, skipped};

const TEST: &str = "a_linux_initiator_finds_every_byte_after_the_gateway_was_killed";
const JOB: &str = "iscsi.sh";
/// An emulated machine takes its time, and more so on a busy one.
const LIMIT: Duration = Duration::from_secs(600);

fn said<'a>(printed: &'a str, what: &str) -> Result<&'a str> {
    let line = printed.lines().find_map(|line| line.split_once(what));
    line.map(|(_, rest)| rest.trim()).with_context(|| format!("the job did not say {what}:\n{printed}"))
}

/// A target to which an initiator has to prove who it is, and which proves that in turn.
fn mount_guarded(lab: &Lab) -> Result<()> {
    let file = |name: &str, secret: &str| -> Result<String> {
        let path = lab.path(name);
        std::fs::write(&path, secret)?;
        Ok(path.display().to_string())
    };
    let (initiator, target) = (file("secret", "the-first-secret")?, file("other", "another-secret-2")?);
    let chap = ["--chap", "initiator", "--chap-secret-file", &initiator];
    let mutual = ["--mutual-chap", "target", "--mutual-chap-secret-file", &target];
    let mount = ["mount", "web01@now", "--iscsi", "--name", "guarded"];
    lab.verb(&[&mount[..], &chap[..], &mutual[..]].concat()).map(drop)
}

#[test]
fn a_linux_initiator_finds_every_byte_after_the_gateway_was_killed() -> Result<()> {
    if let Some(why) = obstacle().or_else(|| command::missing(&["fio", "blkdiscard"])) {
        return skipped(TEST, &why);
    }
    let parts = Parts::ready(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    scenario(|lab: &Lab| {
        let kib = pick(32, 256) << 10;
        let kills = pick(1, 5);
        let disk = lab.empty_disk("web01.img", kib << 10)?;
        let (one, two) = (free_port()?, free_port()?);
        let portals = [one, two].map(|port| format!("127.0.0.1:{port}"));
        let arguments = ["--iscsi", portals[0].as_str(), "--iscsi", portals[1].as_str()];
        let mut up = lab.up_with(&[("web01", &disk)], &arguments)?;
        lab.settle("web01")?;
        lab.verb(&["mount", "web01@now", "--iscsi", "--rw", "--name", "look"])?;
        mount_guarded(lab)?;

        let numbers = [one, two].map(|port| port.to_string());
        let (size, killed, batch) = (kib.to_string(), kills.to_string(), pick("20", "100"));
        let variables = [
            ("ONE", numbers[0].as_str()),
            ("TWO", numbers[1].as_str()),
            ("IMAGE", "look"),
            ("SIZE", size.as_str()),
            ("KILLS", killed.as_str()),
            ("BATCH", batch),
            ("FIO", pick("", "16m")),
        ];
        let mut machine = parts.start(JOB, &variables, &lab.path(""))?;
        for kill in 1..=kills {
            machine.wait("KILL", kill, LIMIT)?;
            up.kill()?;
            up = lab.up_with(&[("web01", &disk)], &arguments)?;
        }
        let printed = machine.finish(JOB, LIMIT)?;
        say(&printed);
        for algorithm in ["MD5", "SHA1", "SHA256", "SHA3-256"] {
            ensure!(printed.contains(&format!("CHAP {algorithm}")), "no login with {algorithm}:\n{printed}");
        }
        ensure!(said(&printed, "SIZE ")? == format!("{} PATHS 2", kib << 10), "{printed}");
        let image = lab.path("image.raw");
        std::fs::write(&image, lab.content(&lab.gateway("look"))?)?;
        let sum = testbed_e2e::tool("sha256sum", [&image])?.text();
        let seen = said(&printed, "SUM ")?;
        ensure!(seen.get(..64) == sum.get(..64), "the image is {sum}, the initiator saw {seen}");
        up.stop()
    })
}
