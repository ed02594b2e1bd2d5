//! What an entry says, and its protobuf message. A field number is never used again; a kind that a reader does not know
//! makes its entry unreadable to it, never something else.

use prost::{Message, Oneof};
use tap_block::WallTime;

use super::{Digest, EntryNo, Head};
use crate::error::FormatError;
use crate::policy::{PPolicy, RetentionPolicy, policy_in, policy_out};
use crate::segment::StoreId;
use crate::units::SegmentId;

const WHAT: &str = "ledger entry";

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The ledger begins here. What was in the store before is hashed as it is found.
    Begun(Why),
    /// A segment is finished: this is its content.
    Sealed(SegmentId, Hashed),
    /// History was settled.
    Settled(Box<Settled>),
    /// A block was put right in a segment that was hashed with the damage in it. Only read: segments are hashed when they are
    /// sound, so a repair brings back what was hashed.
    Repaired {
        /// The segment.
        segment: SegmentId,
        /// The first byte that changed.
        from: u32,
        /// The byte behind the last.
        to: u32,
        /// The hash before.
        before: Digest,
        /// The hash from here on.
        digest: Digest,
    },
    /// Somebody else keeps an entry of this ledger.
    Anchored {
        /// Who.
        place: String,
        /// The entry's number.
        number: EntryNo,
        /// The entry's hash.
        digest: Digest,
    },
    /// The head of another store's ledger, kept here for it.
    Witnessed {
        /// The other store.
        store: StoreId,
        /// Its head.
        head: Head,
    },
    /// Somebody else keeps an entry that this ledger does not have: it, or the store, was put back or rewritten.
    Contradicted {
        /// Who.
        place: String,
        /// The entry's number.
        number: EntryNo,
        /// The entry's hash.
        digest: Digest,
    },
    /// Stands for every entry before it; the file begins with it once that is safe.
    Folded(Box<Folded>),
    /// Somebody has read of every doubt that the ledger holds so far.
    Acknowledged,
    /// Somebody else keeps an entry of before the ledger was lost and began anew: it can neither be held nor denied.
    Lapsed {
        /// Who.
        place: String,
        /// The entry's number.
        number: EntryNo,
        /// The entry's hash.
        digest: Digest,
    },
}

/// Why a ledger begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The store is new.
    New,
    /// There is history and no ledger: a version that kept none wrote it, or somebody took the ledger away. Who keeps its
    /// head can tell.
    Older,
    /// Its file was there, and nothing in it could be read.
    Lost,
}

/// What the content of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// The settle that wrote it; 0: it is of the log.
    pub settle: u64,
    /// So many bytes were hashed, from the file's first on: up to the end of the last frame.
    pub end: u32,
    /// Their hash.
    pub digest: Digest,
}

/// What a settle did, or several whose end was not seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// The number of the last one.
    pub settle: u64,
    /// The log's segments before this one are settled.
    pub log_from: u32,
    /// The segments that went, of those that were hashed.
    pub inputs: Vec<SegmentId>,
    /// The segments that came, whose hashes stand in entries before this one.
    pub outputs: Vec<SegmentId>,
    /// Segments that went, or came and went again, before they were hashed: nothing vouches for what was in them.
    pub unhashed: Vec<SegmentId>,
    /// Versions that were read and that are left, and points that were dropped, when that is known.
    pub counts: Option<[u64; 3]>,
    /// The policies in force, each once: what no point kept under them shows was let go.
    pub policies: Vec<RetentionPolicy>,
}

/// Everything that counts of the entries before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// The segments that are part of the store, and were hashed.
    pub segments: Vec<(SegmentId, Hashed)>,
    /// The last settle that was entered.
    pub settle: u64,
    /// The last entry that each place is known to keep.
    pub anchors: Vec<(String, Head)>,
    /// The heads of other stores that are kept here.
    pub witnessed: Vec<(StoreId, Head)>,
    /// What places were found to keep that is not in the ledger.
    pub contradicted: Vec<(String, Contradiction)>,
    /// Where the ledger began anew because it was lost.
    pub lost: Option<Loss>,
}

/// What somebody else keeps, which is not in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    /// The entry's number.
    pub number: EntryNo,
    /// The entry's hash.
    pub digest: Digest,
    /// It was made before the ledger was lost: that explains it, and proves nothing.
    pub lapsed: bool,
    /// Somebody has read of it.
    pub read: bool,
}

/// The ledger was lost and began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The entry that says so.
    pub number: EntryNo,
    /// When it was made. What others keep from before is of the ledger that was lost.
    pub at: WallTime,
    /// Somebody has read of it.
    pub read: bool,
}

impl Event {
    /// Does it say something of history, that others have to be told of? What is only said of ledgers would go to and fro
    /// for ever.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        !matches!(self, Self::Anchored { .. } | Self::Witnessed { .. })
    }

    /// The number of an entry that says this, when `due` is due. What follows a contradiction is numbered above what it
    /// contradicts, so that of two heads the later one has the higher number.
    pub(super) fn number(&self, due: EntryNo) -> EntryNo {
        match self {
            Self::Contradicted { number, .. } | Self::Lapsed { number, .. } => due.max(number.next()),
            _ => due,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct PEvent {
    #[prost(oneof = "PKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    kind: Option<PKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum PKind {
    #[prost(uint32, tag = "1")]
    Begun(u32),
    #[prost(message, tag = "2")]
    Sealed(PHashed),
    #[prost(message, tag = "3")]
    Settled(PSettled),
    #[prost(message, tag = "4")]
    Repaired(PRepaired),
    #[prost(message, tag = "5")]
    Anchored(PAnchor),
    #[prost(message, tag = "6")]
    Witnessed(PWitnessed),
    #[prost(message, tag = "7")]
    Contradicted(PAnchor),
    #[prost(message, tag = "8")]
    Folded(PFolded),
    #[prost(message, tag = "9")]
    Acknowledged(PNothing),
    #[prost(message, tag = "10")]
    Lapsed(PAnchor),
}

#[derive(Clone, PartialEq, Message)]
struct PNothing {}

#[derive(Clone, PartialEq, Message)]
struct PHashed {
    #[prost(uint32, tag = "1")]
    segment: u32,
    #[prost(uint64, tag = "2")]
    settle: u64,
    #[prost(uint32, tag = "3")]
    end: u32,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PSettled {
    #[prost(uint64, tag = "1")]
    settle: u64,
    #[prost(uint32, tag = "2")]
    log_from: u32,
    #[prost(uint32, repeated, tag = "3")]
    inputs: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    outputs: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    unhashed: Vec<u32>,
    /// Versions read, versions left, points dropped; empty when that is not known.
    #[prost(uint64, repeated, tag = "6")]
    counts: Vec<u64>,
    #[prost(message, repeated, tag = "7")]
    policies: Vec<PPolicy>,
}

#[derive(Clone, PartialEq, Message)]
struct PRepaired {
    #[prost(uint32, tag = "1")]
    segment: u32,
    #[prost(uint32, tag = "2")]
    from: u32,
    #[prost(uint32, tag = "3")]
    to: u32,
    #[prost(bytes = "vec", tag = "4")]
    before: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PAnchor {
    #[prost(string, tag = "1")]
    place: String,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
    /// In a fold: when the entry was made.
    #[prost(fixed64, tag = "4")]
    at: u64,
    /// In a fold, of what is not in the ledger: somebody has read of it.
    #[prost(bool, tag = "5")]
    read: bool,
    /// In a fold, of what is not in the ledger: it is of before that was lost.
    #[prost(bool, tag = "6")]
    lapsed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PLoss {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(fixed64, tag = "2")]
    at: u64,
    #[prost(bool, tag = "3")]
    read: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PWitnessed {
    #[prost(fixed64, tag = "1")]
    store: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
    #[prost(fixed64, tag = "4")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PFolded {
    #[prost(message, repeated, tag = "1")]
    segments: Vec<PHashed>,
    #[prost(uint64, tag = "2")]
    settle: u64,
    #[prost(message, repeated, tag = "3")]
    anchors: Vec<PAnchor>,
    #[prost(message, repeated, tag = "4")]
    witnessed: Vec<PWitnessed>,
    #[prost(message, repeated, tag = "5")]
    contradicted: Vec<PAnchor>,
    #[prost(message, optional, tag = "6")]
    lost: Option<PLoss>,
}

const WHYS: [(u32, Why); 3] = [(1, Why::New), (2, Why::Older), (3, Why::Lost)];

impl Event {
    pub(super) fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Begun(why) => PKind::Begun(WHYS.iter().find(|(_, w)| w == why).map_or(0, |(n, _)| *n)),
            Self::Sealed(segment, hashed) => PKind::Sealed(hashed_out(&(*segment, *hashed))),
            Self::Settled(settled) => PKind::Settled(settled_out(settled)),
            Self::Repaired { segment, from, to, before, digest } => PKind::Repaired(PRepaired {
                segment: segment.get(),
                from: *from,
                to: *to,
                before: before.get().to_vec(),
                digest: digest.get().to_vec(),
            }),
            Self::Anchored { place, number, digest } => PKind::Anchored(anchor_out(place, *number, *digest)),
            Self::Contradicted { place, number, digest } => {
                PKind::Contradicted(anchor_out(place, *number, *digest))
            }
            Self::Witnessed { store, head } => PKind::Witnessed(witnessed_out(&(*store, *head))),
            Self::Folded(folded) => PKind::Folded(folded_out(folded)),
            Self::Acknowledged => PKind::Acknowledged(PNothing {}),
            Self::Lapsed { place, number, digest } => PKind::Lapsed(anchor_out(place, *number, *digest)),
        };
        PEvent { kind: Some(kind) }.encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let twin = PEvent::decode(bytes).map_err(|e| bad(e.to_string()))?;
        Ok(match twin.kind.ok_or_else(|| bad("a kind that this version does not know"))? {
            PKind::Begun(why) => {
                let known = WHYS.iter().find(|(n, _)| *n == why);
                Self::Begun(known.map(|(_, w)| *w).ok_or_else(|| bad("an unknown reason to begin"))?)
            }
            PKind::Sealed(p) => {
                let (segment, hashed) = hashed_in(&p)?;
                Self::Sealed(segment, hashed)
            }
            PKind::Settled(p) => Self::Settled(Box::new(settled_in(&p)?)),
            PKind::Repaired(p) => Self::Repaired {
                segment: SegmentId::new(p.segment),
                from: p.from,
                to: p.to,
                before: digest_in(&p.before)?,
                digest: digest_in(&p.digest)?,
            },
            PKind::Anchored(PAnchor { place, number, digest, .. }) => {
                Self::Anchored { place, number: EntryNo::new(number), digest: digest_in(&digest)? }
            }
            PKind::Contradicted(PAnchor { place, number, digest, .. }) => {
                Self::Contradicted { place, number: EntryNo::new(number), digest: digest_in(&digest)? }
            }
            PKind::Witnessed(p) => {
                let (store, head) = witnessed_in(&p)?;
                Self::Witnessed { store, head }
            }
            PKind::Folded(p) => Self::Folded(Box::new(folded_in(&p)?)),
            PKind::Acknowledged(PNothing {}) => Self::Acknowledged,
            PKind::Lapsed(PAnchor { place, number, digest, .. }) => {
                Self::Lapsed { place, number: EntryNo::new(number), digest: digest_in(&digest)? }
            }
        })
    }
}

fn bad(detail: impl Into<String>) -> FormatError {
    FormatError::malformed(WHAT, detail)
}

fn digest_in(bytes: &[u8]) -> Result<Digest, FormatError> {
    let raw = bytes.try_into().map_err(|_| bad(format!("a hash of {} bytes", bytes.len())))?;
    Ok(Digest::new(raw))
}

fn hashed_out((segment, hashed): &(SegmentId, Hashed)) -> PHashed {
    let Hashed { settle, end, digest } = *hashed;
    PHashed { segment: segment.get(), settle, end, digest: digest.get().to_vec() }
}

fn hashed_in(p: &PHashed) -> Result<(SegmentId, Hashed), FormatError> {
    let hashed = Hashed { settle: p.settle, end: p.end, digest: digest_in(&p.digest)? };
    Ok((SegmentId::new(p.segment), hashed))
}

fn settled_out(settled: &Settled) -> PSettled {
    let ids = |segments: &[SegmentId]| segments.iter().map(|s| s.get()).collect();
    PSettled {
        settle: settled.settle,
        log_from: settled.log_from,
        inputs: ids(&settled.inputs),
        outputs: ids(&settled.outputs),
        unhashed: ids(&settled.unhashed),
        counts: settled.counts.map_or_else(Vec::new, Vec::from),
        policies: settled.policies.iter().map(policy_out).collect(),
    }
}

fn settled_in(p: &PSettled) -> Result<Settled, FormatError> {
    let ids = |raw: &[u32]| raw.iter().map(|n| SegmentId::new(*n)).collect();
    let counts = match p.counts.as_slice() {
        [] => None,
        counts => Some(counts.try_into().map_err(|_| bad("other counts than three"))?),
    };
    Ok(Settled {
        settle: p.settle,
        log_from: p.log_from,
        inputs: ids(&p.inputs),
        outputs: ids(&p.outputs),
        unhashed: ids(&p.unhashed),
        counts,
        policies: p.policies.iter().map(policy_in).collect::<Result<_, _>>()?,
    })
}

fn anchor_out(place: &str, number: EntryNo, digest: Digest) -> PAnchor {
    let digest = digest.get().to_vec();
    PAnchor { place: place.to_owned(), number: number.get(), digest, at: 0, read: false, lapsed: false }
}

fn witnessed_out((store, head): &(StoreId, Head)) -> PWitnessed {
    let Head { number, digest, at } = *head;
    PWitnessed { store: store.get(), number: number.get(), digest: digest.get().to_vec(), at: at.nanos() }
}

fn witnessed_in(p: &PWitnessed) -> Result<(StoreId, Head), FormatError> {
    let digest = digest_in(&p.digest)?;
    let head = Head { number: EntryNo::new(p.number), digest, at: WallTime::from_nanos(p.at) };
    Ok((StoreId::new(p.store), head))
}

fn folded_out(folded: &Folded) -> PFolded {
    let anchor = |(place, head): &(String, Head)| PAnchor {
        at: head.at.nanos(),
        ..anchor_out(place, head.number, head.digest)
    };
    PFolded {
        segments: folded.segments.iter().map(hashed_out).collect(),
        settle: folded.settle,
        anchors: folded.anchors.iter().map(anchor).collect(),
        witnessed: folded.witnessed.iter().map(witnessed_out).collect(),
        contradicted: folded.contradicted.iter().map(contradiction_out).collect(),
        lost: folded.lost.map(|Loss { number, at, read }| PLoss {
            number: number.get(),
            at: at.nanos(),
            read,
        }),
    }
}

fn contradiction_out((place, found): &(String, Contradiction)) -> PAnchor {
    let Contradiction { number, digest, lapsed, read } = *found;
    PAnchor { read, lapsed, ..anchor_out(place, number, digest) }
}

fn contradiction_in(p: &PAnchor) -> Result<(String, Contradiction), FormatError> {
    let &PAnchor { number, ref digest, lapsed, read, .. } = p;
    let (number, digest) = (EntryNo::new(number), digest_in(digest)?);
    Ok((p.place.clone(), Contradiction { number, digest, lapsed, read }))
}

const fn loss_in(p: &PLoss) -> Loss {
    Loss { number: EntryNo::new(p.number), at: WallTime::from_nanos(p.at), read: p.read }
}

fn folded_in(p: &PFolded) -> Result<Folded, FormatError> {
    let anchor = |a: &PAnchor| {
        let (number, at) = (EntryNo::new(a.number), WallTime::from_nanos(a.at));
        Ok((a.place.clone(), Head { number, digest: digest_in(&a.digest)?, at }))
    };
    Ok(Folded {
        segments: p.segments.iter().map(hashed_in).collect::<Result<_, _>>()?,
        settle: p.settle,
        anchors: p.anchors.iter().map(anchor).collect::<Result<_, FormatError>>()?,
        witnessed: p.witnessed.iter().map(witnessed_in).collect::<Result<_, _>>()?,
        contradicted: p.contradicted.iter().map(contradiction_in).collect::<Result<_, _>>()?,
        lost: p.lost.as_ref().map(loss_in),
    })
}
