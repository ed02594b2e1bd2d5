//! Several files that say they are the same segment: a copy that somebody put beside it, one that was cut off, what stands in for it.
//! The one of which more is sound counts, whatever order they are listed in. Another one is used again only if it is known to hold
//! nothing that the one that counts does not.

use std::cmp::Reverse;
use std::sync::Arc;

use gateway_journal::pack::Unpacker;
use gateway_journal::run::decode_run;
use gateway_journal::table::decode_records;
use gateway_journal::{
    Expected, Found, FrameHeader, FrameKind, Place, RegionNo, SEGMENT_HEADER, Sealed, SegmentId, SegmentScan,
    SettledHeader, SettledKind, Start, StoreId, Version,
};
use tap_block::VolumeId;
use tap_block::stored::is_zero;
use tap_block::units::index;
use tap_disk::{FileNo, SegmentFile, SegmentPool};
use tracing::warn;

use super::stand_in::stands_in;
use super::survey::Piece;
use super::units_sound;
use crate::chunks::ChunkReader;
use crate::index::{IndexStore, Table, keys};
use crate::settled::{next_sound, read_frame, versions_in};

/// What a file has of a segment: the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    /// It is all there: it ends as it has to, and every checksum fits.
    whole: bool,
    /// Bytes of sound units that the index leads to.
    indexed: u64,
    /// Bytes of sound frames.
    sound: u64,
    /// Its header says what it is, and it is no stand-in.
    genuine: bool,
    file: Reverse<FileNo>,
}

impl Worth {
    /// Of a settled segment. What was put in place of lost frames only the index leads to.
    pub(super) fn of_settled(
        pool: &SegmentPool,
        (no, header): (FileNo, &SettledHeader),
        rows: Option<&dyn IndexStore>,
    ) -> Self {
        let nothing =
            Self { whole: false, indexed: 0, sound: 0, genuine: !stands_in(header), file: Reverse(no) };
        let Ok(file) = pool.get(no) else { return nothing };
        let mut units = Units { reader: ChunkReader::new(Arc::clone(&file)), unpacker: Unpacker::default() };
        let (mut at, mut whole) = (SEGMENT_HEADER, nothing.genuine);
        let mut sound = 0;
        while at < header.end {
            let Ok((frame, table)) = read_frame(&file, header.segment, at) else {
                whole = false;
                at = next_sound(&file, header.segment, at, header.end);
                continue;
            };
            if let SettledKind::Run(_, region) = frame.kind {
                let versions = versions_in(&frame, at, &table).unwrap_or_default();
                let (fit, all) = units.sound(region, &versions, header.segment);
                whole &= fit == all;
                sound += fit;
            }
            sound += u64::from(frame.table);
            at = at.saturating_add(frame.span.max(1));
        }
        let indexed = rows.map_or(0, |rows| units.indexed(rows, header));
        Self { whole, indexed, sound, ..nothing }
    }

    /// Of a segment of the log, of which the next one may say how it ended.
    pub(super) fn of_log(
        pool: &SegmentPool,
        piece: &Piece,
        which: (StoreId, SegmentId),
        sealed: Option<Sealed>,
    ) -> Self {
        let (genuine, file) = (piece.header.is_some(), Reverse(piece.file));
        let nothing = Self { whole: false, indexed: 0, sound: 0, genuine, file };
        pool.get(piece.file).map_or(nothing, |file| {
            let (whole, sound) = walk(&file, which, sealed);
            Self { whole: whole && genuine, sound, ..nothing }
        })
    }
}

/// Units of a settled segment's file.
struct Units {
    reader: ChunkReader,
    unpacker: Unpacker,
}

impl Units {
    /// Bytes of those of these versions that lie in the segment: of the sound ones, and of all.
    fn sound(&mut self, region: RegionNo, versions: &[Version], segment: SegmentId) -> (u64, u64) {
        let (mut sound, mut all) = (0, 0);
        for version in versions {
            let Place::Unit(at) = version.place else { continue };
            if at.segment != segment {
                continue;
            }
            all += u64::from(at.bytes());
            let stored = self.reader.fetch(at.offset, at.bytes());
            if self.unpacker.verify(at, region.block(version.first), stored).is_ok() {
                sound += u64::from(at.bytes());
            }
        }
        (sound, all)
    }

    /// Bytes of sound units that the index leads to. It is only asked what it can tell.
    fn indexed(&mut self, rows: &dyn IndexStore, header: &SettledHeader) -> u64 {
        let key = |volume, region| keys::settled(header.settle, VolumeId::new(volume), RegionNo::new(region));
        let mut sound = 0;
        let scanned = rows.scan(Table::Settled, &key(0, 0), &key(u64::MAX, u32::MAX), &mut |key, run| {
            let mut versions = Vec::new();
            if let Some((_, region)) = keys::settled_place(key)
                && decode_run(run, |v| versions.push(v)).is_ok()
            {
                sound += self.sound(region, &versions, header.segment).0;
            }
            true
        });
        if let Err(e) = scanned {
            warn!("which of the files of {} holds more the index cannot say: {e}", header.segment);
        }
        sound
    }
}

/// Does the file end as the next segment says, and is all of it sound? And bytes of sound frames.
fn walk(
    file: &Arc<SegmentFile>,
    (store, segment): (StoreId, SegmentId),
    sealed: Option<Sealed>,
) -> (bool, u64) {
    let length = u32::try_from(file.len()).unwrap_or(u32::MAX);
    let from = Start::of_segment(None);
    let mut scan = SegmentScan::new(Expected { store, segment, length, from, sealed, durable: 0 });
    let (mut reader, mut whole, mut bytes) = (ChunkReader::new(Arc::clone(file)), true, 0);
    while let Some((at, len)) = scan.want() {
        match scan.give(reader.fetch(at, len)) {
            Some(Found::Frame { at, header, table }) if is_sound(file, at, &header, &table) => {
                bytes += u64::from(header.span);
            }
            Some(Found::Over { end, .. }) => {
                whole &=
                    sealed.is_some_and(|sealed| (sealed.end, Some(sealed.last)) == (end.at, end.previous));
            }
            Some(Found::Frame { .. } | Found::Damage { .. }) => whole = false,
            None => {}
        }
    }
    (whole, bytes)
}

fn is_sound(file: &SegmentFile, at: u32, header: &FrameHeader, table: &[u8]) -> bool {
    let units = || {
        let records = decode_records(header, table).ok();
        records.is_some_and(|records| units_sound(file, header.body_at(at), header.body, &records))
    };
    header.kind == FrameKind::Meta || units()
}

/// Is there nothing in a file that the one that counts does not have?
pub(super) fn is_worthless(pool: &SegmentPool, loser: FileNo, winner: FileNo, worth: Worth) -> bool {
    if worth.whole {
        return true;
    }
    let Ok((loser, winner)) = pool.get(loser).and_then(|loser| Ok((loser, pool.get(winner)?))) else {
        return false;
    };
    const STEP: u32 = 4096;
    let end = u32::try_from(loser.len()).unwrap_or(u32::MAX);
    let (mut ours, mut theirs) = (vec![0; index(u64::from(STEP))], ChunkReader::new(winner));
    (SEGMENT_HEADER..end).step_by(index(u64::from(STEP))).all(|at| {
        let ours = ours.get_mut(..index(u64::from(STEP.min(end - at)))).unwrap_or_default();
        // What cannot be read may be worth something.
        loser.read_at(u64::from(at), ours).is_ok()
            && (is_zero(ours) || theirs.fetch(at, STEP).starts_with(ours))
    })
}

/// Says that a file stays where it is.
pub(super) fn tell_left_alone(segment: SegmentId, loser: FileNo, winner: FileNo) {
    warn!(
        "segment files {winner} and {loser} are both {segment}; more is sound in {winner}, which counts. The other may hold what that \
         does not, so it is left alone until {segment} is settled or replaced"
    );
}
