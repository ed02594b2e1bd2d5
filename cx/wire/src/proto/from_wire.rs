//! From twins to messages: where bytes of a peer become checked values, or an error.

use std::sync::Arc;
use std::time::Duration;

use tap_block::stored::MAX_STORED;
use tap_block::units::count;
use tap_block::{
    BarrierMark, BlockNo, Bookmark, Consistency, Epoch, Extent, Lsn, MAX_MEMBERS, MarkId, Marker, Name,
    RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};

use super as proto;
use crate::codec::{MAX_LOOKUP, WireError};
use crate::message::{
    Accepted, Ack, Answer, Ask, AskCode, AskError, Goodbye, HASH_BYTES, Hashes, Heartbeat, Hello, KnownStore,
    LedgerHead, Lookup, MAX_GATEWAY_NAME, MAX_LEDGERS, MAX_PAST, MAX_REFUSAL, Message, Query, QueryReply,
    Question, RecordSeen, Refuse, RefuseCode, Reply, RunSeen, SetBack, SyncProgress, TapState, TapStatus,
    Welcome, Witness,
};

impl proto::Envelope {
    pub(crate) fn into_message(self) -> Result<Message, WireError> {
        Ok(match self.body.ok_or(WireError::Missing("a known message"))? {
            proto::Body::Hello(m) => Message::Hello(hello(m)?),
            proto::Body::Welcome(m) => Message::Welcome(welcome(&m)?),
            proto::Body::Refuse(m) => Message::Refuse(refuse(m)?),
            proto::Body::Data(m) => Message::Data(Arc::new(crate::columns::unpack(m)?)),
            proto::Body::Heartbeat(m) => Message::Heartbeat(heartbeat(m)?),
            proto::Body::Ack(m) => Message::Ack(ack(&m)?),
            proto::Body::Ask(m) => Message::Ask(ask(m)?),
            proto::Body::Answer(m) => Message::Answer(answer(m)?),
            proto::Body::Query(m) => Message::Query(query(&m)?),
            proto::Body::QueryReply(m) => Message::QueryReply(query_reply(m)?),
            proto::Body::Goodbye(m) => Message::Goodbye(Goodbye { reason: m.reason }),
        })
    }
}

/// An LSN below the limit.
pub(crate) fn lsn(raw: u64) -> Result<Lsn, WireError> {
    Lsn::new(raw).ok_or(WireError::OutOfRange { what: "LSN", value: raw })
}

fn hello(m: proto::Hello) -> Result<Hello, WireError> {
    Ok(Hello {
        protocol: m.protocol,
        stream: StreamId::new(m.stream),
        volume: VolumeId::new(m.volume),
        name: name(&m.name)?,
        size: m.size,
        epoch: Epoch::new(m.epoch),
        run: RunId::new(m.run),
        first_lsn: lsn(m.first_lsn)?,
        sender: m.sender,
    })
}

fn welcome(m: &proto::Welcome) -> Result<Welcome, WireError> {
    Ok(Welcome {
        durable: lsn(m.durable)?,
        durable_run: m.durable_run.map(RunId::new),
        known: m.known,
        credit: m.credit,
        store: m.store,
        past: m.past.as_ref().map(|past| runs_seen(&past.runs)).transpose()?,
        last: m.last.as_ref().map(record_seen).transpose()?,
    })
}

fn record_seen(m: &proto::RecordSeen) -> Result<RecordSeen, WireError> {
    Ok(RecordSeen { run: RunId::new(m.run), lsn: lsn(m.lsn)?, at: WallTime::from_nanos(m.at) })
}

fn runs_seen(all: &[proto::RunSeen]) -> Result<Vec<RunSeen>, WireError> {
    bounded("number of runs", all.len(), MAX_PAST)?;
    let one = |m: &proto::RunSeen| RunSeen { run: RunId::new(m.run), at: WallTime::from_nanos(m.at) };
    Ok(all.iter().map(one).collect())
}

fn refuse(m: proto::Refuse) -> Result<Refuse, WireError> {
    let code = match m.anew {
        Some(proto::Anew { above, epoch }) => {
            RefuseCode::BeginAnew { above: lsn(above)?, epoch: Epoch::new(epoch) }
        }
        None => refuse_code(m.code),
    };
    Ok(Refuse { code, detail: m.detail })
}

fn heartbeat(m: proto::Heartbeat) -> Result<Heartbeat, WireError> {
    Ok(Heartbeat {
        head: lsn(m.head)?,
        at: WallTime::from_nanos(m.at),
        status: status(m.status.ok_or(WireError::Missing("the status of a heartbeat"))?)?,
        ledgers: m.ledgers.map(|l| ledger_heads(&l.heads)).transpose()?,
        witnesses: witnesses(m.witnesses)?,
        stores: known_stores(&m.stores)?,
        refused: m.refused.map(refusal).transpose()?,
        set_back: m.set_back.map(set_back).transpose()?,
    })
}

fn set_back(m: proto::SetBack) -> Result<SetBack, WireError> {
    Ok(SetBack { had: lsn(m.had)?, has: lsn(m.has)? })
}

fn refusal(why: String) -> Result<String, WireError> {
    bounded("length of a refusal", why.len(), MAX_REFUSAL)?;
    Ok(why)
}

fn known_stores(all: &[proto::KnownStore]) -> Result<Vec<KnownStore>, WireError> {
    bounded("number of stores", all.len(), MAX_LEDGERS)?;
    Ok(all.iter().map(|m| KnownStore { store: m.store, told: WallTime::from_nanos(m.told) }).collect())
}

const fn bounded(what: &'static str, n: usize, most: usize) -> Result<(), WireError> {
    match n > most {
        true => Err(WireError::OutOfRange { what, value: tap_block::units::count(n) }),
        false => Ok(()),
    }
}

fn witnesses(all: Vec<proto::Witness>) -> Result<Vec<Witness>, WireError> {
    bounded("number of witnesses", all.len(), MAX_LEDGERS)?;
    let one = |m: proto::Witness| {
        bounded("length of a gateway's name", m.gateway.len(), MAX_GATEWAY_NAME)?;
        let head = m.head.ok_or(WireError::Missing("the head that a witness keeps"))?;
        Ok(Witness { gateway: m.gateway, head: ledger_head(&head)? })
    };
    all.into_iter().map(one).collect()
}

fn ledger_heads(heads: &[proto::LedgerHead]) -> Result<Vec<LedgerHead>, WireError> {
    if heads.len() > MAX_LEDGERS {
        let value = tap_block::units::count(heads.len());
        return Err(WireError::OutOfRange { what: "number of ledgers", value });
    }
    heads.iter().map(ledger_head).collect()
}

fn ledger_head(m: &proto::LedgerHead) -> Result<LedgerHead, WireError> {
    let length = || WireError::OutOfRange {
        what: "length of a ledger's hash",
        value: tap_block::units::count(m.hash.len()),
    };
    if m.entry >= Lsn::LIMIT {
        return Err(WireError::OutOfRange { what: "number of a ledger's entry", value: m.entry });
    }
    let hash = m.hash.as_ref().try_into().map_err(|_| length())?;
    Ok(LedgerHead { store: m.store, entry: m.entry, hash, at: WallTime::from_nanos(m.at) })
}

fn status(m: proto::TapStatus) -> Result<TapStatus, WireError> {
    Ok(TapStatus {
        state: tap_state(m.state)?,
        queued_bytes: m.queued_bytes,
        spooled_bytes: m.spooled_bytes,
        marked_bytes: m.marked_bytes,
        sync: m.sync.map(|s| progress(&s)).transpose()?,
        baselines: m.baselines,
        resynced_bytes: m.resynced_bytes,
    })
}

fn progress(m: &proto::SyncProgress) -> Result<SyncProgress, WireError> {
    Ok(SyncProgress { cause: cause(m.cause)?, done: m.done, total: m.total })
}

fn ack(m: &proto::Ack) -> Result<Ack, WireError> {
    let ledger = m.ledger.as_ref().map(ledger_head).transpose()?;
    let witnessed = m.witnessed.as_ref().map(ledger_head).transpose()?;
    let (durable, everywhere) = (lsn(m.durable)?, lsn(m.everywhere)?);
    Ok(Ack { batches: m.batches, durable, everywhere, ledger, witnessed })
}

fn ask(m: proto::Ask) -> Result<Ask, WireError> {
    let question = match m.question.ok_or(WireError::Missing("a known question"))? {
        proto::Question::Head(proto::Nothing {}) => Question::Head,
        proto::Question::Bookmark(q) => Question::Bookmark {
            name: name(&q.name)?,
            consistency: consistency(q.consistency)?,
            note: q.note,
            wait: Duration::from_nanos(q.wait_nanos),
            group: q.group.as_deref().map(name).transpose()?,
        },
        proto::Question::Resync(q) => Question::Resync { from: lsn(q.from)?, whole: q.whole },
        proto::Question::Block(q) => Question::Block { block: BlockNo::new(q.block) },
        proto::Question::AcceptRestored(proto::Nothing {}) => Question::AcceptRestored,
    };
    Ok(Ask { id: m.id, question })
}

fn answer(m: proto::Answer) -> Result<Answer, WireError> {
    let result = match m.outcome.ok_or(WireError::Missing("a known outcome"))? {
        proto::Outcome::Failed(e) => Err(AskError { code: ask_code(e.code), detail: e.detail }),
        proto::Outcome::Head(h) => {
            let Heartbeat { head: lsn, at, status, .. } = heartbeat(h)?;
            Ok(Reply::Head { lsn, at, status })
        }
        proto::Outcome::Bookmarked(b) => {
            Ok(Reply::Bookmarked { lsn: lsn(b.lsn)?, at: WallTime::from_nanos(b.at) })
        }
        proto::Outcome::Done(proto::Nothing {}) => Ok(Reply::Done),
        proto::Outcome::Accepted(tap) => Ok(Reply::Accepted(accepted(tap)?)),
        proto::Outcome::Block(found) if found.unit.len() <= MAX_STORED => {
            Ok(Reply::Block { unit: found.unit })
        }
        proto::Outcome::Block(found) => {
            let value = count(found.unit.len());
            return Err(WireError::OutOfRange { what: "length of a stored block", value });
        }
    };
    Ok(Answer { id: m.id, result })
}

fn accepted(m: proto::Accepted) -> Result<Accepted, WireError> {
    Ok(Accepted {
        sender: m.sender,
        run: RunId::new(m.run),
        since: WallTime::from_nanos(m.since),
        first_lsn: lsn(m.first_lsn)?,
        known: lsn(m.known)?,
        epoch: Epoch::new(m.epoch),
    })
}

fn query(m: &proto::Query) -> Result<Query, WireError> {
    let refused = WireError::OutOfRange { what: "length of a stretch to look up", value: m.length };
    let extent = Extent::new(m.offset, m.length)
        .filter(|e| e.is_block_aligned() && !e.is_empty() && e.length() <= MAX_LOOKUP)
        .ok_or(refused)?;
    let lookup = Lookup { volume: VolumeId::new(m.volume), extent, after: lsn(m.after)?, seed: m.seed };
    Ok(Query { id: m.id, lookup })
}

fn query_reply(m: proto::QueryReply) -> Result<QueryReply, WireError> {
    let result = match m.found.ok_or(WireError::Missing("a known answer to a query"))? {
        proto::Found::Failed(e) => Err(AskError { code: ask_code(e.code), detail: e.detail }),
        proto::Found::Hashes(found) if found.hashes.len().is_multiple_of(HASH_BYTES) => {
            Ok(Hashes { at: lsn(found.at)?, hashes: found.hashes })
        }
        proto::Found::Hashes(found) => {
            let value = tap_block::units::count(found.hashes.len());
            return Err(WireError::OutOfRange { what: "length of hashes", value });
        }
    };
    Ok(QueryReply { id: m.id, result })
}

impl TryFrom<proto::Marker> for Marker {
    type Error = WireError;

    fn try_from(marker: proto::Marker) -> Result<Self, WireError> {
        Ok(match marker.mark.ok_or(WireError::Missing("a known marker"))? {
            proto::Mark::RunStart(m) => Self::RunStart(run_start(&m)?),
            proto::Mark::Bookmark(m) => Self::Bookmark(bookmark(*m)?),
            proto::Mark::SyncStart(m) => Self::SyncStart { cause: cause(m.cause)? },
            proto::Mark::SyncEnd(proto::SyncEnd { barrier: Some(m), .. }) => Self::Barrier(barrier(*m)?),
            proto::Mark::SyncEnd(proto::SyncEnd { clock: Some(m), .. }) => {
                Self::ClockSet { before: WallTime::from_nanos(m.before) }
            }
            proto::Mark::SyncEnd(m) => {
                Self::SyncEnd { cause: cause(m.cause)?, copied: m.copied, from_zero: m.from_zero }
            }
        })
    }
}

fn bookmark(m: proto::Bookmark) -> Result<Bookmark, WireError> {
    Ok(Bookmark { name: name(&m.name)?, consistency: consistency(m.consistency)?, note: m.note })
}

fn barrier(m: proto::Barrier) -> Result<BarrierMark, WireError> {
    let ascending = m.members.is_sorted_by(|a, b| a < b);
    if m.members.is_empty() || m.members.len() > MAX_MEMBERS || !ascending {
        let value = tap_block::units::count(m.members.len());
        return Err(WireError::OutOfRange { what: "members of a group, which are to be ascending", value });
    }
    Ok(BarrierMark {
        id: MarkId::new(m.id),
        group: name(&m.group)?,
        members: m.members.into_iter().map(VolumeId::new).collect(),
        bookmark: m.bookmark.map(|b| bookmark(*b)).transpose()?,
    })
}

fn run_start(m: &proto::RunStart) -> Result<RunStart, WireError> {
    Ok(RunStart {
        previous: m.previous.map(RunId::new),
        durable: lsn(m.durable)?,
        volume: VolumeId::new(m.volume),
        name: name(&m.name)?,
        size: m.size,
        sync: if m.sync == 0 { None } else { Some(cause(m.sync)?) },
    })
}

fn name(text: &str) -> Result<Name, WireError> {
    Ok(text.parse()?)
}

fn out_of_range(what: &'static str, value: u32) -> WireError {
    WireError::OutOfRange { what, value: u64::from(value) }
}

const fn refuse_code(code: u32) -> RefuseCode {
    match code {
        1 => RefuseCode::Protocol,
        2 => RefuseCode::Fenced,
        3 => RefuseCode::SplitHistory,
        4 => RefuseCode::NameTaken,
        5 => RefuseCode::Stopping,
        _ => RefuseCode::Other,
    }
}

const fn ask_code(code: u32) -> AskCode {
    match code {
        1 => AskCode::NotReachable,
        2 => AskCode::Conflict,
        3 => AskCode::NotFound,
        4 => AskCode::Timeout,
        _ => AskCode::Failed,
    }
}

fn tap_state(state: u32) -> Result<TapState, WireError> {
    Ok(match state {
        1 => TapState::Baseline,
        2 => TapState::Protected,
        3 => TapState::Spooling,
        4 => TapState::Bitmap,
        5 => TapState::Resync,
        6 => TapState::Stopped,
        7 => TapState::Fenced,
        other => return Err(out_of_range("state of a tap", other)),
    })
}

fn cause(cause: u32) -> Result<SyncCause, WireError> {
    Ok(match cause {
        1 => SyncCause::Baseline,
        2 => SyncCause::UncleanStop,
        3 => SyncCause::Overflow,
        4 => SyncCause::HopLost,
        5 => SyncCause::ChangedUnwatched,
        6 => SyncCause::FailedWrite,
        other => return Err(out_of_range("cause of a sync", other)),
    })
}

fn consistency(consistency: u32) -> Result<Consistency, WireError> {
    Ok(match consistency {
        1 => Consistency::Crash,
        2 => Consistency::FileSystem,
        3 => Consistency::Application,
        other => return Err(out_of_range("consistency", other)),
    })
}
