//! The catalogue as bytes: in the store's view of it, and in the manifest of a settle, where nothing else tells what it was.
//! So it is a format like the journal's: pinned by a golden fixture, and a change is a new version.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_journal::{ImageId, ImageRecord, MetaRecord};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, message};
use tap_block::units::count;
use tap_block::{Consistency, Epoch, Lsn, Name, RunId, StreamId, SyncCause, VolumeId, WallTime};
use thiserror::Error;

use super::mark_codec::Lists;
use super::{
    BookmarkPoint, Catalogue, ClockSet, MarkPoint, Marks, Membership, Passed, Run, SyncSpan, Volume,
};

/// 2 has barrier marks, 3 places where a clock was set; what has neither is written as 1.
const VERSION: u32 = 3;
const WITH_MARKS: u32 = 2;

/// Why bytes are no catalogue. The remedy is always the same: build it again from the segments.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogueError {
    /// Not the encoding at all.
    #[error("the catalogue view is not readable ({0}); it is to be built again from the segments")]
    Malformed(String),
    /// An encoding of another version.
    #[error("the catalogue view has version {0}, not {VERSION}; it is to be built again from the segments")]
    Version(u32),
}

#[derive(Clone, PartialEq, Message)]
struct PCatalogue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    volumes: Vec<PVolume>,
    #[prost(message, repeated, tag = "3")]
    streams: Vec<PStream>,
    #[prost(message, repeated, tag = "4")]
    images: Vec<PImage>,
    #[prost(uint64, tag = "5")]
    last_image: u64,
    /// Records of the journal that give the rules in force.
    #[prost(bytes = "vec", repeated, tag = "6")]
    rules: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct PStream {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PVolume {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(fixed64, tag = "3")]
    stream: u64,
    #[prost(message, repeated, tag = "4")]
    sizes: Vec<PSize>,
    #[prost(message, repeated, tag = "5")]
    runs: Vec<PRun>,
    #[prost(message, repeated, tag = "6")]
    bookmarks: Vec<PBookmark>,
    #[prost(message, repeated, tag = "7")]
    syncs: Vec<PSync>,
    #[prost(message, optional, tag = "8")]
    marks: Option<PMarks>,
    #[prost(message, repeated, tag = "9")]
    clocks: Vec<PClockSet>,
    /// A program that does not know the field cannot say what became of them.
    #[prost(message, repeated, tag = "10")]
    gone: Vec<PGone>,
}

#[derive(Clone, PartialEq, Message)]
struct PGone {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    at: Option<PPassed>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PClockSet {
    #[prost(message, optional, tag = "1")]
    first: Option<PPassed>,
    #[prost(fixed64, tag = "2")]
    before: u64,
}

/// The fields 1 to 4 are packed lists of numbers, which are bytes like any: see [`Lists`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct PMarks {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) lsns: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) ats: Vec<u8>,
    /// Each from its own time.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) ids: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) received: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    memberships: Vec<PMembership>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PMembership {
    #[prost(uint64, tag = "1")]
    from: u64,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(fixed64, repeated, tag = "3")]
    members: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PSize {
    #[prost(uint64, tag = "1")]
    from: u64,
    #[prost(uint64, tag = "2")]
    size: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PPassed {
    #[prost(uint64, tag = "1")]
    lsn: u64,
    #[prost(fixed64, tag = "2")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PRun {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(message, optional, tag = "3")]
    first: Option<PPassed>,
    #[prost(message, optional, tag = "4")]
    previous: Option<PPassed>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PBookmark {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) at: Option<PPassed>,
    #[prost(uint32, tag = "3")]
    pub(super) consistency: u32,
    #[prost(string, tag = "4")]
    pub(super) note: String,
}

#[derive(Clone, PartialEq, Message)]
struct PSync {
    #[prost(uint32, tag = "1")]
    cause: u32,
    #[prost(message, optional, tag = "2")]
    sound: Option<PPassed>,
    #[prost(message, optional, tag = "3")]
    end: Option<PPassed>,
    #[prost(uint64, tag = "4")]
    copied: u64,
    #[prost(bool, tag = "5")]
    harmless: bool,
    #[prost(bool, tag = "6")]
    interrupted: bool,
    #[prost(uint32, tag = "7")]
    ends_with: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PImage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(fixed64, tag = "3")]
    volume: u64,
    #[prost(fixed64, tag = "4")]
    stream: u64,
    #[prost(message, optional, tag = "5")]
    point: Option<PPassed>,
    #[prost(bool, tag = "6")]
    writable: bool,
    #[prost(uint64, tag = "7")]
    quota: u64,
    #[prost(fixed64, tag = "8")]
    created_at: u64,
    #[prost(uint64, optional, tag = "9")]
    parent: Option<u64>,
}

const CAUSES: [(SyncCause, u32); 6] = [
    (SyncCause::Baseline, 1),
    (SyncCause::UncleanStop, 2),
    (SyncCause::Overflow, 3),
    (SyncCause::HopLost, 4),
    (SyncCause::ChangedUnwatched, 5),
    (SyncCause::FailedWrite, 6),
];

const CONSISTENCIES: [(Consistency, u32); 3] =
    [(Consistency::Crash, 1), (Consistency::FileSystem, 2), (Consistency::Application, 3)];

fn code<T: PartialEq>(table: &[(T, u32)], value: &T) -> u32 {
    table.iter().find(|(v, _)| v == value).map_or(0, |(_, c)| *c)
}

fn value<T: Copy>(table: &[(T, u32)], code: u32, what: &str) -> Result<T, CatalogueError> {
    let found = table.iter().find(|(_, c)| *c == code).map(|(v, _)| *v);
    found.ok_or_else(|| CatalogueError::Malformed(format!("unknown {what} {code}")))
}

impl Catalogue {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(whole_volume)
    }

    /// The same of all that has no rows of its own: see [`super::rows`].
    #[must_use]
    pub fn encode_beside_rows(&self) -> Vec<u8> {
        self.encode_with(|volume| volume_out_beside_rows(volume).encode_to_vec())
    }

    /// One volume after the other: of a million bookmarks there is no second form in memory but the bytes.
    fn encode_with(&self, volume_out: fn(&Volume) -> Vec<u8>) -> Vec<u8> {
        let version = self.volumes.values().map(|v| version_of(v)).max().unwrap_or(1);
        let mut out = PCatalogue { version, ..PCatalogue::default() }.encode_to_vec();
        for volume in self.volumes.values() {
            let bytes = volume_out(volume);
            encode_key(2, WireType::LengthDelimited, &mut out);
            encode_varint(count(bytes.len()), &mut out);
            out.extend_from_slice(&bytes);
        }
        let rest = PCatalogue {
            version: 0,
            volumes: Vec::new(),
            streams: self.streams.iter().map(|(s, e)| PStream { id: s.get(), epoch: e.get() }).collect(),
            images: self.images.values().map(image_out).collect(),
            last_image: self.last_image,
            rules: self.rules.records().iter().map(MetaRecord::encode).collect(),
        };
        out.extend_from_slice(&rest.encode_to_vec());
        out
    }

    /// Back from bytes.
    ///
    /// # Errors
    /// [`CatalogueError`]; the catalogue is then to be built from the journal.
    pub fn decode(bytes: &[u8]) -> Result<Self, CatalogueError> {
        let twin = PCatalogue::decode(bytes).map_err(malformed)?;
        if !(1..=VERSION).contains(&twin.version) {
            return Err(CatalogueError::Version(twin.version));
        }
        let mut catalogue = Self { last_image: twin.last_image, ..Self::default() };
        for stream in twin.streams {
            catalogue.streams.insert(StreamId::new(stream.id), Epoch::new(stream.epoch));
        }
        for volume in twin.volumes {
            let volume = volume_in(volume)?;
            catalogue.volumes.insert(volume.id, Arc::new(volume));
        }
        let mut images = BTreeMap::new();
        for image in twin.images {
            let image = image_in(&image)?;
            images.insert(image.id, image);
        }
        catalogue.images = Arc::new(images);
        for record in twin.rules {
            catalogue.apply_meta(&MetaRecord::decode(&record).map_err(malformed)?);
        }
        Ok(catalogue)
    }
}

fn version_of(volume: &Volume) -> u32 {
    match volume {
        Volume { clocks, .. } if !clocks.is_empty() => VERSION,
        Volume { marks, .. } if *marks != Marks::default() => WITH_MARKS,
        _ => 1,
    }
}

pub(super) fn malformed(why: impl std::fmt::Display) -> CatalogueError {
    CatalogueError::Malformed(why.to_string())
}

fn lsn_in(raw: u64) -> Result<Lsn, CatalogueError> {
    Lsn::new(raw).ok_or_else(|| malformed(format!("LSN {raw} out of range")))
}

fn name_in(text: &str) -> Result<Name, CatalogueError> {
    text.parse().map_err(malformed)
}

const fn passed_out(passed: Passed) -> PPassed {
    PPassed { lsn: passed.lsn.get(), at: passed.at.nanos() }
}

fn passed_in(twin: PPassed) -> Result<Passed, CatalogueError> {
    Ok(Passed { lsn: lsn_in(twin.lsn)?, at: WallTime::from_nanos(twin.at) })
}

fn needed(twin: Option<PPassed>) -> Result<Passed, CatalogueError> {
    twin.ok_or_else(|| malformed("a place is missing")).and_then(passed_in)
}

/// The bytes of a volume, with its bookmarks between the fields before theirs and those behind.
fn whole_volume(v: &Volume) -> Vec<u8> {
    let PVolume { id, name, stream, sizes, runs, syncs, clocks, gone, .. } = volume_out_beside_rows(v);
    let marks = (v.marks != Marks::default()).then(|| marks_out(&v.marks));
    let mut out = PVolume { id, name, stream, sizes, runs, ..PVolume::default() }.encode_to_vec();
    v.bookmarks.iter().for_each(|one| message::encode(6, &bookmark_out(one), &mut out));
    out.extend_from_slice(&PVolume { syncs, marks, clocks, gone, ..PVolume::default() }.encode_to_vec());
    out
}

fn volume_out_beside_rows(v: &Volume) -> PVolume {
    let memberships = v.marks.memberships();
    PVolume {
        id: v.id.get(),
        name: v.name.to_string(),
        stream: v.stream.get(),
        sizes: v.sizes.iter().map(|(l, &size)| PSize { from: l.get(), size }).collect(),
        runs: v.runs.iter().map(run_out).collect(),
        bookmarks: Vec::new(),
        syncs: v.syncs.iter().map(sync_out).collect(),
        marks: (!memberships.is_empty()).then(|| marks_of(memberships, Lists::default())),
        clocks: v.clocks.iter().map(clock_out).collect(),
        gone: v.gone.iter().map(gone_out).collect(),
    }
}

fn volume_in(twin: PVolume) -> Result<Volume, CatalogueError> {
    let mut volume = Volume::new(VolumeId::new(twin.id), name_in(&twin.name)?, StreamId::new(twin.stream));
    for size in twin.sizes {
        volume.sizes.insert(lsn_in(size.from)?, size.size);
    }
    volume.runs = twin.runs.into_iter().map(run_in).collect::<Result<_, _>>()?;
    let bookmarks = twin.bookmarks.into_iter().map(bookmark_in);
    volume.bookmarks = bookmarks.collect::<Result<_, _>>()?;
    volume.syncs = twin.syncs.into_iter().map(sync_in).collect::<Result<_, _>>()?;
    volume.marks = twin.marks.map(marks_in).transpose()?.unwrap_or_default();
    volume.clocks = twin.clocks.into_iter().map(clock_in).collect::<Result<_, _>>()?;
    volume.gone = Arc::new(twin.gone.into_iter().map(gone_in).collect::<Result<_, _>>()?);
    Ok(volume)
}

fn marks_out(marks: &Marks) -> PMarks {
    marks_of(marks.memberships(), marks.lists())
}

pub(super) fn marks_of(memberships: &[Membership], Lists([lsns, ats, ids, received]): Lists) -> PMarks {
    let membership = |m: &Membership| PMembership {
        from: m.from.get(),
        group: m.group.to_string(),
        members: m.members.iter().map(|v| v.get()).collect(),
    };
    let memberships = memberships.iter().map(membership).collect();
    PMarks { lsns, ats, ids, received, memberships }
}

fn marks_in(twin: PMarks) -> Result<Marks, CatalogueError> {
    let mut marks = Marks::default();
    for membership in twin.memberships {
        let (from, group) = (lsn_in(membership.from)?, name_in(&membership.group)?);
        let members = membership.members.into_iter().map(VolumeId::new).collect();
        marks.join(Membership { from, group, members });
    }
    let lists = [&twin.lsns[..], &twin.ats[..], &twin.ids[..], &twin.received[..]];
    mark_points(lists)?.into_iter().for_each(|mark| marks.push(mark));
    Ok(marks)
}

pub(super) fn mark_points(lists: [&[u8]; 4]) -> Result<Vec<MarkPoint>, CatalogueError> {
    Lists::decode(lists).ok_or_else(|| malformed("the lists of marks differ in length, or are none"))
}

fn run_out(run: &Run) -> PRun {
    PRun {
        id: run.id.get(),
        epoch: run.epoch.get(),
        first: Some(passed_out(run.first)),
        previous: run.previous.map(passed_out),
    }
}

fn run_in(twin: PRun) -> Result<Run, CatalogueError> {
    Ok(Run {
        id: RunId::new(twin.id),
        epoch: Epoch::new(twin.epoch),
        first: needed(twin.first)?,
        previous: twin.previous.map(passed_in).transpose()?,
    })
}

const fn clock_out(set: &ClockSet) -> PClockSet {
    PClockSet { first: Some(passed_out(set.first)), before: set.before.nanos() }
}

fn clock_in(twin: PClockSet) -> Result<ClockSet, CatalogueError> {
    Ok(ClockSet { first: needed(twin.first)?, before: WallTime::from_nanos(twin.before) })
}

fn gone_out((name, at): &(Name, Passed)) -> PGone {
    PGone { name: name.to_string(), at: Some(passed_out(*at)) }
}

fn gone_in(twin: PGone) -> Result<(Name, Passed), CatalogueError> {
    Ok((name_in(&twin.name)?, needed(twin.at)?))
}

pub(super) fn bookmark_out((name, point): (&Name, &BookmarkPoint)) -> PBookmark {
    PBookmark {
        name: name.to_string(),
        at: Some(passed_out(point.at)),
        consistency: code(&CONSISTENCIES, &point.consistency),
        note: point.note.to_string(),
    }
}

pub(super) fn bookmark_in(twin: PBookmark) -> Result<(Name, BookmarkPoint), CatalogueError> {
    let consistency = value(&CONSISTENCIES, twin.consistency, "consistency")?;
    let (at, note) = (needed(twin.at)?, twin.note.into());
    Ok((name_in(&twin.name)?, BookmarkPoint { at, consistency, note }))
}

fn sync_out(sync: &SyncSpan) -> PSync {
    PSync {
        cause: code(&CAUSES, &sync.cause),
        sound: sync.sound.map(passed_out),
        end: sync.end.map(passed_out),
        copied: sync.copied,
        harmless: sync.harmless,
        interrupted: sync.interrupted,
        ends_with: code(&CAUSES, &sync.ends_with),
    }
}

fn sync_in(twin: PSync) -> Result<SyncSpan, CatalogueError> {
    Ok(SyncSpan {
        cause: value(&CAUSES, twin.cause, "sync cause")?,
        sound: twin.sound.map(passed_in).transpose()?,
        end: twin.end.map(passed_in).transpose()?,
        copied: twin.copied,
        harmless: twin.harmless,
        interrupted: twin.interrupted,
        ends_with: value(&CAUSES, twin.ends_with, "sync cause")?,
    })
}

fn image_out(image: &ImageRecord) -> PImage {
    PImage {
        id: image.id.get(),
        name: image.name.to_string(),
        volume: image.volume.get(),
        stream: image.stream.get(),
        point: Some(PPassed { lsn: image.point.get(), at: image.at.nanos() }),
        writable: image.writable,
        quota: image.quota,
        created_at: image.created_at.nanos(),
        parent: image.parent.map(ImageId::get),
    }
}

fn image_in(twin: &PImage) -> Result<ImageRecord, CatalogueError> {
    let at = needed(twin.point)?;
    Ok(ImageRecord {
        id: ImageId::new(twin.id),
        name: name_in(&twin.name)?,
        volume: VolumeId::new(twin.volume),
        stream: StreamId::new(twin.stream),
        point: at.lsn,
        at: at.at,
        writable: twin.writable,
        quota: twin.quota,
        created_at: WallTime::from_nanos(twin.created_at),
        parent: twin.parent.map(ImageId::new),
    })
}
