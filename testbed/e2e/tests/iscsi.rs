//! Images over iSCSI: stock initiators judge the protocol, our own reads every byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed_e2e::iscsi::Initiator;
use testbed_e2e::{Lab, command, difference, lab, scenario, skipped, tool};

const CLIENTS: &[&str] = &["iscsi-ls", "iscsi-inq", "iscsi-test-cu", "qemu-io", "qemu-img"];
const SECRET: &str = "twelve-chars-1";
const OTHER: &str = "other-twelve-1";
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

/// What several places share is there after a kill, flushed or not, in an image of the image, and in the volume that it becomes.
#[test]
fn what_is_copied_within_an_image_takes_no_room_and_survives_a_kill_and_a_commit() -> Result<()> {
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 13)?;
        let portal = format!("127.0.0.1:{}", lab::free_port()?);
        let arguments = ["--iscsi", portal.as_str()];
        let up = lab.up_with(&[("web01", &disk)], &arguments)?;
        lab.settle("web01")?;
        let image = mounted(lab, &["web01@now", "--rw", "--name", "clones"])?;
        let mut initiator = Initiator::log_in(&image, ONE)?;
        initiator.write(16, &[0xc5; 128 * 512])?;
        let mut expected = initiator.read_all()?;
        let mut copied = |initiator: &mut Initiator, stretches: &[(u32, u32, u16)]| -> Result<()> {
            for &(from, to, blocks) in stretches {
                let (from, end) = (from as usize * 512, (from as usize + usize::from(blocks)) * 512);
                expected.copy_within(from..end, to as usize * 512);
            }
            initiator.copy(stretches)?;
            same("the copies", &initiator.read_all()?, &expected)
        };
        // From the image and from what was written, cut at its ends, onto itself, and of blocks that lie differently.
        copied(
            &mut initiator,
            &[(0, 4096, 4096), (0, 8192, 4096), (19, 10_003, 99), (16, 24, 128), (8, 4097, 16)],
        )?;
        let used =
            |name: &str| Ok::<_, anyhow::Error>(lab.verb(&["image", "show", name])?["used_bytes"].as_u64());
        ensure!(used("clones")? <= Some(128 * 512 + 16 * 4096), "{:?} bytes", used("clones")?);
        initiator.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 0, &[])?;
        copied(&mut initiator, &[(4096, 0, 2048), (0, 12_288, 1024)])?;
        drop(initiator);
        up.kill()?;

        let up = lab.up_with(&[("web01", &disk)], &arguments)?;
        same("what was answered", &Initiator::log_in(&image, ONE)?.read_all()?, &expected)?;
        lab.verb(&["image", "clone", "clones", "--rw", "--name", "other"])?;
        ensure!(used("other")? == used("clones")?, "shared here, shared there");
        let mut initiator = Initiator::log_in(&image, ONE)?;
        initiator.write(4096, &[0x3a; 64 * 512])?;
        same("the image of the image", &lab.content(&lab.gateway("other"))?, &expected)?;
        expected[4096 * 512..4160 * 512].fill(0x3a);
        same("the image", &initiator.read_all()?, &expected)?;
        drop(initiator);
        up.stop()?;

        let up = lab.up(&[("web01", &disk)])?;
        let job = lab.verb(&["image", "commit", "clones", "--name", "branch"])?;
        same("the volume", &lab.content(job["uris"][0].as_str().context("no URI")?)?, &expected)?;
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

/// What an initiator of libiscsi's says to a URL, by name: standard output and error.
fn inquiry(initiator: &str, url: &str) -> Result<(bool, String)> {
    let path = command::find("iscsi-inq").context("iscsi-inq is not installed")?;
    let done = command::run(Command::new(path).args(["-i", initiator, url]), command::LIMIT)?;
    // It ends well even when it could not log in.
    let text = done.text() + &done.stderr;
    Ok((text.contains("Peripheral Device Type:DIRECT_ACCESS"), text))
}

fn refused(initiator: &str, url: &str, why: &str) -> Result<()> {
    let (opened, text) = inquiry(initiator, url)?;
    ensure!(!opened && text.contains(why), "{url} as {initiator}: {text}");
    Ok(())
}

fn opened(initiator: &str, url: &str) -> Result<()> {
    let (opened, text) = inquiry(initiator, url)?;
    ensure!(opened, "{url} as {initiator}: {text}");
    Ok(())
}

/// The line for a client, as the program prints it.
fn connect_line(lab: &Lab, export: &str, begins: &str, secret_file: &str) -> Result<String> {
    let view = lab.verb(&["export", "connect", export])?;
    let clients = view["clients"].as_array().context("no clients")?;
    let lines = clients.iter().flat_map(|client| client["lines"].as_array().into_iter().flatten());
    let mut lines = lines.filter_map(serde_json::Value::as_str);
    let line = lines.find(|line| line.starts_with(begins)).context("no such line")?;
    Ok(line.replace("SECRET_FILE", secret_file))
}

#[test]
fn an_export_lets_in_who_is_on_its_list_and_knows_its_secret() -> Result<()> {
    if let Some(why) = command::missing(CLIENTS) {
        return skipped("an_export_lets_in_who_is_on_its_list_and_knows_its_secret", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 14)?;
        let port = lab::free_port()?;
        let arguments = ["--iscsi", &format!("0.0.0.0:{port}")];
        let up = lab.up_with(&[("web01", &disk)], &arguments)?;
        lab.settle("web01")?;
        let (secret, other) = (lab.path("secret"), lab.path("other"));
        std::fs::write(&secret, SECRET)?;
        std::fs::write(&other, format!("{OTHER}\n"))?;
        let (secret, other) = (secret.display().to_string(), other.display().to_string());
        let rules = ["--rw", "--name", "esx", "--iscsi", "--lun", "7", "--acl", ONE, "--chap", "user"];
        let files =
            ["--chap-secret-file", &secret, "--mutual-chap", "array", "--mutual-chap-secret-file", &other];
        let made = lab.verb(&[&["mount", "web01@now"], &rules[..], &files[..]].concat())?;
        let place = format!("127.0.0.1:{port}/iqn.2026-01.example.chronogate:esx/7");
        ensure!(made["uri"] == format!("iscsi://{place}"), "{made}");

        let good = format!("iscsi://user%{SECRET}@{place}");
        opened(ONE, &good)?;
        opened(ONE, &format!("{good}?target_user=array&target_password={OTHER}"))?;
        refused(ONE, &format!("{good}?target_user=array&target_password=wrong-twelve"), "CHAP_R")?;
        refused(ONE, &format!("iscsi://user%wrong-twelve@{place}"), "Authentication failure")?;
        refused(ONE, &format!("iscsi://other%{SECRET}@{place}"), "Authentication failure")?;
        refused(ONE, &format!("iscsi://{place}"), "Authentication failure")?;
        refused(TWO, &good, "Authorization failure")?;
        let listed = |name| {
            Ok::<_, anyhow::Error>(
                tool("iscsi-ls", ["-i", name, &format!("iscsi://127.0.0.1:{port}/")])?.text(),
            )
        };
        ensure!(listed(ONE)?.contains("chronogate:esx") && !listed(TWO)?.contains("chronogate:esx"));

        if command::qemu_has_iscsi()? {
            // QEMU's lines are those that are printed.
            let shell = |line: String| tool("sh", ["-c", &line]);
            ensure!(shell(connect_line(lab, "esx", "qemu-img", &secret)?)?.text().contains("8 MiB"));
            let line = connect_line(lab, "esx", "qemu-io", &secret)?;
            let written = shell(line.replace("read 0 64k", "write -P 0xc5 512 512"))?;
            ensure!(written.text().contains("wrote 512/512"));
            ensure!(lab.content(&lab.gateway("esx"))?[512..1024].iter().all(|&b| b == 0xc5));
        }

        up.kill()?;
        let up = lab.up_with(&[("web01", &disk)], &arguments)?;
        opened(ONE, &good)?;
        refused(ONE, &good.replace("/7", "/1"), "LOGICAL_UNIT_NOT_SUPPORTED")?;
        refused(TWO, &good, "Authorization failure")?;
        ensure!(lab.verb(&["export", "show", "esx"])?["lun"] == 7);
        for file in ["data", "up.log"] {
            let path = lab.path(file);
            let found =
                command::run(Command::new("grep").args(["-r", "-l", SECRET]).arg(path), command::LIMIT)?;
            ensure!(found.text().is_empty(), "the secret is in {}", found.text());
        }
        lab.verb(&["export", "rm", "--force", "esx"])?;
        lab.verb(&["export", "rm", "--force", "esx"])?;
        opened(TWO, &format!("iscsi://127.0.0.1:{port}/iqn.2026-01.example.chronogate:esx/1"))?;
        up.stop()
    })
}

#[test]
fn other_machines_are_let_in_to_what_has_rules_only() -> Result<()> {
    if let Some(why) = command::missing(&["iscsi-inq", "iscsi-ls", "hostname"]) {
        return skipped("other_machines_are_let_in_to_what_has_rules_only", &why);
    }
    // Who connects to an address of the machine other than loopback comes from that address.
    let addresses = tool("hostname", ["-I"])?.text();
    let Some(address) = addresses.split_whitespace().find(|a| !a.contains(':')) else {
        return skipped("other_machines_are_let_in_to_what_has_rules_only", "this machine has no network");
    };
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 15)?;
        let portal = format!("{address}:{}", lab::free_port()?);
        let up = lab.up_with(&[("web01", &disk)], &["--iscsi", &portal])?;
        lab.settle("web01")?;
        let target = format!("iscsi://{portal}/iqn.2026-01.example.chronogate:");
        lab.verb(&["image", "create", "web01", "--at", "now", "--name", "plain"])?;
        refused(ONE, &format!("{target}web01/1"), "Authorization failure")?;
        refused(ONE, &format!("{target}plain/1"), "Authorization failure")?;
        let open = lab.verb_raw(&["export", "create", "plain", "--iscsi"])?;
        ensure!(open.code == 2 && open.stderr.contains("--acl"), "{}", open.stderr);
        let mounted = lab.verb_raw(&["mount", "web01@now", "--iscsi"])?;
        ensure!(mounted.text().contains(r#""uri": """#) || mounted.code == 1, "{}", mounted.text());

        lab.verb(&["export", "create", "plain", "--iscsi", "--acl", ONE])?;
        opened(ONE, &format!("{target}plain/1"))?;
        refused(TWO, &format!("{target}plain/1"), "Authorization failure")?;
        let listed = tool("iscsi-ls", ["-i", ONE, &format!("iscsi://{portal}/")])?.text();
        ensure!(listed.contains("chronogate:plain") && !listed.contains("chronogate:web01"), "{listed}");
        up.stop()
    })
}

#[test]
fn one_target_has_several_disks_and_its_rules_can_be_changed() -> Result<()> {
    if let Some(why) = command::missing(CLIENTS) {
        return skipped("one_target_has_several_disks_and_its_rules_can_be_changed", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 16)?;
        let port = lab::free_port()?;
        let up = lab.up_with(&[("web01", &disk)], &["--iscsi", &format!("127.0.0.1:{port}")])?;
        lab.settle("web01")?;
        lab.verb(&["mount", "web01@now", "--rw", "--name", "main", "--iscsi", "--acl", ONE])?;
        let more =
            ["mount", "web01@now", "--rw", "--name", "more", "--iscsi", "--beside", "main", "--lun", "2"];
        let made = lab.verb(&more)?;
        let target = format!("iscsi://127.0.0.1:{port}/iqn.2026-01.example.chronogate:main");
        ensure!(made["uri"] == format!("{target}/2"), "{made}");
        let listed = tool("iscsi-ls", ["-s", "-i", ONE, &format!("iscsi://127.0.0.1:{port}/")])?.text();
        ensure!(listed.contains("Lun:1") && listed.contains("Lun:2"), "{listed}");
        opened(ONE, &format!("{target}/1"))?;
        opened(ONE, &format!("{target}/2"))?;
        refused(ONE, &format!("{target}/3"), "LOGICAL_UNIT_NOT_SUPPORTED")?;

        lab.verb(&["export", "set", "main", "--acl", TWO])?;
        opened(TWO, &format!("{target}/2"))?;
        refused(ONE, &format!("{target}/2"), "Authorization failure")?;
        let open = lab.verb(&["export", "set", "main", "--any-initiator"])?;
        ensure!(open["acl"] == serde_json::json!([]), "{open}");

        conforms("ExtendedCopy.Simple", &format!("{target}/2"))?;
        up.stop()
    })
}
