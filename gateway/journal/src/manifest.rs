//! The manifest of a settle: which settled segments count, what history they hold, and where the log goes on.
//!
//! It stands in the last segment a settle writes, with a copy beside the segments; the highest sound one counts. From it
//! and the log behind [`Manifest::through`] everything else can be built again.

use prost::Message;
use tap_block::{Lsn, VolumeId, WallTime};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::FormatError;
use crate::run::GroupNo;
use crate::scan::Start;
use crate::segment::StoreId;
use crate::units::{RegionNo, SegmentId};

const WHAT: &str = "manifest";
const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The store.
    pub store: StoreId,
    /// The settle that wrote it: ever increasing, from 1.
    pub settle: u64,
    /// When, on the store's own clock.
    pub at: WallTime,
    /// What is settled, oldest history first.
    pub generations: Vec<Generation>,
    /// The log counts from here on: what lies before is settled.
    pub through: (SegmentId, Start),
    /// The index's last group that is settled.
    pub group: GroupNo,
    /// The points that are left of settled history, by volume.
    pub kept: Vec<(VolumeId, Kept)>,
    /// Everything else known at `through` (the catalogue, the streams, known damage), in the form its owner gives it.
    pub state: Vec<u8>,
}

/// Settled segments in block order: what one settle wrote, or what is left of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The number of the settle that wrote it.
    pub settle: u64,
    /// Only what it holds of these regions counts; the rest was written again by a later settle.
    pub range: RegionRange,
    /// Its segments, in the order of their blocks.
    pub segments: Vec<SettledSegment>,
}

/// A region of a volume; ordered as generations are.
pub type RegionPlace = (VolumeId, RegionNo);

/// Regions from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRange {
    /// The first.
    pub first: RegionPlace,
    /// The last.
    pub last: RegionPlace,
}

impl RegionRange {
    /// Every region there can be.
    pub const ALL: Self = Self {
        first: (VolumeId::new(0), RegionNo::new(0)),
        last: (VolumeId::new(u64::MAX), RegionNo::new(u32::MAX)),
    };

    /// Is it in the range?
    #[must_use]
    pub fn holds(&self, place: RegionPlace) -> bool {
        self.first <= place && place <= self.last
    }

    /// The region after `place`, of whatever volume; `None` behind the last there can be.
    #[must_use]
    pub fn after((volume, region): RegionPlace) -> Option<RegionPlace> {
        match region.get().checked_add(1) {
            Some(next) => Some((volume, RegionNo::new(next))),
            None => Some((VolumeId::new(volume.get().checked_add(1)?), RegionNo::new(0))),
        }
    }

    /// The region before `place`; `None` before the first.
    #[must_use]
    pub fn before((volume, region): RegionPlace) -> Option<RegionPlace> {
        match region.get().checked_sub(1) {
            Some(previous) => Some((volume, RegionNo::new(previous))),
            None => Some((VolumeId::new(volume.get().checked_sub(1)?), RegionNo::new(u32::MAX))),
        }
    }
}

impl Generation {
    /// Bytes of its segments that hold something.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| u64::from(s.end)).sum()
    }

    /// What is left of it without `range`: nothing, a part, or one on either side.
    #[must_use]
    pub fn without(&self, range: RegionRange) -> Vec<Self> {
        if range.last < self.range.first || self.range.last < range.first {
            return vec![self.clone()];
        }
        let before = RegionRange::before(range.first).filter(|last| self.range.first <= *last);
        let after = RegionRange::after(range.last).filter(|first| *first <= self.range.last);
        let before = before.map(|last| RegionRange { last, ..self.range });
        let after = after.map(|first| RegionRange { first, ..self.range });
        let parts = before.into_iter().chain(after).map(|range| self.within(range));
        parts.filter(|part| !part.segments.is_empty()).collect()
    }

    /// The part in `range`: segments that hold nothing of it are left out.
    fn within(&self, range: RegionRange) -> Self {
        let overlaps = |s: &&SettledSegment| range.first <= s.last && s.first <= range.last;
        let segments = self.segments.iter().filter(overlaps).copied().collect();
        Self { settle: self.settle, range, segments }
    }
}

/// A segment of a generation as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledSegment {
    /// Which.
    pub segment: SegmentId,
    /// The byte behind its last frame.
    pub end: u32,
    /// How many frames it holds, the manifest's apart.
    pub frames: u32,
    /// The first region in it.
    pub first: RegionPlace,
    /// The last region in it.
    pub last: RegionPlace,
}

/// What is left of a volume's settled history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// The last record that is settled; it and every point behind it are there.
    pub settled: Lsn,
    /// The points at or before it that are there, ascending.
    pub points: Vec<KeptPoint>,
}

/// A point that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptPoint {
    /// Just after this record.
    pub lsn: Lsn,
    /// When it was captured, on the source's clock.
    pub captured_at: WallTime,
    /// When the gateway took it, on the store's own clock, which never jumps.
    pub received_at: WallTime,
}

impl Kept {
    /// Can the point still be opened? Says nothing about points that are not settled but that they are there.
    #[must_use]
    pub fn holds(&self, lsn: Lsn) -> bool {
        lsn >= self.settled || self.points.binary_search_by_key(&lsn, |p| p.lsn).is_ok()
    }

    /// The nearest points that are there, before and after one that is not.
    #[must_use]
    pub fn nearest(&self, lsn: Lsn) -> (Option<Lsn>, Option<Lsn>) {
        let n = self.points.partition_point(|p| p.lsn <= lsn);
        let before = n.checked_sub(1).and_then(|i| self.points.get(i)).map(|p| p.lsn);
        let after = self.points.get(n).map_or(self.settled, |p| p.lsn);
        (before, Some(after))
    }
}

#[derive(Clone, PartialEq, Message)]
struct PManifest {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    store: u64,
    #[prost(uint64, tag = "3")]
    settle: u64,
    #[prost(fixed64, tag = "4")]
    at: u64,
    #[prost(message, repeated, tag = "5")]
    generations: Vec<PGeneration>,
    #[prost(uint32, tag = "6")]
    segment: u32,
    #[prost(uint32, tag = "7")]
    start: u32,
    #[prost(uint32, tag = "8")]
    number: u32,
    #[prost(uint32, tag = "9")]
    frame_group: u32,
    #[prost(fixed64, optional, tag = "10")]
    previous: Option<u64>,
    #[prost(uint64, tag = "11")]
    group: u64,
    #[prost(message, repeated, tag = "12")]
    kept: Vec<PKept>,
    #[prost(bytes = "vec", tag = "13")]
    state: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PGeneration {
    #[prost(uint64, tag = "1")]
    settle: u64,
    #[prost(uint32, repeated, tag = "2")]
    segments: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    ends: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    frames: Vec<u32>,
    /// The first and the last region of the range, then of each segment.
    #[prost(message, repeated, tag = "5")]
    places: Vec<PPlace>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PPlace {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(uint32, tag = "2")]
    region: u32,
}

/// Points as differences to the one before: a long list is short.
#[derive(Clone, PartialEq, Message)]
struct PKept {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(uint64, tag = "2")]
    settled: u64,
    #[prost(uint64, repeated, tag = "3")]
    lsns: Vec<u64>,
    #[prost(sint64, repeated, tag = "4")]
    captured: Vec<i64>,
    #[prost(sint64, repeated, tag = "5")]
    received: Vec<i64>,
}

impl Manifest {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (segment, start) = self.through;
        PManifest {
            version: VERSION,
            store: self.store.get(),
            settle: self.settle,
            at: self.at.nanos(),
            generations: self.generations.iter().map(generation_out).collect(),
            segment: segment.get(),
            start: start.at,
            number: start.number,
            frame_group: start.group,
            previous: start.previous,
            group: self.group.get(),
            kept: self.kept.iter().map(kept_out).collect(),
            state: self.state.clone(),
        }
        .encode_to_vec()
    }

    /// As bytes behind a checksum: how a copy is kept outside a frame.
    #[must_use]
    pub fn seal(&self) -> Vec<u8> {
        let bytes = self.encode();
        [&xxh3_64(&bytes).to_le_bytes()[..], &bytes].concat()
    }

    /// Back from a copy.
    ///
    /// # Errors
    /// [`FormatError`] when it is damaged, or no manifest of this version.
    pub fn unseal(bytes: &[u8]) -> Result<Self, FormatError> {
        let (sum, bytes) = bytes.split_first_chunk::<8>().ok_or(FormatError::Short(WHAT))?;
        if u64::from_le_bytes(*sum) != xxh3_64(bytes) {
            return Err(FormatError::Checksum(WHAT));
        }
        Self::decode(bytes)
    }

    /// Back from bytes, already checked against a checksum.
    ///
    /// # Errors
    /// [`FormatError`] when they are no manifest of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let twin = PManifest::decode(bytes).map_err(|e| FormatError::malformed(WHAT, e.to_string()))?;
        if twin.version != VERSION {
            return Err(FormatError::malformed(WHAT, format!("of version {}, not {VERSION}", twin.version)));
        }
        let start =
            Start { at: twin.start, number: twin.number, group: twin.frame_group, previous: twin.previous };
        Ok(Self {
            store: StoreId::new(twin.store),
            settle: twin.settle,
            at: WallTime::from_nanos(twin.at),
            generations: twin.generations.iter().map(generation_in).collect::<Result<_, _>>()?,
            through: (SegmentId::new(twin.segment), start),
            group: GroupNo::new(twin.group),
            kept: twin.kept.iter().map(kept_in).collect::<Result<_, _>>()?,
            state: twin.state,
        })
    }

    /// What is left of a volume's settled history; everything when nothing of it is settled.
    #[must_use]
    pub fn kept_of(&self, volume: VolumeId) -> Option<&Kept> {
        self.kept.iter().find(|(v, _)| *v == volume).map(|(_, kept)| kept)
    }
}

fn generation_out(generation: &Generation) -> PGeneration {
    let segments = &generation.segments;
    PGeneration {
        settle: generation.settle,
        segments: segments.iter().map(|s| s.segment.get()).collect(),
        ends: segments.iter().map(|s| s.end).collect(),
        frames: segments.iter().map(|s| s.frames).collect(),
        places: [generation.range.first, generation.range.last]
            .into_iter()
            .chain(segments.iter().flat_map(|s| [s.first, s.last]))
            .map(|(volume, region)| PPlace { volume: volume.get(), region: region.get() })
            .collect(),
    }
}

fn generation_in(twin: &PGeneration) -> Result<Generation, FormatError> {
    if twin.ends.len() != twin.segments.len() || twin.frames.len() != twin.segments.len() {
        return Err(FormatError::malformed(WHAT, "a generation's lists differ in length"));
    }
    let place = |p: &PPlace| (VolumeId::new(p.volume), RegionNo::new(p.region));
    let pairs: Vec<_> = twin.places.as_chunks::<2>().0.iter().map(|[a, b]| (place(a), place(b))).collect();
    let Some((&(first, last), places)) =
        pairs.split_first().filter(|(_, rest)| rest.len() == twin.segments.len())
    else {
        return Err(FormatError::malformed(WHAT, "a generation's regions are not all there"));
    };
    let fields = twin.segments.iter().zip(&twin.ends).zip(&twin.frames).zip(places);
    let segments = fields
        .map(|(((&segment, &end), &frames), &(first, last))| SettledSegment {
            segment: SegmentId::new(segment),
            end,
            frames,
            first,
            last,
        })
        .collect();
    Ok(Generation { settle: twin.settle, range: RegionRange { first, last }, segments })
}

fn kept_out((volume, kept): &(VolumeId, Kept)) -> PKept {
    let (mut lsn, mut captured, mut received) = (0, 0, 0);
    let mut twin = PKept {
        volume: volume.get(),
        settled: kept.settled.get(),
        lsns: Vec::with_capacity(kept.points.len()),
        captured: Vec::with_capacity(kept.points.len()),
        received: Vec::with_capacity(kept.points.len()),
    };
    for point in &kept.points {
        twin.lsns.push(point.lsn.get().wrapping_sub(lsn));
        twin.captured.push(point.captured_at.nanos().wrapping_sub(captured).cast_signed());
        twin.received.push(point.received_at.nanos().wrapping_sub(received).cast_signed());
        (lsn, captured, received) = (point.lsn.get(), point.captured_at.nanos(), point.received_at.nanos());
    }
    twin
}

fn kept_in(twin: &PKept) -> Result<(VolumeId, Kept), FormatError> {
    let bad = || FormatError::malformed(WHAT, "kept points out of range or out of order");
    if twin.captured.len() != twin.lsns.len() || twin.received.len() != twin.lsns.len() {
        return Err(bad());
    }
    let (mut lsn, mut captured, mut received) = (0u64, 0u64, 0u64);
    let mut points: Vec<KeptPoint> = Vec::with_capacity(twin.lsns.len());
    for ((&l, &c), &r) in twin.lsns.iter().zip(&twin.captured).zip(&twin.received) {
        lsn = lsn.checked_add(l).ok_or_else(bad)?;
        captured = captured.wrapping_add(c.cast_unsigned());
        received = received.wrapping_add(r.cast_unsigned());
        let point = KeptPoint {
            lsn: Lsn::new(lsn).ok_or_else(bad)?,
            captured_at: WallTime::from_nanos(captured),
            received_at: WallTime::from_nanos(received),
        };
        if points.last().is_some_and(|last| last.lsn >= point.lsn) {
            return Err(bad());
        }
        points.push(point);
    }
    let settled = Lsn::new(twin.settled).ok_or_else(bad)?;
    Ok((VolumeId::new(twin.volume), Kept { settled, points }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(lsn: u64, at: u64) -> KeptPoint {
        let at = WallTime::from_nanos(at);
        KeptPoint { lsn: Lsn::new(lsn).unwrap(), captured_at: at, received_at: at }
    }

    fn place(n: u32) -> RegionPlace {
        (VolumeId::new(1), RegionNo::new(n))
    }

    fn range(first: u32, last: u32) -> RegionRange {
        RegionRange { first: place(first), last: place(last) }
    }

    fn segment(n: u32, first: u32, last: u32) -> SettledSegment {
        SettledSegment {
            segment: SegmentId::new(n),
            end: 9000,
            frames: 2,
            first: place(first),
            last: place(last),
        }
    }

    #[test]
    fn what_was_written_again_is_cut_out_of_a_generation() {
        let segments = vec![segment(1, 0, 4), segment(2, 4, 7), segment(3, 9, 9)];
        let whole = Generation { settle: 2, range: RegionRange::ALL, segments };
        let ids = |g: &Generation| g.segments.iter().map(|s| s.segment.get()).collect::<Vec<_>>();
        let parts = whole.without(range(4, 4));
        assert_eq!(parts.iter().map(ids).collect::<Vec<_>>(), [vec![1], vec![2, 3]]);
        assert!(parts[0].range.holds(place(3)) && !parts[0].range.holds(place(4)));
        assert!(parts[1].range.holds(place(5)) && !parts[1].range.holds(place(4)));
        assert_eq!(parts[1].without(range(0, 3)), [parts[1].clone()], "nothing in common");
        assert_eq!(parts[1].without(range(5, 20)), [], "nothing is left");
        assert_eq!(whole.without(RegionRange::ALL), []);
        assert_eq!(whole.bytes(), 27_000);
    }

    fn manifest() -> Manifest {
        let segment = |n| segment(n, n, n + 1);
        Manifest {
            store: StoreId::new(5),
            settle: 3,
            at: WallTime::from_nanos(77),
            generations: vec![
                Generation { settle: 2, range: RegionRange::ALL, segments: vec![segment(4), segment(6)] },
                Generation { settle: 3, range: range(5, 9), segments: vec![segment(9)] },
            ],
            through: (SegmentId::new(8), Start { at: 8192, number: 4, group: 2, previous: Some(1) }),
            group: GroupNo::new(11),
            kept: vec![(
                VolumeId::new(1),
                Kept {
                    settled: Lsn::new(90).unwrap(),
                    // A clock that went back between runs is no error.
                    points: vec![point(10, 500), point(40, 300), point(90, 900)],
                },
            )],
            state: b"state".to_vec(),
        }
    }

    #[test]
    fn a_manifest_survives_its_bytes() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        let sealed = manifest.seal();
        assert_eq!(Manifest::unseal(&sealed), Ok(manifest));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::unseal(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let twin = PManifest::decode(manifest().encode().as_slice()).unwrap();
        let mut unordered = twin.clone();
        unordered.kept[0].lsns[1] = 0;
        let mut short = twin.clone();
        short.generations[0].ends.pop();
        for bad in [unordered, short, PManifest { version: 2, ..twin }] {
            assert!(Manifest::decode(&bad.encode_to_vec()).is_err());
        }
    }

    #[test]
    fn a_point_that_is_gone_has_neighbours() {
        let manifest = manifest();
        let kept = manifest.kept_of(VolumeId::new(1)).unwrap();
        let lsn = |n| Lsn::new(n).unwrap();
        assert!(kept.holds(lsn(40)) && kept.holds(lsn(91)) && !kept.holds(lsn(41)));
        assert_eq!(kept.nearest(lsn(41)), (Some(lsn(40)), Some(lsn(90))));
        assert_eq!(kept.nearest(lsn(5)), (None, Some(lsn(10))));
    }
}
