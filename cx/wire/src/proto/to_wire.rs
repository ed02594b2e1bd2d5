//! From messages to their twins. Total: every value of ours has an encoding.

use std::time::Duration;

use bytes::Bytes;
use tap_block::{BarrierMark, Bookmark, Consistency, Marker, SyncCause};

use super as proto;
use crate::message::{
    Answer, Ask, AskCode, AskError, Heartbeat, Hello, KnownStore, LedgerHead, Message, Query, QueryReply,
    Question, RecordSeen, RefuseCode, Reply, RunSeen, SyncProgress, TapState, TapStatus, Welcome, Witness,
};

impl proto::Envelope {
    pub(crate) fn of(message: &Message) -> Self {
        Self { body: Some(body(message)) }
    }
}

fn body(message: &Message) -> proto::Body {
    match message {
        Message::Hello(m) => proto::Body::Hello(hello(m)),
        Message::Welcome(m) => proto::Body::Welcome(welcome(m)),
        Message::Refuse(m) => {
            let (code, detail) = (refuse_code(m.code), m.detail.clone());
            proto::Body::Refuse(proto::Refuse { code, detail, anew: anew(m.code) })
        }
        Message::Data(batch) => {
            proto::Body::Data(proto::Batch { body: batch.body.clone(), ..crate::columns::pack(batch) })
        }
        Message::Heartbeat(m) => proto::Body::Heartbeat(heartbeat(m)),
        Message::Ack(m) => proto::Body::Ack(proto::Ack {
            batches: m.batches,
            durable: m.durable.get(),
            everywhere: m.everywhere.get(),
            ledger: m.ledger.as_ref().map(ledger_head),
            witnessed: m.witnessed.as_ref().map(ledger_head),
        }),
        Message::Ask(m) => proto::Body::Ask(ask(m)),
        Message::Answer(m) => proto::Body::Answer(answer(m)),
        Message::Query(m) => proto::Body::Query(query(m)),
        Message::QueryReply(m) => proto::Body::QueryReply(query_reply(m)),
        Message::Goodbye(m) => proto::Body::Goodbye(proto::Goodbye { reason: m.reason.clone() }),
    }
}

fn hello(m: &Hello) -> proto::Hello {
    proto::Hello {
        protocol: m.protocol,
        stream: m.stream.get(),
        volume: m.volume.get(),
        name: m.name.to_string(),
        size: m.size,
        epoch: m.epoch.get(),
        run: m.run.get(),
        first_lsn: m.first_lsn.get(),
        sender: m.sender.clone(),
    }
}

fn welcome(m: &Welcome) -> proto::Welcome {
    proto::Welcome {
        durable: m.durable.get(),
        durable_run: m.durable_run.map(|run| run.get()),
        known: m.known,
        credit: m.credit,
        store: m.store,
        past: m.past.as_ref().map(|runs| proto::Past { runs: runs.iter().map(run_seen).collect() }),
        last: m.last.as_ref().map(record_seen),
    }
}

const fn record_seen(m: &RecordSeen) -> proto::RecordSeen {
    proto::RecordSeen { run: m.run.get(), lsn: m.lsn.get(), at: m.at.nanos() }
}

const fn run_seen(m: &RunSeen) -> proto::RunSeen {
    proto::RunSeen { run: m.run.get(), at: m.at.nanos() }
}

fn heartbeat(m: &Heartbeat) -> proto::Heartbeat {
    let ledgers = m.ledgers.as_ref();
    proto::Heartbeat {
        head: m.head.get(),
        at: m.at.nanos(),
        status: Some(status(&m.status)),
        ledgers: ledgers.map(|heads| proto::LedgerHeads { heads: heads.iter().map(ledger_head).collect() }),
        witnesses: m.witnesses.iter().map(witness).collect(),
        stores: m.stores.iter().map(known_store).collect(),
        refused: m.refused.clone(),
        set_back: m.set_back.map(|back| proto::SetBack { had: back.had.get(), has: back.has.get() }),
    }
}

const fn known_store(m: &KnownStore) -> proto::KnownStore {
    proto::KnownStore { store: m.store, told: m.told.nanos() }
}

fn witness(m: &Witness) -> proto::Witness {
    proto::Witness { gateway: m.gateway.clone(), head: Some(ledger_head(&m.head)) }
}

fn ledger_head(m: &LedgerHead) -> proto::LedgerHead {
    let hash = Bytes::copy_from_slice(&m.hash);
    proto::LedgerHead { store: m.store, entry: m.entry, hash, at: m.at.nanos() }
}

fn status(m: &TapStatus) -> proto::TapStatus {
    proto::TapStatus {
        state: tap_state(m.state),
        queued_bytes: m.queued_bytes,
        spooled_bytes: m.spooled_bytes,
        marked_bytes: m.marked_bytes,
        sync: m.sync.as_ref().map(progress),
        baselines: m.baselines,
        resynced_bytes: m.resynced_bytes,
    }
}

const fn progress(m: &SyncProgress) -> proto::SyncProgress {
    proto::SyncProgress { cause: cause(m.cause), done: m.done, total: m.total }
}

fn ask(m: &Ask) -> proto::Ask {
    let question = match &m.question {
        Question::Head => proto::Question::Head(proto::Nothing {}),
        Question::Bookmark { name, consistency: promise, note, wait, group } => {
            proto::Question::Bookmark(proto::AskBookmark {
                name: name.to_string(),
                consistency: consistency(*promise),
                note: note.clone(),
                wait_nanos: nanos(*wait),
                group: group.as_ref().map(ToString::to_string),
            })
        }
        Question::Resync { from, whole } => {
            proto::Question::Resync(proto::AskResync { from: from.get(), whole: *whole })
        }
        Question::Block { block } => proto::Question::Block(proto::AskBlock { block: block.get() }),
        Question::AcceptRestored => proto::Question::AcceptRestored(proto::Nothing {}),
    };
    proto::Ask { id: m.id, question: Some(question) }
}

fn answer(m: &Answer) -> proto::Answer {
    let outcome = match &m.result {
        Err(error) => proto::Outcome::Failed(failure(error)),
        Ok(Reply::Head { lsn, at, status: s }) => proto::Outcome::Head(proto::Heartbeat {
            head: lsn.get(),
            at: at.nanos(),
            status: Some(status(s)),
            ledgers: None,
            witnesses: Vec::new(),
            stores: Vec::new(),
            refused: None,
            set_back: None,
        }),
        Ok(Reply::Bookmarked { lsn, at }) => {
            proto::Outcome::Bookmarked(proto::Bookmarked { lsn: lsn.get(), at: at.nanos() })
        }
        Ok(Reply::Accepted(tap)) => proto::Outcome::Accepted(proto::Accepted {
            sender: tap.sender.clone(),
            run: tap.run.get(),
            since: tap.since.nanos(),
            first_lsn: tap.first_lsn.get(),
            known: tap.known.get(),
            epoch: tap.epoch.get(),
        }),
        Ok(Reply::Done) => proto::Outcome::Done(proto::Nothing {}),
        Ok(Reply::Block { unit }) => proto::Outcome::Block(proto::Block { unit: unit.clone() }),
    };
    proto::Answer { id: m.id, outcome: Some(outcome) }
}

fn query(m: &Query) -> proto::Query {
    proto::Query {
        id: m.id,
        volume: m.lookup.volume.get(),
        offset: m.lookup.extent.offset(),
        length: m.lookup.extent.length(),
        after: m.lookup.after.get(),
        seed: m.lookup.seed,
    }
}

fn query_reply(m: &QueryReply) -> proto::QueryReply {
    let found = match &m.result {
        Err(error) => proto::Found::Failed(failure(error)),
        Ok(found) => proto::Found::Hashes(proto::Hashes { at: found.at.get(), hashes: found.hashes.clone() }),
    };
    proto::QueryReply { id: m.id, found: Some(found) }
}

fn failure(m: &AskError) -> proto::Failure {
    proto::Failure { code: ask_code(m.code), detail: m.detail.clone() }
}

/// A tap puts none while a sync of this cause is open, so there is none that it could seem to end.
const NO_SYNC: SyncCause = SyncCause::FailedWrite;

fn barrier(m: &BarrierMark) -> proto::SyncEnd {
    let barrier = proto::Barrier {
        id: m.id.get(),
        group: m.group.to_string(),
        members: m.members.iter().map(|v| v.get()).collect(),
        bookmark: m.bookmark.as_ref().map(|b| Box::new(bookmark(b))),
    };
    proto::SyncEnd {
        cause: cause(NO_SYNC),
        copied: 0,
        from_zero: false,
        barrier: Some(Box::new(barrier)),
        clock: None,
    }
}

fn bookmark(m: &Bookmark) -> proto::Bookmark {
    proto::Bookmark {
        name: m.name.to_string(),
        consistency: consistency(m.consistency),
        note: m.note.clone(),
    }
}

impl From<&Marker> for proto::Marker {
    fn from(marker: &Marker) -> Self {
        let mark = match marker {
            Marker::RunStart(m) => proto::Mark::RunStart(Box::new(proto::RunStart {
                previous: m.previous.map(|run| run.get()),
                durable: m.durable.get(),
                volume: m.volume.get(),
                name: m.name.to_string(),
                size: m.size,
                sync: m.sync.map_or(0, cause),
            })),
            Marker::Bookmark(m) => proto::Mark::Bookmark(Box::new(bookmark(m))),
            Marker::Barrier(m) => proto::Mark::SyncEnd(barrier(m)),
            Marker::ClockSet { before } => proto::Mark::SyncEnd(proto::SyncEnd {
                cause: cause(NO_SYNC),
                clock: Some(proto::ClockSet { before: before.nanos() }),
                ..proto::SyncEnd::default()
            }),
            Marker::SyncStart { cause: why } => {
                proto::Mark::SyncStart(proto::SyncStart { cause: cause(*why) })
            }
            &Marker::SyncEnd { cause: why, copied, from_zero } => {
                let (barrier, clock) = (None, None);
                proto::Mark::SyncEnd(proto::SyncEnd { cause: cause(why), copied, from_zero, barrier, clock })
            }
        };
        Self { mark: Some(mark) }
    }
}

const fn anew(code: RefuseCode) -> Option<proto::Anew> {
    match code {
        RefuseCode::BeginAnew { above, epoch } => {
            Some(proto::Anew { above: above.get(), epoch: epoch.get() })
        }
        _ => None,
    }
}

const fn refuse_code(code: RefuseCode) -> u32 {
    match code {
        RefuseCode::Other => 0,
        RefuseCode::Protocol => 1,
        RefuseCode::Fenced => 2,
        RefuseCode::SplitHistory | RefuseCode::BeginAnew { .. } => 3,
        RefuseCode::NameTaken => 4,
        RefuseCode::Stopping => 5,
    }
}

const fn ask_code(code: AskCode) -> u32 {
    match code {
        AskCode::Failed => 0,
        AskCode::NotReachable => 1,
        AskCode::Conflict => 2,
        AskCode::NotFound => 3,
        AskCode::Timeout => 4,
    }
}

const fn tap_state(state: TapState) -> u32 {
    match state {
        TapState::Baseline => 1,
        TapState::Protected => 2,
        TapState::Spooling => 3,
        TapState::Bitmap => 4,
        TapState::Resync => 5,
        TapState::Stopped => 6,
        TapState::Fenced => 7,
    }
}

const fn cause(cause: SyncCause) -> u32 {
    match cause {
        SyncCause::Baseline => 1,
        SyncCause::UncleanStop => 2,
        SyncCause::Overflow => 3,
        SyncCause::HopLost => 4,
        SyncCause::ChangedUnwatched => 5,
        SyncCause::FailedWrite => 6,
    }
}

const fn consistency(consistency: Consistency) -> u32 {
    match consistency {
        Consistency::Crash => 1,
        Consistency::FileSystem => 2,
        Consistency::Application => 3,
    }
}

/// Half a thousand years are enough for anyone's patience.
fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
