//! Is it of a format that only a newer program knows? Such a store is refused whole: taken for damage, what is sound would be
//! given up, and written over.
//!
//! The version is the last byte of a magic, which no checksum covers. One bit of it may have flipped by itself: such a version
//! counts only when more than one file says it.

use xxhash_rust::xxh3::xxh3_64;

use crate::segment::StoreId;
use crate::units::SegmentId;

/// The version that this program writes in magics.
pub const FORMAT: u8 = 1;

const HEADERS: [&[u8]; 2] = [b"CGSEGMT", b"CGSETTL"];
const FRAMES: [&[u8]; 2] = [b"CGFRAME", b"CGSFRAM"];

/// The version of the header of a segment, when it is sound and newer than [`FORMAT`].
#[must_use]
pub fn newer_header(bytes: &[u8]) -> Option<u8> {
    let version = newer(bytes, &HEADERS)?;
    let sum = bytes.get(8..16)?.first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == xxh3_64(bytes.get(16..128)?)).then_some(version)
}

/// The version of a frame of this segment, when it is newer than [`FORMAT`]. How long it is only a newer program knows, so
/// its checksum is not asked.
#[must_use]
pub fn newer_frame(bytes: &[u8], store: StoreId, segment: SegmentId) -> Option<u8> {
    let version = newer(bytes, &FRAMES)?;
    let own = [&store.get().to_le_bytes()[..], &segment.get().to_le_bytes()[..]].concat();
    (bytes.get(16..28)? == own).then_some(version)
}

/// Can one flipped bit make [`FORMAT`] this version?
#[must_use]
pub const fn may_be_rot(version: u8) -> bool {
    (version ^ FORMAT).count_ones() == 1
}

fn newer(bytes: &[u8], kinds: &[&[u8]]) -> Option<u8> {
    let (magic, rest) = bytes.split_at_checked(7)?;
    let version = rest.first().copied().filter(|&version| version > FORMAT)?;
    kinds.contains(&magic).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settled::SettledWriter;

    #[test]
    fn a_sound_header_says_that_it_is_newer_and_rot_does_not() {
        let (store, segment) = (StoreId::new(7), SegmentId::new(3));
        let mut header = SettledWriter::begin(store, segment, 64 << 10, 1).header().encode();
        assert_eq!(newer_header(&header), None);
        header[7] = 2;
        assert_eq!(newer_header(&header), Some(2));
        header[20] ^= 1;
        assert_eq!(newer_header(&header), None, "it is not sound");
        assert!(may_be_rot(3) && may_be_rot(129) && !may_be_rot(2) && !may_be_rot(6));
    }

    #[test]
    fn a_frame_of_an_earlier_life_of_the_file_says_nothing() {
        let (store, segment) = (StoreId::new(7), SegmentId::new(3));
        let mut frame = b"CGFRAME\x02checksum".to_vec();
        frame.extend(store.get().to_le_bytes());
        frame.extend(segment.get().to_le_bytes());
        assert_eq!(newer_frame(&frame, store, segment), Some(2));
        assert_eq!(newer_frame(&frame, store, SegmentId::new(4)), None);
        frame[7] = 1;
        assert_eq!(newer_frame(&frame, store, segment), None);
    }
}
