//! The manifest of a settle: which settled segments count, what history they hold, and where the log goes on.
//!
//! It stands in the last segment a settle writes, with a copy beside the segments; the highest sound one counts. From it
//! and the log behind [`Manifest::through`] everything else can be built again.

mod pieces;

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId, WallTime};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::FormatError;
use crate::run::GroupNo;
use crate::scan::Start;
use crate::segment::StoreId;
use crate::shortage::{PShortage, Shortage, shortage_in, shortage_out};
use crate::units::{RegionNo, SegmentId};

pub use pieces::Pieces;

const WHAT: &str = "manifest";
/// 1 says nothing of the shares of volumes.
const VERSION: u32 = 2;
/// The same, where something lies in packs.
const VERSION_WITH_PACKS: u32 = 3;
/// The same, where points are kept that are not listed on their own.
const VERSION_WITH_RUNS: u32 = 4;
/// One of these, compressed.
const VERSION_PACKED: u32 = 5;
/// No manifest, but where the pieces of one of these lie.
const VERSION_IN_PIECES: u32 = 6;
/// Fast: it is written with each settle, and most of what it holds is names and times that look alike.
const PACKED_LEVEL: i32 = 1;
/// No manifest is longer.
const MOST_BYTES: u64 = 1 << 30;

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
    /// What of it went for want of room, by volume and then in the order of time.
    pub short: Vec<(VolumeId, Shortage)>,
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
    /// What the volumes of which something counts take of its segments, in the same order. Empty in a manifest of version 1:
    /// whoever needs to know counts.
    pub shares: Vec<Share>,
    /// When it was written, on the store's own clock; the epoch when an older program wrote it.
    pub at: WallTime,
    /// Does something lie in packs?
    pub packs: bool,
}

/// What a volume takes of a settled segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The segment.
    pub segment: SegmentId,
    /// The volume.
    pub volume: VolumeId,
    /// Bytes of the frames that hold the volume's regions.
    pub bytes: u64,
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
        let segments: Vec<_> = self.segments.iter().filter(overlaps).copied().collect();
        let counts = |share: &&Share| segments.iter().any(|s| s.may_hold(share, range));
        let shares = self.shares.iter().filter(counts).copied().collect();
        Self { settle: self.settle, range, segments, shares, at: self.at, packs: self.packs }
    }

    /// Bytes that each volume takes of settled segments: those of every segment in which something of it counts.
    #[must_use]
    pub fn bytes_by_volume(generations: &[Self]) -> BTreeMap<VolumeId, u64> {
        // Parts of one generation may name a segment both.
        let shares: BTreeMap<_, _> =
            generations.iter().flat_map(|g| &g.shares).map(|s| ((s.segment, s.volume), s.bytes)).collect();
        let mut sums = BTreeMap::new();
        for ((_, volume), bytes) in shares {
            *sums.entry(volume).or_default() += bytes;
        }
        sums
    }
}

impl SettledSegment {
    /// Is the share one of this segment, and may some of it lie in `range`?
    fn may_hold(&self, share: &Share, range: RegionRange) -> bool {
        let (zero, last) = (RegionNo::new(0), RegionNo::new(u32::MAX));
        let first = self.first.max((share.volume, zero)).max(range.first);
        let last = self.last.min((share.volume, last)).min(range.last);
        self.segment == share.segment && first <= last
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
    /// Bytes of units that were too young to be packed, or had been read lately; all of them when an older program wrote it.
    pub warm: u32,
}

/// What is left of a volume's settled history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// The last record that is settled; it and every point behind it are there.
    pub settled: Lsn,
    /// The points at or before it that are there, ascending.
    pub points: Vec<KeptPoint>,
}

/// A point that is kept, and with it those right before it that are not listed on their own: where nothing is written between
/// points, or where there are more of them than can be listed, the last of a run stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptPoint {
    /// Just after this record.
    pub lsn: Lsn,
    /// When it was captured, on the source's clock.
    pub captured_at: WallTime,
    /// When the gateway took it, on the store's own clock, which never jumps.
    pub received_at: WallTime,
    /// So many records right before it are points as well. Nobody knows any more when each of them was captured.
    pub before: u32,
    /// It and they are marks, with which nothing was written: they show what the record before them shows.
    pub idle: bool,
}

impl KeptPoint {
    /// One that stands for itself alone.
    #[must_use]
    pub const fn new(lsn: Lsn, captured_at: WallTime, received_at: WallTime) -> Self {
        Self { lsn, captured_at, received_at, before: 0, idle: false }
    }

    /// The first point that it stands for.
    #[must_use]
    pub fn first(&self) -> Lsn {
        Lsn::ZERO.plus(self.lsn.get().saturating_sub(u64::from(self.before)))
    }

    /// How many points it stands for.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(self.before).saturating_add(1)
    }

    /// Is it one of several?
    #[must_use]
    pub const fn is_run(&self) -> bool {
        self.before > 0
    }

    /// Something was written between points that it stands for: of each of them the time is not listed any more.
    #[must_use]
    pub const fn is_coarse(&self) -> bool {
        self.before > 0 && !self.idle
    }

    /// With the point that is listed right before it as one; `None` when there are others between them, or too many.
    #[must_use]
    pub fn joined(&self, to: &Self) -> Option<Self> {
        let before = self.before.checked_add(to.before)?.checked_add(1)?;
        let idle = self.idle && to.idle;
        (to.lsn.next() == self.first()).then_some(Self { before, idle, ..*self })
    }
}

impl Kept {
    /// Can the point still be opened? Says nothing about points that are not settled but that they are there.
    #[must_use]
    pub fn holds(&self, lsn: Lsn) -> bool {
        lsn >= self.settled || self.listed(lsn).is_some()
    }

    /// The listed point that stands for this one; `None` when it is not there, or not settled.
    #[must_use]
    pub fn listed(&self, lsn: Lsn) -> Option<&KeptPoint> {
        let n = self.points.partition_point(|p| p.lsn < lsn);
        self.points.get(n).filter(|p| p.first() <= lsn)
    }

    /// The last listed point that is not behind this one.
    #[must_use]
    pub fn listed_by(&self, lsn: Lsn) -> Option<&KeptPoint> {
        let n = self.points.partition_point(|p| p.lsn <= lsn);
        self.points.get(n.checked_sub(1)?)
    }

    /// How many points are there, whether they are listed on their own or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.points.iter().map(KeptPoint::count).sum()
    }

    /// Can any point of settled history from the first to the last be opened? `None`: there is no last.
    #[must_use]
    pub fn any(&self, first: Lsn, last: Option<Lsn>) -> bool {
        let n = self.points.partition_point(|p| p.lsn < first);
        self.points.get(n).is_some_and(|p| last.is_none_or(|last| p.first().max(first) <= last))
    }

    /// The nearest points that are there, before and after one that is not.
    #[must_use]
    pub fn nearest(&self, lsn: Lsn) -> (Option<Lsn>, Option<Lsn>) {
        let n = self.points.partition_point(|p| p.lsn <= lsn);
        let before = n.checked_sub(1).and_then(|i| self.points.get(i)).map(|p| p.lsn);
        let after = self.points.get(n).map_or(self.settled, KeptPoint::first);
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
    /// 14 and 15 are those of a packed one.
    #[prost(message, repeated, tag = "16")]
    short: Vec<PShortage>,
}

/// A manifest that is too long for a segment. The fields that it shares with one are the same there.
#[derive(Clone, PartialEq, Message)]
struct PPacked {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    store: u64,
    #[prost(uint64, tag = "3")]
    settle: u64,
    /// The bytes of the whole.
    #[prost(uint64, tag = "14")]
    bytes: u64,
    /// It, compressed with zstd.
    #[prost(bytes = "vec", tag = "15")]
    packed: Vec<u8>,
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
    /// Of each share: its segment, its volume, its bytes.
    #[prost(uint32, repeated, tag = "6")]
    share_segments: Vec<u32>,
    #[prost(fixed64, repeated, tag = "7")]
    share_volumes: Vec<u64>,
    #[prost(uint64, repeated, tag = "8")]
    share_bytes: Vec<u64>,
    #[prost(fixed64, optional, tag = "9")]
    at: Option<u64>,
    /// Of each segment.
    #[prost(uint32, repeated, tag = "10")]
    warm: Vec<u32>,
    #[prost(bool, optional, tag = "11")]
    packs: Option<bool>,
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
    /// Of each point twice the number of those that are not listed before it, and one more if they are idle. Empty when there is
    /// nothing to say of any.
    #[prost(uint64, repeated, tag = "6")]
    runs: Vec<u64>,
}

impl Manifest {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (segment, start) = self.through;
        let twin = PManifest {
            version: self.version(),
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
            short: self.short.iter().map(shortage_out).collect(),
            state: Vec::new(),
        };
        let mut out = twin.encode_to_vec();
        if !self.state.is_empty() {
            // Most of it all: it is not copied twice. Fields may come in any order.
            encode_key(13, WireType::LengthDelimited, &mut out);
            encode_varint(count(self.state.len()), &mut out);
            out.extend_from_slice(&self.state);
        }
        out
    }

    /// As bytes that are no more than `room`, if they need not be.
    #[must_use]
    pub fn encode_within(&self, room: u64) -> Vec<u8> {
        let plain = self.encode();
        if count(plain.len()) <= room || count(plain.len()) > MOST_BYTES {
            return plain;
        }
        let Ok(packed) = zstd::bulk::compress(&plain, PACKED_LEVEL) else { return plain };
        let (version, store) = (VERSION_PACKED, self.store.get());
        let bytes = count(plain.len());
        let packed = PPacked { version, store, settle: self.settle, bytes, packed }.encode_to_vec();
        if packed.len() < plain.len() { packed } else { plain }
    }

    /// A program that knows nothing of packs must not take one for damage, and one that knows nothing of runs must not let go of
    /// them.
    fn version(&self) -> u32 {
        let has_runs = |(_, kept): &(VolumeId, Kept)| kept.points.iter().any(KeptPoint::is_run);
        match self.generations.iter().any(|g| g.packs) {
            _ if self.kept.iter().any(has_runs) => VERSION_WITH_RUNS,
            true => VERSION_WITH_PACKS,
            false => VERSION,
        }
    }

    /// As bytes behind a checksum: how a copy is kept outside a frame.
    #[must_use]
    pub fn seal(&self) -> Vec<u8> {
        self.seal_within(u64::MAX)
    }

    /// The same of bytes that are no more than `room`, if they need not be.
    #[must_use]
    pub fn seal_within(&self, room: u64) -> Vec<u8> {
        Self::sealed(&self.encode_within(room))
    }

    /// The same of bytes that are at hand.
    #[must_use]
    pub fn sealed(bytes: &[u8]) -> Vec<u8> {
        [&xxh3_64(bytes).to_le_bytes()[..], bytes].concat()
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
        let twin = PManifest::decode(bytes).map_err(malformed)?;
        match twin.version {
            0 => Err(FormatError::malformed(WHAT, "without a version")),
            1..=VERSION_WITH_RUNS => Self::from_twin(twin),
            VERSION_PACKED => Self::from_twin(unpacked(bytes)?),
            VERSION_IN_PIECES => Err(malformed("it lies in pieces elsewhere")),
            version => Err(FormatError::Newer { what: WHAT, version, known: VERSION_IN_PIECES }),
        }
    }

    fn from_twin(twin: PManifest) -> Result<Self, FormatError> {
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
            short: twin.short.iter().filter_map(|s| shortage_in(s).transpose()).collect::<Result<_, _>>()?,
            state: twin.state,
        })
    }

    /// What is left of a volume's settled history; everything when nothing of it is settled.
    #[must_use]
    pub fn kept_of(&self, volume: VolumeId) -> Option<&Kept> {
        self.kept.iter().find(|(v, _)| *v == volume).map(|(_, kept)| kept)
    }
}

fn malformed(why: impl std::fmt::Display) -> FormatError {
    FormatError::malformed(WHAT, why.to_string())
}

/// The manifest in a packed one.
fn unpacked(bytes: &[u8]) -> Result<PManifest, FormatError> {
    let outer = PPacked::decode(bytes).map_err(malformed)?;
    let most = usize::try_from(outer.bytes).ok().filter(|_| outer.bytes <= MOST_BYTES);
    let most = most.ok_or_else(|| malformed("it is longer than any"))?;
    let bytes = zstd::bulk::decompress(&outer.packed, most).map_err(malformed)?;
    let inner = PManifest::decode(&bytes[..]).map_err(malformed)?;
    let fits = (inner.store, inner.settle, bytes.len()) == (outer.store, outer.settle, most);
    if !fits || !(1..=VERSION_WITH_RUNS).contains(&inner.version) {
        return Err(malformed("it is not the one that its outside names"));
    }
    Ok(inner)
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
        share_segments: generation.shares.iter().map(|s| s.segment.get()).collect(),
        share_volumes: generation.shares.iter().map(|s| s.volume.get()).collect(),
        share_bytes: generation.shares.iter().map(|s| s.bytes).collect(),
        at: Some(generation.at.nanos()).filter(|&at| at > 0),
        warm: warm_out(segments),
        packs: generation.packs.then_some(true),
    }
}

/// Nothing when it is not known.
fn warm_out(segments: &[SettledSegment]) -> Vec<u32> {
    let known = segments.iter().any(|s| s.warm != s.end);
    if known { segments.iter().map(|s| s.warm).collect() } else { Vec::new() }
}

fn generation_in(twin: &PGeneration) -> Result<Generation, FormatError> {
    if twin.ends.len() != twin.segments.len() || twin.frames.len() != twin.segments.len() {
        return Err(FormatError::malformed(WHAT, "a generation's lists differ in length"));
    }
    if !twin.warm.is_empty() && twin.warm.len() != twin.segments.len() {
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
    let warm = twin.warm.iter().copied().map(Some).chain(std::iter::repeat(None));
    let segments: Vec<_> = fields
        .zip(warm)
        .map(|((((&segment, &end), &frames), &(first, last)), warm)| SettledSegment {
            segment: SegmentId::new(segment),
            end,
            frames,
            first,
            last,
            warm: warm.unwrap_or(end),
        })
        .collect();
    let shares = shares_in(twin)?;
    let (range, at) = (RegionRange { first, last }, WallTime::from_nanos(twin.at.unwrap_or(0)));
    let packs = twin.packs.unwrap_or(false);
    Ok(Generation { settle: twin.settle, range, segments, shares, at, packs })
}

fn shares_in(twin: &PGeneration) -> Result<Vec<Share>, FormatError> {
    let (segments, volumes, bytes) = (&twin.share_segments, &twin.share_volumes, &twin.share_bytes);
    if segments.len() != volumes.len() || segments.len() != bytes.len() {
        return Err(FormatError::malformed(WHAT, "the lists of a generation's shares differ in length"));
    }
    let share = |((&segment, &volume), &bytes): ((&u32, &u64), &u64)| Share {
        segment: SegmentId::new(segment),
        volume: VolumeId::new(volume),
        bytes,
    };
    Ok(segments.iter().zip(volumes).zip(bytes).map(share).collect())
}

fn kept_out((volume, kept): &(VolumeId, Kept)) -> PKept {
    let (mut lsn, mut captured, mut received) = (0, 0, 0);
    let mut twin = PKept {
        volume: volume.get(),
        settled: kept.settled.get(),
        lsns: Vec::with_capacity(kept.points.len()),
        captured: Vec::with_capacity(kept.points.len()),
        received: Vec::with_capacity(kept.points.len()),
        runs: runs_out(&kept.points),
    };
    for point in &kept.points {
        twin.lsns.push(point.lsn.get().wrapping_sub(lsn));
        twin.captured.push(point.captured_at.nanos().wrapping_sub(captured).cast_signed());
        twin.received.push(point.received_at.nanos().wrapping_sub(received).cast_signed());
        (lsn, captured, received) = (point.lsn.get(), point.captured_at.nanos(), point.received_at.nanos());
    }
    twin
}

fn runs_out(points: &[KeptPoint]) -> Vec<u64> {
    if points.iter().all(|p| p.before == 0 && !p.idle) {
        return Vec::new();
    }
    points.iter().map(|p| u64::from(p.before) * 2 + u64::from(p.idle)).collect()
}

fn kept_in(twin: &PKept) -> Result<(VolumeId, Kept), FormatError> {
    let bad = || FormatError::malformed(WHAT, "kept points out of range or out of order");
    let alike = |len: usize| len == twin.lsns.len();
    if !alike(twin.captured.len())
        || !alike(twin.received.len())
        || !(twin.runs.is_empty() || alike(twin.runs.len()))
    {
        return Err(bad());
    }
    let (mut lsn, mut captured, mut received) = (0u64, 0u64, 0u64);
    let mut points: Vec<KeptPoint> = Vec::with_capacity(twin.lsns.len());
    let runs = twin.runs.iter().copied().chain(std::iter::repeat(0));
    for (((&l, &c), &r), run) in twin.lsns.iter().zip(&twin.captured).zip(&twin.received).zip(runs) {
        lsn = lsn.checked_add(l).ok_or_else(bad)?;
        captured = captured.wrapping_add(c.cast_unsigned());
        received = received.wrapping_add(r.cast_unsigned());
        let point = KeptPoint {
            lsn: Lsn::new(lsn).ok_or_else(bad)?,
            captured_at: WallTime::from_nanos(captured),
            received_at: WallTime::from_nanos(received),
            before: u32::try_from(run / 2).map_err(|_| bad())?,
            idle: run % 2 == 1,
        };
        let overlaps = points.last().is_some_and(|last| last.lsn >= point.first());
        if overlaps || u64::from(point.before) > lsn {
            return Err(bad());
        }
        points.push(point);
    }
    let settled = Lsn::new(twin.settled).ok_or_else(bad)?;
    Ok((VolumeId::new(twin.volume), Kept { settled, points }))
}

#[cfg(test)]
mod tests;
