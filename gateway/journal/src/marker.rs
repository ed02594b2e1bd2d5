//! Markers as bytes: prost twins of the vocabulary's types, so that a field can be added without a new format.

use prost::{Message, Oneof};
use tap_block::{
    BarrierMark, Bookmark, Consistency, Lsn, MAX_MEMBERS, MarkId, Marker, Name, RunId, RunStart, SyncCause,
    VolumeId, WallTime,
};

use crate::error::FormatError;

const WHAT: &str = "marker";

#[derive(Clone, PartialEq, Message)]
struct PMarker {
    #[prost(oneof = "PKind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<PKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum PKind {
    #[prost(message, tag = "1")]
    RunStart(PRunStart),
    #[prost(message, tag = "2")]
    Bookmark(PBookmark),
    #[prost(message, tag = "3")]
    SyncStart(PSyncStart),
    #[prost(message, tag = "4")]
    SyncEnd(PSyncEnd),
    #[prost(message, tag = "5")]
    Barrier(PBarrier),
    #[prost(message, tag = "6")]
    ClockSet(PClockSet),
}

#[derive(Clone, PartialEq, Message)]
struct PClockSet {
    #[prost(fixed64, tag = "1")]
    before: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PBarrier {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(fixed64, repeated, tag = "3")]
    members: Vec<u64>,
    #[prost(message, optional, tag = "4")]
    bookmark: Option<PBookmark>,
}

#[derive(Clone, PartialEq, Message)]
struct PRunStart {
    #[prost(fixed64, optional, tag = "1")]
    previous: Option<u64>,
    #[prost(uint64, tag = "2")]
    durable: u64,
    #[prost(fixed64, tag = "3")]
    volume: u64,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(uint64, tag = "5")]
    size: u64,
    #[prost(uint32, tag = "6")]
    sync: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PBookmark {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    consistency: u32,
    #[prost(string, tag = "3")]
    note: String,
}

#[derive(Clone, PartialEq, Message)]
struct PSyncStart {
    #[prost(uint32, tag = "1")]
    cause: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PSyncEnd {
    #[prost(uint32, tag = "1")]
    cause: u32,
    #[prost(uint64, tag = "2")]
    copied: u64,
    #[prost(bool, tag = "3")]
    from_zero: bool,
}

const fn cause_code(cause: SyncCause) -> u32 {
    match cause {
        SyncCause::Baseline => 1,
        SyncCause::UncleanStop => 2,
        SyncCause::Overflow => 3,
        SyncCause::HopLost => 4,
        SyncCause::ChangedUnwatched => 5,
        SyncCause::FailedWrite => 6,
    }
}

fn cause(code: u32) -> Result<SyncCause, FormatError> {
    Ok(match code {
        1 => SyncCause::Baseline,
        2 => SyncCause::UncleanStop,
        3 => SyncCause::Overflow,
        4 => SyncCause::HopLost,
        5 => SyncCause::ChangedUnwatched,
        6 => SyncCause::FailedWrite,
        other => return Err(FormatError::malformed(WHAT, format!("unknown sync cause {other}"))),
    })
}

const fn consistency_code(consistency: Consistency) -> u32 {
    match consistency {
        Consistency::Crash => 1,
        Consistency::FileSystem => 2,
        Consistency::Application => 3,
    }
}

fn consistency(code: u32) -> Result<Consistency, FormatError> {
    Ok(match code {
        1 => Consistency::Crash,
        2 => Consistency::FileSystem,
        3 => Consistency::Application,
        other => return Err(FormatError::malformed(WHAT, format!("unknown consistency {other}"))),
    })
}

/// A marker as bytes.
#[must_use]
pub fn encode_marker(marker: &Marker) -> Vec<u8> {
    let kind = match marker {
        Marker::RunStart(start) => PKind::RunStart(run_start_out(start)),
        Marker::Bookmark(mark) => PKind::Bookmark(bookmark_out(mark)),
        Marker::Barrier(mark) => PKind::Barrier(PBarrier {
            id: mark.id.get(),
            group: mark.group.to_string(),
            members: mark.members.iter().map(|v| v.get()).collect(),
            bookmark: mark.bookmark.as_ref().map(bookmark_out),
        }),
        Marker::ClockSet { before } => PKind::ClockSet(PClockSet { before: before.nanos() }),
        Marker::SyncStart { cause } => PKind::SyncStart(PSyncStart { cause: cause_code(*cause) }),
        Marker::SyncEnd { cause, copied, from_zero } => {
            PKind::SyncEnd(PSyncEnd { cause: cause_code(*cause), copied: *copied, from_zero: *from_zero })
        }
    };
    PMarker { kind: Some(kind) }.encode_to_vec()
}

/// A marker back from bytes.
///
/// # Errors
/// [`FormatError`] when they are none.
pub fn decode_marker(bytes: &[u8]) -> Result<Marker, FormatError> {
    let twin = PMarker::decode(bytes).map_err(|e| FormatError::malformed(WHAT, e.to_string()))?;
    Ok(match twin.kind.ok_or_else(|| FormatError::malformed(WHAT, "of an unknown kind"))? {
        PKind::RunStart(start) => Marker::RunStart(run_start(start)?),
        PKind::Bookmark(mark) => Marker::Bookmark(bookmark_in(mark)?),
        PKind::Barrier(mark) => Marker::Barrier(barrier_in(mark)?),
        PKind::ClockSet(set) => Marker::ClockSet { before: WallTime::from_nanos(set.before) },
        PKind::SyncStart(start) => Marker::SyncStart { cause: cause(start.cause)? },
        PKind::SyncEnd(end) => {
            Marker::SyncEnd { cause: cause(end.cause)?, copied: end.copied, from_zero: end.from_zero }
        }
    })
}

fn bookmark_out(mark: &Bookmark) -> PBookmark {
    PBookmark {
        name: mark.name.to_string(),
        consistency: consistency_code(mark.consistency),
        note: mark.note.clone(),
    }
}

fn bookmark_in(twin: PBookmark) -> Result<Bookmark, FormatError> {
    Ok(Bookmark { name: name(&twin.name)?, consistency: consistency(twin.consistency)?, note: twin.note })
}

fn barrier_in(twin: PBarrier) -> Result<BarrierMark, FormatError> {
    let ascending = twin.members.is_sorted_by(|a, b| a < b);
    if twin.members.is_empty() || twin.members.len() > MAX_MEMBERS || !ascending {
        return Err(FormatError::malformed(WHAT, "a group's members are too many or out of order"));
    }
    Ok(BarrierMark {
        id: MarkId::new(twin.id),
        group: name(&twin.group)?,
        members: twin.members.into_iter().map(VolumeId::new).collect(),
        bookmark: twin.bookmark.map(bookmark_in).transpose()?,
    })
}

fn name(text: &str) -> Result<Name, FormatError> {
    text.parse().map_err(|e| FormatError::malformed(WHAT, format!("name: {e}")))
}

fn run_start_out(start: &RunStart) -> PRunStart {
    PRunStart {
        previous: start.previous.map(RunId::get),
        durable: start.durable.get(),
        volume: start.volume.get(),
        name: start.name.to_string(),
        size: start.size,
        sync: start.sync.map_or(0, cause_code),
    }
}

fn run_start(twin: PRunStart) -> Result<RunStart, FormatError> {
    Ok(RunStart {
        previous: twin.previous.map(RunId::new),
        durable: Lsn::new(twin.durable).ok_or_else(|| FormatError::malformed(WHAT, "LSN out of range"))?,
        volume: VolumeId::new(twin.volume),
        name: name(&twin.name)?,
        size: twin.size,
        sync: if twin.sync == 0 { None } else { Some(cause(twin.sync)?) },
    })
}
