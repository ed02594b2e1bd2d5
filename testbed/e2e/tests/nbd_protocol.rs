//! The later parts of the NBD protocol with stock clients: maps, changed blocks, holes, extended headers, fast zeroes, and an
//! incremental backup that nobody of ours has a hand in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nbd::client::{NbdClient, NbdExt as _};
use serde_json::Value;
use testbed_e2e::{Lab, Writer, command, difference, pick, run, say, scenario, skipped, tool};
use testbed_model::Random;

const CLIENTS: &[&str] = &["nbdinfo", "nbdcopy", "qemu-io", "qemu-img"];
const SIZE: u64 = 24 << 20;
const MIB: u64 = 1 << 20;

fn absent() -> Option<String> {
    command::missing(CLIENTS)
}

fn same(what: &str, left: &[u8], right: &[u8]) -> Result<()> {
    match difference(left, right) {
        Some(how) => anyhow::bail!("{what}: {how}"),
        None => Ok(()),
    }
}

/// A stretch of a map as clients print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    offset: u64,
    length: u64,
    kind: u64,
}

fn nbdinfo_map(uri: &str, context: &str) -> Result<Vec<Told>> {
    let map: Value =
        serde_json::from_slice(&tool("nbdinfo", ["--json", &format!("--map={context}"), uri])?.stdout)?;
    let number = |line: &Value, key: &str| line[key].as_u64().context("a number");
    let told = |line: &Value| {
        Ok(Told {
            offset: number(line, "offset")?,
            length: number(line, "length")?,
            kind: number(line, "type")?,
        })
    };
    map.as_array().context("a list")?.iter().map(told).collect()
}

/// What QEMU makes of an export: with a bookmark, what is "data" to it is what changed since then.
fn qemu_map(lab: &Lab, uri: &str, bookmark: Option<&str>) -> Result<Vec<Value>> {
    let mut words = vec!["map".to_owned(), "--output=json".to_owned()];
    match bookmark {
        None => words.extend(["-f".to_owned(), "raw".to_owned(), uri.to_owned()]),
        Some(bookmark) => {
            let port = lab.nbd_port();
            let export = uri;
            words.extend([
                "--image-opts".to_owned(),
                format!(
                    "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export={export},\
                     x-dirty-bitmap=qemu:dirty-bitmap:{bookmark}"
                ),
            ]);
        }
    }
    let map: Value = serde_json::from_slice(&tool("qemu-img", words)?.stdout)?;
    Ok(map.as_array().context("a list")?.clone())
}

/// Every kind of request, each followed by a read that checks it. `-n` is `NBD_CMD_FLAG_FAST_ZERO`.
const MIX: &[&str] = &[
    "aio_write -P 1 0 64k",
    "aio_flush",
    "write -f -P 2 0 4k",
    "write -P 3 64k 256k",
    "write -z -u 64k 64k",
    "write -z 128k 64k",
    "write -z -u -n 192k 64k",
    "discard 0 1k",
    "writev -P 9 512 512 512 1024",
    "write -P 5 1000001 777",
    "flush",
    "read -P 9 512 2048",
    "read -P 2 2560 1536",
    "read -P 0 64k 192k",
    "read -P 3 256k 64k",
    "read -P 5 1000001 777",
    "map",
];

fn qemu_io(uri: &str, more: &[&str], commands: &[&str]) -> Result<String> {
    let mut words = more.to_vec();
    words.extend(["-f", "raw"]);
    commands.iter().for_each(|one| words.extend(["-c", one]));
    words.push(uri);
    let done = tool("qemu-io", words)?;
    let text = done.text() + &done.stderr;
    ensure!(!text.contains("failed") && !text.contains("not supported"), "qemu-io: {text}");
    Ok(text)
}

/// A disk of 24 MiB, empty but for three stretches.
fn sparse_disk(lab: &Lab) -> Result<std::path::PathBuf> {
    let path = lab.empty_disk("web01.img", SIZE)?;
    let file = File::options().write(true).open(&path)?;
    for (at, fill) in [(0, 0x11), (5 * MIB, 0x22), (20 * MIB, 0x33)] {
        file.write_all_at(&[fill; 512 << 10], at)?;
    }
    Ok(path)
}

/// Every byte outside the data that `map` tells is zero, and there is some of both.
fn check_holes(what: &str, map: &[Told], content: &[u8]) -> Result<()> {
    let mut at = 0;
    for told in map {
        ensure!(told.offset == at && told.length > 0, "{what}: {map:?}");
        at += told.length;
        let part = &content[told.offset as usize..at as usize];
        ensure!(told.kind == 0 || told.kind == 3, "{what}: {told:?}");
        ensure!(told.kind == 0 || part.iter().all(|b| *b == 0), "{what}: {told:?} is not zero");
    }
    ensure!(at == content.len() as u64, "{what} is told up to {at}");
    let data: u64 = map.iter().filter(|told| told.kind == 0).map(|told| told.length).sum();
    ensure!(data > 0 && data < 4 * MIB, "{what}: {data} bytes of data of {map:?}");
    Ok(())
}

#[test]
fn stock_clients_see_holes_on_the_tap_and_on_images() -> Result<()> {
    if let Some(why) = absent() {
        return skipped("stock_clients_see_holes_on_the_tap_and_on_images", &why);
    }
    scenario(|lab| {
        let disk = sparse_disk(lab)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        let content = std::fs::read(&disk)?;
        let writable = lab.mount("web01@first", true)?;
        for uri in [lab.tap("web01"), lab.gateway("web01@first"), writable] {
            check_holes(&uri, &nbdinfo_map(&uri, "base:allocation")?, &content)?;
            let map = qemu_map(lab, &uri, None)?;
            ensure!(map.iter().any(|line| line["data"] == false && line["zero"] == true), "{uri}: {map:?}");
            tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", disk.to_str().unwrap(), &uri])?;
            let out = lab.path("copy.raw");
            tool("nbdcopy", [uri.as_ref(), out.as_os_str()])?;
            same("nbdcopy", &std::fs::read(&out)?, &content)?;
            qemu_io(&uri, &["-r"], &["read -P 0 6M 14M", "read -P 17 0 512k"])?;
            let info: Value = serde_json::from_slice(&tool("nbdinfo", ["--json", &uri])?.stdout)?;
            let export = &info["exports"][0];
            for can in ["can_cache", "can_df", "can_multi_conn"] {
                ensure!(export[can] == true, "{uri}: {can} in {info}");
            }
            ensure!(info["structured"] == true, "{info}");
        }
        up.still_running()
    })
}

#[test]
fn every_kind_of_request_is_served_and_extended_headers_are_negotiated() -> Result<()> {
    if let Some(why) = absent() {
        return skipped("every_kind_of_request_is_served_and_extended_headers_are_negotiated", &why);
    }
    scenario(|lab| {
        let disk = sparse_disk(lab)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "first")?;
        let tap = lab.tap("web01");
        qemu_io(&tap, &[], MIX)?;
        lab.settle("web01")?;
        lab.bookmark("web01", "after")?;
        same("history", &lab.content(&lab.gateway("web01@after"))?, &std::fs::read(&disk)?)?;
        let writable = lab.mount("web01@first", true)?;
        qemu_io(&writable, &[], MIX)?;
        // The tap's disk can do this where its file system can; an image always.
        qemu_io(&writable, &[], &["write -P 4 1M 64k", "write -z -u -n 1M 64k", "read -P 0 1M 64k"])?;
        let traced = qemu_io(&writable, &["--trace", "nbd_*"], &["read -P 0 6M 1M", "flush"])?;
        // Option 11, reply 1. A client older than QEMU 8.2 does not ask.
        let asked = traced.lines().any(|l| l.contains("option request 11"));
        let acknowledged =
            traced.lines().any(|line| line.contains("option reply 11") && line.contains("type 1 ("));
        ensure!(!asked || acknowledged, "{traced}");
        up.still_running()
    })
}

/// What changed since a bookmark, as `nbdinfo` and QEMU tell it: they must agree.
fn changed(lab: &Lab, export: &str, since: &str) -> Result<Vec<(u64, u64)>> {
    let map = nbdinfo_map(&lab.gateway(export), &format!("qemu:dirty-bitmap:{since}"))?;
    let told: Vec<_> =
        map.iter().filter(|told| told.kind == 1).map(|told| (told.offset, told.length)).collect();
    // With a bitmap for its allocation, what is dirty is "no data" to QEMU.
    let map = qemu_map(lab, export, Some(since))?;
    let number = |line: &Value, key: &str| line[key].as_u64().unwrap();
    let dirty = map.iter().filter(|line| line["data"] == false);
    let dirty: Vec<_> = dirty.map(|line| (number(line, "start"), number(line, "length"))).collect();
    ensure!(told == dirty, "nbdinfo tells {told:?}, qemu-img {dirty:?}");
    Ok(told)
}

/// Brings a backup up to date: `qemu-img` copies what changed, stretch by stretch.
fn bring_up_to_date(lab: &Lab, backup: &Path, export: &str, stretches: &[(u64, u64)]) -> Result<()> {
    let file = File::options().write(true).open(backup)?;
    let part = lab.path("part.raw");
    let port = lab.nbd_port();
    for (offset, size) in stretches {
        let source = format!(
            "driver=raw,offset={offset},size={size},file.driver=nbd,file.export={export},file.server.type=inet,\
             file.server.host=127.0.0.1,file.server.port={port}"
        );
        tool("qemu-img", ["convert", "--image-opts", &source, "-O", "raw", part.to_str().unwrap()])?;
        file.write_all_at(&std::fs::read(&part)?, *offset)?;
    }
    Ok(())
}

#[test]
fn an_incremental_backup_by_stock_tools_restores_byte_for_byte() -> Result<()> {
    if let Some(why) = absent() {
        return skipped("an_incremental_backup_by_stock_tools_restores_byte_for_byte", &why);
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", SIZE as usize, 7)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "monday")?;
        let backup = lab.path("backup.raw");
        tool("nbdcopy", [lab.gateway("web01@monday").as_ref(), backup.as_os_str()])?;
        let mut writer = Writer::open(&lab.tap("web01"), std::fs::read(&disk)?, 5)?;
        writer.burst(120, 8)?;
        qemu_io(&lab.tap("web01"), &[], &["write -z 3M 64k", "discard 9M 128k", "write -P 9 12M 4k"])?;
        lab.bookmark("web01", "tuesday")?;
        let tuesday = std::fs::read(&disk)?;
        qemu_io(&lab.tap("web01"), &[], &["write -P 77 20M 1M"])?;

        let stretches = changed(lab, "web01@tuesday", "monday")?;
        let bytes: u64 = stretches.iter().map(|(_, length)| length).sum();
        ensure!(bytes > 0 && bytes < SIZE / 2, "{bytes} bytes changed");
        bring_up_to_date(lab, &backup, "web01@tuesday", &stretches)?;
        same("the full backup with what changed", &std::fs::read(&backup)?, &tuesday)?;
        up.still_running()
    })
}

#[test]
fn only_what_came_before_an_image_is_a_bitmap_and_what_is_written_on_it_is_dirty() -> Result<()> {
    if let Some(why) = absent() {
        return skipped(
            "only_what_came_before_an_image_is_a_bitmap_and_what_is_written_on_it_is_dirty",
            &why,
        );
    }
    scenario(|lab| {
        let disk = sparse_disk(lab)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "monday")?;
        qemu_io(&lab.tap("web01"), &[], &["write -P 77 20M 1M"])?;
        lab.bookmark("web01", "tuesday")?;
        let monday = lab.gateway("web01@monday");
        ensure!(nbdinfo_map(&monday, "qemu:dirty-bitmap:tuesday").is_err(), "tuesday came later");
        let itself = nbdinfo_map(&monday, "qemu:dirty-bitmap:monday")?;
        ensure!(itself == [Told { offset: 0, length: SIZE, kind: 0 }], "{itself:?}");

        let writable = lab.mount("web01@tuesday", true)?;
        qemu_io(&writable, &[], &["write -P 1 22M 4k", "write -z -u 23M 8k"])?;
        let map = nbdinfo_map(&writable, "qemu:dirty-bitmap:monday")?;
        let dirty: Vec<_> =
            map.iter().filter(|told| told.kind == 1).map(|told| (told.offset, told.length)).collect();
        ensure!(dirty == [(20 * MIB, MIB), (22 * MIB, 4096), (23 * MIB, 8192)], "{map:?}");
        let depth = nbdinfo_map(&writable, "qemu:allocation-depth")?;
        let layer =
            |at: u64| depth.iter().find(|told| (told.offset..told.offset + told.length).contains(&at));
        for (at, kind) in [(22 * MIB, 1), (23 * MIB, 1), (20 * MIB, 2), (8 * MIB, 0)] {
            ensure!(layer(at).is_some_and(|told| told.kind == kind), "{at}: {depth:?}");
        }
        up.still_running()
    })
}

/// libnbd, over a connection with structured replies and one without, agrees with a model of the disk.
#[test]
fn another_client_agrees_with_a_model_request_by_request() -> Result<()> {
    const NAME: &str = "another_client_agrees_with_a_model_request_by_request";
    if !Path::new("/usr/lib/python3/dist-packages/nbd.py").exists() {
        return skipped(NAME, "python3-libnbd is not installed");
    }
    scenario(|lab| {
        let disk = sparse_disk(lab)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.bookmark("web01", "monday")?;
        qemu_io(&lab.tap("web01"), &[], &["write -P 77 6M 1M"])?;
        lab.bookmark("web01", "tuesday")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/nbd_differential.py");
        for seed in 0..pick(2, 40) {
            let writable = lab.mount("web01@tuesday", true)?;
            let mut python = std::process::Command::new("/usr/bin/python3");
            python.arg(&script).args([&writable, "tuesday", &seed.to_string(), "300"]);
            say(&run(&mut python, command::LIMIT)?.ok()?.text());
        }
        up.still_running()
    })
}

/// A request as both clients can make it. A client that knows no zeroing writes them.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Write(usize, usize, u8),
    Zero(usize, usize),
    Trim(usize, usize),
    Read(usize, usize),
    Flush,
}

impl Ask {
    fn random(random: &mut Random, size: usize) -> Self {
        let offset = random.below(size as u64) as usize;
        let longest = [1, 512, 4096, 70_000, 1 << 20][random.below(5) as usize];
        let length = (1 + random.below(longest) as usize).min(size - offset);
        match random.below(8) {
            0..=2 => Self::Write(offset, length, random.below(250) as u8),
            3 => Self::Zero(offset, length),
            4 => Self::Trim(offset, length),
            5 => Self::Flush,
            _ => Self::Read(offset, length),
        }
    }

    fn line(self) -> String {
        match self {
            Self::Write(offset, length, fill) => format!("write {offset} {length} {fill}\n"),
            Self::Zero(offset, length) => format!("zero {offset} {length}\n"),
            Self::Trim(offset, length) => format!("trim {offset} {length}\n"),
            Self::Read(offset, length) => format!("read {offset} {length}\n"),
            Self::Flush => "flush\n".to_owned(),
        }
    }

    fn content(length: usize, fill: u8) -> Vec<u8> {
        (usize::from(fill)..usize::from(fill) + length).map(|i| (i % 251) as u8).collect()
    }

    /// On the model; what is read.
    fn on_model(self, model: &mut [u8]) -> Vec<u8> {
        match self {
            Self::Write(offset, length, fill) => {
                model[offset..offset + length].copy_from_slice(&Self::content(length, fill));
            }
            Self::Zero(offset, length) | Self::Trim(offset, length) => model[offset..offset + length].fill(0),
            Self::Read(offset, length) => return model[offset..offset + length].to_vec(),
            Self::Flush => {}
        }
        Vec::new()
    }

    /// Through the `nbd` crate, which speaks the protocol as it was long ago.
    fn legacy(self, disk: &mut NbdClient<UnixStream>) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        match self {
            Self::Write(offset, length, fill) => {
                disk.seek(SeekFrom::Start(offset as u64))?;
                disk.write_all(&Self::content(length, fill))?;
            }
            Self::Zero(offset, length) => {
                disk.seek(SeekFrom::Start(offset as u64))?;
                disk.write_all(&vec![0; length])?;
            }
            Self::Trim(offset, length) => {
                disk.seek(SeekFrom::Start(offset as u64))?;
                disk.trim(length)?;
            }
            Self::Read(offset, length) => {
                disk.seek(SeekFrom::Start(offset as u64))?;
                data.resize(length, 0);
                disk.read_exact(&mut data)?;
            }
            Self::Flush => disk.flush()?,
        }
        Ok(data)
    }
}

#[test]
fn a_legacy_client_libnbd_and_a_model_agree() -> Result<()> {
    if !Path::new("/usr/lib/python3/dist-packages/nbd.py").exists() {
        return skipped("a_legacy_client_libnbd_and_a_model_agree", "python3-libnbd is not installed");
    }
    scenario(|lab| {
        let disk = lab.disk("web01.img", (SIZE / 8) as usize, 14)?;
        let before = std::fs::read(&disk)?;
        let mut up = lab.up(&[("web01", &disk)])?;
        lab.settle("web01")?;
        lab.bookmark("web01", "monday")?;
        for seed in 0..pick(3, 100) {
            let mut random = Random::new(seed);
            let asked: Vec<Ask> = (0..300).map(|_| Ask::random(&mut random, before.len())).collect();
            let (old, new) = (format!("old-{seed}"), format!("new-{seed}"));
            for name in [&old, &new] {
                lab.verb(&["image", "create", "web01", "--at", "monday", "--rw", "--name", name])?;
            }
            let mut model = before.clone();
            let expected: Vec<u8> = asked.iter().flat_map(|ask| ask.on_model(&mut model)).collect();

            let mut socket = UnixStream::connect(lab.path("gw.sock"))?;
            let export = nbd::client::handshake(&mut socket, old.as_bytes())?;
            let mut legacy = NbdClient::new(socket, &export);
            let read: Vec<Vec<u8>> =
                asked.iter().map(|ask| ask.legacy(&mut legacy)).collect::<Result<_>>()?;
            same("what the legacy client reads", &read.concat(), &expected)?;

            let (requests, read) = (lab.path("requests"), lab.path("read"));
            std::fs::write(&requests, asked.iter().map(|ask| ask.line()).collect::<String>())?;
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/nbd_replay.py");
            let mut python = std::process::Command::new("/usr/bin/python3");
            python.arg(&script).arg(lab.gateway(&new)).args([&requests, &read]);
            run(&mut python, command::LIMIT)?.ok()?;
            same("what libnbd reads", &std::fs::read(&read)?, &expected)?;

            for name in [&old, &new] {
                same(name, &lab.content(&lab.gateway(name))?, &model)?;
            }
            say(&format!("seed {seed}: {} requests agree", asked.len()));
        }
        up.still_running()
    })
}
