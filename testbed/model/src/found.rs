//! Streams that fuzzing found worth keeping, and a little fuzzing with them on any compiler: so that what `cargo fuzz` found with
//! a nightly one goes on being tried with ours.

use tap_block::units::{count, index};

use crate::random::Random;

/// The streams of a file of findings, one to a line of hex; `None` when that is not what it holds.
#[must_use]
pub fn streams(text: &str) -> Option<Vec<Vec<u8>>> {
    text.lines().map(stream).collect()
}

fn stream(line: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = line.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<_>>().filter(|_| rest.is_empty())
}

/// One of the streams, mixed with another or cut off, and a few bits of it flipped.
#[must_use]
pub fn mangled(streams: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| streams.get(index(random.below(count(streams.len()))));
    let (mut stream, other) =
        (pick(random).cloned().unwrap_or_default(), pick(random).cloned().unwrap_or_default());
    let (at, from) = (place(&stream, random), place(&other, random));
    let other = other.get(from..).unwrap_or_default().iter().copied();
    match random.below(3) {
        0 => stream.splice(at.., other).for_each(drop),
        1 => stream.splice(at..at, other).for_each(drop),
        _ => stream.truncate(at),
    }
    for _ in 0..random.below(4) {
        let at = place(&stream, random);
        stream.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8));
    }
    stream
}

fn place(stream: &[u8], random: &mut Random) -> usize {
    index(random.below(count(stream.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_findings_is_hex_or_nothing() {
        assert_eq!(streams("00ff\n\n7f\n"), Some(vec![vec![0, 255], vec![], vec![127]]));
        assert_eq!(streams(""), Some(vec![]));
        assert_eq!([streams("0"), streams("0g"), streams("00 11")], [None, None, None]);
    }

    #[test]
    fn what_is_mangled_is_decided_by_the_seed_and_seldom_what_it_was() {
        let streams = [vec![1; 40], vec![2; 60]];
        let make = |seed| mangled(&streams, &mut Random::new(seed));
        assert_eq!(make(7), make(7));
        let mut random = Random::new(1);
        let changed = (0..200).filter(|_| !streams.contains(&mangled(&streams, &mut random))).count();
        assert!(changed > 150, "{changed}");
        assert!(mangled(&[], &mut random).is_empty());
    }
}
