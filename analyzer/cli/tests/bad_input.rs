//! Files as they should not be: each is told apart, and what of it is sound is used.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chronogate-analyzer");

/// A folder for the files of a test.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn run(file: &PathBuf) -> Output {
    Command::new(PROGRAM).arg("report").arg(file).args(["--link", "1Mbit", "--json", "-"]).output().unwrap()
}

/// It is used all the same: the report, and what was said about it.
fn used(file: &PathBuf) -> (Value, String) {
    let done = run(file);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    (serde_json::from_slice(&done.stdout).unwrap(), said)
}

/// It is refused: what was said.
fn refused(file: &PathBuf) -> String {
    let done = run(file);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty());
    String::from_utf8(done.stderr).unwrap()
}

/// Noise of which every byte comes up.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def0_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A line of Alibaba's format, a second each.
fn line(second: u64) -> String {
    format!("1,W,{},4096,{}\n", second * 4096, 1_577_808_000_000_000 + second * 1_000_000)
}

fn text(seconds: std::ops::Range<u64>) -> String {
    seconds.map(line).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// The trace in another format, by the program itself.
fn exported(files: &Files, format: &str) -> Vec<u8> {
    let from = files.put("whole", text(0..1000).as_bytes());
    let done =
        Command::new(PROGRAM).arg("export").arg(from).args(["--format", format, "--out", "-"]).output();
    done.unwrap().stdout
}

#[test]
fn a_file_that_was_cut_off_is_used_up_to_there() {
    let files = Files::new();
    // In the middle of a line, of a record, of a frame.
    let all = text(0..1000);
    let (found, said) = used(&files.put("cut.csv", &all.as_bytes()[..all.len() - 20]));
    assert_eq!(found["writes"]["count"], 999);
    assert!(said.contains("1 of 1000 rejected as alibaba (line 1000: "), "{said}");
    for (format, size) in [("blktrace", 48), ("vscsi1", 32), ("vscsi2", 40)] {
        let bytes = exported(&files, format);
        let (found, said) = used(&files.put("cut.bin", &bytes[..700 * size + size / 2]));
        assert_eq!(found["writes"]["count"], 700, "{format}");
        assert!(said.contains("the file ends inside a record"), "{format}: {said}");
    }
    let mut profile = exported(&files, "cgp");
    profile.extend(exported(&files, "cgp"));
    let (found, said) = used(&files.put("cut.cgp", &profile[..profile.len() - 200]));
    assert_eq!(found["writes"]["count"], 1000, "the frame that was cut is lost, the one before is not");
    assert!(said.contains("damaged or cut off; the rest is used"), "{said}");
    // Noise does not compress, so a half of the archive is a half of the lines or so.
    let long: String = (0..20_000)
        .map(|n| {
            format!(
                "1,W,{},4096,{}\n",
                u64::from(noise(8)[n % 8]) * 4096 * n as u64,
                1_577_808_000_000_000 + n
            )
        })
        .collect();
    let archive = gz(long.as_bytes());
    let (found, said) = used(&files.put("cut.gz", &archive[..archive.len() / 2]));
    assert!(found["writes"]["count"].as_u64().unwrap() > 1000, "{found}");
    assert!(
        said.contains("cannot be read to its end") && said.contains("what came before is used"),
        "{said}"
    );
}

#[test]
fn a_file_of_two_formats_is_read_as_one_and_the_other_is_named() {
    let files = Files::new();
    let other = "128166372003061629,usr,0,Read,7014609920,24576,41286\n";
    let (found, said) = used(&files.put("mixed", (text(0..100) + &other.repeat(20)).as_bytes()));
    assert_eq!(
        (&found["writes"]["count"], &found["quality"]["rejected"]),
        (&Value::from(100), &Value::from(20))
    );
    assert!(said.contains("20 of 120 rejected as alibaba") && said.contains("line 101: "), "{said}");
    // A short beginning of one format before the other.
    let (found, said) = used(&files.put("mostly", (text(0..300) + &other.repeat(900)).as_bytes()));
    assert_eq!(found["writes"]["count"], 300);
    assert!(said.contains("most of it: is it another format, or a mixture?"), "{said}");
    // Binary behind text.
    let mut tail = text(0..300).into_bytes();
    tail.extend(noise(5000));
    let (found, said) = used(&files.put("tail", &tail));
    assert_eq!(found["writes"]["count"], 300);
    assert!(said.contains("rejected as alibaba"), "{said}");
}

#[test]
fn a_file_with_nothing_in_it_is_refused() {
    let files = Files::new();
    assert!(refused(&files.put("empty", b"")).contains("the file is empty: was the trace stopped"));
    assert!(refused(&files.put("empty.gz", &gz(b""))).contains("the file is empty"));
    let blank = refused(&files.put("blank", b"\n \n\n"));
    assert!(blank.contains("none of its first 0 lines"), "{blank}");
    // A trace with its heading alone is one, of nothing.
    let (found, said) = used(&files.put("heading", b"fio version 3 iolog\n"));
    assert_eq!(found["writes"]["count"], 0);
    assert!(said.contains("there is no I/O in it"), "{said}");
}

#[test]
fn noise_is_refused_and_noise_within_costs_what_it_covers() {
    let files = Files::new();
    for length in [1, 3, 40, 100_000] {
        let said = refused(&files.put("noise", &noise(length)));
        assert!(said.contains("which no trace format that is known does") || length < 40, "{length}: {said}");
        assert!(said.contains("is not imported"), "{length}: {said}");
    }
    // Magic of an archive before noise.
    for magic in [&b"\x1f\x8b\x08\0"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"] {
        let said = refused(&files.put("archive", &[magic, &noise(1000)].concat()));
        assert!(said.contains("damaged") || said.contains("because") || said.contains("why:"), "{said}");
    }
    for (format, size) in [("blktrace", 48), ("vscsi2", 40)] {
        let mut bytes = exported(&files, format);
        bytes[500 * size..500 * size + 10].copy_from_slice(&noise(10));
        let (found, said) = used(&files.put("within", &bytes));
        assert_eq!(found["writes"]["count"], 999, "{format}");
        assert!(said.contains(&format!("byte {}: ", 500 * size)), "{format}: {said}");
    }
    let mut profile = exported(&files, "cgp");
    let at = profile.len();
    profile.extend(exported(&files, "cgp"));
    profile[at / 2] ^= 1;
    let (found, said) = used(&files.put("within.cgp", &profile));
    assert_eq!(found["writes"]["count"], 1000, "{said}");
}

#[test]
fn time_that_goes_back_counts_in_its_second_and_is_told() {
    let files = Files::new();
    let lines = [line(10), line(11), line(5), line(12)].concat();
    let (found, _) = used(&files.put("back", lines.as_bytes()));
    assert_eq!(
        (&found["writes"]["count"], &found["quality"]["backwards"]),
        (&Value::from(4), &Value::from(1))
    );
    let done = Command::new(PROGRAM).arg("report").arg(files.put("back", lines.as_bytes())).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("not all is sound: 0 lines rejected, 1 I/Os out of order"), "{text}");
}

#[test]
fn a_gap_of_thirty_years_takes_no_memory_and_no_time() {
    let files = Files::new();
    let file = files.put("gap", [line(0), line(1_000_000_000), line(2_000_000_000)].concat().as_bytes());
    let html = files.0.path().join("r.html");
    let mut command = Command::new("/usr/bin/env");
    // 512 MiB of address space; it takes far less.
    command.args(["sh", "-c", "ulimit -v 524288 && exec \"$@\"", "sh", PROGRAM, "report"]);
    let done =
        command.arg(&file).args(["--link", "1Mbit", "--json", "-", "--html"]).arg(&html).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(found["duration_seconds"], 2e9);
    assert!(found["link"]["achievable_rpo_seconds"].as_f64().unwrap() <= 1.0, "{found}");
    assert!(std::fs::metadata(&html).unwrap().len() < 1 << 20);
}
