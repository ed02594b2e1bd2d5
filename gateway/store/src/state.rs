//! How far the index goes, as bytes, and in a manifest what was known where the log goes on. For the index another version
//! number means that it is built again; manifests are read for ever.

use std::sync::Arc;

use gateway_image::Catalogue;
use gateway_journal::{GroupNo, SegmentId, Start};
use prost::Message;
use tap_block::{Epoch, Lsn, Position, RunId, StreamId, VolumeId, WallTime};

use crate::error::Damage;
use crate::history::Suspect;
use crate::names::Tally;
use crate::tail::{Durable, Frozen, GroupInfo, StreamState};

const VERSION: u32 = 2;
/// The same where bookmarks and barrier marks have rows of their own: in the index alone.
const VERSION_WITH_NAMES: u32 = 3;

#[derive(Clone, PartialEq, Message)]
struct PState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    store: u64,
    #[prost(uint64, tag = "3")]
    group: u64,
    #[prost(uint32, tag = "4")]
    segment: u32,
    #[prost(uint32, tag = "5")]
    at: u32,
    #[prost(uint32, tag = "6")]
    number: u32,
    #[prost(uint32, tag = "7")]
    frame_group: u32,
    #[prost(fixed64, optional, tag = "8")]
    previous: Option<u64>,
    #[prost(bytes = "vec", tag = "9")]
    catalogue: Vec<u8>,
    #[prost(message, repeated, tag = "10")]
    streams: Vec<PStream>,
    #[prost(message, repeated, tag = "11")]
    damage: Vec<PDamage>,
    #[prost(fixed64, tag = "12")]
    received_at: u64,
    #[prost(message, optional, tag = "13")]
    suspect: Option<PSuspect>,
    #[prost(message, optional, tag = "14")]
    names: Option<PTally>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PTally {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(fixed64, tag = "2")]
    sum: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PSuspect {
    #[prost(message, optional, tag = "1")]
    damage: Option<PDamage>,
    #[prost(fixed64, repeated, tag = "2")]
    seen: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PStream {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    lsn: u64,
    #[prost(fixed64, tag = "3")]
    run: u64,
    #[prost(uint32, tag = "4")]
    epoch: u32,
    #[prost(fixed64, tag = "5")]
    at: u64,
    #[prost(fixed64, tag = "6")]
    latest: u64,
    #[prost(fixed64, tag = "7")]
    row_time: u64,
    #[prost(uint32, tag = "8")]
    row_frames: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PDamage {
    #[prost(uint32, tag = "1")]
    segment: u32,
    #[prost(uint32, tag = "2")]
    from: u32,
    #[prost(uint32, tag = "3")]
    to: u32,
    #[prost(string, tag = "4")]
    detail: String,
    #[prost(message, repeated, tag = "5")]
    lost: Vec<PLost>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PLost {
    #[prost(fixed64, tag = "1")]
    stream: u64,
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PGroup {
    #[prost(fixed64, repeated, tag = "1")]
    volumes: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    mins: Vec<u64>,
    #[prost(uint32, tag = "3")]
    segment: u32,
    #[prost(uint32, tag = "4")]
    at: u32,
    #[prost(uint32, tag = "5")]
    number: u32,
    #[prost(uint32, tag = "6")]
    frame_group: u32,
    #[prost(fixed64, optional, tag = "7")]
    previous: Option<u64>,
    #[prost(fixed64, tag = "8")]
    received_at: u64,
    #[prost(uint64, tag = "9")]
    versions: u64,
    #[prost(fixed64, repeated, tag = "10")]
    streams: Vec<u64>,
    #[prost(uint64, repeated, tag = "11")]
    spans: Vec<u64>,
}

/// What the index knows about itself.
#[derive(Debug, Clone)]
pub(crate) struct IndexState {
    pub(crate) group: GroupNo,
    pub(crate) through: (SegmentId, Start),
    /// Without bookmarks and barrier marks where those have rows of their own, until they are taken in.
    pub(crate) catalogue: Arc<Catalogue>,
    /// Their rows.
    pub(crate) names: Option<Tally>,
    pub(crate) streams: Vec<(StreamId, StreamState)>,
    pub(crate) damage: Vec<Damage>,
    /// Of the last of it, not all streams have shown yet what it cost them.
    pub(crate) suspect: Option<Suspect>,
    /// When the last of it was received.
    pub(crate) received_at: WallTime,
}

pub(crate) fn encode(frozen: &Frozen) -> Vec<u8> {
    state_out(frozen, frozen.catalogue.encode()).encode_to_vec()
}

/// The same beside rows that hold bookmarks and barrier marks.
pub(crate) fn encode_beside_names(frozen: &Frozen, names: Tally) -> Vec<u8> {
    let twin = state_out(frozen, frozen.catalogue.encode_beside_rows());
    let names = PTally { count: names.count, sum: names.sum };
    PState { version: VERSION_WITH_NAMES, names: Some(names), ..twin }.encode_to_vec()
}

fn state_out(frozen: &Frozen, catalogue: Vec<u8>) -> PState {
    let (segment, start) = frozen.through;
    PState {
        version: VERSION,
        store: frozen.store.get(),
        group: frozen.group.no.get(),
        segment: segment.get(),
        at: start.at,
        number: start.number,
        frame_group: start.group,
        previous: start.previous,
        catalogue,
        streams: frozen.streams.iter().map(stream_out).collect(),
        damage: frozen.damage.iter().map(damage_out).collect(),
        received_at: frozen.received_at.nanos(),
        suspect: frozen.suspect.as_ref().map(suspect_out),
        names: None,
    }
}

/// Back from bytes; `None` when they say nothing that can be relied on.
pub(crate) fn decode(bytes: &[u8], store: gateway_journal::StoreId) -> Option<IndexState> {
    let twin = PState::decode(bytes).ok()?;
    let names = twin.names.map(|PTally { count, sum }| Tally { count, sum });
    let is_known = match twin.version {
        VERSION => names.is_none(),
        VERSION_WITH_NAMES => names.is_some(),
        _ => false,
    };
    if !is_known || twin.store != store.get() {
        return None;
    }
    let start = Start { at: twin.at, number: twin.number, group: twin.frame_group, previous: twin.previous };
    Some(IndexState {
        group: GroupNo::new(twin.group),
        through: (SegmentId::new(twin.segment), start),
        catalogue: Arc::new(Catalogue::decode(&twin.catalogue).ok()?),
        names,
        streams: twin.streams.iter().map(stream_in).collect::<Option<_>>()?,
        damage: twin.damage.into_iter().map(damage_in).collect::<Option<_>>()?,
        suspect: suspect_in(twin.suspect)?,
        received_at: WallTime::from_nanos(twin.received_at),
    })
}

fn suspect_out(suspect: &Suspect) -> PSuspect {
    let seen = suspect.seen.iter().map(|stream| stream.get()).collect();
    PSuspect { damage: Some(damage_out(&suspect.damage)), seen }
}

/// `None` when there is one that says nothing.
fn suspect_in(twin: Option<PSuspect>) -> Option<Option<Suspect>> {
    let Some(twin) = twin else { return Some(None) };
    let seen = twin.seen.into_iter().map(StreamId::new).collect();
    Some(Some(Suspect { damage: damage_in(twin.damage?)?, seen }))
}

const fn stream_out((id, state): &(StreamId, StreamState)) -> PStream {
    PStream {
        id: id.get(),
        lsn: state.durable.lsn.get(),
        run: state.durable.run.get(),
        epoch: state.durable.epoch.get(),
        at: state.durable.at.nanos(),
        latest: state.latest.nanos(),
        row_time: state.row.0.nanos(),
        row_frames: state.row.1,
    }
}

fn stream_in(twin: &PStream) -> Option<(StreamId, StreamState)> {
    let durable = Durable {
        lsn: Lsn::new(twin.lsn)?,
        run: RunId::new(twin.run),
        epoch: Epoch::new(twin.epoch),
        at: WallTime::from_nanos(twin.at),
    };
    let latest = WallTime::from_nanos(twin.latest);
    let row = (WallTime::from_nanos(twin.row_time), twin.row_frames);
    Some((StreamId::new(twin.id), StreamState { durable, latest, row }))
}

fn damage_out(damage: &Damage) -> PDamage {
    let lost = |&(stream, from, to): &(StreamId, Lsn, Lsn)| PLost {
        stream: stream.get(),
        from: from.get(),
        to: to.get(),
    };
    PDamage {
        segment: damage.segment.get(),
        from: damage.from,
        to: damage.to,
        detail: damage.detail.clone(),
        lost: damage.lost.iter().map(lost).collect(),
    }
}

fn damage_in(twin: PDamage) -> Option<Damage> {
    let lost = |l: &PLost| Some((StreamId::new(l.stream), Lsn::new(l.from)?, Lsn::new(l.to)?));
    Some(Damage {
        segment: SegmentId::new(twin.segment),
        from: twin.from,
        to: twin.to,
        detail: twin.detail,
        lost: twin.lost.iter().map(lost).collect::<Option<_>>()?,
    })
}

pub(crate) fn encode_group(info: &GroupInfo) -> Vec<u8> {
    let (segment, start) = info.through;
    PGroup {
        volumes: info.mins.iter().map(|(v, _)| v.get()).collect(),
        mins: info.mins.iter().map(|(_, p)| p.get()).collect(),
        segment: segment.get(),
        at: start.at,
        number: start.number,
        frame_group: start.group,
        previous: start.previous,
        received_at: info.received_at.nanos(),
        versions: info.versions,
        streams: info.spans.iter().map(|(s, _)| s.get()).collect(),
        spans: info.spans.iter().map(|(_, n)| *n).collect(),
    }
    .encode_to_vec()
}

pub(crate) fn decode_group(no: GroupNo, bytes: &[u8]) -> Option<GroupInfo> {
    let twin = PGroup::decode(bytes).ok()?;
    let mins = twin.volumes.iter().zip(&twin.mins);
    let mins =
        mins.map(|(&v, &p)| Some((VolumeId::new(v), Position::from_raw(p)?))).collect::<Option<_>>()?;
    let start = Start { at: twin.at, number: twin.number, group: twin.frame_group, previous: twin.previous };
    Some(GroupInfo {
        no,
        mins,
        through: (SegmentId::new(twin.segment), start),
        received_at: WallTime::from_nanos(twin.received_at),
        versions: twin.versions,
        spans: twin.streams.iter().zip(&twin.spans).map(|(&s, &n)| (StreamId::new(s), n)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use gateway_journal::StoreId;

    use super::*;
    use crate::history::History;
    use crate::tail::Group;

    /// Manifests are read for ever, and hold a state each. `GOLDEN=write` writes the fixtures of a new one.
    fn pinned(name: &str, bytes: &[u8]) {
        let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/golden").join(name);
        let line = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
        let text: String = bytes.chunks(32).map(line).collect();
        if std::env::var_os("GOLDEN").is_some_and(|v| v == "write") {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}: the bytes changed");
    }

    #[test]
    fn a_state_has_the_bytes_that_it_always_had() {
        let lsn = |n| Lsn::new(n).unwrap();
        let at = WallTime::from_nanos(0x0102_0304_0506_0708);
        let mut history = History::new(StoreId::new(7));
        let durable = Durable { lsn: lsn(70), run: RunId::new(0x11), epoch: Epoch::new(2), at };
        let state = StreamState { durable, latest: at, row: (at, 5) };
        history.streams.insert(StreamId::new(5), state);
        let lost = vec![(StreamId::new(5), lsn(60), lsn(63))];
        let damage = Damage { segment: SegmentId::new(3), from: 4096, to: 8192, detail: "torn".into(), lost };
        history.damage.push(damage.clone());
        let _ = history.received(at);
        let place = (SegmentId::new(3), Start { at: 12288, number: 9, group: 4, previous: Some(0x99) });
        let bytes = |history: &History| encode(&history.frozen(Group::new(GroupNo::new(6)), place));
        pinned("state.hex", &bytes(&history));
        // Field 13 came later.
        history.suspect = Some(Suspect { damage, seen: vec![StreamId::new(5), StreamId::new(8)] });
        pinned("state-suspect.hex", &bytes(&history));
        // And 14, of an index whose names have rows.
        let names = Tally { count: 3, sum: 0x0102_0304 };
        let beside = encode_beside_names(&history.frozen(Group::new(GroupNo::new(6)), place), names);
        pinned("state-names.hex", &beside);
        assert_eq!(decode(&beside, history.store).unwrap().names, Some(names));
        let known = decode(&bytes(&history), history.store).unwrap();
        assert_eq!((known.suspect, known.damage, known.through), (history.suspect, history.damage, place));
        assert_eq!(known.streams, [(StreamId::new(5), state)]);
        assert!(decode(&[], history.store).is_none());
    }

    #[test]
    fn what_damage_cost_a_stream_that_has_not_gone_on_yet_is_asked_again_behind_a_restart() {
        let mut history = History::new(StoreId::new(7));
        let place = (SegmentId::new(3), Start::of_segment(None));
        let damage = Damage { segment: place.0, from: 0, to: 4096, detail: "torn".into(), lost: Vec::new() };
        history.damaged(damage);
        history.suspect.as_mut().unwrap().seen.push(StreamId::new(5));
        let bytes = encode(&history.frozen(Group::new(GroupNo::new(1)), place));
        let known = decode(&bytes, history.store).unwrap();
        assert_eq!((known.suspect, known.damage), (history.suspect.clone(), history.damage.clone()));
        history.suspect = None;
        let bytes = encode(&history.frozen(Group::new(GroupNo::new(1)), place));
        assert_eq!(decode(&bytes, history.store).unwrap().suspect, None);
    }
}
