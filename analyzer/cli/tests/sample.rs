//! Data at rest: what is drawn says what is there, costs what it may, and ends when told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chronogate-analyzer");

fn sample(disk: &Path, more: &[&str]) -> Output {
    Command::new(PROGRAM).args(["sample", "--device"]).arg(disk).args(more).output().unwrap()
}

fn json(disk: &Path, more: &[&str]) -> Value {
    let done = sample(disk, &[more, &["--max-reads", "1000000", "--json", "-"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// 4,000 blocks: a quarter zero, a quarter noise, a quarter half noise and half zero, a quarter one block over and over.
fn disk(folder: &Path) -> PathBuf {
    let mut bytes = Vec::new();
    let mut noise = 1_u64;
    for block in 0..4000_u64 {
        for word in 0..512 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = match block % 4 {
                1 => noise ^ (noise >> 29),
                2 if word < 256 => noise ^ (noise >> 29),
                3 => 0x1111_2222_3333_4444,
                _ => 0,
            };
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    let path = folder.join("disk");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_disk_read_as_a_whole_is_known_exactly_and_a_sample_holds_it() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = disk(tmp.path());
    let before = std::fs::metadata(&disk).unwrap().modified().unwrap();
    let whole = json(&disk, &["--samples", "4000"]);
    let of = |value: &Value, figure: &str, end: &str| value[figure][end].as_f64().unwrap();
    assert_eq!(of(&whole, "zero", "middle"), 0.25);
    assert_eq!(of(&whole, "distinct", "middle"), 2001.0 / 3000.0);
    // Noise is kept raw, half of it costs half, one block over and over costs a few bytes; twelve bytes of head each.
    let stored = of(&whole, "compression", "middle");
    assert!((stored - 1.5 / 3.0).abs() < 0.02, "{stored}");
    assert_eq!((&whole["reads"], &whole["read_bytes"]), (&Value::from(4000), &Value::from(4000 * 4096)));
    let part = json(&disk, &["--samples", "1000", "--seed", "5"]);
    for figure in ["zero", "compression", "stored", "distinct"] {
        let truth = of(&whole, figure, "middle");
        assert!(of(&part, figure, "low") <= truth && truth <= of(&part, figure, "high"), "{figure}: {part}");
        assert!(of(&part, figure, "low") < of(&part, figure, "high"));
    }
    assert_eq!(part["reads"], 1000);
    let again = json(&disk, &["--samples", "1000", "--seed", "5"]);
    assert_eq!(again["compression"], part["compression"], "the same seed draws the same blocks");
    assert_eq!(std::fs::metadata(&disk).unwrap().modified().unwrap(), before, "read only");
    let text =
        String::from_utf8(sample(&disk, &["--samples", "400", "--max-reads", "100000"]).stdout).unwrap();
    assert!(text.contains("For `report`: --compression "), "{text}");
}

/// At work: it has said that it reads.
fn reading(disk: &Path) -> (Child, BufReader<std::process::ChildStderr>) {
    let words = ["--samples", "100000", "--max-reads", "200", "--json", "-"];
    let mut command = Command::new(PROGRAM);
    command.args(["sample", "--device"]).arg(disk).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    // Until it has read of the disk.
    let io = format!("/proc/{}/io", child.id());
    let read = || {
        let text = std::fs::read_to_string(&io).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("syscr: ")?.parse::<u64>().ok()).unwrap_or(0)
    };
    let begun = read();
    while read() < begun + 40 {
        std::thread::yield_now();
    }
    (child, stderr)
}

fn ended(mut child: Child, mut stderr: BufReader<std::process::ChildStderr>) -> (Value, String) {
    let (mut said, mut text) = (String::new(), String::new());
    stderr.read_to_string(&mut said).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    (serde_json::from_str(&text).unwrap(), said)
}

#[test]
fn ctrl_c_gives_what_there_is_and_reads_stay_within_their_limit() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = tmp.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(8 << 30).unwrap();
    let (child, stderr) = reading(&disk);
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let (found, _) = ended(child, stderr);
    assert_eq!(found["ended_early"], true);
    let (reads, seconds) = (found["reads"].as_f64().unwrap(), found["seconds"].as_f64().unwrap());
    assert!(reads > 0.0 && reads <= 200.0 * (seconds + 0.11), "{reads} in {seconds} s");
    assert_eq!(found["zero"]["middle"], 1.0);
}

#[test]
fn a_device_that_vanishes_leaves_what_was_read() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = tmp.path().join("disk");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(8 << 30).unwrap();
    let (child, stderr) = reading(&disk);
    file.set_len(0).unwrap();
    let (found, said) = ended(child, stderr);
    assert!(said.contains("the device answers no longer"), "{said}");
    assert!(found["sampled"].as_u64().unwrap() > 0 && found["unreadable"] == 64, "{found}");
}

#[test]
fn what_is_no_disk_is_refused_with_the_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let said = |disk: &Path, more: &[&str]| {
        let done = sample(disk, more);
        assert!(!done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(said(tmp.path(), &[]).contains("neither a block device nor a file"));
    assert!(said(Path::new("/dev/null"), &[]).contains("neither a block device nor a file"));
    assert!(said(&tmp.path().join("none"), &[]).contains("No such file"));
    let small = tmp.path().join("small");
    std::fs::write(&small, [1; 4095]).unwrap();
    assert!(said(&small, &[]).contains("smaller than a block"));
    assert!(said(&small, &["--samples", "0"]).contains("--samples goes from 1"));
}
