//! Does every checksum of a segment fit? Asked of one whose content is not what the ledger says.

use std::sync::Arc;

use gateway_journal::ledger::Hashed;
use gateway_journal::pack::Unpacker;
use gateway_journal::table::{decode_meta, decode_records};
use gateway_journal::{
    Expected, Found, FrameHeader, FrameKind, Manifest, Place, SEGMENT_HEADER, Sealed, SegmentHeader,
    SegmentId, SegmentScan, SettledHeader, SettledKind, Start, StoreId,
};
use tap_block::Action;
use tap_block::stored::verify;
use tap_block::units::index;
use tap_disk::SegmentFile;

use crate::chunks::ChunkReader;
use crate::settled::{read_frame, versions_in};

/// Is told how many bytes were read more, and may take its time; false ends the reading.
pub(crate) type Reached<'a> = dyn FnMut(u32) -> bool + 'a;

/// See the module. What cannot be read does not fit, nor what was not read to its end.
pub(crate) fn is_sound(
    store: StoreId,
    id: SegmentId,
    file: &Arc<SegmentFile>,
    hashed: Hashed,
    reached: &mut Reached<'_>,
) -> bool {
    let mut head = vec![0; index(u64::from(SEGMENT_HEADER))];
    if file.read_at(0, &mut head).is_err() {
        return false;
    }
    match hashed.settle {
        0 => {
            let header = SegmentHeader::decode(&head).ok().filter(|h| (h.store, h.segment) == (store, id));
            header.is_some_and(|header| log_sound(&header, file, hashed.end, reached))
        }
        _ => {
            let header = SettledHeader::decode(&head).ok().filter(|h| (h.store, h.segment) == (store, id));
            header.is_some_and(|header| {
                header.end == hashed.end && settled_sound(id, file, hashed.end, reached)
            })
        }
    }
}

fn log_sound(header: &SegmentHeader, file: &Arc<SegmentFile>, end: u32, reached: &mut Reached<'_>) -> bool {
    let &SegmentHeader { store, segment, .. } = header;
    let from = Start::of_segment(Some(header.hash()));
    let sealed = Some(Sealed { segment, end, frames: 0, last: 0 });
    let length = u32::try_from(file.len()).unwrap_or(u32::MAX);
    let mut scan = SegmentScan::new(Expected { store, segment, length, from, sealed, durable: end });
    let (mut reader, mut units) = (ChunkReader::new(Arc::clone(file)), ChunkReader::new(Arc::clone(file)));
    while let Some((at, len)) = scan.want() {
        match scan.give(reader.fetch(at, len)) {
            Some(Found::Frame { at, header, table }) => {
                if !frame_sound(&header, at, &table, &mut units) || !reached(header.span) {
                    return false;
                }
            }
            Some(Found::Damage { .. }) => return false,
            Some(Found::Over { .. }) | None => {}
        }
    }
    true
}

fn frame_sound(header: &FrameHeader, at: u32, table: &[u8], units: &mut ChunkReader) -> bool {
    let records = match header.kind {
        FrameKind::Meta => return decode_meta(header, table).is_ok(),
        FrameKind::Records => decode_records(header, table),
    };
    let Ok(records) = records else { return false };
    records.placed(header.body_at(at)).all(|(entry, lens, mut offset)| {
        let Action::Write { extent, .. } = entry.action else { return true };
        extent.blocks().zip(lens).all(|(block, &len)| {
            let unit = units.fetch(offset, u32::from(len));
            offset = offset.saturating_add(u32::from(len));
            len == 0 || verify(block, unit).is_ok()
        })
    })
}

fn settled_sound(id: SegmentId, file: &Arc<SegmentFile>, end: u32, reached: &mut Reached<'_>) -> bool {
    let (mut at, mut units) = (SEGMENT_HEADER, ChunkReader::new(Arc::clone(file)));
    let mut unpacker = Unpacker::default();
    while at < end {
        let Ok((frame, table)) = read_frame(file, id, at) else { return false };
        let sound = match frame.kind {
            SettledKind::Manifest => Manifest::check(&table).is_ok(),
            // Its checksum was right.
            SettledKind::Piece => true,
            SettledKind::Run(_, region) => versions_in(&frame, at, &table).is_ok_and(|versions| {
                versions.iter().all(|version| match version.place {
                    Place::Unit(unit) => {
                        let bytes = units.fetch(unit.offset, unit.bytes());
                        unpacker.verify(unit, region.block(version.first), bytes).is_ok()
                    }
                    Place::Zero => true,
                })
            }),
        };
        if !sound || !reached(frame.span) {
            return false;
        }
        at = at.saturating_add(frame.span.max(1));
    }
    true
}
