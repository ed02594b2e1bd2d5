//! Protected disks over iSCSI: what stock initiators do to them is history, write by write.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use testbed_e2e::iscsi::Initiator;
use testbed_e2e::{Lab, command, difference, lab, scenario, skipped, tool};

const SIZE: usize = 16 << 20;
const ONE: &str = "iqn.2026-01.example:one";
const TWO: &str = "iqn.2026-01.example:two";
const OUT: u8 = 0x20;
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const CONFLICT: u8 = 0x18;
/// NAA 6 with our company number.
const NAA: [u8; 3] = [0x60, 0x2c, 0x09];

/// Of the conformance suite, on a protected disk; all of it is run by hand (docs/protocol-support.md).
const SUITES: &[&str] = &[
    "CompareAndWrite.Simple",
    "CompareAndWrite.Miscompare",
    "ExtendedCopy.Simple",
    "Inquiry.MandatoryVPDSBC",
    "OrWrite.Simple",
    "ProutReserve.AccessEA",
    "Read16.Simple",
    "Unmap.Simple",
    "Verify10.Simple",
    "Write16.Simple",
    "WriteSame16.Simple",
    "WriteSame16.Unmap",
];

fn same(what: &str, left: &[u8], right: &[u8]) -> Result<()> {
    match difference(left, right) {
        Some(how) => anyhow::bail!("{what}: {how}"),
        None => Ok(()),
    }
}

fn conforms(suite: &str, uri: &str) -> Result<()> {
    let text = tool("iscsi-test-cu", ["-d", "-S", "-t", &format!("ALL.{suite}"), uri])?.text();
    let ran = text.split("Suite:").nth(1).unwrap_or_default();
    ensure!(ran.contains("passed") && !ran.contains("SKIPPED"), "{suite}: {text}");
    Ok(())
}

fn qemu_io(uri: &str, commands: &[&str]) -> Result<()> {
    let commands = commands.iter().flat_map(|c| ["-c", c]);
    let text = tool("qemu-io", ["-f", "raw"].into_iter().chain(commands).chain([uri]))?.text();
    ensure!(!text.contains("failed") && !text.contains("error"), "qemu-io: {text}");
    Ok(())
}

/// A command that ends well.
fn done(initiator: &mut Initiator, cdb: &[u8], data: &[u8]) -> Result<()> {
    let done = initiator.command(cdb, OUT, u32::try_from(data.len())?, data)?;
    ensure!(done.status == 0, "{cdb:x?}: {done:?}");
    Ok(())
}

/// A command to `count` blocks from `at` on.
const fn cdb16(opcode: u8, flags: u8, at: u16, count: u16) -> [u8; 16] {
    let ([a, b], [c, d]) = (at.to_be_bytes(), count.to_be_bytes());
    [opcode, flags, 0, 0, 0, 0, 0, 0, a, b, 0, 0, c, d, 0, 0]
}

/// Every kind of command that changes a disk, from one block of 512 to megabytes.
fn change(initiator: &mut Initiator, seed: u8) -> Result<()> {
    initiator.write(77, &[seed; 3 * 512])?;
    done(initiator, &cdb16(0x93, 0, 4096, 64), &[seed.wrapping_add(1); 512])?;
    let mut compared = [seed; 1024];
    compared[512..].fill(seed.wrapping_add(2));
    done(initiator, &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 78, 0, 0, 0, 1, 0, 0], &compared)?;
    done(initiator, &cdb16(0x8b, 0, 79, 1), &[0x0f; 512])?;
    let mut list = [0; 24];
    (list[1], list[3], list[14], list[18]) = (22, 16, 40, 1);
    done(initiator, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list)
}

fn portals() -> Result<(String, String)> {
    let portal = format!("127.0.0.1:{}", lab::free_port()?);
    let disk = format!("iscsi://{portal}/iqn.2026-01.example.chronogate.tap:web01/1");
    Ok((portal, disk))
}

/// The image at a bookmark against what the disk held then.
fn shows(lab: &Lab, bookmark: &str, held: &[u8]) -> Result<()> {
    same(bookmark, &lab.content(&lab.gateway(&format!("web01@{bookmark}")))?, held)
}

#[test]
fn what_initiators_do_to_a_protected_disk_is_history() -> Result<()> {
    if let Some(why) = command::missing(&["qemu-io", "qemu-img", "iscsi-ls", "iscsi-test-cu"]) {
        return skipped("what_initiators_do_to_a_protected_disk_is_history", &why);
    }
    scenario(|lab| {
        let path = lab.disk("web01.img", SIZE, 21)?;
        let (portal, uri) = portals()?;
        let up = lab.up_with(&[("web01", &path)], &["--tap-iscsi", &portal])?;
        ensure!(up.ready()["volumes"]["web01"]["iscsi"][0] == uri, "{}", up.ready());
        lab.settle("web01")?;
        let listed = tool("iscsi-ls", ["-s", &format!("iscsi://{portal}/")])?.text();
        ensure!(listed.contains("chronogate.tap:web01") && listed.contains("Lun:1"), "{listed}");
        lab.bookmark("web01", "first")?;
        let first = std::fs::read(&path)?;

        let mix =
            ["write -P 1 0 1M", "write -P 7 1536 512", "write -z -u 64k 64k", "discard 256k 64k", "flush"];
        let qemu = command::qemu_has_iscsi()?;
        if qemu {
            qemu_io(&uri, &mix)?;
        }
        let mut initiator = Initiator::log_in(&uri, ONE)?;
        change(&mut initiator, 0x50)?;
        let second_lsn = lab.bookmark("web01", "second")?;
        let second = std::fs::read(&path)?;
        ensure!(second[77 * 512] == 0x50 && second[78 * 512] == 0x52 && second[79 * 512] == 0x5f);
        ensure!(second[40 * 256 * 512..][..128 << 10].iter().all(|&b| b == 0), "unmapped");
        same("the disk as an initiator reads it", &initiator.read_all()?, &second)?;
        if qemu {
            let map = tool("qemu-img", ["map", "--output=json", "-f", "raw", &uri])?.text();
            ensure!(map.contains("\"zero\": true") && map.contains("\"zero\": false"), "no holes: {map}");
        }

        // 4 MiB of zeroes by WRITE SAME are one record; the bookmark is another.
        done(&mut initiator, &cdb16(0x93, 1, 8192, 8192), &[])?;
        let third_lsn = lab.bookmark("web01", "third")?;
        ensure!(third_lsn == second_lsn + 2, "{second_lsn} {third_lsn}");
        let third = std::fs::read(&path)?;

        SUITES.iter().try_for_each(|suite| conforms(suite, &uri))?;
        // Ours answers no pings, which come while it is silent.
        change(&mut Initiator::log_in(&uri, ONE)?, 0x90)?;
        [("first", &first), ("second", &second), ("third", &third)]
            .into_iter()
            .try_for_each(|(bookmark, held)| shows(lab, bookmark, held))?;
        same("the head", &lab.head("web01")?, &std::fs::read(&path)?)?;
        up.stop()
    })
}

fn identity(uri: &str) -> Result<Vec<u8>> {
    let page = Initiator::log_in(uri, ONE)?.command(&[0x12, 1, 0x83, 0, 200, 0], 0x40, 200, &[])?;
    ensure!(page.status == 0 && page.data[8..11] == NAA && page.data[11] >> 4 == 0xc, "{page:?}");
    Ok(page.data)
}

#[test]
fn a_protected_disk_is_the_same_disk_after_a_kill() -> Result<()> {
    scenario(|lab| {
        let path = lab.disk("web01.img", SIZE, 22)?;
        let (portal, uri) = portals()?;
        let disks: &[(&str, &Path)] = &[("web01", &path)];
        let up = lab.up_with(disks, &["--tap-iscsi", &portal])?;
        lab.settle("web01")?;
        let before = identity(&uri)?;
        let mut one = Initiator::log_in(&uri, ONE)?;
        ensure!(one.reserve(0, 0, 0, 7)? == 0 && one.reserve(1, 3, 7, 0)? == 0);
        change(&mut one, 0x31)?;
        let listed = lab.verb(&["session", "ls"])?;
        ensure!(listed.as_array().context("no list")?.iter().any(|s| s["at"] == "tap-iscsi"), "{listed}");
        up.kill()?;

        let up = lab.up_with(disks, &["--tap-iscsi", &portal])?;
        same("its identity", &identity(&uri)?, &before)?;
        let mut two = Initiator::log_in(&uri, TWO)?;
        ensure!(two.command(&READ, 0x40, 512, &[])?.status == CONFLICT, "the reservation is gone");
        let mut one = Initiator::log_in(&uri, ONE)?;
        ensure!(one.command(&READ, 0x40, 512, &[])?.status == 0);
        ensure!(one.reserve(3, 0, 7, 0)? == 0, "cleared");
        same("what was written before", &lab.head("web01")?, &std::fs::read(&path)?)?;
        up.stop()
    })
}

#[test]
fn a_tap_portal_that_others_can_reach_asks_who_comes() -> Result<()> {
    if let Some(why) = command::missing(&["iscsi-inq", "iscsi-ls"]) {
        return skipped("a_tap_portal_that_others_can_reach_asks_who_comes", &why);
    }
    scenario(|lab| {
        let path = lab.disk("web01.img", SIZE, 23)?;
        let refused = lab.up_with(&[("web01", &path)], &["--tap-iscsi", "0.0.0.0:0"]);
        ensure!(refused.is_err_and(|e| format!("{e:#}").contains("can be reached from other machines")));

        let (port, secret) = (lab::free_port()?, lab.path("secret"));
        std::fs::write(&secret, "a-secret-of-the-tap\n")?;
        let secret = secret.display().to_string();
        let portal = format!("0.0.0.0:{port},advertise=localhost:{port}");
        let rules = ["--tap-acl", ONE, "--tap-chap", "guest", "--tap-chap-secret-file", &secret];
        let up = lab.up_with(&[("web01", &path)], &[&["--tap-iscsi", &portal], &rules[..]].concat())?;
        let place = format!("127.0.0.1:{port}/iqn.2026-01.example.chronogate.tap:web01/1");
        let opens = |name: &str, url: String| {
            tool("iscsi-inq", ["-i", name, &url]).is_ok_and(|said| said.text().contains("DIRECT_ACCESS"))
        };
        ensure!(opens(ONE, format!("iscsi://guest%a-secret-of-the-tap@{place}")), "not let in");
        ensure!(!opens(ONE, format!("iscsi://guest%another-secret@{place}")), "a wrong secret");
        ensure!(!opens(ONE, format!("iscsi://{place}")), "no secret");
        ensure!(!opens(TWO, format!("iscsi://guest%a-secret-of-the-tap@{place}")), "not on the list");
        let listed = tool("iscsi-ls", ["-i", ONE, &format!("iscsi://127.0.0.1:{port}/")])?.text();
        ensure!(listed.contains(&format!("Portal:localhost:{port},1")), "{listed}");
        up.stop()
    })
}
