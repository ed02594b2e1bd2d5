//! The bytes of every message, as they were when the format was fixed. A change here is a change of the protocol:
//! it needs a new number or a field that older peers may ignore.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cx_wire::{
    Accepted, Ack, Answer, Ask, AskCode, AskError, Goodbye, Hashes, Heartbeat, Hello, KnownStore, LedgerHead,
    Lookup, Message, PROTOCOL, Query, QueryReply, Question, RecordSeen, Refuse, RefuseCode, Reply, RunSeen,
    SetBack, SyncProgress, TapState, TapStatus, Welcome, Witness, decode_batch, encode_batch,
};
use tap_block::{
    Action, BarrierMark, Batch, BlockNo, Bookmark, Consistency, Entry, Epoch, Extent, Lsn, MarkId, Marker,
    Name, Position, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};

const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn every_message_keeps_its_bytes() {
    let golden: BTreeMap<&str, &str> = GOLDEN.lines().filter_map(|l| l.split_once(' ')).collect();
    let mut wrong = String::new();
    for (name, message) in messages() {
        let bytes = message.encode().concat();
        let hex = to_hex(&bytes);
        if golden.get(name) != Some(&hex.as_str()) {
            writeln!(wrong, "{name} {hex}").unwrap();
        }
        assert_eq!(Message::decode(bytes), Ok(message), "{name}");
    }
    assert!(wrong.is_empty(), "these bytes are new:\n{wrong}");
    assert_eq!(golden.len(), messages().len());
}

#[test]
fn a_spooled_batch_is_the_same_protobuf_without_its_envelope() {
    let batch = batch();
    let spooled = encode_batch(&batch).concat();
    let sent = Message::Data(Arc::new(batch.clone())).encode().concat();
    assert!(sent.ends_with(&spooled));
    assert_eq!(decode_batch(spooled), Ok(batch));
}

#[test]
fn decoding_copies_no_body() {
    let sent = Message::Data(Arc::new(batch())).encode().concat();
    let range = sent.as_ptr_range();
    let Ok(Message::Data(batch)) = Message::decode(sent.clone()) else { panic!("no batch") };
    assert!(range.contains(&batch.body.as_ptr()));
}

/// What a peer makes of a barrier, or of a clock that was set, that does not know them.
#[test]
fn an_older_peer_sees_the_end_of_no_sync_where_a_newer_marker_is() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Envelope {
        #[prost(message, optional, tag = "15")]
        data: Option<Data>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Data {
        #[prost(message, repeated, tag = "12")]
        markers: Vec<Mark>,
    }
    /// Of the kinds that there were, 1 to 4.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Mark {
        #[prost(message, optional, tag = "4")]
        sync_end: Option<SyncEnd>,
    }
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    struct SyncEnd {
        #[prost(uint32, tag = "1")]
        cause: u32,
        #[prost(uint64, tag = "2")]
        copied: u64,
        #[prost(bool, tag = "3")]
        from_zero: bool,
    }
    let sent = Message::Data(Arc::new(barriers())).encode().concat();
    let seen = <Envelope as prost::Message>::decode(sent).unwrap();
    // 6: a write that the local disk refused. A tap with such a sync open puts no barrier, and tells no clock that was set.
    let end = Mark { sync_end: Some(SyncEnd { cause: 6, copied: 0, from_zero: false }) };
    assert_eq!(seen.data.unwrap().markers, [end.clone(), end.clone()]);
    let sent = Message::Data(Arc::new(clock_set())).encode().concat();
    let seen = <Envelope as prost::Message>::decode(sent).unwrap();
    assert_eq!(seen.data.unwrap().markers, [end]);
}

fn messages() -> Vec<(&'static str, Message)> {
    let mut all = vec![
        ("hello", Message::Hello(hello())),
        ("welcome", Message::Welcome(welcome(Some(RunId::new(3))))),
        ("welcome-stranger", Message::Welcome(welcome(None))),
        ("data", Message::Data(Arc::new(batch()))),
        ("data-copies", Message::Data(Arc::new(copies()))),
        ("data-barriers", Message::Data(Arc::new(barriers()))),
        ("data-clock", Message::Data(Arc::new(clock_set()))),
        ("heartbeat", Message::Heartbeat(beat(None))),
        ("heartbeat-ledgers", Message::Heartbeat(beat(Some(vec![ledger_head(), ledger_head()])))),
        ("heartbeat-no-ledgers", Message::Heartbeat(beat(Some(Vec::new())))),
        ("heartbeat-witnesses", Message::Heartbeat(Heartbeat { witnesses: vec![witness()], ..beat(None) })),
        (
            "heartbeat-refused",
            Message::Heartbeat(Heartbeat { refused: Some("web01: an old copy".to_owned()), ..beat(None) }),
        ),
        ("heartbeat-set-back", Message::Heartbeat(Heartbeat { set_back: Some(set_back()), ..beat(None) })),
        ("heartbeat-stores", Message::Heartbeat(Heartbeat { stores: vec![known_store()], ..beat(None) })),
        ("welcome-store", Message::Welcome(Welcome { store: Some(0x7777), ..welcome(None) })),
        (
            "welcome-past",
            Message::Welcome(Welcome { past: Some(vec![run_seen()]), ..welcome(Some(RunId::new(3))) }),
        ),
        (
            "welcome-last",
            Message::Welcome(Welcome { last: Some(record_seen()), ..welcome(Some(RunId::new(3))) }),
        ),
        ("ack-witnessed", Message::Ack(Ack { witnessed: Some(ledger_head()), ..ack(None) })),
        ("ack", Message::Ack(ack(None))),
        ("ack-ledger", Message::Ack(ack(Some(ledger_head())))),
        ("goodbye", Message::Goodbye(Goodbye { reason: "bye".to_owned() })),
    ];
    all.extend(refusals());
    all.extend(queries());
    all.extend(questions().into_iter().map(|(name, question)| (name, Message::Ask(Ask { id: 9, question }))));
    all.extend(results().into_iter().map(|(name, result)| (name, Message::Answer(Answer { id: 9, result }))));
    all
}

fn beat(ledgers: Option<Vec<LedgerHead>>) -> Heartbeat {
    Heartbeat {
        head: lsn(300),
        at: at(7),
        status: status(),
        ledgers,
        witnesses: Vec::new(),
        stores: Vec::new(),
        refused: None,
        set_back: None,
    }
}

fn set_back() -> SetBack {
    SetBack { had: lsn(300), has: lsn(200) }
}

fn ack(ledger: Option<LedgerHead>) -> Ack {
    Ack { batches: 2, durable: lsn(300), everywhere: lsn(200), ledger, witnessed: None }
}

const fn ledger_head() -> LedgerHead {
    LedgerHead { store: 0x7777, entry: 812, hash: [0x5a; 32], at: WallTime::from_nanos(9) }
}

fn witness() -> Witness {
    Witness { gateway: "gw-b".to_owned(), head: ledger_head() }
}

const fn known_store() -> KnownStore {
    KnownStore { store: 0x7777, told: WallTime::from_nanos(9) }
}

fn refusals() -> Vec<(&'static str, Message)> {
    let codes = [
        ("refuse-protocol", RefuseCode::Protocol),
        ("refuse-fenced", RefuseCode::Fenced),
        ("refuse-split", RefuseCode::SplitHistory),
        ("refuse-anew", RefuseCode::BeginAnew { above: lsn(300), epoch: Epoch::new(5) }),
        ("refuse-name", RefuseCode::NameTaken),
        ("refuse-stopping", RefuseCode::Stopping),
        ("refuse-other", RefuseCode::Other),
    ];
    codes.map(|(name, code)| (name, Message::Refuse(Refuse { code, detail: "no".to_owned() }))).into()
}

fn queries() -> Vec<(&'static str, Message)> {
    let extent = Extent::new(3 << 20, 2 * 4096).unwrap();
    let lookup = Lookup { volume: VolumeId::new(0x2222), extent, after: lsn(77), seed: 0x5555 };
    let hashes = Bytes::from_static(&[0xCD; 32]);
    let reply = |result| Message::QueryReply(QueryReply { id: 9, result });
    vec![
        ("query", Message::Query(Query { id: 9, lookup })),
        ("query-reply-hashes", reply(Ok(Hashes { at: lsn(300), hashes }))),
        ("query-reply-timeout", reply(Err(AskError::new(AskCode::Timeout, "why")))),
    ]
}

fn questions() -> Vec<(&'static str, Question)> {
    let bookmark = Question::Bookmark {
        name: name("before"),
        consistency: Consistency::Application,
        note: "by hand".to_owned(),
        wait: Duration::from_secs(60),
        group: None,
    };
    let mut of_group = bookmark.clone();
    if let Question::Bookmark { group, .. } = &mut of_group {
        *group = Some(name("db"));
    }
    vec![
        ("ask-head", Question::Head),
        ("ask-bookmark", bookmark),
        ("ask-group-bookmark", of_group),
        ("ask-resync", Question::Resync { from: lsn(5), whole: true }),
        ("ask-accept-restored", Question::AcceptRestored),
        ("ask-block", Question::Block { block: BlockNo::new(300) }),
    ]
}

fn results() -> Vec<(&'static str, Result<Reply, AskError>)> {
    let failed = |code| Err(AskError::new(code, "why"));
    vec![
        ("answer-head", Ok(Reply::Head { lsn: lsn(300), at: at(7), status: status() })),
        ("answer-bookmarked", Ok(Reply::Bookmarked { lsn: lsn(300), at: at(7) })),
        ("answer-accepted", Ok(Reply::Accepted(accepted()))),
        ("answer-done", Ok(Reply::Done)),
        ("answer-block", Ok(Reply::Block { unit: Bytes::from_static(b"unit") })),
        ("answer-unreachable", failed(AskCode::NotReachable)),
        ("answer-conflict", failed(AskCode::Conflict)),
        ("answer-not-found", failed(AskCode::NotFound)),
        ("answer-timeout", failed(AskCode::Timeout)),
        ("answer-failed", failed(AskCode::Failed)),
    ]
}

fn accepted() -> Accepted {
    Accepted {
        sender: "tap 7".to_owned(),
        run: RunId::new(0x3333),
        since: at(7),
        first_lsn: lsn(77),
        known: lsn(300),
        epoch: Epoch::new(5),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        stream: StreamId::new(0x1111),
        volume: VolumeId::new(0x2222),
        name: name("web01"),
        size: 1 << 30,
        epoch: Epoch::new(4),
        run: RunId::new(0x3333),
        first_lsn: lsn(77),
        sender: "host1".to_owned(),
    }
}

fn welcome(durable_run: Option<RunId>) -> Welcome {
    let durable = if durable_run.is_some() { lsn(300) } else { Lsn::ZERO };
    Welcome {
        durable,
        durable_run,
        known: durable_run.is_some(),
        credit: 32 << 20,
        store: None,
        past: None,
        last: None,
    }
}

fn record_seen() -> RecordSeen {
    RecordSeen { run: RunId::new(0x3333), lsn: lsn(301), at: WallTime::from_nanos(0x1234) }
}

fn run_seen() -> RunSeen {
    RunSeen { run: RunId::new(0x3333), at: WallTime::from_nanos(0x1234) }
}

fn status() -> TapStatus {
    TapStatus {
        state: TapState::Resync,
        queued_bytes: 1,
        spooled_bytes: 2,
        marked_bytes: 3,
        sync: Some(SyncProgress { cause: SyncCause::Overflow, done: 4, total: 5 }),
        baselines: 6,
        resynced_bytes: 7,
    }
}

/// Every kind of record and marker.
fn batch() -> Batch {
    let volume = VolumeId::new(0x2222);
    let extent = |block: u64, blocks: u64| Extent::new(block * 4096, blocks * 4096).unwrap();
    let marks = [
        Marker::RunStart(RunStart {
            previous: Some(RunId::new(1)),
            durable: lsn(90),
            volume,
            name: name("web01"),
            size: 1 << 30,
            sync: Some(SyncCause::UncleanStop),
        }),
        Marker::Bookmark(Bookmark {
            name: name("before"),
            consistency: Consistency::FileSystem,
            note: "n".to_owned(),
        }),
        Marker::SyncStart { cause: SyncCause::HopLost },
        Marker::SyncEnd { cause: SyncCause::ChangedUnwatched, copied: 4096, from_zero: true },
        Marker::SyncEnd { cause: SyncCause::Baseline, copied: 0, from_zero: false },
    ];
    let mut actions: Vec<Action> = marks.into_iter().map(|m| Action::Mark(Box::new(m))).collect();
    actions.extend([
        Action::Write { volume, extent: extent(3, 2) },
        Action::Zero { volume: VolumeId::new(5), extent: extent(0, 100) },
        Action::Resize { volume, size: 1 << 31 },
    ]);
    let mut entries: Vec<Entry> = (100..).zip(actions).map(|(n, action)| entry(n, action)).collect();
    let copied = Action::Write { volume, extent: extent(9, 1) };
    entries.push(Entry { position: Position::copy_as_of(lsn(101)), captured_at: at(1), action: copied });
    Batch { entries, lens: vec![13, 0, 14], body: Bytes::from_static(&[0xAB; 27]), ..head(100) }
}

fn copies() -> Batch {
    let extent = Extent::new(0, 4096).unwrap();
    let action = Action::Zero { volume: VolumeId::new(0x2222), extent };
    let entry = Entry { position: Position::copy_as_of(lsn(100)), captured_at: at(1), action };
    Batch { entries: vec![entry], lens: Vec::new(), body: Bytes::new(), ..head(108) }
}

/// The source's clock was set.
fn clock_set() -> Batch {
    let marker = Marker::ClockSet { before: at(7200) };
    Batch { entries: vec![entry(100, Action::Mark(Box::new(marker)))], ..head(100) }
}

/// Barriers of a group, one of them a bookmark.
fn barriers() -> Batch {
    let members = vec![VolumeId::new(0x1212), VolumeId::new(0x2222)];
    let bookmark = Bookmark { name: name("monday"), consistency: Consistency::Crash, note: "n".to_owned() };
    let barrier = |n: u64, bookmark| {
        let mark = BarrierMark {
            id: MarkId::new(at(n).nanos()),
            group: name("db"),
            members: members.clone(),
            bookmark,
        };
        entry(n, Action::Mark(Box::new(Marker::Barrier(mark))))
    };
    Batch { entries: vec![barrier(100, None), barrier(101, Some(bookmark))], ..head(100) }
}

fn head(first: u64) -> Batch {
    Batch {
        stream: StreamId::new(0x1111),
        run: RunId::new(0x3333),
        epoch: Epoch::new(4),
        first_lsn: lsn(first),
        entries: Vec::new(),
        lens: Vec::new(),
        body: Bytes::new(),
    }
}

fn entry(n: u64, action: Action) -> Entry {
    Entry { position: Position::record(lsn(n)), captured_at: at(n), action }
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn at(n: u64) -> WallTime {
    WallTime::from_nanos(1_700_000_000_000_000_000 + n * 1000)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, b| {
        write!(hex, "{b:02x}").unwrap();
        hex
    })
}
