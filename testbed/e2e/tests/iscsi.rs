//! Images over iSCSI: stock initiators judge the protocol, our own reads every byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use testbed_e2e::iscsi::Initiator;
use testbed_e2e::{Lab, command, difference, lab, scenario, skipped, tool};

const CLIENTS: &[&str] = &["iscsi-ls", "iscsi-inq", "iscsi-test-cu"];
const SIZE: usize = 8 << 20;
const ONE: &str = "iqn.2026-01.example:one";
const TWO: &str = "iqn.2026-01.example:two";
const CONFLICT: u8 = 0x18;

/// Of the conformance suite, on a read/write image; all of it is run by hand (docs/protocol-support.md).
const SUITES: &[&str] = &[
    "CompareAndWrite.Simple",
    "Inquiry.MandatoryVPDSBC",
    "ProutReserve.AccessEA",
    "Read16.Simple",
    "Unmap.Simple",
    "Verify10.Simple",
    "Write16.Simple",
    "WriteSame16.Simple",
];

fn same(what: &str, left: &[u8], right: &[u8]) -> Result<()> {
    match difference(left, right) {
        Some(how) => anyhow::bail!("{what}: {how}"),
        None => Ok(()),
    }
}

fn mounted(lab: &Lab, words: &[&str]) -> Result<String> {
    let value = lab.verb(&[&["mount"], words, &["--iscsi"]].concat())?;
    Ok(value["uri"].as_str().context("no URI")?.to_owned())
}

fn conforms(suite: &str, uri: &str) -> Result<()> {
    let text = tool("iscsi-test-cu", ["-d", "-S", "-t", &format!("ALL.{suite}"), uri])?.text();
    let ran = text.split("Suite:").nth(1).unwrap_or_default();
    ensure!(ran.contains("passed") && !ran.contains("SKIPPED"), "{suite}: {text}");
    Ok(())
}

#[test]
fn images_are_arrays_disks_for_stock_initiators() -> Result<()> {
    if let Some(why) = command::missing(CLIENTS) {
        return skipped("images_are_arrays_disks_for_stock_initiators", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 11)?;
        let before = std::fs::read(&disk)?;
        let portal = format!("127.0.0.1:{}", lab::free_port()?);
        let up = lab.up_with(&[("web01", &disk)], &["--iscsi", &portal])?;
        lab.settle("web01")?;
        lab.bookmark("web01", "before")?;

        let head = format!("iscsi://{portal}/iqn.2026-01.example.chronogate:web01/1");
        ensure!(tool("iscsi-ls", ["-s", &format!("iscsi://{portal}/")])?.text().contains("chronogate:web01"));
        ensure!(tool("iscsi-inq", [&head])?.text().contains("CHRONOGT"));
        conforms("ReadOnly.ReadOnlySBC", &head)?;
        same("the head", &Initiator::log_in(&head, ONE)?.read_all()?, &before)?;

        let image = mounted(lab, &["web01@before", "--rw", "--name", "scratch"])?;
        SUITES.iter().try_for_each(|suite| conforms(suite, &image))?;
        let mut initiator = Initiator::log_in(&image, ONE)?;
        initiator.write(77, &[0xc5; 3 * 512])?;
        let written = initiator.read_all()?;
        ensure!(written[77 * 512..80 * 512].iter().all(|&b| b == 0xc5));
        same("the image over NBD", &lab.content(&lab.gateway("scratch"))?, &written)?;
        same("the moment that it was made of", &lab.content(&lab.gateway("web01@before"))?, &before)?;
        up.stop()
    })
}

#[test]
fn a_reservation_survives_the_gateway_killed() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 12)?;
        let portal = format!("127.0.0.1:{}", lab::free_port()?);
        let arguments = ["--iscsi", portal.as_str()];
        let up = lab.up_with(&[("web01", &disk)], &arguments)?;
        lab.settle("web01")?;
        let image = mounted(lab, &["web01@now", "--rw", "--name", "shared"])?;
        let mut one = Initiator::log_in(&image, ONE)?;
        ensure!(one.reserve(0, 0, 0, 7)? == 0 && one.reserve(1, 3, 7, 0)? == 0);
        up.kill()?;

        let up = lab.up_with(&[("web01", &disk)], &arguments)?;
        let mut two = Initiator::log_in(&image, TWO)?;
        let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        ensure!(two.command(&read, 0x40, 512, &[])?.status == CONFLICT, "it is exclusive");
        let mut one = Initiator::log_in(&image, ONE)?;
        ensure!(one.command(&read, 0x40, 512, &[])?.status == 0);
        ensure!(one.reserve(3, 0, 7, 0)? == 0, "cleared");
        // The first command only tells of it.
        let _ = two.command(&read, 0x40, 512, &[])?;
        ensure!(two.command(&read, 0x40, 512, &[])?.status == 0);
        up.stop()
    })
}

#[test]
fn a_portal_that_others_can_reach_is_refused() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 13)?;
        let refused = lab.up_with(&[("web01", &disk)], &["--iscsi", "0.0.0.0:0"]);
        ensure!(refused.is_err());
        Ok(())
    })
}
