//! What of a group is written when.
//!
//! A sound frame says that every group before its own is durable: that is how a torn tail is told from damage. So no header and
//! no table goes to the disk before that is so. Units say nothing without them. Where they fill whole pages they are written
//! *ahead*, while the sync of the group before runs; what is left, some pages around each header, is all that the next sync
//! waits for.
//!
//! ```text
//!          head   units                     head   units
//!  ──────┬──────┬───────────────────────────┬────┬───────────────────
//!  pages │    ┊           ┊           ┊           ┊           ┊
//!         └ last ─┘└──────── ahead ───────┘└─ last ───┘└── ahead ──…
//! ```
//!
//! No page is in both parts: none is written again that may be on the disk already.

use std::io::{self, IoSlice};

use tap_block::units::{count, index};
use tap_disk::SegmentFile;

const PAGE: u64 = 4096;

/// A group's bytes in two parts; see the module.
pub(crate) struct Pieces<'a> {
    ahead: Vec<Piece<'a>>,
    last: Vec<Piece<'a>>,
    /// The byte behind all of them.
    end: u64,
    /// Units that fill fewer bytes of whole pages are not worth a call of their own; `None`: none are.
    least: Option<u64>,
}

/// Bytes that follow each other.
struct Piece<'a> {
    at: u64,
    end: u64,
    slices: Vec<IoSlice<'a>>,
}

impl<'a> Pieces<'a> {
    /// Of a group that begins at `at`. Nothing of it is written ahead without `least`.
    pub(crate) const fn begin(at: u64, least: Option<u64>) -> Self {
        Self { ahead: Vec::new(), last: Vec::new(), end: at, least }
    }

    /// The next bytes are not written ahead.
    pub(crate) fn add(&mut self, bytes: &'a [u8]) {
        self.end += lay(&mut self.last, self.end, bytes);
    }

    /// The next bytes are a frame's units.
    pub(crate) fn add_units(&mut self, units: &'a [u8]) {
        let to_page = self.end.next_multiple_of(PAGE) - self.end;
        let pages = count(units.len()).saturating_sub(to_page) / PAGE * PAGE;
        let split = units.split_at_checked(index(to_page)).filter(|_| self.least.is_some_and(|l| pages >= l));
        let Some((before, (whole, behind))) =
            split.and_then(|(before, rest)| Some((before, rest.split_at_checked(index(pages))?)))
        else {
            return self.add(units);
        };
        self.add(before);
        self.end += lay(&mut self.ahead, self.end, whole);
        self.add(behind);
    }

    /// Writes what may be there before the group in front is durable.
    pub(crate) fn write_ahead(&self, file: &SegmentFile) -> io::Result<()> {
        write(file, &self.ahead)
    }

    /// Writes the rest.
    pub(crate) fn write_last(&self, file: &SegmentFile) -> io::Result<()> {
        write(file, &self.last)
    }
}

/// Adds bytes to the last piece, or begins one where they do not follow it; returns how many.
fn lay<'a>(pieces: &mut Vec<Piece<'a>>, at: u64, bytes: &'a [u8]) -> u64 {
    let length = count(bytes.len());
    if length == 0 {
        return 0;
    }
    match pieces.last_mut().filter(|piece| piece.end == at) {
        Some(piece) => {
            piece.end += length;
            piece.slices.push(IoSlice::new(bytes));
        }
        None => pieces.push(Piece { at, end: at + length, slices: vec![IoSlice::new(bytes)] }),
    }
    length
}

fn write(file: &SegmentFile, pieces: &[Piece<'_>]) -> io::Result<()> {
    pieces.iter().try_for_each(|piece| file.write_at(piece.at, &piece.slices))
}

#[cfg(test)]
mod tests {
    use tap_disk::{FileNo, MemoryDir, SegmentDir};

    use super::*;

    /// Heads of 100 bytes before units of these lengths, from byte 8192 on.
    struct Frames(Vec<(Vec<u8>, Vec<u8>)>);

    const FROM: usize = 8192;
    const FILE: usize = 64 * 4096;

    impl Frames {
        fn new(units: &[usize]) -> Self {
            let units = units.iter().map(|n| (0u8..=255).cycle().map(|b| b | 1).take(*n).collect());
            Self(units.map(|units| (vec![0xee; 100], units)).collect())
        }

        fn pieces(&self, least: Option<u64>) -> Pieces<'_> {
            let mut pieces = Pieces::begin(FROM as u64, least);
            for (head, units) in &self.0 {
                pieces.add(head);
                pieces.add_units(units);
            }
            pieces
        }

        /// All of it as one.
        fn bytes(&self) -> Vec<u8> {
            self.0.iter().flat_map(|(head, units)| [&head[..], units]).flatten().copied().collect()
        }

        /// Where heads lie.
        fn heads(&self) -> Vec<usize> {
            let mut at = FROM;
            let next = |(head, units): &(Vec<u8>, Vec<u8>)| {
                let here = at;
                at += head.len() + units.len();
                here..here + head.len()
            };
            self.0.iter().flat_map(next).collect()
        }
    }

    fn content(file: &SegmentFile) -> Vec<u8> {
        let mut all = vec![0; FILE];
        file.read_at(0, &mut all).unwrap();
        all
    }

    fn file() -> SegmentFile {
        MemoryDir::new().create(FileNo::new(1), FILE as u64).unwrap()
    }

    const LENGTHS: [&[usize]; 6] = [
        &[],
        &[0, 1, 4096],
        &[3996, 3996 + 4096, 5 * 4096],
        &[8192 - 100, 8191, 8193, 0, 12_345],
        &[30_000, 2 * 4096 - 1, 30_001],
        &[100_000],
    ];

    #[test]
    fn both_parts_are_the_group() {
        for (lengths, least) in
            LENGTHS.iter().flat_map(|l| [None, Some(1), Some(8192)].map(|least| (l, least)))
        {
            let (frames, file) = (Frames::new(lengths), file());
            let pieces = frames.pieces(least);
            pieces.write_ahead(&file).unwrap();
            pieces.write_last(&file).unwrap();
            let (bytes, there) = (frames.bytes(), content(&file));
            assert_eq!(there[FROM..][..bytes.len()], bytes, "{lengths:?}");
            assert!(there[..FROM].iter().chain(&there[FROM + bytes.len()..]).all(|b| *b == 0));
        }
    }

    #[test]
    fn no_byte_of_a_head_is_written_ahead_and_no_page_twice() {
        for lengths in LENGTHS {
            let (frames, ahead, last) = (Frames::new(lengths), file(), file());
            let pieces = frames.pieces(Some(1));
            pieces.write_ahead(&ahead).unwrap();
            pieces.write_last(&last).unwrap();
            let (ahead, last) = (content(&ahead), content(&last));
            assert!(frames.heads().iter().all(|at| ahead[*at] == 0 && last[*at] == 0xee), "{lengths:?}");
            let pages = ahead.chunks(4096).zip(last.chunks(4096));
            let written = |page: &[u8]| page.iter().any(|b| *b != 0);
            assert!(pages.clone().all(|(a, l)| !(written(a) && written(l))), "{lengths:?}");
            let whole = pages.filter(|(a, _)| written(a)).all(|(a, _)| a.iter().all(|b| *b != 0));
            assert!(whole, "{lengths:?}");
        }
    }

    #[test]
    fn what_is_worth_no_call_of_its_own_waits() {
        let frames = Frames::new(&[3 * 4096, 8 * 4096]);
        let calls = |least| {
            let pieces = frames.pieces(least);
            (pieces.ahead.len(), pieces.last.len())
        };
        assert_eq!(calls(None), (0, 1));
        assert_eq!(calls(Some(1)), (2, 3));
        assert_eq!(calls(Some(4 * 4096)), (1, 2));
    }
}
