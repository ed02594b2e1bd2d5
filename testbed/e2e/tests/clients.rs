//! Stock NBD clients against the tap and against images: they, not we, judge the protocol.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;
use testbed_e2e::{Lab, command, difference, pick, run, scenario, skipped, tool};

const CLIENTS: &[&str] = &["nbdinfo", "nbdcopy", "qemu-io", "fio"];
const SIZE: usize = 16 << 20;

/// Every kind of request that qemu knows, each with a pattern that can be checked.
const MIX: &[&str] = &[
    "aio_write -P 1 0 64k",
    "aio_read 64k 64k",
    "aio_flush",
    "write -f -P 2 0 4k",
    "write -z -u 64k 64k",
    "write -z 128k 64k",
    "discard 256k 64k",
    "writev -P 9 512 512 512 1024",
    "flush",
    "read -P 2 0 512",
    "read -P 9 512 2048",
    "read -P 2 2560 1536",
    "read -P 1 4k 60k",
    "read -P 0 64k 128k",
    "map",
    "length",
];

fn qemu_io(uri: &str, commands: &[&str]) -> Result<String> {
    let mut words = vec!["-f", "raw"];
    for &one in commands {
        words.extend(["-c", one]);
    }
    words.push(uri);
    let text = tool("qemu-io", words)?.text();
    ensure!(!text.contains("failed"), "qemu-io: {text}");
    Ok(text)
}

fn fio(uri: &str, mode: &str, block: &str) -> Result<()> {
    let size = pick("4M", "64M");
    let words = [
        "--name=verify",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        &format!("--rw={mode}"),
        &format!("--bs={block}"),
        "--iodepth=16",
        &format!("--size={size}"),
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_state_save=0",
        "--randseed=1",
    ];
    tool("fio", words).map(drop)
}

fn hostile(uri: &str) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/nbd_edge.py");
    let mut python = std::process::Command::new("/usr/bin/python3");
    let done = run(python.arg(script).arg(uri), command::LIMIT)?.ok()?;
    ensure!(!done.text().contains("DEAD"), "{}", done.text());
    Ok(())
}

fn copy_out(lab: &Lab, uri: &str) -> Result<Vec<u8>> {
    let out = lab.path("copy.raw");
    tool("nbdcopy", [uri.as_ref(), out.as_os_str()])?;
    Ok(std::fs::read(out)?)
}

fn same(what: &str, left: &[u8], right: &[u8]) -> Result<()> {
    match difference(left, right) {
        Some(how) => anyhow::bail!("{what}: {how}"),
        None => Ok(()),
    }
}

fn absent() -> Option<String> {
    command::missing(CLIENTS)
}

#[test]
fn the_tap_is_a_disk_for_stock_clients() -> Result<()> {
    if let Some(why) = absent() {
        return skipped("the_tap_is_a_disk_for_stock_clients", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", pick(SIZE, 128 << 20), 1)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        let tap = lab.tap("web01");
        let info: Value = serde_json::from_slice(&tool("nbdinfo", ["--json", &tap])?.stdout)?;
        ensure!(info["exports"][0]["export-size"] == std::fs::metadata(&disk)?.len(), "{info}");
        same("nbdcopy of the tap", &copy_out(lab, &tap)?, &std::fs::read(&disk)?)?;
        qemu_io(&tap, MIX)?;
        fio(&tap, "randwrite", "4k")?;
        fio(&tap, "write", "64k")?;
        fio(&tap, "randwrite", "1536")?;
        same("nbdcopy after the mix", &copy_out(lab, &tap)?, &std::fs::read(&disk)?)?;
        lab.settle("web01")?;
        lab.bookmark("web01", "after")?;
        same("the image of now", &lab.content(&lab.gateway("web01@after"))?, &std::fs::read(&disk)?)?;
        up.still_running()
    })
}

#[test]
fn images_are_disks_for_stock_clients() -> Result<()> {
    if let Some(why) = absent() {
        return skipped("images_are_disks_for_stock_clients", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE, 2)?;
        let before = std::fs::read(&disk)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        qemu_io(&lab.tap("web01"), &["write -P 7 0 1M"])?;
        let first = lab.gateway("web01@first");
        ensure!(tool("nbdinfo", ["--size", &first])?.text().trim() == SIZE.to_string());
        same("nbdcopy of web01@first", &copy_out(lab, &first)?, &before)?;
        ensure!(qemu_io(&first, &["write -P 1 0 4k"]).is_err(), "a read-only image took a write");

        let writable = lab.mount("web01@first", true)?;
        same("the new read/write image", &copy_out(lab, &writable)?, &before)?;
        qemu_io(&writable, MIX)?;
        fio(&writable, "randwrite", "4k")?;
        same("the point below a read/write image", &copy_out(lab, &first)?, &before)?;
        up.still_running()
    })
}

#[test]
fn exports_are_listed() -> Result<()> {
    if let Some(why) = command::missing(&["nbdinfo", "nbd-client"]) {
        return skipped("exports_are_listed", &why);
    }
    scenario(|lab| {
        let disk = lab.empty_disk("web01.img", 1 << 20)?;
        let _up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        lab.verb(&["image", "create", "web01", "--at", "first", "--name", "look"])?;
        let list: Value =
            serde_json::from_slice(&tool("nbdinfo", ["--json", "--list", &lab.gateway("")])?.stdout)?;
        let names: Vec<&str> =
            list["exports"].as_array().unwrap().iter().filter_map(|e| e["export-name"].as_str()).collect();
        for expected in ["web01", "web01@first", "look"] {
            ensure!(names.contains(&expected), "{expected} is not among {names:?}");
        }
        let port = lab.nbd_port().to_string();
        let listed = tool("nbd-client", ["-l", "127.0.0.1", "-p", &port])?.text();
        ensure!(listed.contains("web01@first"), "nbd-client -l: {listed}");
        Ok(())
    })
}

#[test]
fn hostile_requests_are_answered() -> Result<()> {
    if !Path::new("/usr/lib/python3/dist-packages/nbd.py").exists() {
        return skipped("hostile_requests_are_answered", "python3-libnbd is not installed");
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", 40 << 20, 3)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        hostile(&lab.tap("web01"))?;
        hostile(&lab.gateway("web01@first"))?;
        hostile(&format!("nbd://127.0.0.1:{}/web01", lab.nbd_port()))?;
        hostile(&lab.mount("web01@first", true)?)?;
        up.still_running()
    })
}
