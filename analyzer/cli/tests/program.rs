//! The program as people run it, on a real trace and on wrong files.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chronogate-analyzer");
/// A Windows server's hour, from Debian's blkreplay-examples; its notice stands at its head.
const SHARED_SERVER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/windows-shared-server.load.gz");
/// A database server's hour, from the same package.
const MSSQL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/windows-mssql.load.gz");
/// The others of that package, where it is installed.
const EXAMPLES: &str = "/usr/share/doc/blkreplay-examples/examples/example-load/natural";

fn run(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).output().unwrap()
}

fn json(words: &[&str]) -> Value {
    let done = run(words);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn said(words: &[&str]) -> String {
    let done = run(words);
    assert!(!done.status.success(), "{words:?} should fail");
    String::from_utf8(done.stderr).unwrap()
}

/// Times and bytes.
type Arrivals = Vec<(u64, u64)>;

/// Writes of a `.load` by second and by event, read by hand: nothing of the analyzer is in it.
fn by_hand(path: &Path) -> (Arrivals, Arrivals) {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let (mut seconds, mut events, mut first) = (std::collections::BTreeMap::new(), Vec::new(), None);
    for line in text.lines() {
        let fields: Vec<&str> = line.split(';').map(str::trim).collect();
        let Some((whole, fraction)) = fields[0].split_once('.').filter(|_| fields.len() == 6) else {
            continue;
        };
        let at = whole.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap();
        let first = *first.get_or_insert(at);
        if fields[3] == "W" {
            let bytes = fields[2].parse::<u64>().unwrap() * 512;
            *seconds.entry((at - first) / 1_000_000_000).or_insert(0) += bytes;
            events.push((at, bytes));
        }
    }
    (seconds.into_iter().collect(), events)
}

/// max over i <= j of sum(A_i..A_j) / (t_j - t_i + R), pair by pair; times in `unit`ths of a second.
fn brute_force(arrivals: &[(u64, u64)], unit: f64, rpo: f64) -> f64 {
    let mut best = 0.0_f64;
    for (n, &(begin, _)) in arrivals.iter().enumerate() {
        let mut sum = 0.0;
        for &(end, bytes) in &arrivals[n..] {
            sum += bytes as f64;
            best = best.max(sum / ((end - begin) as f64 / unit + rpo));
        }
    }
    best
}

fn check_against_brute_force(path: &Path) {
    let report = json(&["report", path.to_str().unwrap(), "--json", "-"]);
    let (seconds, events) = by_hand(path);
    assert_eq!(report["writes"]["count"], events.len());
    assert_eq!(report["quality"]["rejected"], 0);
    let mut seen = 0;
    for required in report["required_bandwidth"].as_array().unwrap().iter().filter(|r| r["coverage"] == 1.0) {
        let rpo = required["rpo_seconds"].as_f64().unwrap();
        let near = |field: &str, by_hand: f64| {
            let found = required[field].as_f64().unwrap();
            assert!(
                (found / by_hand - 1.0).abs() < 1e-9,
                "{path:?} {rpo} s: {field} {found}, by hand {by_hand}"
            );
        };
        near("bytes_per_second", brute_force(&seconds, 1.0, rpo));
        if events.len() < 10_000 {
            near("bytes_per_second_exact", brute_force(&events, 1e9, rpo));
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn a_real_trace_takes_what_trying_all_pairs_says() {
    check_against_brute_force(Path::new(SHARED_SERVER));
    check_against_brute_force(Path::new(MSSQL));
    for name in ["linux-mysql", "linux-webserver-2"] {
        let path = PathBuf::from(EXAMPLES).join(format!("{name}.load.gz"));
        if path.exists() {
            check_against_brute_force(&path);
        } else {
            println!("SKIPPED {name}: blkreplay-examples is not installed");
        }
    }
}

#[test]
fn what_is_exported_is_what_was_imported() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
    assert!(run(&["import", SHARED_SERVER, "--out", &at("a.cgp")]).status.success());
    let figures = |file: &str| {
        let mut report = json(&["report", file, "--json", "-"]);
        for tells_of_the_file in ["sources", "devices", "begins", "quality", "week", "answers", "outages"] {
            report[tells_of_the_file] = Value::Null;
        }
        report
    };
    let direct = figures(SHARED_SERVER);
    assert_eq!(figures(&at("a.cgp")), direct);
    for format in ["cgp", "blktrace", "blkreplay", "systor", "mqsim"] {
        let to = at(&format!("a.{format}"));
        let done = run(&["export", &at("a.cgp"), "--format", format, "--out", &to]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(figures(&to), direct, "{format}");
    }
}

#[test]
fn parts_of_a_trace_are_one_when_they_are_joined() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut all, mut parts) = (String::new(), [String::new(), String::new()]);
    for n in 0..5000_u64 {
        let line = format!(
            "{},{},{},{},1577808144{:06}\n",
            n % 3,
            if n % 4 == 0 { 'R' } else { 'W' },
            n % 700 * 4096,
            512 * (n % 9 + 1),
            n * 150
        );
        all.push_str(&line);
        parts[usize::from(n % 7 < 3)].push_str(&line);
    }
    let file = |name: &str, text: &str| {
        let path = tmp.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (all, one, two) = (file("all", &all), file("one", &parts[0]), file("two", &parts[1]));
    let mut whole = json(&["report", &all, "--json", "-"]);
    let mut joined = json(&["report", &one, &two, "--json", "-"]);
    assert_eq!(whole["writes"]["count"], 3750);
    // The same devices, in the order in which they come up.
    for report in [&mut whole, &mut joined] {
        report["devices"].as_array_mut().unwrap().sort_by_key(Value::to_string);
    }
    assert_eq!(joined, whole);
}

#[test]
fn processors_of_one_blktrace_count_each_io_once() {
    let tmp = tempfile::tempdir().unwrap();
    let out = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
    let (submits, completes) = (out("t.blktrace.0"), out("t.blktrace.1"));
    assert!(run(&["export", SHARED_SERVER, "--format", "blktrace", "--out", &submits]).status.success());
    let mut bytes = std::fs::read(&submits).unwrap();
    for record in bytes.chunks_mut(48) {
        record[28..30].copy_from_slice(&8_u16.to_le_bytes()); // completed, on the other processor
        record[8] ^= 1; // at nearly the same time
    }
    std::fs::write(&completes, bytes).unwrap();
    let report = json(&["report", &completes, &submits, "--json", "-"]);
    assert_eq!(report["writes"]["count"], 1371);
}

#[test]
fn the_processor_that_completes_tells_how_long_an_io_took() {
    let tmp = tempfile::tempdir().unwrap();
    let out = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
    let (submits, completes) = (out("t.blktrace.0"), out("t.blktrace.1"));
    assert!(run(&["export", SHARED_SERVER, "--format", "blktrace", "--out", &submits]).status.success());
    let mut bytes = std::fs::read(&submits).unwrap();
    for record in bytes.chunks_mut(48) {
        record[28..30].copy_from_slice(&8_u16.to_le_bytes());
        let at = u64::from_le_bytes(record[8..16].try_into().unwrap()) + 100_000;
        record[8..16].copy_from_slice(&at.to_le_bytes());
    }
    std::fs::write(&completes, bytes).unwrap();
    let report = json(&["report", &completes, &submits, "--json", "-"]);
    assert_eq!(report["writes"]["count"], 1371);
    assert_eq!(report["quality"]["backwards"], 0, "they wait in the order in which they came");
    let latencies = report["latency_nanos"].as_array().unwrap();
    let all: u64 = latencies.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!(all, report["others"]["reads"].as_u64().unwrap() + 1371);
    assert_eq!(latencies[0][0], 65536, "100 µs: {latencies:?}");
    assert_eq!(latencies.len(), 1);
}

#[test]
fn wrong_files_are_refused_with_the_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = tmp.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let out = tmp.path().join("out.cgp").to_str().unwrap().to_owned();
    let import = |path: &str| said(&["import", path, "--out", &out]);
    assert!(import(&file("empty", b"")).contains("empty"));
    assert!(import(&file("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0")).contains("7f 45 4c 46"));
    assert!(import(&file("diary", b"dear diary\n")).contains("\"dear diary\""));
    assert!(import(tmp.path().to_str().unwrap()).contains("is a directory"));
    assert!(import("/nonexistent").contains("cannot open"));
    assert!(!Path::new(&out).exists(), "a refused import leaves nothing");
    let cut = std::fs::read(SHARED_SERVER).unwrap();
    let cut = file("cut.gz", &cut[..cut.len() / 2]);
    let report = run(&["report", &cut, "--json", "-"]);
    assert!(report.status.success(), "the beginning of a cut archive is used");
    assert!(String::from_utf8_lossy(&report.stderr).contains("cannot be read to its end"));
    let wall = file("wall", b"419,W,0,4096,1577808144360767\n");
    assert!(said(&["report", SHARED_SERVER, &wall]).contains("--start"));
}

#[test]
fn times_may_go_back_and_lie_far_apart() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("odd");
    std::fs::write(&path, "1,W,0,4096,1000000\n1,W,0,4096,2000000000000000\n1,W,0,4096,3000000\n").unwrap();
    let report = json(&["report", path.to_str().unwrap(), "--link", "1Mbit", "--json", "-"]);
    assert_eq!(
        (&report["writes"]["count"], &report["quality"]["backwards"]),
        (&Value::from(3), &Value::from(1))
    );
    assert_eq!(report["writes"]["peak_1s_bytes_per_second"], 4096);
}
