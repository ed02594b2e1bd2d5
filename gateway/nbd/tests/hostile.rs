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

use std::path::{Path, PathBuf};

use common::*;
use gateway_nbd::{Limits, Tls, Wants};
use tap_block::Geometry;
use testbed_model::Random;
use testbed_model::found::{mangled, streams};

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
