//! Streams that hurt targets, kept in `corpus/` (their format is in each file's first lines) and replayed
//! whole and in pieces: no panic, bounded memory, and where a file says so, the connection lives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use gateway_iscsi::Wants;
use testbed_model::Random;
use testbed_model::found::{mangled, streams};

/// Functions that are fuzzed.
const TARGETS: usize = 4;

/// One stream: lines of hex, `"text"`, `N*hex` to repeat, after `#` a comment; `session` to log in before;
/// `end: alive|closed`.
struct Stream {
    bytes: Vec<u8>,
    in_session: bool,
    lives: bool,
}

fn parse(text: &str) -> Stream {
    let mut stream = Stream { bytes: Vec::new(), in_session: false, lives: true };
    for line in text.lines() {
        let line = line.split('#').next().unwrap().trim();
        match line.strip_prefix("end:") {
            Some(word) => stream.lives = word.trim() == "alive",
            None if line == "session" => stream.in_session = true,
            None => tokens(line).for_each(|piece| stream.bytes.extend(piece)),
        }
    }
    stream
}

/// Text may have spaces in it, so quotation marks come first.
fn tokens(line: &str) -> impl Iterator<Item = Vec<u8>> {
    line.split('"').enumerate().flat_map(|(n, part)| match n % 2 {
        1 => vec![part.as_bytes().to_vec()],
        _ => part.split_whitespace().map(repeated).collect(),
    })
}

fn repeated(token: &str) -> Vec<u8> {
    let (times, token) = token.split_once('*').unwrap_or(("1", token));
    assert!(token.len().is_multiple_of(2), "{token}");
    let hex = (0..token.len()).step_by(2).map(|n| u8::from_str_radix(&token[n..n + 2], 16).unwrap());
    hex.collect::<Vec<u8>>().repeat(times.parse().unwrap())
}

fn replay(stream: &Stream, chunk: usize) -> bool {
    let (_, _, target) = disk();
    let mut rig = if stream.in_session { Rig::ready(&target, 1) } else { Rig::new(&target) };
    for piece in stream.bytes.chunks(chunk) {
        rig.send(piece);
        if let Wants::Input(n) = rig.connection.wants(&rig.input) {
            assert!(n <= (256 << 10) + 48 + 1020 + 8, "asks for {n} bytes");
        }
    }
    rig.closed.is_none()
}

#[test]
fn the_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stream = parse(&std::fs::read_to_string(&path).unwrap());
        for chunk in [usize::MAX, 1, 7, 48] {
            assert_eq!(replay(&stream, chunk), stream.lives, "{} in pieces of {chunk}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 20, "the corpus is not where it should be");
}

/// A function that is fuzzed, and streams for it.
type Found = (fn(&[u8]), Vec<Vec<u8>>);

/// What each file of findings is for, and what is in it.
fn found() -> Vec<Found> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| {
        let streams = streams(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (fuzz::by_name(path.file_stem().unwrap().to_str().unwrap()), streams)
    };
    files.map(of).collect()
}

/// By `cargo fuzz`, which needs a nightly compiler; this does not.
#[test]
fn what_was_found_by_fuzzing_is_survived() {
    let all = found();
    assert!(
        all.len() >= TARGETS && all.iter().all(|(_, streams)| streams.len() > 8),
        "the findings are lost"
    );
    for (run, streams) in all {
        streams.iter().for_each(|stream| run(stream));
    }
}

/// A little fuzzing on any compiler: what was found, changed at random places and mixed. `FUZZ_ROUNDS` makes it long.
#[test]
fn what_was_found_and_then_mangled_is_survived() {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let mut random = Random::new(1);
    for (run, streams) in found() {
        (0..rounds).for_each(|_| run(&mangled(&streams, &mut random)));
    }
}
