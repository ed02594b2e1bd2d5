//! Streams that hurt servers, kept in `corpus/` (their format is in each file's first lines) and replayed
//! whole and byte by byte: no panic, bounded memory, and where a file says so, the connection lives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::path::Path;

use common::*;
use gateway_nbd::{Limits, Tls, Wants};
use tap_block::Geometry;

/// Functions that are fuzzed.
const TARGETS: usize = 2;

/// What a corpus file says of the connection at its end.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    Alive,
    Closed,
}

/// One stream: lines of hex, `"text"`, `N*hex` to repeat, after `#` a comment; `end: alive|closed`.
fn parse(text: &str) -> (Vec<u8>, End) {
    let (mut bytes, mut end) = (Vec::new(), End::Alive);
    for line in text.lines() {
        let line = line.split('#').next().unwrap().trim();
        if let Some(word) = line.strip_prefix("end:") {
            end = if word.trim() == "closed" { End::Closed } else { End::Alive };
            continue;
        }
        for token in line.split_whitespace() {
            let (times, token) = token.split_once('*').unwrap_or(("1", token));
            let piece = match token.strip_prefix('"') {
                Some(text) => text.trim_end_matches('"').as_bytes().to_vec(),
                None => hex(token),
            };
            bytes.extend(piece.repeat(times.parse().unwrap()));
        }
    }
    (bytes, end)
}

fn hex(token: &str) -> Vec<u8> {
    assert!(token.len().is_multiple_of(2), "{token}");
    (0..token.len()).step_by(2).map(|n| u8::from_str_radix(&token[n..n + 2], 16).unwrap()).collect()
}

fn replay(stream: &[u8], chunk: usize) -> End {
    let limits = Limits { max_payload: 1 << 20, in_flight: 1 << 20 };
    let mut rig = Rig::with(limits, Geometry { size: SIZE, read_only: false });
    rig.inline = Some(device());
    for piece in stream.chunks(chunk) {
        rig.send(piece);
        if let Wants::Input(n) = rig.server.wants(&rig.input) {
            assert!(n <= (1 << 20) + 32, "asks for {n} bytes");
        }
    }
    if rig.closed.is_some() { End::Closed } else { End::Alive }
}

#[test]
fn the_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (stream, end) = parse(&std::fs::read_to_string(&path).unwrap());
        for chunk in [usize::MAX, 1, 7, 28] {
            assert_eq!(replay(&stream, chunk), end, "{} in pieces of {chunk}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 28, "the corpus is not where it should be");
}

/// The same streams where clients may or must start TLS: nobody is served in the open that must not be.
#[test]
fn the_corpus_is_survived_where_there_is_tls() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let (stream, _) = parse(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
        for (tls, chunk) in [(Tls::Optional, 1), (Tls::Optional, 28), (Tls::Required, 1), (Tls::Required, 28)]
        {
            let mut rig = Rig::with_tls(tls);
            rig.inline = Some(device());
            for piece in stream.chunks(chunk) {
                rig.send(piece);
                assert!(tls == Tls::Optional || rig.done.is_empty() && rig.server.is_handshaking());
                // As a driver that goes on in the open would have it, which none does.
                if std::mem::take(&mut rig.starting_tls) && tls == Tls::Optional {
                    rig.server.handle_tls_started();
                }
            }
        }
    }
}

/// The streams in a file of findings, one to a line.
fn findings(path: &Path) -> Vec<Vec<u8>> {
    let lines = std::fs::read_to_string(path).unwrap();
    let hex = |line: &str| {
        let pairs = (0..line.len()).step_by(2).map(|n| u8::from_str_radix(&line[n..n + 2], 16).unwrap());
        pairs.collect::<Vec<u8>>()
    };
    lines.lines().map(hex).collect()
}

/// A function that is fuzzed, and streams for it.
type Found = (fn(&[u8]), Vec<Vec<u8>>);

/// What each file of findings is for, and what is in it.
fn found() -> Vec<Found> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = files.map(|path| (fuzz::by_name(path.file_stem().unwrap().to_str().unwrap()), findings(&path)));
    all.collect()
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
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit.max(1) as u64) as usize
    };
    for (run, streams) in found() {
        for _ in 0..rounds {
            let mut stream = streams[below(streams.len())].clone();
            let other = &streams[below(streams.len())];
            let at = below(stream.len());
            match below(3) {
                0 => stream.splice(at.., other[below(other.len())..].iter().copied()).for_each(drop),
                1 => stream.splice(at..at, other[below(other.len())..].iter().copied()).for_each(drop),
                _ => stream.truncate(at),
            }
            for _ in 0..below(4) {
                let at = below(stream.len());
                stream.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(8));
            }
            run(&stream);
        }
    }
}
